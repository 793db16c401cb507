package guard

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// maxProof bounds a DPoP proof in bytes; one with an RSA key of 4096 bits
	// has about 2,500.
	maxProof = 4 << 10
	// maxProofRSA is the largest RSA key of a proof in bits: the sender chooses
	// it, and larger ones cost the receiver time.
	maxProofRSA = 4096
	// maxProofID bounds the ID of a proof in bytes.
	maxProofID = 256
	// proofAge is the age at which a proof is not taken any more, proofLeeway
	// how far the clock of its maker may be ahead.
	proofAge    = time.Minute
	proofLeeway = 10 * time.Second
)

// DPoP is a DPoP proof (RFC 9449 section 4.2) whose form and signature have
// been checked: the key that it names has signed it. What request it is for,
// [DPoP.Check] says; that it was not used before, nobody has checked yet.
type DPoP struct {
	Key       keyholder.KeyThumbprint // of the key that signed it
	ID        string                  // jti
	Method    string                  // htm
	Address   string                  // htu
	IssuedAt  time.Time
	TokenHash string // ath; empty if it is for no access token

	notBefore, expires time.Time // zero: none; RFC 9449 asks for neither
}

// DPoPAlgorithms lists the signature algorithms of the proofs that are taken.
func DPoPAlgorithms() []string {
	return []string{string(jose.ES256), string(jose.EdDSA), string(jose.PS256)}
}

// ReadDPoP reads the proof of a request, which stands in exactly one header
// DPoP. The error is an [keyholder.Error] of code Denied.
func ReadDPoP(h http.Header) (DPoP, error) {
	values := h.Values("DPoP")
	if len(values) != 1 {
		return DPoP{}, refuseProof("there is not exactly one DPoP header")
	}
	return parseProof(values[0])
}

func parseProof(raw string) (DPoP, error) {
	if len(raw) > maxProof || !canonical(raw) {
		return DPoP{}, refuseProof("it is not a compact JWS in canonical form, or it is too long")
	}
	var algorithms []jose.SignatureAlgorithm
	for _, a := range DPoPAlgorithms() {
		algorithms = append(algorithms, jose.SignatureAlgorithm(a))
	}
	jws, err := jose.ParseSignedCompact(raw, algorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return DPoP{}, refuseProof("it is not a JWS with an allowed algorithm")
	}
	header := jws.Signatures[0].Protected
	key, err := proofKey(header)
	if err != nil {
		return DPoP{}, err
	}
	payload, err := jws.Verify(key.Key)
	if err != nil {
		return DPoP{}, refuseProof("its signature is wrong")
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return DPoP{}, refuseProof("its key has no thumbprint")
	}
	p, err := parseProofClaims(payload)
	copy(p.Key[:], sum)
	return p, err
}

// proofKey checks the protected header (RFC 9449 section 4.3): the type, so
// that no other JWT passes for a proof, no extension that changes how the
// signature is to be read, and a public key that fits the algorithm. A private
// key is refused: who sends it has lost it.
func proofKey(h jose.Header) (*jose.JSONWebKey, error) {
	typ, _ := h.ExtraHeaders[jose.HeaderType].(string)
	_, critical := h.ExtraHeaders["crit"]
	_, encoding := h.ExtraHeaders["b64"]
	key := h.JSONWebKey
	switch {
	case typ != "dpop+jwt":
		return nil, refuseProof("its type is not dpop+jwt")
	case critical || encoding:
		return nil, refuseProof("it has an unknown critical extension")
	case key == nil || !key.Valid() || !key.IsPublic():
		return nil, refuseProof("it holds no public key")
	case !keyFits(key.Key, jose.SignatureAlgorithm(h.Algorithm)):
		return nil, refuseProof("its algorithm does not fit its key")
	}
	if k, ok := key.Key.(*rsa.PublicKey); ok && k.N.BitLen() > maxProofRSA {
		return nil, refuseProof("its key is longer than %d bits", maxProofRSA)
	}
	return key, nil
}

func parseProofClaims(payload []byte) (DPoP, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(payload, &raw); err != nil || raw == nil {
		return DPoP{}, refuseProof("its content is not one JSON object without repeated names")
	}
	r := reader{raw: raw}
	p := DPoP{
		ID:        r.text("jti", true),
		Method:    r.text("htm", true),
		Address:   r.text("htu", true),
		TokenHash: r.text("ath", false),
		IssuedAt:  r.time("iat", true),
		notBefore: r.time("nbf", false),
		expires:   r.time("exp", false),
	}
	if r.wrong == "" && len(p.ID) > maxProofID {
		r.fail("jti")
	}
	if r.wrong != "" {
		return DPoP{}, refuseProof("its claim %s is missing or malformed", r.wrong)
	}
	return p, nil
}

// Check says whether the proof is for a request with a method to an address,
// the URL as its sender knows it, and was made just now.
func (p DPoP) Check(method, address string, now time.Time) error {
	want, err := normalAddress(address)
	if err != nil {
		return err
	}
	got, err := normalAddress(p.Address)
	switch {
	case p.Method != method:
		return refuseProof("it is for another method (htm)")
	case err != nil || got != want:
		return refuseProof("it is for another address (htu)")
	case p.IssuedAt.After(now.Add(proofLeeway)), p.notBefore.After(now.Add(proofLeeway)):
		return refuseProof("it was made in the future")
	case now.Sub(p.IssuedAt) >= proofAge, !p.expires.IsZero() && !now.Before(p.expires):
		return refuseProof("it is too old")
	}
	return nil
}

// normalAddress returns the one spelling of an https URL (RFC 3986 section
// 6.2.2), without query and fragment (RFC 9449 section 4.3).
func normalAddress(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || !strings.EqualFold(u.Scheme, "https") || u.Host == "" || u.User != nil {
		return "", refuseProof("its address is not an https URL")
	}
	host := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(u.Host), ":"), ":443")
	path := normalPath(u.EscapedPath())
	if path == "" {
		path = "/"
	}
	return "https://" + host + path, nil
}

// normalPath decodes the octets of a path that need no encoding, and writes
// the others in capitals.
func normalPath(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			b.WriteByte(path[i])
			continue
		}
		c := unhex(path[i+1])<<4 | unhex(path[i+2])
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
		i += 2
	}
	return b.String()
}

// unhex returns the value of a hexadecimal digit, as which it has been checked.
func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// errProof is in the chain of every refusal of a DPoP proof.
var errProof = errors.New("DPoP proof refused")

// refuseProof returns the error of a proof that proves nothing. The reason is
// about its form, never its content.
func refuseProof(format string, args ...any) error {
	e := keyholder.Errorf(keyholder.Denied, "the DPoP proof is refused: %s", fmt.Sprintf(format, args...))
	e.Err = errProof
	return e
}
