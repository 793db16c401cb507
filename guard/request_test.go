package guard_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// clientCertificate makes a self-signed certificate; whom it names does not
// matter here, only its thumbprint does.
func clientCertificate(t *testing.T) (tls.Certificate, keyholder.Thumbprint) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, sha256.Sum256(der)
}

// serve runs a handler over TLS that asks for client certificates.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = keyholder.TLSStrict.Config()
	srv.TLS.ClientAuth = tls.RequestClientCert
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// clientOf returns a client of the server, with certificates if given.
func clientOf(t *testing.T, srv *httptest.Server, certificates ...tls.Certificate) *http.Client {
	t.Helper()
	cfg := keyholder.TLSStrict.Config()
	cfg.RootCAs = srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	cfg.Certificates = certificates
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// get sends a request with the given Authorization headers.
func get(t *testing.T, c *http.Client, url string, authorization ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range authorization {
		req.Header.Add("Authorization", a)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// forReading permits tokens that name a subscription and are for reading, as
// a provider with its own Web API would ask it.
func forReading(tok keyholder.Token, _ keyholder.Proof) keyholder.Verdict {
	ok := tok.Subscription != "" && len(tok.Scope) == 1 && tok.Scope[0] == keyholder.ScopeRead
	return keyholder.Verdict{Allowed: ok, Requirement: keyholder.W8, Reason: "not for reading"}
}

// Ensure that the middleware lets through, over real TLS, exactly the
// requests whose one Authorization header holds a token that may be used by
// the holder of the presented certificate, and refuses the rest with 401.
func TestMiddleware(t *testing.T) {
	i := newIssuer(t)
	g := i.guard(t)
	certificate, sum := clientCertificate(t)
	strange, _ := clientCertificate(t)
	srv := serve(t, g.Middleware(forReading, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tok, ok := guard.FromContext(r.Context())
		if !ok {
			t.Error("no token in the context")
		}
		io.WriteString(w, string(tok.Subscription))
	})))
	plain, with, foreign := clientOf(t, srv), clientOf(t, srv, certificate), clientOf(t, srv, strange)
	valid := i.valid(t)
	bound := i.token(t, i.header(), i.claims().with(object{"cnf": object{"x5t#S256": encode(sum[:])}}))
	ingest := i.token(t, i.header(), i.claims().with(object{"subscription_id": nil, "scope": "fds:ingest"}))

	tests := map[string]struct {
		client    *http.Client
		path      string
		headers   []string
		challenge string // empty: let through
	}{
		"valid":                       {plain, "", []string{"Bearer " + valid}, ""},
		"scheme in small letters":     {plain, "", []string{"bearer " + valid}, ""},
		"unbound, with certificate":   {with, "", []string{"Bearer " + valid}, ""},
		"bound, own certificate":      {with, "", []string{"Bearer " + bound}, ""},
		"bound, other certificate":    {foreign, "", []string{"Bearer " + bound}, "Bearer"},
		"bound, no certificate":       {plain, "", []string{"Bearer " + bound}, "Bearer"},
		"no header":                   {plain, "", nil, "Bearer"},
		"token in the query":          {plain, "?access_token=" + valid, nil, "Bearer"},
		"two headers":                 {plain, "", []string{"Bearer " + valid, "Bearer " + valid}, `Bearer error="invalid_token"`},
		"two tokens in one header":    {plain, "", []string{"Bearer " + valid + ", Bearer " + valid}, `Bearer error="invalid_token"`},
		"Basic":                       {plain, "", []string{"Basic " + valid}, `Bearer error="invalid_token"`},
		"no token":                    {plain, "", []string{"Bearer "}, `Bearer error="invalid_token"`},
		"forged":                      {plain, "", []string{"Bearer " + tamper(valid, 2)}, `Bearer error="invalid_token"`},
		"not permitted by the caller": {plain, "", []string{"Bearer " + ingest}, "Bearer"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time from the cache
				resp := get(t, tt.client, srv.URL+"/"+tt.path, tt.headers...)
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				if tt.challenge == "" {
					if resp.StatusCode != http.StatusOK || string(body) != testSub {
						t.Fatalf("status %d, body %q", resp.StatusCode, body)
					}
					continue
				}
				if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") != tt.challenge {
					t.Errorf("status %d, challenge %q, want 401 and %q", resp.StatusCode, resp.Header.Get("WWW-Authenticate"), tt.challenge)
				}
				var p struct{ Code string }
				if json.Unmarshal(body, &p) != nil || p.Code != "denied" || strings.Contains(string(body), valid[:20]) {
					t.Errorf("body %s", body)
				}
			}
		})
	}
}

// Ensure that a token that was let through is refused on the same connection
// once it has expired, was ended, or the caller's function says no.
func TestMiddlewareAsksEachTime(t *testing.T) {
	tests := map[string]func(i *issuer, g *guard.Guard, permitted *bool){
		"expired": func(i *issuer, _ *guard.Guard, _ *bool) { i.now = i.now.Add(5 * time.Minute) },
		"cut": func(_ *issuer, g *guard.Guard, _ *bool) {
			g.End(keyholder.Cut{Ended: keyholder.Ended{Subscriptions: []keyholder.SubscriptionID{testSub}}})
		},
		"no longer permitted": func(_ *issuer, _ *guard.Guard, permitted *bool) { *permitted = false },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			i := newIssuer(t)
			g := i.guard(t)
			permitted := true
			h := g.Middleware(func(keyholder.Token, keyholder.Proof) keyholder.Verdict {
				return keyholder.Verdict{Allowed: permitted}
			}, nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			raw := i.valid(t)
			ask := func() int {
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header.Set("Authorization", "Bearer "+raw)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w.Code
			}
			if code := ask(); code != http.StatusOK {
				t.Fatalf("before: status %d", code)
			}
			change(i, g, &permitted)
			if code := ask(); code != http.StatusUnauthorized {
				t.Errorf("after: status %d, want 401", code)
			}
		})
	}
}

// Ensure that without a function that permits, nothing is permitted, and that
// the caller's own refusal is used.
func TestMiddlewareFailsClosed(t *testing.T) {
	i := newIssuer(t)
	var got error
	h := i.guard(t).Middleware(nil, func(w http.ResponseWriter, _ *http.Request, err error) {
		got = err
		w.WriteHeader(http.StatusTeapot)
	}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("let through") }))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+i.valid(t))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if keyholder.CodeOf(got) != keyholder.Denied || w.Code != http.StatusTeapot {
		t.Errorf("error %v, status %d", got, w.Code)
	}
}
