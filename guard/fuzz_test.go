package guard_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// FuzzVerify checks that no string makes the guard panic or pass, except
// those that the issuer signed.
func FuzzVerify(f *testing.F) {
	i := newIssuer(f)
	g := i.guard(f)
	valid := i.valid(f)
	f.Add(valid)
	f.Add("")
	f.Add("..")
	f.Add("e30.e30.AA")
	f.Add(encode([]byte(`{"typ":"at+jwt","alg":"none","kid":"key-1"}`)) + ".e30.")
	f.Fuzz(func(t *testing.T, raw string) {
		_, err := g.Verify(context.Background(), raw)
		if err == nil && raw != valid {
			t.Errorf("%q passed", raw)
		}
		if err != nil && keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("error %v, want a denial", err)
		}
	})
}

// FuzzClaims checks that whatever object the issuer signs, what passes holds
// together: one canonical subscription ID or none, a client, an expiry ahead.
func FuzzClaims(f *testing.F) {
	i := newIssuer(f)
	cfg := i.config()
	cfg.CacheSize = -1
	g, err := guard.New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	header := marshal(f, i.header())
	f.Add(marshal(f, i.claims()))
	f.Add(marshal(f, i.claims().with(object{"cnf": object{"x5t#S256": encode(make([]byte, 32))}})))
	f.Add([]byte(`{"exp":1e999}`))
	f.Add([]byte(`{"aud":[[[[[[]]]]]]}`))
	f.Fuzz(func(t *testing.T, claims []byte) {
		tok, err := g.Verify(context.Background(), signES256(t, i.key, header, claims))
		var e *keyholder.Error
		switch {
		case err != nil && !errors.As(err, &e):
			t.Errorf("error %v is no keyholder.Error", err)
		case err != nil:
		case tok.ClientID == "" || tok.Issuer != testIssuer || !i.now.Before(tok.Expires):
			t.Errorf("incomplete token passed: %+v", tok)
		case tok.Subscription != "":
			if _, err := keyholder.ParseID[keyholder.SubscriptionID](string(tok.Subscription)); err != nil {
				t.Errorf("subscription %q passed", tok.Subscription)
			}
		}
	})
}

// FuzzKeySet checks that no key set makes the parser panic or yields a key
// that is private.
func FuzzKeySet(f *testing.F) {
	i := newIssuer(f)
	f.Add(marshal(f, object{"keys": []object{jwk(f, &i.key.PublicKey).with(object{"kid": "a"})}}))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA","kid":"b"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := guard.ParseKeySet(body)
		if err != nil && keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("error %v, want code invalid", err)
		}
		for id, k := range keys {
			if _, private := k.(*ecdsa.PrivateKey); private || id == "" {
				t.Errorf("key %q of type %T", id, k)
			}
			if _, ok := k.(interface{ Equal(crypto.PublicKey) bool }); !ok {
				t.Errorf("key %q of type %T is not public", id, k)
			}
		}
	})
}
