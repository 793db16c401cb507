package authserver_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/fds-keyholder/keyholder"
)

// dpopKey is a key of a client, with which it makes proofs (RFC 9449).
type dpopKey struct {
	signer jose.Signer
	public jose.JSONWebKey
}

func newDPoPKey() dpopKey {
	return dpopKeyOf(jose.ES256, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
}

func dpopKeyOf(alg jose.SignatureAlgorithm, key crypto.Signer) dpopKey {
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt")
	return dpopKey{must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)), jose.JSONWebKey{Key: key.Public()}}
}

func (k dpopKey) thumbprint() string {
	return base64.RawURLEncoding.EncodeToString(must(k.public.Thumbprint(crypto.SHA256)))
}

// proof makes a proof; changes replace its claims, nil removes one.
func (k dpopKey) proof(address string, now time.Time, changes map[string]any) string {
	claims := map[string]any{"jti": rand.Text(), "htm": "POST", "htu": address, "iat": now.Unix()}
	for name, v := range changes {
		if claims[name] = v; v == nil {
			delete(claims, name)
		}
	}
	return must(must(k.signer.Sign(must(json.Marshal(claims)))).CompactSerialize())
}

// prove posts a form with DPoP headers.
func (b *bench) prove(c *http.Client, path string, form url.Values, proofs ...string) reply {
	b.t.Helper()
	r := must(http.NewRequest(http.MethodPost, b.issuer+path, strings.NewReader(form.Encode())))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, p := range proofs {
		r.Header.Add("DPoP", p)
	}
	resp, err := c.Do(r)
	return read(b.t, resp, err)
}

// fresh makes a proof for the token endpoint.
func (b *bench) fresh(k dpopKey) string { return k.proof(b.issuer+"/token", b.now(), nil) }

// jkt is what a token is bound to: empty, a bearer token.
func (b *bench) jkt(r reply) string {
	b.t.Helper()
	if r.status != http.StatusOK {
		b.t.Fatalf("status %d: %s", r.status, r.body)
	}
	cnf, _ := b.claims(r.text("access_token"), "at+jwt")["cnf"].(map[string]any)
	jkt, _ := cnf["jkt"].(string)
	want := "Bearer"
	if jkt != "" {
		want = "DPoP"
	}
	if r.text("token_type") != want {
		b.t.Errorf("token type %s of a token bound to %q", r.text("token_type"), jkt)
	}
	return jkt
}

// Ensure that who proves a key gets tokens bound to it, by every grant and
// beside a certificate, that introspection tells of it, and that a bound
// grant gives no unbound token any more.
func TestDPoPBinding(t *testing.T) {
	b := open(t)
	c, key, other := b.client(), newDPoPKey(), newDPoPKey()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	credentials := values("client_id", string(b.app.ID), "client_secret", b.secret)
	redeem := func(k dpopKey) url.Values {
		return with(redemption(b.code(b.app)), "client_id", string(b.app.ID), "client_secret", b.secret)
	}
	first := b.prove(c, "/token", redeem(key), b.fresh(key))
	if got := b.jkt(first); got != key.thumbprint() {
		t.Errorf("code: bound to %q, want %s", got, key.thumbprint())
	}
	r := b.introspect(first.text("access_token"))
	if cnf, _ := r.json["cnf"].(map[string]any); r.json["active"] != true || r.json["token_type"] != "DPoP" || cnf["jkt"] != key.thumbprint() {
		t.Errorf("introspection: %s", r.body)
	}
	refresh := func(r reply, proofs ...string) reply {
		return b.prove(c, "/token", with(credentials, "grant_type", "refresh_token", "refresh_token", r.text("refresh_token")), proofs...)
	}
	refused(t, refresh(first), http.StatusBadRequest, "invalid_request")
	second := refresh(first, b.fresh(key))
	if got := b.jkt(second); got != key.thumbprint() {
		t.Errorf("refresh: bound to %q", got)
	}
	// The client is authenticated, so it may change its key (RFC 9449 5).
	if got := b.jkt(refresh(second, b.fresh(other))); got != other.thumbprint() {
		t.Errorf("refresh with another key: bound to %q", got)
	}

	unbound := b.tokens()
	if got := b.jkt(unbound); got != "" {
		t.Errorf("no proof: bound to %q", got)
	}
	bound := refresh(unbound, b.fresh(key))
	if got := b.jkt(bound); got != key.thumbprint() {
		t.Errorf("refresh of unbound tokens: bound to %q", got)
	}
	refused(t, refresh(bound), http.StatusBadRequest, "invalid_request")

	sub := string(b.subscription(first.text("access_token")))
	machine := with(credentials, "grant_type", "client_credentials", "subscription_id", sub)
	for name, k := range map[string]dpopKey{"P-256": key, "Ed25519": dpopKeyOf(jose.EdDSA, edwards)} {
		if got := b.jkt(b.prove(c, "/token", machine, b.fresh(k))); got != k.thumbprint() {
			t.Errorf("client credentials, %s: bound to %q", name, got)
		}
	}

	own := b.certificate(keyholder.ForApp, string(b.certApp.ID))
	both := b.prove(b.client(own), "/token", with(redemption(b.code(b.certApp)), "client_id", string(b.certApp.ID)), b.fresh(key))
	cnf, _ := b.claims(both.text("access_token"), "at+jwt")["cnf"].(map[string]any)
	if cnf["jkt"] != key.thumbprint() || cnf["x5t#S256"] != thumbprint(own) {
		t.Errorf("certificate and key: bound to %v", cnf)
	}
}

// Ensure that a proof that is not for this request, not fresh, not alone or
// used before gives no token, costs neither code nor refresh token while it
// can be seen to be none, and is in the audit trail.
func TestDPoPRefused(t *testing.T) {
	b := open(t)
	c, key := b.client(), newDPoPKey()
	here := b.issuer + "/token"
	now := b.now()
	code := b.code(b.app)
	form := with(redemption(code), "client_id", string(b.app.ID), "client_secret", b.secret)
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"dpop+jwt","alg":"none"}`)) + ".e30."
	proof := func(name string, v any) string { return key.proof(here, now, map[string]any{name: v}) }
	before := b.audited(keyholder.EventTokenDenied)
	attacks := map[string][]string{
		"another endpoint": {key.proof(b.issuer+"/par", now, nil)},
		"another server":   {key.proof("https://as.example/token", now, nil)},
		"another path":     {key.proof(here+"/", now, nil)},
		"another method":   {proof("htm", "GET")},
		"no ID":            {proof("jti", nil)},
		"no time":          {proof("iat", nil)},
		"a minute old":     {proof("iat", now.Unix()-61)},
		"from the future":  {proof("iat", now.Unix()+30)},
		"expired":          {proof("exp", now.Unix()-1)},
		"two headers":      {b.fresh(key), b.fresh(key)},
		"empty header":     {""},
		"unsigned":         {unsigned},
		"no proof at all":  {"nonsense"},
	}
	for name, proofs := range attacks {
		t.Run(name, func(t *testing.T) {
			refused(t, b.prove(c, "/token", form, proofs...), http.StatusBadRequest, "invalid_dpop_proof")
		})
	}
	if got := b.audited(keyholder.EventTokenDenied) - before; got != len(attacks) {
		t.Errorf("%d audit rows of %d refusals", got, len(attacks))
	}

	used := b.fresh(key)
	first := b.prove(c, "/token", form, used)
	b.jkt(first)
	renewal := b.asApp("grant_type", "refresh_token", "refresh_token", first.text("refresh_token"))
	refused(t, b.prove(c, "/token", renewal, used), http.StatusBadRequest, "invalid_dpop_proof")
	refused(t, b.prove(c, "/par", authorization(b.app), used), http.StatusBadRequest, "invalid_dpop_proof")
	b.jkt(b.prove(c, "/token", renewal, b.fresh(key)))
	// The endpoints that take no proofs ignore even a bad one.
	if r := b.prove(c, "/introspect", values("client_id", string(b.rs.ID), "client_secret", b.rsSecret, "token", first.text("access_token")), "nonsense"); r.json["active"] != true {
		t.Errorf("introspection: %d %s", r.status, r.body)
	}
}

// Ensure that a code is for the key that its authorization request named, by
// dpop_jkt, or in a pushed request by dpop_jkt or a proof.
func TestDPoPCode(t *testing.T) {
	b := open(t)
	c, key, thief := b.client(), newDPoPKey(), newDPoPKey()
	credentials := values("client_id", string(b.app.ID), "client_secret", b.secret)
	begin := func(query url.Values) string {
		w := b.browser().signIn(query).submit("action", "share")
		if w.left == nil || w.left.Query().Get("code") == "" {
			t.Fatalf("no code: %v", w.left)
		}
		return w.left.Query().Get("code")
	}
	pushed := func(form url.Values, proofs ...string) url.Values {
		for name := range credentials {
			form.Set(name, credentials.Get(name))
		}
		r := b.prove(c, "/par", form, proofs...)
		if r.status != http.StatusCreated {
			t.Fatalf("push: %d %s", r.status, r.body)
		}
		return referring(b.app, r.text("request_uri"))
	}
	atPush := func() string { return key.proof(b.issuer+"/par", b.now(), nil) }
	named := with(authorization(b.app), "dpop_jkt", key.thumbprint())
	for name, query := range map[string]func() url.Values{
		"dpop_jkt":               func() url.Values { return named },
		"pushed dpop_jkt":        func() url.Values { return pushed(with(named)) },
		"pushed proof":           func() url.Values { return pushed(authorization(b.app), atPush()) },
		"pushed proof and name":  func() url.Values { return pushed(with(named), atPush()) },
		"name beside the pushed": func() url.Values { return with(pushed(with(named)), "dpop_jkt", thief.thumbprint()) },
	} {
		t.Run(name, func(t *testing.T) {
			redeem := func(proofs ...string) reply {
				return b.prove(c, "/token", with(redemption(begin(query())), "client_id", string(b.app.ID), "client_secret", b.secret), proofs...)
			}
			refused(t, redeem(), http.StatusBadRequest, "invalid_request")
			refused(t, redeem(b.fresh(thief)), http.StatusBadRequest, "invalid_dpop_proof")
			if got := b.jkt(redeem(b.fresh(key))); got != key.thumbprint() {
				t.Errorf("bound to %q", got)
			}
		})
	}
	form := with(named)
	for name := range credentials {
		form.Set(name, credentials.Get(name))
	}
	refused(t, b.prove(c, "/par", form, thief.proof(b.issuer+"/par", b.now(), nil)), http.StatusBadRequest, "invalid_dpop_proof")
	refused(t, b.prove(c, "/par", form, b.fresh(key)), http.StatusBadRequest, "invalid_dpop_proof")
	// A browser proves nothing.
	r := must(http.NewRequest(http.MethodGet, b.issuer+"/authorize?"+named.Encode(), nil))
	r.Header.Set("DPoP", thief.proof(b.issuer+"/authorize", b.now(), map[string]any{"htm": "GET"}))
	if w := b.browser().do(r); w.page.status != http.StatusOK {
		t.Errorf("with a proof by the browser: status %d", w.page.status)
	}
	for _, bad := range []string{"x", key.thumbprint() + "A", strings.Repeat("=", 43)} {
		w := b.browser().open(b.issuer + "/authorize?" + with(named, "dpop_jkt", bad).Encode())
		if w.left == nil || w.left.Query().Get("error") != "invalid_request" {
			t.Errorf("dpop_jkt %q: left for %v", bad, w.left)
		}
	}
}

// Ensure that a proof counts once though the server decides a request anew
// when another changed the grant meanwhile, and that parallel refreshes with
// proofs of their own still all succeed.
func TestDPoPParallelRefresh(t *testing.T) {
	b := open(t)
	key := newDPoPKey()
	c := b.client()
	first := b.prove(c, "/token", with(redemption(b.code(b.app)), "client_id", string(b.app.ID), "client_secret", b.secret), b.fresh(key))
	b.jkt(first)
	form := b.asApp("grant_type", "refresh_token", "refresh_token", first.text("refresh_token"))
	answers := atOnce(8, func() (*http.Response, error) {
		r, err := http.NewRequest(http.MethodPost, b.issuer+"/token", strings.NewReader(form.Encode()))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("DPoP", b.fresh(key))
		return c.Do(r)
	})
	for range 8 {
		a := <-answers
		if r := read(t, a.resp, a.err); b.jkt(r) != key.thumbprint() {
			t.Errorf("status %d: %s", r.status, r.body)
		}
	}
}
