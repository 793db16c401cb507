package keyholder_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that an app is registered exactly as its way of authentication and
// its profile ask for, and with nothing beside it.
func TestCheckRegistration(t *testing.T) {
	ec := keyholder.ClientKey{ID: "1", Algorithm: "ES256"}
	rs := keyholder.ClientKey{ID: "1", Algorithm: "RS256"}
	pinned := keyholder.PinnedAuthority{PEM: "x", Subject: "dns:app.example"}
	code := []keyholder.GrantType{keyholder.GrantAuthorizationCode}
	for name, tt := range map[string]struct {
		app keyholder.App
		ok  bool
	}{
		"secret":                       {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthSecret}, true},
		"certificate":                  {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthCertificate}, true},
		"self-signed":                  {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthSelfSigned}, true},
		"key":                          {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthKey, Keys: []keyholder.ClientKey{ec}}, true},
		"RS256 key":                    {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthKey, Keys: []keyholder.ClientKey{rs}}, true},
		"pinned":                       {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthCertificate, Pinned: pinned}, true},
		"pushed only":                  {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthSecret, Grants: code, PushedOnly: true}, true},
		"fapi2 certificate":            {keyholder.App{Profile: keyholder.ProfileFAPI2, Authentication: keyholder.AuthCertificate}, true},
		"fapi2 self-signed":            {keyholder.App{Profile: keyholder.ProfileFAPI2, Authentication: keyholder.AuthSelfSigned}, true},
		"fapi2 key":                    {keyholder.App{Profile: keyholder.ProfileFAPI2, Authentication: keyholder.AuthKey, Keys: []keyholder.ClientKey{ec}}, true},
		"no profile":                   {keyholder.App{Authentication: keyholder.AuthSecret}, false},
		"unknown profile":              {keyholder.App{Profile: "fapi1", Authentication: keyholder.AuthSecret}, false},
		"unknown method":               {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: "none"}, false},
		"key without keys":             {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthKey}, false},
		"keys beside a secret":         {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthSecret, Keys: []keyholder.ClientKey{ec}}, false},
		"one kid twice":                {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthKey, Keys: []keyholder.ClientKey{ec, rs}}, false},
		"pinned beside a secret":       {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthSecret, Pinned: pinned}, false},
		"pinned without a subject":     {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthCertificate, Pinned: keyholder.PinnedAuthority{PEM: "x"}}, false},
		"pinned without authority":     {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthCertificate, Pinned: keyholder.PinnedAuthority{Subject: "dns:a"}}, false},
		"pinned by an unknown form":    {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthCertificate, Pinned: keyholder.PinnedAuthority{PEM: "x", Subject: "mail:a"}}, false},
		"pushed only without the code": {keyholder.App{Profile: keyholder.ProfileFDS, Authentication: keyholder.AuthSecret, PushedOnly: true}, false},
		"fapi2 secret":                 {keyholder.App{Profile: keyholder.ProfileFAPI2, Authentication: keyholder.AuthSecret}, false},
		"fapi2 RS256 key":              {keyholder.App{Profile: keyholder.ProfileFAPI2, Authentication: keyholder.AuthKey, Keys: []keyholder.ClientKey{rs}}, false},
	} {
		err := keyholder.CheckRegistration(tt.app)
		if tt.ok && err != nil || !tt.ok && keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Ensure that authorization requests of an app that must push them begin
// nothing when they come by the browser, and that only fapi2 refuses tokens
// that whoever holds them can use.
func TestPermitAuthorization(t *testing.T) {
	for _, tt := range []struct {
		profile    keyholder.Profile
		pushedOnly bool
		cut        bool
		pushed     bool
		want       bool
	}{
		{profile: keyholder.ProfileFDS, want: true},
		{profile: keyholder.ProfileFDS, pushed: true, want: true},
		{profile: keyholder.ProfileFDS, pushedOnly: true},
		{profile: keyholder.ProfileFDS, pushedOnly: true, pushed: true, want: true},
		{profile: keyholder.ProfileFAPI2},
		{profile: keyholder.ProfileFAPI2, pushed: true, want: true},
		{profile: keyholder.ProfileFDS, pushed: true, cut: true},
	} {
		app := keyholder.App{ID: theApp, Profile: tt.profile, PushedOnly: tt.pushedOnly}
		if tt.cut {
			app.Cut = before
		}
		if v := keyholder.PermitAuthorization(app, tt.pushed); v.Allowed != tt.want {
			t.Errorf("%+v: got %v", tt, v)
		}
		if v := keyholder.PermitBearer(app); v.Allowed != (tt.profile == keyholder.ProfileFDS) {
			t.Errorf("%+v: a token of the bearer: %v", tt, v)
		}
	}
	if keyholder.PermitAuthorization(keyholder.App{}, true).Allowed {
		t.Error("nobody may ask")
	}
	if !keyholder.PermitBearer(keyholder.App{}).Allowed {
		t.Error("a provider's token is of the bearer")
	}
}

// Ensure that an assertion counts only if it is the app's about itself, now,
// for this server alone, signed with a key of the app for the algorithm of the
// key, and in the narrower form of fapi2 where the app has signed up to it.
func TestPermitAssertion(t *testing.T) {
	const issuer, endpoint = "https://auth.example", "https://auth.example/token"
	audiences := map[string][]string{"issuer": {issuer}, "endpoint": {endpoint}, "both": {issuer, endpoint}, "other": {"https://other.example"},
		"too-many": {issuer, "https://other.example"}, "none": nil}
	expiries := map[string]time.Time{"soon": now.Add(time.Minute), "now": now, "late": now.Add(-time.Minute), "never": {}, "far": now.Add(time.Hour)}
	tt := truth{
		axes: []axis{
			{"profile", []string{"fds", "fapi2"}},
			{"app", []string{"good", "cut", "none", "secret"}},
			{"issuer", []string{"app", "other"}}, {"subject", []string{"app", "other"}},
			{"jti", []string{"set", "empty"}},
			{"expires", []string{"soon", "now", "late", "never", "far"}},
			{"begins", []string{"past", "future"}},
			{"audience", []string{"issuer", "endpoint", "both", "other", "too-many", "none"}}, {"list", []string{"no", "yes"}},
			{"algorithm", []string{"ES256", "RS256", "PS256"}},
			{"kid", []string{"ec", "rsa", "unknown", "empty"}},
		},
		allowed: []string{
			"profile=fds app=good issuer=app subject=app jti=set expires=soon|now begins=past audience=issuer|endpoint|both algorithm=ES256 kid=ec|empty",
			"profile=fds app=good issuer=app subject=app jti=set expires=soon|now begins=past audience=issuer|endpoint|both algorithm=RS256|PS256 kid=rsa",
			"profile=fapi2 app=good issuer=app subject=app jti=set expires=soon|now begins=past audience=issuer list=no algorithm=ES256 kid=ec|empty",
			"profile=fapi2 app=good issuer=app subject=app jti=set expires=soon|now begins=past audience=issuer list=no algorithm=PS256 kid=rsa",
		},
		decide: func(c combination) keyholder.Verdict {
			app := keyholder.App{ID: theApp, Profile: keyholder.Profile(c.at("profile")), Authentication: keyholder.AuthKey,
				Keys: []keyholder.ClientKey{{ID: "ec", Algorithm: "ES256"}, {ID: "rsa"}}}
			switch c.at("app") {
			case "cut":
				app.Cut = before
			case "none":
				app = keyholder.App{}
			case "secret":
				app.Authentication = keyholder.AuthSecret
			}
			who := map[string]string{"app": string(theApp), "other": string(theProvider)}
			as := keyholder.Assertion{Algorithm: c.at("algorithm"), KeyID: c.at("kid"), Issuer: who[c.at("issuer")], Subject: who[c.at("subject")], ID: "1",
				Audience: audiences[c.at("audience")], List: c.at("list") == "yes", Expires: expiries[c.at("expires")], Issued: now}
			if c.at("kid") == "empty" {
				as.KeyID = ""
			}
			if c.at("jti") == "empty" {
				as.ID = ""
			}
			if c.at("begins") == "future" {
				as.NotBefore = now.Add(time.Minute)
			}
			return keyholder.PermitAssertion(as, app, issuer, []string{endpoint}, now)
		},
	}
	tt.check(t)
}

// keySet writes public keys as a JWK set with the library that clients use.
func keySet(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newKeys(t testing.TB) (*ecdsa.PrivateKey, ed25519.PrivateKey, *rsa.PrivateKey) {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return ec, ed, r
}

// Ensure that public keys of every kind are read as they were written, and
// survive being stored.
func TestParseClientKeys(t *testing.T) {
	ec, ed, r := newKeys(t)
	keys, err := keyholder.ParseClientKeys(keySet(t,
		jose.JSONWebKey{Key: ec.Public(), KeyID: "ec", Algorithm: "ES256", Use: "sig"}, jose.JSONWebKey{Key: ed.Public(), KeyID: "ed"}, jose.JSONWebKey{Key: r.Public(), KeyID: "rsa"}))
	if err != nil {
		t.Fatal(err)
	}
	want := []keyholder.ClientKey{{ID: "ec", Algorithm: "ES256", Key: ec.Public()}, {ID: "ed", Algorithm: "EdDSA", Key: ed.Public()}, {ID: "rsa", Key: r.Public()}}
	equal := cmp.Comparer(func(a, b *ecdsa.PublicKey) bool { return a.Equal(b) })
	if diff := cmp.Diff(want, keys, equal); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	stored, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	var again []keyholder.ClientKey
	if err := json.Unmarshal(stored, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again, equal); diff != "" {
		t.Errorf("after being stored (-want +got):\n%s", diff)
	}
}

// Ensure that a key set with anything private is refused without repeating it,
// and that damaged, weak, unnamed, doubled and foreign keys are.
func TestParseClientKeysRefuses(t *testing.T) {
	ec, ed, r := newKeys(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("this Go makes no weak key:", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := func(id string) jose.JSONWebKey { return jose.JSONWebKey{Key: ec.Public(), KeyID: id} }
	for name, set := range map[string][]byte{
		"private EC":       keySet(t, jose.JSONWebKey{Key: ec, KeyID: "1"}),
		"private Ed25519":  keySet(t, public("2"), jose.JSONWebKey{Key: ed, KeyID: "1"}),
		"private RSA":      keySet(t, jose.JSONWebKey{Key: r, KeyID: "1"}),
		"secret":           keySet(t, jose.JSONWebKey{Key: []byte("secret-secret-secret"), KeyID: "1"}),
		"PEM":              []byte("-----BEGIN PRIVATE KEY-----"),
		"a key, not a set": []byte(`{"kty":"EC","d":"x"}`),
		"weak RSA":         keySet(t, jose.JSONWebKey{Key: weak.Public(), KeyID: "1"}),
		"P-384":            keySet(t, jose.JSONWebKey{Key: p384.Public(), KeyID: "1"}),
		"no kid":           keySet(t, public("")),
		"long kid":         keySet(t, public(strings.Repeat("k", 129))),
		"one kid twice":    keySet(t, public("1"), public("1")),
		"nine keys":        keySet(t, public("1"), public("2"), public("3"), public("4"), public("5"), public("6"), public("7"), public("8"), public("9")),
		"for encryption":   keySet(t, jose.JSONWebKey{Key: ec.Public(), KeyID: "1", Use: "enc"}),
		"wrong algorithm":  keySet(t, jose.JSONWebKey{Key: ec.Public(), KeyID: "1", Algorithm: "RS256"}),
		"off the curve":    []byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}`),
		"no keys":          []byte(`{"keys":[]}`),
		"nothing":          nil,
		"a list":           []byte(`[]`),
		"too large":        []byte(`{"keys":[` + strings.Repeat(" ", 33<<10) + `]}`),
	} {
		keys, err := keyholder.ParseClientKeys(set)
		if keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: got %d keys, err %v", name, len(keys), err)
		}
		if err != nil && strings.Contains(fmt.Sprint(err), "secret-secret") {
			t.Errorf("%s: the error repeats the input: %v", name, err)
		}
	}
}

// FuzzParseClientKeys: what is taken has a kid, a public key and nothing
// private, and is the same after being stored.
func FuzzParseClientKeys(f *testing.F) {
	ec, ed, r := newKeys(f)
	f.Add(keySet(f, jose.JSONWebKey{Key: ec.Public(), KeyID: "1"}, jose.JSONWebKey{Key: ed.Public(), KeyID: "2"}, jose.JSONWebKey{Key: r.Public(), KeyID: "3"}))
	f.Add(keySet(f, jose.JSONWebKey{Key: ec, KeyID: "1"}))
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"1","n":"AQAB","e":"AQAB"}]}`))
	f.Fuzz(func(t *testing.T, set []byte) {
		keys, err := keyholder.ParseClientKeys(set)
		if err != nil {
			return
		}
		stored, err := json.Marshal(map[string]any{"keys": keys})
		if err != nil {
			t.Fatal(err)
		}
		again, err := keyholder.ParseClientKeys(stored)
		if err != nil || len(again) != len(keys) || len(keys) == 0 {
			t.Fatalf("%d keys became %d, err %v", len(keys), len(again), err)
		}
		for i, k := range keys {
			if k.ID == "" || k.Key == nil || again[i].ID != k.ID || again[i].Algorithm != k.Algorithm {
				t.Fatalf("%+v became %+v", k, again[i])
			}
		}
		if slices.ContainsFunc([]string{`"d":`, `"k":`, `"p":`}, func(s string) bool { return strings.Contains(string(stored), s) }) {
			t.Fatalf("something private was kept: %s", stored)
		}
	})
}
