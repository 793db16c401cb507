package guard

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"math"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/go-jose/go-jose/v4"
	// The JSON package of go-jose is stricter than encoding/json: names are
	// compared exactly, and a repeated name is an error.
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// maxScopes bounds the scopes of a token.
	maxScopes = 64
	// maxTime is the last second of the year 9999, beyond which a time is
	// not one.
	maxTime = 253402300799
	// minRSA is the smallest RSA key accepted, in bits (NIST SP 800-131A).
	minRSA = 2048
)

// claims is the content of a token after parsing, before it is judged.
type claims struct {
	token     keyholder.Token
	audience  []string
	notBefore time.Time // zero: none
}

// registeredClaims lists the claims that have a fixed meaning.
func registeredClaims() []string {
	return []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "cnf", "grant_id"}
}

// parseClaims reads the JSON object of an access token. Everything RFC 9068
// section 2.2 requires must be there, once and of the right type; unknown
// claims are ignored. The subscription ID may be missing, since a token for
// ingestion has none; if it is there it must be one canonical UUID.
func parseClaims(payload []byte, subscriptionClaim string, d dialect) (claims, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(payload, &raw); err != nil || raw == nil {
		return claims{}, refuse("its content is not one JSON object without repeated names")
	}
	r := reader{raw: raw}
	d.mark(&r)
	return r.claims(subscriptionClaim, d, true)
}

// claims reads a token. Where it is not self-contained but the answer of an
// introspection (RFC 7662 section 2.2), the issuer vouches for who it is from
// and since when, and need not say so.
func (r *reader) claims(subscriptionClaim string, d dialect, selfContained bool) (claims, error) {
	c := claims{
		token: keyholder.Token{
			Issuer:       r.text("iss", selfContained),
			Subject:      r.text("sub", selfContained),
			ClientID:     r.text(d.client, true),
			ID:           r.text(d.id, selfContained),
			Grant:        keyholder.GrantID(r.text("grant_id", false)),
			Subscription: r.subscription(subscriptionClaim),
			Scope:        r.scopeOf(d.scope),
			IssuedAt:     r.time("iat", selfContained),
			Expires:      r.time("exp", true),
			Bound:        r.confirmation(),
		},
		audience:  r.audience(),
		notBefore: r.time("nbf", false),
	}
	if r.wrong != "" {
		return claims{}, refuse("its claim %s is missing or malformed", r.wrong)
	}
	return c, nil
}

// reader takes claims out of a JSON object and remembers the first that is
// wrong.
type reader struct {
	raw   map[string]json.RawMessage
	wrong string
}

func (r *reader) fail(name string) {
	if r.wrong == "" {
		r.wrong = name
	}
}

// decode reports whether the claim is there; if it is not of the type of
// dest, or JSON null, the reader fails.
func (r *reader) decode(name string, required bool, dest any) bool {
	v, ok := r.raw[name]
	if !ok {
		if required {
			r.fail(name)
		}
		return false
	}
	if string(v) == "null" || json.Unmarshal(v, dest) != nil {
		r.fail(name)
		return false
	}
	return true
}

func (r *reader) text(name string, required bool) string {
	var s string
	if r.decode(name, required, &s) && s == "" && required {
		r.fail(name)
	}
	return s
}

// time reads a NumericDate (RFC 7519 section 2), which may have a fraction.
func (r *reader) time(name string, required bool) time.Time {
	var f float64
	if !r.decode(name, required, &f) {
		return time.Time{}
	}
	if f < 0 || f > maxTime {
		r.fail(name)
		return time.Time{}
	}
	whole, fraction := math.Modf(f)
	return time.Unix(int64(whole), int64(fraction*1e9))
}

// subscription reads the claim FDS 2.6.4.1 asks for. The name stands in no
// error as it may be any string of the operator's.
func (r *reader) subscription(name string) keyholder.SubscriptionID {
	var s string
	if !r.decode(name, false, &s) {
		return ""
	}
	id, err := keyholder.ParseID[keyholder.SubscriptionID](s)
	if err != nil {
		r.fail(name)
	}
	return id
}

// audience reads aud, one string or a list of them (RFC 7519 section 4.1.3).
func (r *reader) audience() []string {
	v, ok := r.raw["aud"]
	var one string
	if ok && json.Unmarshal(v, &one) == nil && one != "" {
		return []string{one}
	}
	var list []string
	if !ok || json.Unmarshal(v, &list) != nil || len(list) == 0 {
		r.fail("aud")
	}
	return list
}

// confirmation reads cnf (RFC 7800): a certificate (RFC 8705 section 3.1), a
// key (RFC 9449 section 6.1), or both. A way of confirmation that cannot be
// checked here makes the token useless: to ignore it would turn a bound token
// into a bearer token.
func (r *reader) confirmation() keyholder.Proof {
	var methods map[string]json.RawMessage
	if !r.decode("cnf", false, &methods) {
		return keyholder.Proof{}
	}
	var bound keyholder.Proof
	known := 0
	if v, ok := methods["x5t#S256"]; ok {
		known++
		bound.Certificate = r.thumbprint(v)
	}
	if v, ok := methods["jkt"]; ok {
		known++
		bound.Key = r.thumbprint(v)
	}
	if known == 0 || known != len(methods) {
		r.fail("cnf")
	}
	return bound
}

// thumbprint reads a SHA-256 hash in base64url.
func (r *reader) thumbprint(v json.RawMessage) [32]byte {
	var text string
	var out [32]byte
	if json.Unmarshal(v, &text) != nil {
		r.fail("cnf")
		return out
	}
	sum, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(sum) != len(out) || strings.ContainsAny(text, "\r\n") {
		r.fail("cnf")
		return out
	}
	copy(out[:], sum)
	if out == [32]byte{} {
		r.fail("cnf")
	}
	return out
}

// canonical says whether raw is three segments of base64url in their one
// canonical spelling, so that a token has only one cache entry.
func canonical(raw string) bool {
	rest, signature, ok := cutLast(raw)
	header, payload, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || header == "" || payload == "" || signature == "" {
		return false
	}
	var buf [maxToken]byte
	encoding := base64.RawURLEncoding.Strict()
	for _, s := range []string{header, payload, signature} {
		// The decoder skips line breaks, which a token must not have.
		if strings.ContainsAny(s, "\r\n") {
			return false
		}
		if _, err := encoding.Decode(buf[:], []byte(s)); err != nil {
			return false
		}
	}
	return true
}

func cutLast(s string) (string, string, bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// safeAlgorithms lists the algorithms that may be allowed: asymmetric ones,
// so that a public key is never taken for a shared secret.
func safeAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.EdDSA, jose.PS256, jose.RS256}
}

// keyFits says whether the key is of the kind, curve and size that the
// algorithm asks for (RFC 7518 section 3.1, RFC 8037 section 3.1).
func keyFits(key crypto.PublicKey, alg jose.SignatureAlgorithm) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && k.Curve == elliptic.P256() ||
			alg == jose.ES384 && k.Curve == elliptic.P384() ||
			alg == jose.ES512 && k.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	case *rsa.PublicKey:
		return (alg == jose.PS256 || alg == jose.RS256) && k.N.BitLen() >= minRSA
	}
	return false
}
