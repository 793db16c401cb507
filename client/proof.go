package client

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// prover makes the DPoP proofs of one key (RFC 9449 section 4).
type prover struct {
	key    crypto.Signer
	now    func() time.Time
	header string // of every proof, encoded
	jkt    string // thumbprint of the key (RFC 7638)
}

// newProver returns the prover of a key, nil of none.
func newProver(key crypto.Signer, now func() time.Time) (*prover, error) {
	if key == nil {
		return nil, nil
	}
	var alg, jwk string // the members of the key in the order of RFC 7638
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil || k.Curve != elliptic.P256() {
			return nil, keyholder.Errorf(keyholder.Invalid, "the DPoP key is not on the curve P-256")
		}
		alg, jwk = "ES256", fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, encode(point[1:33]), encode(point[33:]))
	case ed25519.PublicKey:
		alg, jwk = "EdDSA", fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":%q}`, encode(k))
	default:
		return nil, keyholder.Errorf(keyholder.Invalid, "the DPoP key is neither an ECDSA key on P-256 nor an Ed25519 key")
	}
	sum := sha256.Sum256([]byte(jwk))
	return &prover{key: key, now: now, jkt: encode(sum[:]), header: encode([]byte(`{"typ":"dpop+jwt","alg":"` + alg + `","jwk":` + jwk + `}`))}, nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// proof makes a proof for one request, and for the access token that it
// presents, if it does.
func (p *prover) proof(method string, address *url.URL, access string) (string, error) {
	htu := *address
	htu.RawQuery, htu.Fragment, htu.RawFragment, htu.User = "", "", "", nil
	claims := map[string]any{"jti": rand.Text(), "htm": method, "htu": htu.String(), "iat": p.now().Unix()}
	if access != "" {
		sum := sha256.Sum256([]byte(access))
		claims["ath"] = encode(sum[:])
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("write a DPoP proof: %w", err)
	}
	input := p.header + "." + encode(body)
	signature, err := p.sign([]byte(input))
	if err != nil {
		return "", fmt.Errorf("sign a DPoP proof: %w", err)
	}
	return input + "." + encode(signature), nil
}

// sign signs as JWS wants it (RFC 7518 section 3.4, RFC 8037 section 3.1).
func (p *prover) sign(input []byte) ([]byte, error) {
	if _, ok := p.key.Public().(ed25519.PublicKey); ok {
		return p.key.Sign(rand.Reader, input, crypto.Hash(0))
	}
	sum := sha256.Sum256(input)
	der, err := p.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var point struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &point); err != nil || len(rest) > 0 || point.R.BitLen() > 256 || point.S.BitLen() > 256 {
		return nil, fmt.Errorf("the key gave no ECDSA signature: %w", err)
	}
	raw := make([]byte, 64)
	point.R.FillBytes(raw[:32])
	point.S.FillBytes(raw[32:])
	return raw, nil
}

// proving sends every request for a token with a proof of its own, also one
// that is sent again.
type proving struct {
	*prover
	next http.RoundTripper
}

// RoundTrip is part of http.RoundTripper.
func (p proving) RoundTrip(r *http.Request) (*http.Response, error) {
	proof, err := p.proof(r.Method, r.URL, "")
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("DPoP", proof)
	return p.next.RoundTrip(r)
}

// keyThumbprint is that of the DPoP key; empty: none.
func (c *Client) keyThumbprint() string {
	if c.prover == nil {
		return ""
	}
	return c.prover.jkt
}

// authorize puts the access token into a request to the Web API, with a proof
// if it is bound to a key.
func (c *Client) authorize(r *http.Request, access string) error {
	if c.prover == nil {
		r.Header.Set("Authorization", "Bearer "+access)
		return nil
	}
	proof, err := c.prover.proof(r.Method, r.URL, access)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "DPoP "+access)
	r.Header.Set("DPoP", proof)
	return nil
}

// proofRefused says whether a 401 is about the proof and not the token: the
// connection may have sent it twice.
func proofRefused(h http.Header) bool {
	for _, challenge := range h.Values("WWW-Authenticate") {
		if strings.Contains(challenge, `error="invalid_dpop_proof"`) {
			return true
		}
	}
	return false
}
