package authserver_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/authserver"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

const (
	callback = "https://app.example/callback"
	password = "correct horse battery"
	apiBase  = "https://api.example"
)

// Ensure that what the authorization server keeps is as safe on PostgreSQL as
// on SQLite: one winner of many, nothing replayed, faults told as such.
func TestOnPostgres(t *testing.T) {
	storetest.RunOnPostgres(t, "Attacks|Parallel|AtOnce|Replay|Refresh|StorageFault|Cut|CodeFlow|ClientCredentials|Pushed|Finished|Clear|ChangePassword|AuthenticatorApp|Passkey|DPoPCode|Resource|FederatedSignIn|FederatedAnswers|RecoverPage|KnownBrowser")
}

// bench is an authorization server on a real ledger and a real TLS 1.2
// listener, with a provider, an owner and its user, an agreement and two apps.
// The listener takes any client certificate, so that what is refused is
// refused by the server itself and not by the handshake.
type bench struct {
	t         testing.TB
	at        storetest.Database
	store     *store.Store
	ledger    *ledger.Ledger
	server    *authserver.Server
	authority *pki.Authority
	keys      *keyring.Ring
	http      *http.Server
	listener  net.Listener
	issuer    string

	mu     sync.Mutex
	offset time.Duration

	provider  keyholder.Provider
	owner     keyholder.Owner
	user      keyholder.User
	agreement keyholder.Agreement
	audiences []string
	trusted   *http.Client  // for the providers of owners
	app       keyholder.App // authenticates by secret
	secret    string
	certApp   keyholder.App // authenticates by certificate
	rs        keyholder.ResourceServer
	rsSecret  string
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func open(t testing.TB) *bench {
	t.Helper()
	return openAt(t, "127.0.0.1")
}

// openAt opens a bench whose issuer has that host. Passkeys are for names
// only: with an address there are none.
func openAt(t testing.TB, host string) *bench {
	t.Helper()
	return openOn(t, host, storetest.New(t))
}

// openOn opens a bench on that database.
func openOn(t testing.TB, host string, at storetest.Database) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{t: t, at: at, audiences: []string{apiBase}}
	if err := pki.Init(filepath.Join(dir, "pki"), time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	b.authority = must(pki.Open(filepath.Join(dir, "pki")))
	if err := keyring.Init(filepath.Join(dir, "keys")); err != nil {
		t.Fatal(err)
	}
	b.keys = must(keyring.Open(filepath.Join(dir, "keys")))
	b.listener = must(net.Listen("tcp", "127.0.0.1:0"))
	_, port, err := net.SplitHostPort(b.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b.issuer = "https://" + net.JoinHostPort(host, port)
	b.start()
	t.Cleanup(b.stop)
	b.populate()
	return b
}

// start opens store, ledger and server, and serves them.
func (b *bench) start() {
	b.t.Helper()
	ctx := context.Background()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	b.store = must(b.at.Open(ctx))
	b.ledger = must(ledger.Open(ctx, ledger.Config{Store: b.store, Now: b.now, Log: quiet, FactorKey: bytes.Repeat([]byte{7}, ledger.FactorKeySize),
		Sign: func(p []byte) (string, error) { return b.keys.Sign(p, "keyholder-receipt+jws") }}))
	b.server = must(authserver.New(authserver.Config{Ledger: b.ledger, Keyring: b.keys, Authority: b.authority,
		Issuer: b.issuer, Audiences: b.audiences, Federation: b.trusted, Log: quiet}))
	b.ledger.AddPlane("authserver", b.server.End)
	if b.listener == nil {
		b.listener = must(net.Listen("tcp", strings.TrimPrefix(b.issuer, "https://")))
	}
	config := keyholder.TLSStrict.Config()
	config.Certificates = []tls.Certificate{must(b.authority.ServerCertificate([]string{"127.0.0.1", "localhost"}, time.Now()))}
	config.ClientAuth = tls.RequestClientCert
	b.http = &http.Server{Handler: b.server.Handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(quiet.Handler(), slog.LevelDebug)}
	go func(s *http.Server, l net.Listener) { _ = s.Serve(tls.NewListener(l, config)) }(b.http, b.listener)
}

func (b *bench) stop() {
	_ = b.http.Close()
	b.listener = nil
	b.ledger.Close()
	_ = b.store.Close()
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Add(b.offset)
}

// pass lets time go by.
func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.offset += d
}

func (b *bench) populate() {
	ctx := b.t.Context()
	l := b.ledger
	b.provider = must(l.AddProvider(ctx, ledger.Administrator, "Aqua Dispensers"))
	b.owner = must(l.AddOwner(ctx, ledger.Administrator, "northgate", "Northgate Station"))
	b.user = must(l.AddUser(ctx, ledger.Administrator, b.owner.ID, "facility@northgate.example", password))
	b.agreement = must(l.AddAgreement(ctx, ledger.Administrator, keyholder.Agreement{Provider: b.provider.ID, Owner: b.owner.ID,
		Purpose: "Cleaning on demand", End: b.now().AddDate(1, 0, 0)}))
	all := []keyholder.GrantType{keyholder.GrantAuthorizationCode, keyholder.GrantRefreshToken, keyholder.GrantClientCredentials}
	b.app = must(l.AddApp(ctx, ledger.Administrator, keyholder.App{Name: "CleanPlan", Grants: all,
		Authentication: keyholder.AuthSecret, RedirectURIs: []string{callback}}))
	b.secret = must(l.AddSecret(ctx, ledger.Administrator, string(b.app.ID)))
	b.certApp = must(l.AddApp(ctx, ledger.Administrator, keyholder.App{Name: "Tidy", Grants: all,
		Authentication: keyholder.AuthCertificate, RedirectURIs: []string{callback}}))
	b.rs = must(l.AddResourceServer(ctx, ledger.Administrator, "Gateway"))
	b.rsSecret = must(l.AddSecret(ctx, ledger.Administrator, string(b.rs.ID)))
}

// certificate issues and records a client certificate.
func (b *bench) certificate(use keyholder.CertificateUse, subject string) tls.Certificate {
	b.t.Helper()
	key := must(pki.NewKey())
	request := must(pki.ParseRequest(must(pki.NewRequest(key, subject))))
	chain, record, err := b.authority.Sign(request, use, subject, b.now().Add(-time.Minute), b.now().Add(24*time.Hour))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.ledger.AddCertificate(b.t.Context(), ledger.Administrator, record, string(chain)); err != nil {
		b.t.Fatal(err)
	}
	return must(tls.X509KeyPair(chain, key))
}

func thumbprint(c tls.Certificate) string {
	sum := sha256.Sum256(c.Certificate[0])
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// client returns an HTTP client that trusts the bench's root and presents the
// given certificates; it follows no redirect.
func (b *bench) client(certs ...tls.Certificate) *http.Client {
	config := keyholder.TLSStrict.Config()
	config.RootCAs = b.authority.Pool()
	config.Certificates = certs
	transport := &http.Transport{TLSClientConfig: config}
	b.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// reply is an answer, read.
type reply struct {
	status int
	header http.Header
	body   string
	json   map[string]any
}

func (r reply) text(name string) string {
	s, _ := r.json[name].(string)
	return s
}

func read(t testing.TB, resp *http.Response, err error) reply {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, header: resp.Header, body: string(body)}
	_ = json.Unmarshal(body, &r.json)
	return r
}

// given is what an HTTP client gave.
type given struct {
	resp *http.Response
	err  error
}

// atOnce calls do n times at once.
func atOnce(n int, do func() (*http.Response, error)) <-chan given {
	answers := make(chan given, n)
	start := make(chan struct{})
	for range n {
		go func() {
			<-start
			resp, err := do()
			answers <- given{resp, err}
		}()
	}
	close(start)
	return answers
}

// post sends a form to an endpoint; pairs are names and values.
func (b *bench) post(c *http.Client, path string, form url.Values) reply {
	b.t.Helper()
	resp, err := c.PostForm(b.issuer+path, form)
	return read(b.t, resp, err)
}

func values(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

// asApp is a form with the secret app's credentials.
func (b *bench) asApp(pairs ...string) url.Values {
	v := values(pairs...)
	v.Set("client_id", string(b.app.ID))
	v.Set("client_secret", b.secret)
	return v
}

func (b *bench) introspect(token string) reply {
	b.t.Helper()
	return b.post(b.client(), "/introspect", values("client_id", string(b.rs.ID), "client_secret", b.rsSecret, "token", token))
}

// active says what a resource server is told about a token.
func (b *bench) active(token string) bool {
	b.t.Helper()
	r := b.introspect(token)
	if r.status != http.StatusOK {
		b.t.Fatalf("introspection: status %d, body %s", r.status, r.body)
	}
	on, _ := r.json["active"].(bool)
	return on
}

// challenge is a PKCE pair.
const verifier = "a-verifier-of-the-needed-length-0123456789-abcdefgh"

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// authorization is the query of a sound authorization request of an app.
func authorization(app keyholder.App) url.Values {
	return values("client_id", string(app.ID), "redirect_uri", callback, "response_type", "code", "scope", "openid fds:read",
		"state", "a state", "nonce", "a nonce", "code_challenge", challenge(), "code_challenge_method", "S256")
}

// browser plays the browser of an owner's user: it keeps cookies, follows
// redirects on this server, and fills in forms.
type browser struct {
	b    *bench
	http *http.Client
	page reply
	at   *url.URL // address of the page
	left *url.URL // where a redirect leads out of this server
}

func (b *bench) browser() *browser {
	w := &browser{b: b, http: b.client()}
	w.http.Jar = must(cookiejar.New(nil))
	return w
}

func (w *browser) open(address string) *browser {
	w.b.t.Helper()
	return w.do(must(http.NewRequest(http.MethodGet, address, nil)))
}

func (w *browser) do(r *http.Request) *browser {
	w.b.t.Helper()
	w.left = nil
	for range 10 {
		resp, err := w.http.Do(r)
		w.page = read(w.b.t, resp, err)
		w.at = r.URL
		location := w.page.header.Get("Location")
		if location == "" {
			return w
		}
		if w.page.status != http.StatusSeeOther {
			w.b.t.Errorf("a redirect with status %d, want 303", w.page.status)
		}
		next := must(r.URL.Parse(location))
		if "https://"+next.Host != w.b.issuer {
			w.left = next
			return w
		}
		r = must(http.NewRequest(http.MethodGet, next.String(), nil))
	}
	w.b.t.Fatal("too many redirects")
	return w
}

var (
	formTag  = regexp.MustCompile(`<form method="post" action="([^"]*)">`)
	inputTag = regexp.MustCompile(`<input type="(hidden|radio)" name="([^"]*)" value="([^"]*)"`)
)

// form returns the address and the fields of the form on the page; of radio
// buttons none is chosen.
func (w *browser) form() (string, url.Values) {
	w.b.t.Helper()
	m := formTag.FindStringSubmatch(w.page.body)
	if m == nil {
		w.b.t.Fatalf("no form on the page (status %d):\n%s", w.page.status, w.page.body)
	}
	fields := url.Values{}
	for _, in := range inputTag.FindAllStringSubmatch(w.page.body, -1) {
		if in[1] == "hidden" {
			fields.Set(in[2], html.UnescapeString(in[3]))
		}
	}
	return must(w.at.Parse(html.UnescapeString(m[1]))).String(), fields
}

// submit sends the form with further fields.
func (w *browser) submit(pairs ...string) *browser {
	w.b.t.Helper()
	action, fields := w.form()
	for i := 0; i < len(pairs); i += 2 {
		fields.Set(pairs[i], pairs[i+1])
	}
	return w.send(action, fields)
}

func (w *browser) send(action string, fields url.Values) *browser {
	w.b.t.Helper()
	r := must(http.NewRequest(http.MethodPost, action, strings.NewReader(fields.Encode())))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return w.do(r)
}

// signIn opens an authorization request and signs the user in.
func (w *browser) signIn(query url.Values) *browser {
	w.b.t.Helper()
	w.open(w.b.issuer + "/authorize?" + query.Encode())
	return w.submit("action", "signin", "login", w.b.user.Login, "password", password)
}

// code goes the whole way to an authorization code for an app.
func (b *bench) code(app keyholder.App) string {
	b.t.Helper()
	w := b.browser().signIn(authorization(app)).submit("action", "share")
	if w.left == nil || w.left.Query().Get("code") == "" {
		b.t.Fatalf("no code: left for %v; page %d:\n%s", w.left, w.page.status, w.page.body)
	}
	return w.left.Query().Get("code")
}

func redemption(code string) url.Values {
	return values("grant_type", "authorization_code", "code", code, "redirect_uri", callback, "code_verifier", verifier)
}

func with(v url.Values, pairs ...string) url.Values {
	out := url.Values{}
	for k, s := range v {
		out[k] = append([]string(nil), s...)
	}
	for i := 0; i < len(pairs); i += 2 {
		out.Set(pairs[i], pairs[i+1])
	}
	return out
}

// redeem exchanges a code of the secret app for tokens.
func (b *bench) redeem(code string) reply {
	b.t.Helper()
	return b.post(b.client(), "/token", with(redemption(code), "client_id", string(b.app.ID), "client_secret", b.secret))
}

// tokens goes the whole way to the tokens of the secret app.
func (b *bench) tokens() reply {
	b.t.Helper()
	r := b.redeem(b.code(b.app))
	if r.status != http.StatusOK {
		b.t.Fatalf("redemption: status %d, body %s", r.status, r.body)
	}
	return r
}

func (b *bench) refresh(token string) reply {
	b.t.Helper()
	return b.post(b.client(), "/token", b.asApp("grant_type", "refresh_token", "refresh_token", token))
}

// claims verifies a token's signature and returns header and claims.
func (b *bench) claims(token, typ string) map[string]any {
	b.t.Helper()
	payload, err := keyring.Verify(b.keys.JWKS(), token, typ)
	if err != nil {
		b.t.Fatalf("verify a token as %s: %v", typ, err)
	}
	var c map[string]any
	if err := json.Unmarshal(payload, &c); err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) subscription(token string) keyholder.SubscriptionID {
	b.t.Helper()
	s, _ := b.claims(token, "at+jwt")["subscription_id"].(string)
	return keyholder.SubscriptionID(s)
}

// audited counts audit rows of a kind.
func (b *bench) audited(kind keyholder.EventKind) (n int) {
	b.t.Helper()
	for _, e := range must(b.ledger.Audit(b.t.Context(), 0, 100_000)) {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// refused checks an OAuth error answer.
func refused(t *testing.T, r reply, status int, code string) {
	t.Helper()
	if r.status != status || r.text("error") != code {
		t.Errorf("got status %d, body %s; want %d %s", r.status, strings.TrimSpace(r.body), status, code)
	}
	if r.text("error_description") == "" {
		t.Errorf("the refusal %s says nothing about its reason", r.body)
	}
	if strings.Contains(r.body, "access_token") {
		t.Errorf("a refusal holds a token: %s", r.body)
	}
}

// serveTLS serves a handler on loopback until the test ends and returns its
// address.
func serveTLS(t testing.TB, a *pki.Authority, h http.Handler) string {
	t.Helper()
	config := keyholder.TLSStrict.Config()
	config.Certificates = []tls.Certificate{must(a.ServerCertificate([]string{"127.0.0.1"}, time.Now()))}
	config.ClientAuth = tls.RequestClientCert
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(tls.NewListener(l, config)) }()
	t.Cleanup(func() { _ = s.Close() })
	return "https://" + l.Addr().String()
}
