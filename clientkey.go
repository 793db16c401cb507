package keyholder

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
)

// Bounds of the keys of a client.
const (
	maxKeySet  = 32 << 10 // bytes of JSON
	maxKeys    = 8        // enough to rotate
	maxKeyID   = 128      // bytes
	minRSABits = 2048
	maxRSABits = 4096 // keeps a verification cheap
)

// ClientKey is a public key that verifies the assertions of a client
// (RFC 7517). Its JSON form is the JWK.
type ClientKey struct {
	ID        string           // kid
	Algorithm string           // the one it is for: ES256, EdDSA, PS256 or RS256; of an RSA key it may be empty
	Key       crypto.PublicKey // *ecdsa.PublicKey (P-256), ed25519.PublicKey or *rsa.PublicKey (2048 to 4096 bits)
}

// verifies says whether signatures of an algorithm are made with the key. One
// that names none is of RSA.
func (k ClientKey) verifies(algorithm string) bool {
	if k.Algorithm == "" {
		return algorithm == "PS256" || algorithm == "RS256"
	}
	return k.Algorithm == algorithm
}

// ParseClientKeys reads the public keys of a client, a JWK set (RFC 7517 5) of
// at most 32 KiB with one to eight keys, each with a kid of its own. A set that
// holds anything private is refused as a whole. Errors are [Error] of code
// [Invalid] and repeat nothing of the input.
func ParseClientKeys(set []byte) ([]ClientKey, error) {
	if len(set) > maxKeySet {
		return nil, Errorf(Invalid, "the key set is larger than %d KiB", maxKeySet>>10)
	}
	if bytes.Contains(set, []byte("PRIVATE KEY")) {
		return nil, errPrivateKey()
	}
	var doc map[string]json.RawMessage
	if json.Unmarshal(set, &doc) != nil {
		return nil, Errorf(Invalid, "the key set is not a JSON object").WithHint(`write {"keys": [...]} with a public JWK for each key (RFC 7517)`)
	}
	if privateMember(doc) {
		return nil, errPrivateKey()
	}
	var list []json.RawMessage
	if json.Unmarshal(doc["keys"], &list) != nil || len(list) == 0 {
		return nil, Errorf(Invalid, "the key set has no keys").WithHint(`write {"keys": [...]} with a public JWK for each key (RFC 7517)`)
	}
	if len(list) > maxKeys {
		return nil, Errorf(Invalid, "the key set has more than %d keys", maxKeys)
	}
	keys := make([]ClientKey, len(list))
	for i, raw := range list {
		if err := keys[i].UnmarshalJSON(raw); err != nil {
			return nil, err
		}
	}
	return keys, checkKeys(keys)
}

// checkKeys checks what concerns the keys of a client together.
func checkKeys(keys []ClientKey) error {
	if len(keys) > maxKeys {
		return Errorf(Invalid, "the key set has more than %d keys", maxKeys)
	}
	for i, k := range keys {
		if slices.ContainsFunc(keys[:i], func(other ClientKey) bool { return other.ID == k.ID }) {
			return Errorf(Invalid, "two keys have the same kid").WithHint("give each key a kid of its own")
		}
	}
	return nil
}

// privateMember says whether a JWK has a member that holds something private
// (RFC 7518 6.2.2, 6.3.2, 6.4.1).
func privateMember(jwk map[string]json.RawMessage) bool {
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, ok := jwk[name]; ok {
			return true
		}
	}
	return false
}

func errPrivateKey() *Error {
	return Errorf(Invalid, "the file holds a private key; it was neither kept nor sent on").
		WithHint("register public keys only; a private key that has left the app is to be replaced")
}

// UnmarshalJSON reads one public JWK, as [ParseClientKeys] does.
func (k *ClientKey) UnmarshalJSON(raw []byte) error {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil || members == nil {
		return Errorf(Invalid, "a key is not a JWK")
	}
	if privateMember(members) {
		return errPrivateKey()
	}
	text := func(name string) string {
		var s string
		_ = json.Unmarshal(members[name], &s) // what is no text is as good as missing
		return s
	}
	k.ID, k.Algorithm = text("kid"), text("alg")
	if k.ID == "" || len(k.ID) > maxKeyID {
		return Errorf(Invalid, "a key has no kid, or one longer than %d bytes", maxKeyID).WithHint("the assertion names its key by the kid")
	}
	if _, ok := members["use"]; ok && text("use") != "sig" {
		return Errorf(Invalid, "a key is not for signatures").WithHint(`its use must be "sig"`)
	}
	var allowed []string // algorithms, the first where the JWK names none
	switch text("kty") + " " + text("crv") {
	case "EC P-256":
		k.Key, allowed = parseP256(text("x"), text("y")), []string{"ES256"}
	case "OKP Ed25519":
		k.Key, allowed = parseEd25519(text("x")), []string{"EdDSA"}
	case "RSA ":
		k.Key, allowed = parseRSA(text("n"), text("e")), []string{"", "PS256", "RS256"}
	}
	switch {
	case k.Key == nil:
		return Errorf(Invalid, "a key is not of a kind that is verified here, or is damaged").
			WithHint("use P-256 (ES256), Ed25519 (EdDSA), or RSA of %d to %d bits (PS256, RS256)", minRSABits, maxRSABits)
	case k.Algorithm == "":
		k.Algorithm = allowed[0]
	case !slices.Contains(allowed, k.Algorithm):
		return Errorf(Invalid, "a key is for an algorithm that it cannot be used with, or that is not verified here").
			WithHint("the algorithms are ES256, EdDSA, PS256 and RS256")
	}
	return nil
}

// The parsers return nil, without a type, for what is no key of their kind.

func parseP256(x, y string) crypto.PublicKey {
	px, py := decodeBase64(x), decodeBase64(y)
	if len(px) != 32 || len(py) != 32 {
		return nil
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, px, py))
	if err != nil { // not a point of the curve
		return nil
	}
	return key
}

func parseEd25519(x string) crypto.PublicKey {
	b := decodeBase64(x)
	if len(b) != ed25519.PublicKeySize {
		return nil
	}
	return ed25519.PublicKey(b)
}

func parseRSA(n, e string) crypto.PublicKey {
	modulus, exponent := new(big.Int).SetBytes(decodeBase64(n)), new(big.Int).SetBytes(decodeBase64(e))
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits || modulus.Bit(0) == 0 || exponent.Cmp(big.NewInt(65537)) != 0 {
		return nil
	}
	return &rsa.PublicKey{N: modulus, E: 65537}
}

// decodeBase64 returns nil for what is not base64url without padding.
func decodeBase64(s string) []byte {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}

// MarshalJSON writes the JWK, which holds the public key and nothing else.
func (k ClientKey) MarshalJSON() ([]byte, error) {
	encode := base64.RawURLEncoding.EncodeToString
	jwk := map[string]string{"kid": k.ID, "use": "sig"}
	if k.Algorithm != "" {
		jwk["alg"] = k.Algorithm
	}
	switch key := k.Key.(type) {
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil || len(point) != 65 {
			return nil, errors.New("write a client key: not a point of P-256")
		}
		jwk["kty"], jwk["crv"], jwk["x"], jwk["y"] = "EC", "P-256", encode(point[1:33]), encode(point[33:])
	case ed25519.PublicKey:
		jwk["kty"], jwk["crv"], jwk["x"] = "OKP", "Ed25519", encode(key)
	case *rsa.PublicKey:
		jwk["kty"], jwk["n"], jwk["e"] = "RSA", encode(key.N.Bytes()), encode(big.NewInt(int64(key.E)).Bytes())
	default:
		return nil, errors.New("write a client key: unknown kind")
	}
	return json.Marshal(jwk)
}
