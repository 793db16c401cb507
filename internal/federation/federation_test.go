package federation_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/federation"
)

const (
	client = "keyholder"
	secret = "secret of keyholder"
	back   = "https://keyholder.example/federation/1/callback"
)

// liar is an OpenID provider that does as a test tells it to; the sound ones
// are those of the tests of authserver and interop.
type liar struct {
	*httptest.Server
	key      *ecdsa.PrivateKey
	calls    map[string]int
	metadata map[string]any // in place of what is right
	claims   map[string]any
	sign     func(claims map[string]any) string
	token    http.HandlerFunc // in place of the right one
}

func newLiar(t *testing.T) *liar {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{key: key, calls: map[string]int{}, metadata: map[string]any{}, claims: map[string]any{}}
	l.sign = func(claims map[string]any) string { return l.signed(t, jose.ES256, key, claims) }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		m := map[string]any{"issuer": l.URL, "authorization_endpoint": l.URL + "/authorize", "token_endpoint": l.URL + "/token", "jwks_uri": l.URL + "/jwks",
			"id_token_signing_alg_values_supported": []string{"ES256"}}
		for k, v := range l.metadata {
			m[k] = v
		}
		_ = json.NewEncoder(w).Encode(m)
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if l.token != nil {
			l.token(w, r)
			return
		}
		if id, got, _ := r.BasicAuth(); id != client || got != url.QueryEscape(secret) || r.FormValue("code") != "the code" ||
			r.FormValue("code_verifier") != "the verifier" || r.FormValue("redirect_uri") != back {
			t.Errorf("the token request is %v by %s", r.Form, id)
		}
		claims := map[string]any{"iss": l.URL, "aud": client, "sub": "7", "nonce": "the nonce", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix()}
		for k, v := range l.claims {
			if claims[k] = v; v == nil {
				delete(claims, k)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": l.sign(claims)})
	})
	l.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.calls[r.URL.Path]++
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(l.Close)
	return l
}

func (l *liar) signed(t *testing.T, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// client returns a client that waits for no longer than a second.
func (l *liar) client() *federation.Client {
	c := *l.Server.Client()
	c.Timeout = time.Second
	return federation.New(&c, time.Now)
}

func (l *liar) provider() keyholder.IdentityProvider {
	return keyholder.IdentityProvider{Owner: "1", Issuer: l.URL, ClientID: client, Scopes: []string{"profile"}}
}

var transaction = federation.Transaction{State: "the state", Nonce: "the nonce", Verifier: "the verifier"}

func (l *liar) finish(ctx context.Context, pairs ...string) (federation.Identity, error) {
	answer := url.Values{"code": {"the code"}, "state": {"the state"}}
	for i := 0; i < len(pairs); i += 2 {
		answer.Set(pairs[i], pairs[i+1])
	}
	return l.client().Finish(ctx, l.provider(), secret, back, transaction, answer)
}

// Ensure that the browser is sent to the provider with all that ties the
// answer to it, and that what the provider says of itself is asked once.
func TestBegin(t *testing.T) {
	l := newLiar(t)
	c := l.client()
	for range 3 {
		address, err := c.Begin(t.Context(), l.provider(), back, transaction)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if !strings.HasPrefix(address, l.URL+"/authorize?") || q.Get("state") != "the state" || q.Get("nonce") != "the nonce" || q.Get("code_challenge_method") != "S256" ||
			q.Get("scope") != "openid profile" || q.Get("client_id") != client || q.Get("redirect_uri") != back || strings.Contains(address, "verifier") {
			t.Errorf("sent to %s", address)
		}
	}
	if got := l.calls["/.well-known/openid-configuration"]; got != 1 {
		t.Errorf("the metadata were asked for %d times", got)
	}
}

// Ensure that an ID token names somebody only if it is signed by the provider,
// for us, for this sign-in, and now.
func TestIdentity(t *testing.T) {
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claim := func(name string, value any) func(*liar) {
		return func(l *liar) { l.claims = map[string]any{name: value} }
	}
	for _, c := range []struct {
		name string
		lie  func(*liar)
		good bool
		amr  int
	}{
		{"sound", func(*liar) {}, true, 0},
		{"for us among others, issued to us", func(l *liar) { l.claims = map[string]any{"aud": []string{client, "other"}, "azp": client} }, true, 0},
		{"two factors", claim("amr", []string{"pwd", "mfa"}), true, 2},
		{"factors of another form", claim("amr", "mfa"), true, 0},
		{"wrong nonce", claim("nonce", "another"), false, 0},
		{"no nonce", claim("nonce", nil), false, 0},
		{"for another", claim("aud", "another"), false, 0},
		{"for us among others, issued to another", func(l *liar) { l.claims = map[string]any{"aud": []string{client, "other"}, "azp": "other"} }, false, 0},
		{"for us among others, issued to nobody", claim("aud", []string{client, "other"}), false, 0},
		{"issued to another", claim("azp", "other"), false, 0},
		{"of another issuer", claim("iss", "https://other.example"), false, 0},
		{"expired", claim("exp", time.Now().Add(-time.Minute).Unix()), false, 0},
		{"not yet", claim("nbf", time.Now().Add(time.Hour).Unix()), false, 0},
		{"no expiry", claim("exp", nil), false, 0},
		{"nobody", claim("sub", ""), false, 0},
		{"an endless name", claim("sub", strings.Repeat("a", 256)), false, 0},
		{"signed by another key", func(l *liar) {
			l.sign = func(c map[string]any) string { return l.signed(t, jose.ES256, stranger, c) }
		}, false, 0},
		{"signed with the client secret", func(l *liar) {
			l.sign = func(c map[string]any) string {
				return l.signed(t, jose.HS256, append([]byte(secret), make([]byte, 32)...), c)
			}
		}, false, 0},
		{"not signed", func(l *liar) {
			l.sign = func(map[string]any) string { return "eyJhbGciOiJub25lIn0.e30." }
		}, false, 0},
		{"no token", func(l *liar) { l.sign = func(map[string]any) string { return "" } }, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLiar(t)
			c.lie(l)
			who, err := l.finish(t.Context())
			if c.good && (err != nil || who.Subject != "7" || len(who.Methods) != c.amr) || !c.good && (keyholder.CodeOf(err) != keyholder.Denied || who.Subject != "") {
				t.Errorf("%+v, %v", who, err)
			}
		})
	}
}

// Ensure that a provider that is down, slow, or answers without end or sense
// is told as such, that nothing else is called whatever it says, and that no
// error holds what it wrote.
func TestProviderMisbehaves(t *testing.T) {
	inner := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s was called", r.URL) }))
	t.Cleanup(inner.Close)
	metadata := func(name string, value any) func(*liar) {
		return func(l *liar) { l.metadata[name] = value }
	}
	token := func(h http.HandlerFunc) func(*liar) { return func(l *liar) { l.token = h } }
	for _, c := range []struct {
		name string
		lie  func(*liar)
		want keyholder.Code
	}{
		{"down", func(l *liar) { l.Close() }, keyholder.Unavailable},
		{"slow", token(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body); <-r.Context().Done() }), keyholder.Unavailable},
		{"endless", token(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"access_token":"`))
			for range 2 << 10 {
				if _, err := w.Write(bytes.Repeat([]byte("private"), 1<<10)); err != nil {
					return
				}
			}
			_, _ = w.Write([]byte(`"}`))
		}), keyholder.Unavailable},
		{"failing", token(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "private", http.StatusInternalServerError) }), keyholder.Unavailable},
		{"refusing", token(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"invalid_grant","error_description":"private"}`))
		}), keyholder.Denied},
		{"redirecting", token(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, inner.URL, http.StatusTemporaryRedirect)
		}), keyholder.Denied},
		{"tokens elsewhere", metadata("token_endpoint", inner.URL+"/token"), keyholder.Denied},
		{"keys elsewhere", metadata("jwks_uri", inner.URL+"/jwks"), keyholder.Denied},
		{"keys without https", metadata("jwks_uri", "http://127.0.0.1/jwks"), keyholder.Denied},
		{"sign-in by script", metadata("authorization_endpoint", "javascript:alert(1)"), keyholder.Denied},
		{"another issuer", metadata("issuer", "https://other.example"), keyholder.Unavailable},
		{"metadata of another form", metadata("token_endpoint_auth_methods_supported", "private"), keyholder.Denied},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLiar(t)
			c.lie(l)
			_, err := l.finish(t.Context())
			if keyholder.CodeOf(err) != c.want || strings.Contains(err.Error(), "private") || strings.Contains(err.Error(), secret) {
				t.Errorf("%v", err)
			}
		})
	}
	named := newLiar(t)
	if _, err := named.finish(t.Context(), "iss", "https://other.example"); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("an answer in another's name: %v", err)
	}
	if got := named.calls["/token"]; got != 0 {
		t.Errorf("its code was tried %d times", got)
	}
	if _, err := named.finish(t.Context()); err != nil {
		t.Errorf("of one that does not name itself: %v", err)
	}
}

// Ensure that a provider that failed is not asked again at once, and is after
// a while.
func TestFailureIsRemembered(t *testing.T) {
	l := newLiar(t)
	l.metadata["issuer"] = "https://other.example"
	now := time.Now()
	c := federation.New(l.Client(), func() time.Time { return now })
	begin := func() error {
		_, err := c.Begin(t.Context(), l.provider(), back, transaction)
		return err
	}
	for i := range 3 {
		if err := begin(); err == nil {
			t.Errorf("time %d: begun", i)
		}
	}
	if got := fmt.Sprint(l.calls); got != "map[/.well-known/openid-configuration:1]" {
		t.Errorf("called %s", got)
	}
	delete(l.metadata, "issuer")
	now = now.Add(11 * time.Second)
	if err := begin(); err != nil {
		t.Error(err)
	}
}
