package authserver_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/authserver"
)

// The tests of this file pin what the library leaves open: each fails if the
// guard it is about is taken away.

// copied returns a certificate that says what the original says and is signed
// by a stranger.
func copied(t *testing.T, original tls.Certificate) tls.Certificate {
	t.Helper()
	leaf := must(x509.ParseCertificate(original.Certificate[0]))
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	caKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: leaf.Issuer, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	template := &x509.Certificate{SerialNumber: leaf.SerialNumber, Subject: leaf.Subject, URIs: leaf.URIs, NotBefore: leaf.NotBefore,
		NotAfter: leaf.NotAfter, KeyUsage: leaf.KeyUsage, ExtKeyUsage: leaf.ExtKeyUsage}
	der := must(x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Ensure that only a certificate on record, for an app, of this app and in
// force authenticates the app: not one with a copied subject, of another app,
// of another use, or revoked.
func TestCertificateAuthentication(t *testing.T) {
	b := open(t)
	sub := b.subscription(b.tokens().text("access_token"))
	own := b.certificate(keyholder.ForApp, string(b.certApp.ID))
	otherApp := must(b.ledger.AddApp(t.Context(), "administrator", keyholder.App{Name: "Other", Grants: b.app.Grants,
		Authentication: keyholder.AuthCertificate, RedirectURIs: []string{callback}}))
	code := b.code(b.certApp)
	r := b.post(b.client(own), "/token", with(redemption(code), "client_id", string(b.certApp.ID)))
	if r.status != http.StatusOK {
		t.Fatalf("with its own certificate: %s", r.body)
	}
	mine := b.subscription(r.text("access_token"))
	request := values("grant_type", "client_credentials", "scope", keyholder.ScopeRead,
		"subscription_id", string(mine), "client_id", string(b.certApp.ID))
	if r := b.post(b.client(own), "/token", request); r.status != http.StatusOK {
		t.Fatalf("client credentials with its own certificate: %s", r.body)
	}
	for name, certs := range map[string][]tls.Certificate{
		"none":                  nil,
		"copied subject":        {copied(t, own)},
		"of another app":        {b.certificate(keyholder.ForApp, string(otherApp.ID))},
		"of a subscription":     {b.certificate(keyholder.ForSubscription, string(sub))},
		"of a provider":         {b.certificate(keyholder.ForProvider, string(b.provider.ID))},
		"of an app with secret": {b.certificate(keyholder.ForApp, string(b.app.ID))},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, b.post(b.client(certs...), "/token", request), http.StatusUnauthorized, "invalid_client")
		})
	}
	t.Run("secret instead", func(t *testing.T) {
		secret := must(b.ledger.AddSecret(t.Context(), "administrator", string(b.certApp.ID)))
		refused(t, b.post(b.client(), "/token", with(request, "client_secret", secret)), http.StatusUnauthorized, "invalid_client")
	})
	t.Run("revoked", func(t *testing.T) {
		leaf := must(x509.ParseCertificate(own.Certificate[0]))
		if _, err := b.ledger.Cut(t.Context(), "administrator", keyholder.Target{Kind: keyholder.CutCertificate, ID: serial(leaf)}, "lost"); err != nil {
			t.Fatal(err)
		}
		refused(t, b.post(b.client(own), "/token", request), http.StatusUnauthorized, "invalid_client")
	})
}

// Ensure that tokens are bound to the certificate that authenticated the
// client, that a renewed certificate goes on where the old one stopped, and
// that a secret binds nothing.
func TestCertificateBinding(t *testing.T) {
	b := open(t)
	old := b.certificate(keyholder.ForApp, string(b.certApp.ID))
	bound := func(r reply) any {
		t.Helper()
		if r.status != http.StatusOK {
			t.Fatalf("status %d: %s", r.status, r.body)
		}
		cnf, _ := b.claims(r.text("access_token"), "at+jwt")["cnf"].(map[string]any)
		return cnf["x5t#S256"]
	}
	first := b.post(b.client(old), "/token", with(redemption(b.code(b.certApp)), "client_id", string(b.certApp.ID)))
	if got := bound(first); got != thumbprint(old) {
		t.Errorf("bound to %v, want %s", got, thumbprint(old))
	}
	info := b.introspect(first.text("access_token"))
	if cnf, _ := info.json["cnf"].(map[string]any); cnf["x5t#S256"] != thumbprint(old) {
		t.Errorf("introspection shows no binding: %s", info.body)
	}
	renewed := b.certificate(keyholder.ForApp, string(b.certApp.ID))
	second := b.post(b.client(renewed), "/token", values("grant_type", "refresh_token", "refresh_token", first.text("refresh_token"), "client_id", string(b.certApp.ID)))
	if got := bound(second); got != thumbprint(renewed) {
		t.Errorf("after renewal bound to %v, want %s", got, thumbprint(renewed))
	}
	refused(t, b.post(b.client(), "/token", values("grant_type", "refresh_token", "refresh_token", second.text("refresh_token"), "client_id", string(b.certApp.ID))),
		http.StatusUnauthorized, "invalid_client")
	if got := bound(b.tokens()); got != nil {
		t.Errorf("a token of a secret is bound to %v", got)
	}
	provider := b.certificate(keyholder.ForProvider, string(b.provider.ID))
	if got := bound(b.post(b.client(provider), "/token", values("grant_type", "client_credentials", "scope", keyholder.ScopeIngest, "client_id", string(b.provider.ID)))); got != thumbprint(provider) {
		t.Errorf("a provider's token is bound to %v", got)
	}
}

// Ensure that a finished consent page cannot be posted again for another
// code, neither after sharing nor after refusing.
func TestFinishedPage(t *testing.T) {
	b := open(t)
	for _, action := range []string{"share", "refuse"} {
		t.Run(action, func(t *testing.T) {
			w := b.browser().signIn(authorization(b.app))
			address, fields := w.form()
			fields.Set("action", "share")
			if w.submit("action", action); w.left == nil {
				t.Fatalf("not finished: %s", w.page.body)
			}
			w.send(address, fields)
			if w.left != nil || w.page.status != http.StatusBadRequest || !strings.Contains(w.page.body, "This sign-in is over") {
				t.Errorf("the finished page led to %v, status %d", w.left, w.page.status)
			}
			if w.open(address); w.left != nil || w.page.status != http.StatusBadRequest {
				t.Errorf("the finished page opens again: status %d", w.page.status)
			}
		})
	}
	if n := b.audited(keyholder.EventGrantCreated); n != 1 {
		t.Errorf("%d grants, want 1", n)
	}
}

// Ensure that a consent page posted several times at once gives one code.
func TestConsentPostedAtOnce(t *testing.T) {
	b := open(t)
	w := b.browser().signIn(authorization(b.app))
	address, fields := w.form()
	fields.Set("action", "share")
	const n = 8
	answers := atOnce(n, func() (*http.Response, error) {
		r, err := http.NewRequest(http.MethodPost, address, strings.NewReader(fields.Encode()))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return w.http.Do(r)
	})
	codes := 0
	for range n {
		a := <-answers
		if r := read(t, a.resp, a.err); strings.Contains(r.header.Get("Location"), "code=") {
			codes++
		}
	}
	if codes != 1 {
		t.Errorf("%d codes from one page, want 1", codes)
	}
}

// Ensure that a sign-in can be seen and finished only in the browser that
// began it, and its forms only sent by our own pages.
func TestAnotherBrowser(t *testing.T) {
	b := open(t)
	w := b.browser().signIn(authorization(b.app))
	address, fields := w.form()
	fields.Set("action", "share")

	stranger := b.browser()
	if stranger.open(address); stranger.page.status != http.StatusForbidden || strings.Contains(stranger.page.body, b.user.Login) {
		t.Errorf("another browser sees the page: status %d", stranger.page.status)
	}
	if stranger.send(address, fields); stranger.left != nil || stranger.page.status != http.StatusForbidden {
		t.Errorf("another browser shared: %v, status %d", stranger.left, stranger.page.status)
	}
	// A browser with a sign-in of its own, which has a cookie too.
	stranger.open(b.issuer + "/authorize?" + authorization(b.app).Encode())
	if stranger.open(address); stranger.page.status != http.StatusForbidden || strings.Contains(stranger.page.body, b.user.Login) {
		t.Errorf("a browser with another cookie sees the page: status %d", stranger.page.status)
	}
	if stranger.send(address, fields); stranger.left != nil || stranger.page.status != http.StatusForbidden {
		t.Errorf("a browser with another cookie shared: %v, status %d", stranger.left, stranger.page.status)
	}

	for name, token := range map[string]string{"missing": "", "invented": strings.Repeat("A", 43)} {
		if w.send(address, with(fields, "csrf", token)); w.left != nil || w.page.status != http.StatusForbidden {
			t.Errorf("with a %s form secret: %v, status %d", name, w.left, w.page.status)
		}
	}
	for name, header := range map[string][2]string{"fetch metadata": {"Sec-Fetch-Site", "cross-site"}, "origin": {"Origin", "https://evil.example"}} {
		r := must(http.NewRequest(http.MethodPost, address, strings.NewReader(fields.Encode())))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set(header[0], header[1])
		if w.do(r); w.left != nil || w.page.status != http.StatusForbidden {
			t.Errorf("a form from another site (%s): %v, status %d", name, w.left, w.page.status)
		}
	}
	// The first step's secret does not serve the second.
	fresh := b.browser().open(b.issuer + "/authorize?" + authorization(b.app).Encode())
	_, first := fresh.form()
	fresh.submit("action", "signin", "login", b.user.Login, "password", password)
	second, _ := fresh.form()
	if fresh.send(second, with(first, "action", "share", "agreement", string(b.agreement.ID))); fresh.left != nil || fresh.page.status != http.StatusForbidden {
		t.Errorf("the sign-in form's secret shared: %v, status %d", fresh.left, fresh.page.status)
	}

	var names []string
	for _, cookie := range w.http.Jar.Cookies(must(url.Parse(b.issuer))) {
		names = append(names, cookie.Name)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"__Host-keyholder", "__Host-keyholder-device"}) {
		t.Errorf("cookies are %v, want those of the __Host- prefix", names)
	}
	if w.send(address, fields); w.left == nil || w.left.Query().Get("code") == "" {
		t.Errorf("after all this the rightful browser cannot share: status %d", w.page.status)
	}
}

// Ensure that the cookie has every property that keeps it in place.
func TestCookie(t *testing.T) {
	b := open(t)
	resp, err := b.client().Get(b.issuer + "/authorize?" + authorization(b.app).Encode())
	r := read(t, resp, err)
	set := r.header.Get("Set-Cookie")
	for _, want := range []string{"__Host-keyholder=", "Path=/", "Max-Age=600", "HttpOnly", "Secure", "SameSite=Lax"} {
		if !strings.Contains(set, want) {
			t.Errorf("the cookie %q lacks %s", set, want)
		}
	}
	if strings.Contains(set, "Domain") {
		t.Errorf("the cookie %q names a domain", set)
	}
}

// Ensure that credentials in the Basic header are form-decoded (RFC 6749
// 2.3.1), and that those of a client that does not encode them work too.
func TestBasicCredentials(t *testing.T) {
	b := open(t)
	sub := string(b.subscription(b.tokens().text("access_token")))
	encode := strings.NewReplacer("-", "%2D", "_", "%5F").Replace
	for name, c := range map[string]struct {
		id, secret string
		ok         bool
	}{
		"plain":            {string(b.app.ID), b.secret, true},
		"encoded":          {encode(string(b.app.ID)), encode(b.secret), true},
		"wrong secret":     {string(b.app.ID), b.secret + "x", false},
		"empty secret":     {string(b.app.ID), "", false},
		"broken encoding":  {string(b.app.ID), "%zz", false},
		"another's ID":     {string(b.certApp.ID), b.secret, false},
		"a provider's ID":  {string(b.provider.ID), b.secret, false},
		"encoded twice":    {encode(encode(string(b.app.ID))), strings.ReplaceAll(encode(b.secret), "%", "%25"), false},
		"a colon smuggled": {string(b.app.ID) + "%3A", b.secret, false},
	} {
		t.Run(name, func(t *testing.T) {
			form := values("grant_type", "client_credentials", "scope", keyholder.ScopeRead, "subscription_id", sub)
			req := must(http.NewRequest(http.MethodPost, b.issuer+"/token", strings.NewReader(form.Encode())))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.SetBasicAuth(c.id, c.secret)
			resp, err := b.client().Do(req)
			r := read(t, resp, err)
			if c.ok {
				if r.status != http.StatusOK {
					t.Errorf("status %d: %s", r.status, r.body)
				}
				return
			}
			refused(t, r, http.StatusUnauthorized, "invalid_client")
			if !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Basic ") {
				t.Error("the answer to failed Basic authentication asks for none (RFC 6749 5.2)")
			}
		})
	}
}

// Ensure that a passing fault of the database during a refresh or a
// redemption is told as 503, not as invalid_grant, upon which apps throw the
// token away; and that afterwards the same request succeeds.
func TestStorageFault(t *testing.T) {
	b := open(t)
	tokens := b.tokens()
	code := b.code(b.app)
	// A second connection takes the table away and brings it back.
	db := b.at.SQL(t)
	requests := map[string]func() reply{
		"refresh":       func() reply { return b.refresh(tokens.text("refresh_token")) },
		"redemption":    func() reply { return b.redeem(code) },
		"introspection": func() reply { return b.introspect(tokens.text("access_token")) },
		"revocation":    func() reply { return b.post(b.client(), "/revoke", b.asApp("token", "khr_x")) },
	}
	must(db.Exec("ALTER TABLE grants RENAME TO lost"))
	for name, request := range requests {
		r := request()
		if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || r.text("error") == "invalid_grant" {
			t.Errorf("%s during the fault: status %d, Retry-After %q, body %s", name, r.status, r.header.Get("Retry-After"), r.body)
		}
		if strings.Contains(r.body, "grants") || strings.Contains(r.body, "SQL") {
			t.Errorf("%s shows the internal error: %s", name, r.body)
		}
	}
	must(db.Exec("ALTER TABLE lost RENAME TO grants"))
	for name, request := range requests {
		if r := request(); r.status != http.StatusOK {
			t.Errorf("%s after the fault: status %d, body %s", name, r.status, r.body)
		}
	}
}

// Ensure that a redemption that failed half-way, because of the database,
// does not spend the code.
func TestStorageFaultSparesTheCode(t *testing.T) {
	b := open(t)
	code := b.code(b.app)
	db := b.at.SQL(t)
	fault, repair := "CREATE TRIGGER fault BEFORE UPDATE OF refresh_hash ON grants BEGIN SELECT RAISE(ABORT, 'fault'); END", "DROP TRIGGER fault"
	if b.at.OnPostgres() {
		fault, repair = "ALTER TABLE grants ADD CONSTRAINT fault CHECK (refresh_hash IS NULL) NOT VALID", "ALTER TABLE grants DROP CONSTRAINT fault"
	}
	must(db.Exec(fault))
	if r := b.redeem(code); r.status != http.StatusServiceUnavailable {
		t.Errorf("during the fault: status %d, body %s", r.status, r.body)
	}
	must(db.Exec(repair))
	if r := b.redeem(code); r.status != http.StatusOK {
		t.Errorf("after the fault: status %d, body %s", r.status, r.body)
	}
}

// Ensure that a fault at a page is told as such and loses nothing.
func TestStorageFaultAtPage(t *testing.T) {
	b := open(t)
	w := b.browser().signIn(authorization(b.app))
	address, fields := w.form()
	fields.Set("action", "share")
	db := b.at.SQL(t)
	must(db.Exec("ALTER TABLE sessions RENAME TO lost"))
	if w.send(address, fields); w.page.status != http.StatusServiceUnavailable || w.page.header.Get("Retry-After") == "" || w.left != nil {
		t.Errorf("during the fault: status %d, left %v", w.page.status, w.left)
	}
	must(db.Exec("ALTER TABLE lost RENAME TO sessions"))
	if w.send(address, fields); w.left == nil || w.left.Query().Get("code") == "" {
		t.Errorf("after the fault: status %d", w.page.status)
	}
}

// Ensure that the library's protection against replayed assertions is on (it
// warns when it is not) and that assertions, which no client is registered
// for, authenticate nobody. The ledger's tests show that a jti works once.
func TestAssertionReplayProtection(t *testing.T) {
	var logged bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&logged, nil)))
	b := open(t)
	slog.SetDefault(before)
	if strings.Contains(logged.String(), "JTI") {
		t.Errorf("the library warns: %s", logged.String())
	}
	assertion := must(b.keys.Sign([]byte(`{"iss":"`+string(b.app.ID)+`","sub":"`+string(b.app.ID)+`"}`), "JWT"))
	refused(t, b.post(b.client(), "/token", values("grant_type", "client_credentials", "client_assertion", assertion,
		"client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")), http.StatusUnauthorized, "invalid_client")
}

// Ensure that the published description of the server, under both addresses,
// is the one under testdata, so that no switch of the library turns by itself.
// Set UPDATE=1 to write it anew.
func TestMetadata(t *testing.T) {
	b := open(t)
	const golden = "testdata/metadata.json"
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		resp, err := b.client().Get(b.issuer + path)
		r := read(t, resp, err)
		got := strings.ReplaceAll(r.body, b.issuer, "https://issuer.example")
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want := string(must(os.ReadFile(golden)))
		if r.status != http.StatusOK || r.header.Get("Content-Type") != "application/json" || got != want {
			t.Errorf("%s: status %d, type %s, document:\n%s", path, r.status, r.header.Get("Content-Type"), got)
		}
	}
}

// Ensure that a server without what its security rests on does not start.
func TestConfig(t *testing.T) {
	b := open(t)
	sound := authserver.Config{Ledger: b.ledger, Keyring: b.keys, Authority: b.authority, Issuer: "https://as.example", Audiences: []string{apiBase}}
	if _, err := authserver.New(sound); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*authserver.Config){
		"no ledger":        func(c *authserver.Config) { c.Ledger = nil },
		"no keys":          func(c *authserver.Config) { c.Keyring = nil },
		"no authority":     func(c *authserver.Config) { c.Authority = nil },
		"no audience":      func(c *authserver.Config) { c.Audiences = nil },
		"no issuer":        func(c *authserver.Config) { c.Issuer = "" },
		"plain issuer":     func(c *authserver.Config) { c.Issuer = "http://as.example" },
		"issuer and path":  func(c *authserver.Config) { c.Issuer = "https://as.example/" },
		"issuer and user":  func(c *authserver.Config) { c.Issuer = "https://u@as.example" },
		"issuer and query": func(c *authserver.Config) { c.Issuer = "https://as.example?x" },
	} {
		c := sound
		change(&c)
		if _, err := authserver.New(c); err == nil {
			t.Errorf("%s: it starts", name)
		}
	}
}

func serial(c *x509.Certificate) string {
	s := c.SerialNumber.Text(16)
	if len(s)%2 == 1 {
		s = "0" + s
	}
	return s
}
