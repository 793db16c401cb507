package keyring_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyring"
)

const typ = "at+jwt"

// open makes and opens a ring in a new folder.
func open(t *testing.T) (*keyring.Ring, string) {
	t.Helper()
	dir := t.TempDir()
	if err := keyring.Init(dir); err != nil {
		t.Fatal(err)
	}
	r, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r, dir
}

func sign(t *testing.T, r *keyring.Ring, payload string) string {
	t.Helper()
	compact, err := r.Sign([]byte(payload), typ)
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// part returns the decoded part of a compact JWS: 0 header, 1 payload.
func part(t *testing.T, compact string, i int) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(compact, ".")[i])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Ensure that what a ring signs verifies with what it publishes, says ES256,
// kid and typ, and that nothing else does.
func TestSignAndVerify(t *testing.T) {
	r, _ := open(t)
	other, _ := open(t)
	compact := sign(t, r, `{"sub":"x"}`)

	payload, err := keyring.Verify(r.JWKS(), compact, typ)
	if err != nil || string(payload) != `{"sub":"x"}` {
		t.Fatalf("got %q, %v", payload, err)
	}
	var header map[string]any
	if err := json.Unmarshal(part(t, compact, 0), &header); err != nil {
		t.Fatal(err)
	}
	kid, key := r.Signer()
	if diff := cmp.Diff(map[string]any{"alg": "ES256", "kid": kid, "typ": typ}, header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	if !key.Public().(*ecdsa.PublicKey).Equal(r.JWKS().Keys[0].Key) {
		t.Error("the signer is not the published key")
	}

	if _, err := r.Sign([]byte("x"), ""); err == nil {
		t.Error("signed something of no type")
	}

	parts := strings.Split(compact, ".")
	flip := func(s string) string { // changes one bit of the decoded bytes
		b, _ := base64.RawURLEncoding.DecodeString(s)
		b[len(b)/2] ^= 1
		return base64.RawURLEncoding.EncodeToString(b)
	}
	renamed := r.JWKS()
	renamed.Keys[0].KeyID = "another"
	doubled := r.JWKS()
	doubled.Keys = append(doubled.Keys, doubled.Keys[0])
	encryption := r.JWKS()
	encryption.Keys[0].Use = "enc"
	es384 := r.JWKS()
	es384.Keys[0].Algorithm = "ES384"
	// The right name on another ring's key: the signature must not match.
	impostor := other.JWKS()
	impostor.Keys[0].KeyID = kid

	for _, tt := range []struct {
		name    string
		keys    jose.JSONWebKeySet
		compact string
		typ     string
	}{
		{"other ring", other.JWKS(), compact, typ},
		{"other ring under the same kid", impostor, compact, typ},
		{"no keys", jose.JSONWebKeySet{}, compact, typ},
		{"unknown kid", renamed, compact, typ},
		{"two keys of one kid", doubled, compact, typ},
		{"key for encryption", encryption, compact, typ},
		{"key for another algorithm", es384, compact, typ},
		{"other typ", r.JWKS(), compact, "jwt"},
		{"typ of other case", r.JWKS(), compact, "AT+JWT"},
		{"no typ asked", r.JWKS(), compact, ""},
		{"header tampered", r.JWKS(), flip(parts[0]) + "." + parts[1] + "." + parts[2], typ},
		{"payload tampered", r.JWKS(), parts[0] + "." + flip(parts[1]) + "." + parts[2], typ},
		{"signature tampered", r.JWKS(), parts[0] + "." + parts[1] + "." + flip(parts[2]), typ},
		{"signature cut off", r.JWKS(), parts[0] + "." + parts[1] + ".", typ},
		{"signature short", r.JWKS(), parts[0] + "." + parts[1] + "." + parts[2][:40], typ},
		{"two parts", r.JWKS(), parts[0] + "." + parts[1], typ},
		{"four parts", r.JWKS(), compact + "." + parts[2], typ},
		{"empty", r.JWKS(), "", typ},
		{"JSON form", r.JWKS(), `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, typ},
		{"oversize", r.JWKS(), sign(t, r, strings.Repeat("x", 7<<20)), typ},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := keyring.Verify(tt.keys, tt.compact, tt.typ)
			if keyholder.CodeOf(err) != keyholder.Denied || got != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// Ensure that a JWS of another algorithm is refused even when it is "right":
// unsigned, keyed with the public key as a shared secret, or signed by a
// foreign key that the header brings along (RFC 8725 2.1, 3.1).
func TestVerifyRefusesConfusion(t *testing.T) {
	r, dir := open(t)
	kid, _ := r.Signer()
	public := r.JWKS().Keys[0]
	publicJSON, err := public.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public.Key)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := func(alg jose.SignatureAlgorithm, key any, o jose.SignerOptions) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o.WithType(typ))
		if err != nil {
			t.Fatal(err)
		}
		jws, err := s.Sign([]byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		compact, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return compact
	}
	named := func(key any) jose.JSONWebKey { return jose.JSONWebKey{Key: key, KeyID: kid} }
	withKid := jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{"kid": kid}}
	own := privateKey(t, dir)
	set := r.JWKS()
	symmetric := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: []byte(strings.Repeat("k", 32)), KeyID: kid}}}

	for _, tt := range []struct {
		name    string
		keys    jose.JSONWebKeySet
		compact string
	}{
		{"none", set, b64([]byte(`{"alg":"none","kid":"`+kid+`","typ":"at+jwt"}`)) + "." + b64([]byte(`{}`)) + "."},
		{"none in capitals", set, b64([]byte(`{"alg":"None","kid":"`+kid+`","typ":"at+jwt"}`)) + "." + b64([]byte(`{}`)) + "."},
		{"no alg", set, b64([]byte(`{"kid":"`+kid+`","typ":"at+jwt"}`)) + "." + b64([]byte(`{}`)) + "."},
		{"HS256 keyed with the public JWK", set, signed(jose.HS256, named(publicJSON), jose.SignerOptions{})},
		{"HS256 keyed with the public DER", set, signed(jose.HS256, named(publicDER), jose.SignerOptions{})},
		{"HS256 keyed with the public PEM", set, signed(jose.HS256, named(publicPEM), jose.SignerOptions{})},
		{"HS256 with a shared key in the set", symmetric, signed(jose.HS256, named([]byte(strings.Repeat("k", 32))), jose.SignerOptions{})},
		{"RS256 with its key in the set", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{named(&rsaKey.PublicKey)}}, signed(jose.RS256, named(rsaKey), jose.SignerOptions{})},
		{"ES384 with its key in the set", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{named(&p384.PublicKey)}}, signed(jose.ES384, named(p384), jose.SignerOptions{})},
		{"ES256 by a key in the header", set, signed(jose.ES256, p256, jose.SignerOptions{EmbedJWK: true, ExtraHeaders: withKid.ExtraHeaders})},
		{"ES256 by a stranger", set, signed(jose.ES256, named(p256), jose.SignerOptions{})},
		{"ES256 without a kid", set, signed(jose.ES256, own, jose.SignerOptions{})},
		{"ES256 without a kid by a key without one", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: own.Public()}}}, signed(jose.ES256, own, jose.SignerOptions{})},
		{"ES256 with a critical extension", set, signed(jose.ES256, named(own), jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{"crit": []string{"exp"}, "exp": 1}})},
		{"ES256 with b64 as critical extension", set, signed(jose.ES256, named(own), *(&jose.SignerOptions{}).WithBase64(true).WithCritical("b64"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := keyring.Verify(tt.keys, tt.compact, typ); keyholder.CodeOf(err) != keyholder.Denied || got != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	// The table above would also pass if Verify refused everything.
	if _, err := keyring.Verify(set, signed(jose.ES256, named(own), jose.SignerOptions{}), typ); err != nil {
		t.Errorf("the control was refused: %v", err)
	}
}

// Ensure that the published set holds public members only, each named by its
// RFC 7638 thumbprint, and that changing a returned set changes no ring.
func TestJWKS(t *testing.T) {
	r, _ := open(t)
	out, err := json.Marshal(r.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(out, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 {
		t.Fatalf("got %d keys", len(set.Keys))
	}
	k := set.Keys[0]
	if diff := cmp.Diff(map[string]string{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": k["kid"], "x": k["x"], "y": k["y"]}, k); diff != "" {
		t.Errorf("published key (-want +got):\n%s", diff)
	}
	kid, _ := r.Signer()
	if k["kid"] != kid || len(kid) != 43 {
		t.Errorf("kid %q, signer %q", k["kid"], kid)
	}
	r.JWKS().Keys[0].KeyID = "changed"
	r.History()[0].Key.KeyID = "changed"
	if r.JWKS().Keys[0].KeyID != kid || r.History()[0].Key.KeyID != kid {
		t.Error("a caller changed the ring")
	}
}

// Ensure that a reopened ring is the same ring, that Init overwrites nothing,
// and that files and folder belong to their owner alone.
func TestInitAndReopen(t *testing.T) {
	r, dir := open(t)
	compact := sign(t, r, "before")
	again, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if payload, err := keyring.Verify(again.JWKS(), compact, typ); err != nil || string(payload) != "before" {
		t.Errorf("after reopening: %q, %v", payload, err)
	}
	if err := keyring.Init(dir); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("second Init: %v", err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[d.IsDir()]; info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", d.Name(), info.Mode().Perm(), want)
		}
		if strings.HasPrefix(d.Name(), ".") {
			t.Errorf("left over: %s", d.Name())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open(t.TempDir()); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("an empty folder: %v", err)
	}
}

// Ensure that of many Inits at once exactly one wins, and that what is there
// afterwards opens.
func TestInitAtOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = keyring.Init(dir) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case keyholder.CodeOf(err) != keyholder.Conflict:
			t.Errorf("a loser got %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d won", won)
	}
	if _, err := keyring.Open(dir); err != nil {
		t.Error(err)
	}
}

// Ensure that a second key is published but does not sign until the file
// that names the signing key says so, and that damage is refused.
func TestOpenChecksFiles(t *testing.T) {
	_, dir := open(t)
	donor, donorDir := open(t)
	path := filepath.Join(dir, "keys")
	find := func(dir string) string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(dir, "keys", "es256-*.key"))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		return found[0]
	}
	own, foreign := find(dir), find(donorDir)
	copyFile := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, to, b)
	}

	copyFile(own, filepath.Join(dir, "own"))
	second := filepath.Join(path, filepath.Base(foreign))
	copyFile(foreign, second)
	r, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	kid, _ := r.Signer()
	if len(r.JWKS().Keys) != 2 || !strings.Contains(own, kid) || r.JWKS().Keys[0].KeyID != kid {
		t.Errorf("%d keys, %q signs", len(r.JWKS().Keys), kid)
	}
	if _, err := keyring.Verify(r.JWKS(), sign(t, donor, "x"), typ); err != nil {
		t.Errorf("the second key verifies nothing: %v", err)
	}
	donorKid, _ := donor.Signer()
	write(t, filepath.Join(path, "signing"), []byte(donorKid+" 2026-03-02T05:00:00Z\n"))
	if r, err = keyring.Open(dir); err != nil {
		t.Fatal(err)
	}
	if kid, _ := r.Signer(); kid != donorKid {
		t.Errorf("%q signs, want %q", kid, donorKid)
	}

	for _, tt := range []struct {
		name   string
		damage func()
		want   keyholder.Code
	}{
		{"readable by the group", func() { chmod(t, own, 0o640) }, keyholder.Denied},
		{"readable by others", func() { chmod(t, own, 0o604) }, keyholder.Denied},
		{"writable by others", func() { chmod(t, own, 0o602) }, keyholder.Denied},
		{"signing file open to others", func() { chmod(t, own, 0o600); chmod(t, filepath.Join(path, "signing"), 0o644) }, keyholder.Denied},
		{"key of another name", func() { chmod(t, filepath.Join(path, "signing"), 0o600); copyFile(foreign, own) }, keyholder.Invalid},
		{"no key in the file", func() { write(t, own, []byte("nonsense")) }, keyholder.Invalid},
		{"oversize file", func() {
			copyFile(foreign, second)
			good, err := os.ReadFile(filepath.Join(dir, "own"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, own, append(good, bytes.Repeat([]byte("\n"), 64<<10)...))
		}, keyholder.Invalid},
		{"folder in place of a file", func() {
			remove(t, own)
			if err := os.Mkdir(own, 0o700); err != nil {
				t.Fatal(err)
			}
		}, keyholder.Invalid},
		{"named key missing", func() { remove(t, own); remove(t, second) }, keyholder.Invalid},
	} {
		tt.damage()
		if _, err := keyring.Open(dir); keyholder.CodeOf(err) != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// FuzzVerify looks for a panic, and for anything accepted that the ring did
// not sign.
func FuzzVerify(f *testing.F) {
	dir := f.TempDir()
	if err := keyring.Init(dir); err != nil {
		f.Fatal(err)
	}
	r, err := keyring.Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	good, err := r.Sign([]byte(`{"a":1}`), typ)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("..")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + ".e30.")
	f.Fuzz(func(t *testing.T, in string) {
		payload, err := keyring.Verify(r.JWKS(), in, typ)
		if err == nil && (string(payload) != `{"a":1}` || strings.Split(in, ".")[0] != strings.Split(good, ".")[0]) {
			t.Errorf("accepted %q", in)
		}
		if err != nil && keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("error of another code: %v", err)
		}
	})
}

// privateKey reads the only key of a folder as an attacker would.
func privateKey(t *testing.T, dir string) *ecdsa.PrivateKey {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "keys", "es256-*.key"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ecdsa.PrivateKey)
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
