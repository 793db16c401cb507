package guard_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

const (
	testIssuer   = "https://as.example.com"
	testAudience = "https://api.example.com"
	testClient   = "0f4b7a52-6b0e-4c3d-9a51-7e2d90c1b8a4"
	testSub      = "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"
	otherSub     = "b1d0c7de-8f2a-4b63-a5c4-9e7f10d2c3b6"
	testGrant    = "3c8e4f1d-52ab-4c07-8d9e-61f0a2b3c4d5"
)

// issuer signs tokens as an authorization server does, or as an attacker
// would like to.
type issuer struct {
	key *ecdsa.PrivateKey
	kid string
	now time.Time
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{key: key, kid: "key-1", now: time.Unix(1_780_000_000, 0)}
}

// keys is the issuer's source of keys.
func (i *issuer) keys(_ context.Context, kid string) (crypto.PublicKey, error) {
	if kid != i.kid {
		return nil, keyholder.Errorf(keyholder.Denied, "no such key")
	}
	return &i.key.PublicKey, nil
}

// config returns the configuration of a guard that trusts the issuer.
func (i *issuer) config() guard.Config {
	return guard.Config{
		Issuer: testIssuer, Audience: testAudience, Keys: i.keys,
		Now: func() time.Time { return i.now },
	}
}

func (i *issuer) guard(t testing.TB) *guard.Guard {
	t.Helper()
	g, err := guard.New(i.config())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// object is a JSON object.
type object map[string]any

// with returns a copy of o with the members of p; nil removes one.
func (o object) with(p object) object {
	c := maps.Clone(o)
	for k, v := range p {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func (i *issuer) header() object { return object{"typ": "at+jwt", "alg": "ES256", "kid": i.kid} }

func (i *issuer) claims() object {
	return object{
		"iss": testIssuer, "sub": "user-1", "aud": testAudience, "client_id": testClient,
		"exp": i.now.Unix() + 300, "iat": i.now.Unix(), "jti": "token-1",
		"scope": "fds:read", "subscription_id": testSub, "grant_id": testGrant,
	}
}

// token signs the claims with the issuer's key, whatever the header says.
func (i *issuer) token(t testing.TB, header, claims object) string {
	t.Helper()
	return signES256(t, i.key, marshal(t, header), marshal(t, claims))
}

func (i *issuer) valid(t testing.TB) string { return i.token(t, i.header(), i.claims()) }

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func signES256(t testing.TB, key *ecdsa.PrivateKey, header, claims []byte) string {
	t.Helper()
	input := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + encode(signature[:])
}

func signHS256(secret, header, claims []byte) string {
	input := encode(header) + "." + encode(claims)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return input + "." + encode(mac.Sum(nil))
}

func signRS256(t testing.TB, key *rsa.PrivateKey, header, claims []byte) string {
	t.Helper()
	input := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + encode(signature)
}

// jwk is a public key as a member of a key set (RFC 7517).
func jwk(t testing.TB, k *ecdsa.PublicKey) object {
	t.Helper()
	b, err := k.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	return object{"kty": "EC", "crv": "P-256", "x": encode(b[1:33]), "y": encode(b[33:])}
}
