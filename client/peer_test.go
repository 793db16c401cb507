package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
)

const (
	testSub    = "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"
	otherSub   = "b1d0c7de-8f2a-4b63-a5c4-9e7f10d2c3b6"
	testClient = "0f4b7a52-6b0e-4c3d-9a51-7e2d90c1b8a4"
	testSecret = "khs_s3cr3t/with+signs"
	redirect   = "https://app.example.com/callback"
)

// peer is a provider as these tests need it: an authorization server and a
// Web API, over real TLS, that can be told to misbehave.
type peer struct {
	t     *testing.T
	srv   *httptest.Server
	clock clock

	mu       sync.Mutex // guards the fields below
	token    func(w http.ResponseWriter, r *http.Request)
	api      func(w http.ResponseWriter, r *http.Request, token string)
	promises bool // of iss in the response

	tokenCalls, apiCalls atomic.Int32
}

func newPeer(t *testing.T, change ...func(*tls.Config)) *peer {
	t.Helper()
	p := &peer{t: t, promises: true}
	p.token = func(w http.ResponseWriter, _ *http.Request) { p.issue(w, "access-1", "refresh-1") }
	p.api = func(w http.ResponseWriter, _ *http.Request, _ string) { fmt.Fprint(w, "[]") }
	p.srv = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.srv.TLS = keyholder.TLSStrict.Config()
	p.srv.TLS.ClientAuth = tls.RequestClientCert
	for _, f := range change {
		f(p.srv.TLS)
	}
	p.srv.StartTLS()
	t.Cleanup(p.srv.Close)
	return p
}

func (p *peer) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	token, api, promises := p.token, p.api, p.promises
	p.mu.Unlock()
	switch {
	case r.URL.Path == "/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.srv.URL, "authorization_endpoint": p.srv.URL + "/authorize", "token_endpoint": p.srv.URL + "/token",
			"jwks_uri": p.srv.URL + "/jwks", "authorization_response_iss_parameter_supported": promises,
		})
	case r.URL.Path == "/token":
		p.tokenCalls.Add(1)
		if err := r.ParseForm(); err != nil || r.Method != http.MethodPost {
			p.t.Errorf("token request %s: %v", r.Method, err)
		}
		token(w, r)
	default:
		p.apiCalls.Add(1)
		scheme, access, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if access == "" || (scheme == "DPoP") != (r.Header.Get("DPoP") != "") || scheme != "DPoP" && scheme != "Bearer" {
			p.t.Errorf("%s without a token", r.URL)
		}
		api(w, r, access)
	}
}

// set changes how the peer behaves.
func (p *peer) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// issue answers a token request; the access token is named by a word.
func (p *peer) issue(w http.ResponseWriter, access, refresh string) {
	body := map[string]any{"access_token": jwt(access), "token_type": "Bearer", "expires_in": 300}
	if refresh != "" {
		body["refresh_token"] = refresh
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(body)
}

// refuse answers a token request with an OAuth error.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": "because"})
}

// jwt is a token of the test subscription that says no more than its name; an
// app does not look into tokens.
func jwt(name string) string {
	claims := fmt.Sprintf(`{"subscription_id":%q,"jti":%q}`, testSub, name)
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

// clock is a clock for several goroutines.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time {
	return time.Unix(1_780_000_000, 0).Add(time.Duration(c.offset.Load()))
}
func (c *clock) add(d time.Duration) { c.offset.Add(int64(d)) }

// config is the configuration of an app of the peer with a secret.
func (p *peer) config() client.Config {
	return client.Config{
		Issuer: p.srv.URL, API: p.srv.URL, ClientID: testClient, Secret: testSecret, RedirectURI: redirect,
		RootCAs: p.srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, Now: p.clock.now,
	}
}

func newClient(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// restored is a session of the peer whose access token is used up.
func (p *peer) restored(cfg client.Config) *client.Session {
	p.t.Helper()
	s, err := newClient(p.t, cfg).Restore(client.Tokens{Subscription: testSub, Refresh: "refresh-0"})
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// callback is the address a browser comes back to.
func callback(t *testing.T, values url.Values) *url.URL {
	t.Helper()
	u, err := url.Parse(redirect + "?" + values.Encode())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// saver is a function for OnTokens that remembers.
type saver struct {
	mu    sync.Mutex
	saved []client.Tokens
	err   error
}

func (s *saver) save(_ context.Context, t client.Tokens) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saved = append(s.saved, t)
	return s.err
}

func (s *saver) last() client.Tokens {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.saved) == 0 {
		return client.Tokens{}
	}
	return s.saved[len(s.saved)-1]
}

func (s *saver) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// selfSigned makes a client certificate.
func selfSigned(t *testing.T) (*tls.Certificate, keyholder.Thumbprint) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: testClient},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, sha256.Sum256(der)
}

// noSecrets fails if an error repeats something secret.
func noSecrets(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, s := range []string{testSecret, url.QueryEscape(testSecret), "code-1", "refresh-", "access-", jwt("access-1"), "e30."} {
		if strings.Contains(err.Error(), s) {
			t.Errorf("the error holds a secret: %v", err)
		}
	}
}
