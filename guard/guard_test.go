package guard_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/google/go-cmp/cmp"
)

// Ensure that a token of the trusted issuer is read in full, in the spellings
// RFC 9068 allows, from the cache as well as from the signature.
func TestVerify(t *testing.T) {
	i := newIssuer(t)
	sum := make([]byte, 32)
	sum[0], sum[31] = 1, 2
	want := keyholder.Token{
		Issuer: testIssuer, Subject: "user-1", ClientID: testClient, Subscription: testSub, Grant: testGrant,
		ID: "token-1", Key: "key-1", Scope: []string{"fds:read"}, IssuedAt: i.now, Expires: i.now.Add(5 * time.Minute),
	}
	bound, ingest, scopes, fraction := want, want, want, want
	bound.Bound.Certificate = keyholder.Thumbprint(sum)
	toKey, toBoth := want, bound
	toKey.Bound.Key, toBoth.Bound.Key = keyholder.KeyThumbprint(sum), keyholder.KeyThumbprint(sum)
	ingest.Subscription, ingest.Scope = "", []string{"fds:ingest"}
	scopes.Scope = []string{"a", "b"}
	fraction.Expires = i.now.Add(1500 * time.Millisecond)
	tests := map[string]struct {
		header, claims object
		want           keyholder.Token
	}{
		"plain":               {object{}, object{}, want},
		"media type as typ":   {object{"typ": "application/at+jwt"}, object{}, want},
		"typ in capitals":     {object{"typ": "AT+JWT"}, object{}, want},
		"list of audiences":   {object{}, object{"aud": []string{"https://other.example.com", testAudience}}, want},
		"unknown claims":      {object{}, object{"amr": []string{"pwd"}, "extra": object{"a": 1}}, want},
		"bound":               {object{}, object{"cnf": object{"x5t#S256": encode(sum)}}, bound},
		"bound to a key":      {object{}, object{"cnf": object{"jkt": encode(sum)}}, toKey},
		"bound to both":       {object{}, object{"cnf": object{"jkt": encode(sum), "x5t#S256": encode(sum)}}, toBoth},
		"no subscription":     {object{}, object{"subscription_id": nil, "scope": "fds:ingest"}, ingest},
		"two scopes":          {object{}, object{"scope": "a b"}, scopes},
		"issued a moment off": {object{}, object{"nbf": i.now.Unix() + 9}, want},
		"fraction of seconds": {object{}, object{"exp": float64(i.now.Unix()) + 1.5}, fraction},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := i.guard(t)
			raw := i.token(t, i.header().with(tt.header), i.claims().with(tt.claims))
			for range 2 {
				got, err := g.Verify(t.Context(), raw)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("token differs (-want +got):\n%s", d)
				}
			}
		})
	}
}

// Ensure that every forged, foreign, worn-out or misused token is refused,
// and that no refusal repeats anything of it.
func TestVerifyRefuses(t *testing.T) {
	i := newIssuer(t)
	foreign := newIssuer(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&i.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	now := i.now.Unix()
	valid := i.valid(t)
	header := func(o object) string { return i.token(t, i.header().with(o), i.claims()) }
	claims := func(o object) string { return i.token(t, i.header(), i.claims().with(o)) }
	rawClaims := func(s string) string { return signES256(t, i.key, marshal(t, i.header()), []byte(s)) }
	repeated := strings.Replace(string(marshal(t, i.claims())), `{`, `{"subscription_id":"`+otherSub+`",`, 1)
	repeatedKey := `{"typ":"at+jwt","alg":"ES256","kid":"x","kid":"key-1"}`

	tests := map[string]string{
		"empty":                         "",
		"alg none, no signature":        encode(marshal(t, i.header().with(object{"alg": "none"}))) + "." + encode(marshal(t, i.claims())) + ".",
		"alg none, signature kept":      header(object{"alg": "none"}),
		"alg None":                      header(object{"alg": "None"}),
		"no alg":                        header(object{"alg": nil}),
		"HS256 with the public key":     signHS256(der, marshal(t, i.header().with(object{"alg": "HS256"})), marshal(t, i.claims())),
		"RS256":                         signRS256(t, rsaKey, marshal(t, i.header().with(object{"alg": "RS256"})), marshal(t, i.claims())),
		"ES384 announced":               header(object{"alg": "ES384"}),
		"foreign key ID":                header(object{"kid": "key-2"}),
		"no key ID":                     header(object{"kid": nil}),
		"long key ID":                   header(object{"kid": strings.Repeat("k", 300)}),
		"repeated key ID":               signES256(t, i.key, []byte(repeatedKey), marshal(t, i.claims())),
		"foreign key, known key ID":     foreign.valid(t),
		"own key in the header":         foreign.token(t, i.header().with(object{"jwk": jwk(t, &foreign.key.PublicKey)}), i.claims()),
		"ID token":                      header(object{"typ": "JWT"}),
		"no type":                       header(object{"typ": nil}),
		"type is a number":              header(object{"typ": 1}),
		"critical extension":            header(object{"crit": []string{"exp"}}),
		"unencoded payload":             header(object{"crit": []string{"b64"}, "b64": true}),
		"expired":                       claims(object{"iat": now - 600, "exp": now - 1}),
		"expires now":                   claims(object{"iat": now - 300, "exp": now}),
		"no expiry":                     claims(object{"exp": nil}),
		"expiry as text":                claims(object{"exp": "9999999999"}),
		"expiry beyond time":            claims(object{"exp": 1e300}),
		"negative expiry":               claims(object{"exp": -1}),
		"expiry null":                   rawClaims(strings.Replace(string(marshal(t, i.claims())), `"exp":`, `"exp":null,"x":`, 1)),
		"lives too long":                claims(object{"exp": now + 3601}),
		"not valid yet":                 claims(object{"nbf": now + 11}),
		"issued in the future":          claims(object{"iat": now + 60}),
		"no time of issue":              claims(object{"iat": nil}),
		"wrong issuer":                  claims(object{"iss": testIssuer + "/"}),
		"no issuer":                     claims(object{"iss": nil}),
		"issuer is a list":              claims(object{"iss": []string{testIssuer}}),
		"wrong audience":                claims(object{"aud": "https://other.example.com"}),
		"audience begins the same":      claims(object{"aud": testAudience + "/fds"}),
		"no audience":                   claims(object{"aud": nil}),
		"empty list of audiences":       claims(object{"aud": []string{}}),
		"audience holds numbers":        claims(object{"aud": []any{testAudience, 1}}),
		"audience null":                 rawClaims(strings.Replace(string(marshal(t, i.claims())), `"aud":`, `"aud":null,"x":`, 1)),
		"no client":                     claims(object{"client_id": nil}),
		"empty client":                  claims(object{"client_id": ""}),
		"no subject":                    claims(object{"sub": nil}),
		"no token ID":                   claims(object{"jti": nil}),
		"scope is a list":               claims(object{"scope": []string{"fds:read"}}),
		"very many scopes":              claims(object{"scope": strings.Repeat("s ", 100)}),
		"subscription not version 4":    claims(object{"subscription_id": "6f1e9a52-3c1b-1f0e-9b7d-2a5c8d4e1f30"}),
		"subscription in capitals":      claims(object{"subscription_id": strings.ToUpper(testSub)}),
		"subscription as list":          claims(object{"subscription_id": []string{testSub}}),
		"subscription as number":        claims(object{"subscription_id": 7}),
		"subscription empty":            claims(object{"subscription_id": ""}),
		"subscription twice":            rawClaims(repeated),
		"claims are a list":             rawClaims(`[1]`),
		"claims are null":               rawClaims(`null`),
		"two JSON values":               rawClaims(string(marshal(t, i.claims())) + `{}`),
		"claims are no JSON":            rawClaims(`iss`),
		"binding that cannot be proved": claims(object{"cnf": object{"kid": "abc"}}),
		"binding partly unknown":        claims(object{"cnf": object{"jkt": encode(bytes.Repeat([]byte{1}, 32)), "kid": "abc"}}),
		"short key binding":             claims(object{"cnf": object{"jkt": "AAAA"}}),
		"key binding of zeros":          claims(object{"cnf": object{"jkt": encode(make([]byte, 32))}}),
		"one binding malformed":         claims(object{"cnf": object{"x5t#S256": encode(bytes.Repeat([]byte{1}, 32)), "jkt": "abc"}}),
		"short binding":                 claims(object{"cnf": object{"x5t#S256": "AAAA"}}),
		"binding of zeros":              claims(object{"cnf": object{"x5t#S256": encode(make([]byte, 32))}}),
		"binding is text":               claims(object{"cnf": "x"}),
		"empty binding":                 claims(object{"cnf": object{}}),
		"tampered claims":               tamper(valid, 1),
		"tampered header":               tamper(valid, 0),
		"tampered signature":            tamper(valid, 2),
		"truncated":                     valid[:len(valid)-4],
		"no signature":                  valid[:strings.LastIndex(valid, ".")],
		"empty signature":               valid[:strings.LastIndex(valid, ".")+1],
		"four segments":                 valid + ".AAAA",
		"padded":                        valid + "==",
		"line break":                    valid[:40] + "\n" + valid[40:],
		"space at the end":              valid + " ",
		"JSON serialization":            `{"payload":"","signatures":[]}`,
		"too long":                      claims(object{"pad": strings.Repeat("x", 8<<10)}),
	}
	g := i.guard(t)
	if _, err := g.Verify(t.Context(), valid); err != nil {
		t.Fatalf("the token the others are made of: %v", err)
	}
	for name, raw := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := g.Verify(t.Context(), raw)
			if code := keyholder.CodeOf(err); code != keyholder.Denied {
				t.Fatalf("error %v (code %q), want a denial", err, code)
			}
			if d := cmp.Diff(keyholder.Token{}, got); d != "" {
				t.Errorf("a refused token was returned:\n%s", d)
			}
			for _, secret := range []string{testClient, testSub, "user-1", "token-1"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error repeats the token's content: %v", err)
				}
			}
		})
	}
}

// tamper changes one character in the middle of a segment.
func tamper(raw string, segment int) string {
	parts := strings.Split(raw, ".")
	b := []byte(parts[segment])
	c := &b[len(b)/2]
	if *c++; *c != '_' && (*c < '0' || *c > '9') && (*c < 'a' || *c > 'z') && (*c < 'A' || *c > 'Z') {
		*c = 'A'
	}
	parts[segment] = string(b)
	return strings.Join(parts, ".")
}

// Ensure that a token is refused from the very moment it expires, also while
// it is in the cache.
func TestVerifyCachedUntilExpiry(t *testing.T) {
	i := newIssuer(t)
	g := i.guard(t)
	raw := i.valid(t)
	i.now = i.now.Add(5*time.Minute - time.Nanosecond)
	for range 2 {
		if _, err := g.Verify(t.Context(), raw); err != nil {
			t.Fatalf("just before expiry: %v", err)
		}
	}
	i.now = i.now.Add(time.Nanosecond)
	if _, err := g.Verify(t.Context(), raw); keyholder.CodeOf(err) != keyholder.Denied {
		t.Fatalf("at expiry: error %v, want a denial", err)
	}
}

// Ensure that a cut ends the tokens of what it ended, cached or not, and no
// others, and counts the cached ones.
func TestEnd(t *testing.T) {
	i := newIssuer(t)
	otherClient := "c9d8e7f6-a5b4-4c3d-8e2f-1a0b9c8d7e6f"
	mine := i.valid(t)
	again := i.token(t, i.header(), i.claims().with(object{"jti": "token-2"}))
	other := i.token(t, i.header(), i.claims().with(object{"subscription_id": otherSub, "grant_id": "", "client_id": otherClient}))
	ingest := i.token(t, i.header(), i.claims().with(object{"subscription_id": nil, "grant_id": nil, "client_id": otherClient}))
	tests := map[string]struct {
		ended keyholder.Ended
		want  int
	}{
		"subscription": {keyholder.Ended{Subscriptions: []keyholder.SubscriptionID{testSub}}, 2},
		"grant":        {keyholder.Ended{Grants: []keyholder.GrantID{testGrant}}, 2},
		"app":          {keyholder.Ended{Apps: []keyholder.AppID{testClient}}, 2},
		"provider":     {keyholder.Ended{Providers: []keyholder.ProviderID{testClient}}, 2},
		"nothing":      {keyholder.Ended{Certificates: []string{"ab"}}, 0},
		"empty ID":     {keyholder.Ended{Subscriptions: []keyholder.SubscriptionID{""}}, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := i.guard(t)
			for _, raw := range []string{mine, again, other, ingest} {
				if _, err := g.Verify(t.Context(), raw); err != nil {
					t.Fatal(err)
				}
			}
			if n := g.End(keyholder.Cut{Ended: tt.ended}); n != tt.want {
				t.Errorf("End reports %d tokens, want %d", n, tt.want)
			}
			late := i.token(t, i.header(), i.claims().with(object{"jti": "token-3"}))
			for _, raw := range []string{mine, again, late} {
				_, err := g.Verify(t.Context(), raw)
				if denied := keyholder.CodeOf(err) == keyholder.Denied; denied != (tt.want > 0) {
					t.Errorf("a token of what was ended: error %v", err)
				}
			}
			for _, raw := range []string{other, ingest} {
				if _, err := g.Verify(t.Context(), raw); err != nil {
					t.Errorf("a token of something else: %v", err)
				}
			}
		})
	}
}

// Ensure that the caller's own list of ended tokens is asked on every use.
func TestEndedFunction(t *testing.T) {
	i := newIssuer(t)
	var ended bool
	cfg := i.config()
	cfg.Ended = func(tok keyholder.Token) bool { return ended && tok.Grant == testGrant }
	g, err := guard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	raw := i.valid(t)
	if _, err := g.Verify(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	ended = true
	if _, err := g.Verify(t.Context(), raw); keyholder.CodeOf(err) != keyholder.Denied {
		t.Fatalf("error %v, want a denial", err)
	}
}

// Ensure that the audience may depend on the subscription, as for webhooks,
// and that a token is then good for its own subscription's audience alone.
func TestAudienceFor(t *testing.T) {
	i := newIssuer(t)
	cfg := i.config()
	cfg.Audience, cfg.AudienceFor = "", keyholder.WebhookAudience
	g, err := guard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	push := i.claims().with(object{"aud": "urn:keyholder:webhook:" + testSub, "scope": "fds:push"})
	if _, err := g.Verify(t.Context(), i.token(t, i.header(), push)); err != nil {
		t.Errorf("token for the webhook of its subscription: %v", err)
	}
	for name, change := range map[string]object{
		"audience of another subscription": {"subscription_id": otherSub},
		"audience of the Web API":          {"aud": testAudience},
		"no subscription":                  {"subscription_id": nil},
	} {
		if _, err := g.Verify(t.Context(), i.token(t, i.header(), push.with(change))); keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("%s: error %v, want a denial", name, err)
		}
	}
}

// Ensure that the claim of the subscription can have another name.
func TestSubscriptionClaim(t *testing.T) {
	i := newIssuer(t)
	cfg := i.config()
	cfg.SubscriptionClaim = "https://fds.example.com/subscription"
	g, err := guard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	raw := i.token(t, i.header(), i.claims().with(object{cfg.SubscriptionClaim: otherSub}))
	got, err := g.Verify(t.Context(), raw)
	if err != nil || got.Subscription != otherSub {
		t.Errorf("subscription %q, error %v", got.Subscription, err)
	}
}

// Ensure that failing to get keys is told from having no such key, and that
// nothing is cached of it.
func TestKeysFail(t *testing.T) {
	i := newIssuer(t)
	cause := errors.New("connection refused")
	tests := map[string]struct {
		key  crypto.PublicKey
		err  error
		want keyholder.Code
	}{
		"not reachable": {nil, cause, keyholder.Unavailable},
		"unavailable":   {nil, keyholder.Errorf(keyholder.Unavailable, "away"), keyholder.Unavailable},
		"denied":        {nil, keyholder.Errorf(keyholder.Denied, "no"), keyholder.Denied},
		"nil key":       {nil, nil, keyholder.Denied},
		"typed nil key": {crypto.PublicKey(nil), nil, keyholder.Denied},
		"private key":   {i.key, nil, keyholder.Denied},
		"text":          {"key", nil, keyholder.Denied},
		"other curve":   {p384(t), nil, keyholder.Denied},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := i.config()
			fail := true
			cfg.Keys = func(ctx context.Context, kid string) (crypto.PublicKey, error) {
				if fail {
					return tt.key, tt.err
				}
				return i.keys(ctx, kid)
			}
			g, err := guard.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			raw := i.valid(t)
			_, err = g.Verify(t.Context(), raw)
			if code := keyholder.CodeOf(err); code != tt.want {
				t.Fatalf("code %q (%v), want %q", code, err, tt.want)
			}
			fail = false
			if _, err := g.Verify(t.Context(), raw); err != nil {
				t.Errorf("after recovery: %v", err)
			}
		})
	}
}

func p384(t *testing.T) *ecdsa.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &k.PublicKey
}

// Ensure that an issuer's RSA tokens pass only where RS256 was allowed.
func TestAlgorithms(t *testing.T) {
	i := newIssuer(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	cfg := i.config()
	cfg.Algorithms = []string{"RS256"}
	cfg.Keys = func(context.Context, string) (crypto.PublicKey, error) { return &key.PublicKey, nil }
	g, err := guard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	raw := signRS256(t, key, marshal(t, i.header().with(object{"alg": "RS256"})), marshal(t, i.claims()))
	if _, err := g.Verify(t.Context(), raw); err != nil {
		t.Errorf("RS256 where it is allowed: %v", err)
	}
	if _, err := g.Verify(t.Context(), i.valid(t)); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("ES256 where it is not allowed: error %v, want a denial", err)
	}
}

// Ensure that an incomplete or unsafe configuration is refused.
func TestNewRefuses(t *testing.T) {
	tests := map[string]func(*guard.Config){
		"no issuer":            func(c *guard.Config) { c.Issuer = "" },
		"no audience":          func(c *guard.Config) { c.Audience = "" },
		"two audiences":        func(c *guard.Config) { c.AudienceFor = keyholder.WebhookAudience },
		"no keys":              func(c *guard.Config) { c.Keys = nil },
		"none":                 func(c *guard.Config) { c.Algorithms = []string{"ES256", "none"} },
		"HS256":                func(c *guard.Config) { c.Algorithms = []string{"HS256"} },
		"wide leeway":          func(c *guard.Config) { c.Leeway = time.Hour },
		"negative lifetime":    func(c *guard.Config) { c.MaxLifetime = -1 },
		"claim with a meaning": func(c *guard.Config) { c.SubscriptionClaim = "sub" },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := newIssuer(t).config()
			change(&cfg)
			if _, err := guard.New(cfg); keyholder.CodeOf(err) != keyholder.Invalid {
				t.Errorf("error %v, want code invalid", err)
			}
		})
	}
}
