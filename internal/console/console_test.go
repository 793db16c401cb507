package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// bench is a console with real parts behind a real Unix socket.
type bench struct {
	*console.Client
	t       testing.TB
	dir     string
	store   *store.Store
	ledger  *ledger.Ledger
	keys    *keyring.Ring
	mailbox *mailbox.Mailbox
	pki     *pki.Authority
	console *console.Console
	server  *http.Server
	clock   *clock
	log     *syncBuffer
}

// clock is the time that the parts see.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func open(t testing.TB) *bench {
	t.Helper()
	return openIn(t, t.TempDir())
}

func openIn(t testing.TB, dir string) *bench {
	t.Helper()
	b := &bench{t: t, dir: dir, clock: &clock{now: time.Now()}, log: &syncBuffer{}}
	ctx := context.Background()
	if err := pki.Init(filepath.Join(dir, "pki"), b.clock.Now(), nil); err != nil {
		t.Fatal(err)
	}
	if err := keyring.Init(dir); err != nil {
		t.Fatal(err)
	}
	b.pki = must[*pki.Authority](t)(pki.Open(filepath.Join(dir, "pki")))
	b.keys = must[*keyring.Ring](t)(keyring.Open(dir))
	b.store = must[*store.Store](t)(store.Open(ctx, filepath.Join(dir, "keyholder.db")))
	t.Cleanup(func() { _ = b.store.Close() })
	b.ledger = must[*ledger.Ledger](t)(ledger.Open(ctx, ledger.Config{Store: b.store, Now: b.clock.Now,
		Sign: func(p []byte) (string, error) { return b.keys.Sign(p, "test") }}))
	t.Cleanup(b.ledger.Close)
	b.mailbox = must[*mailbox.Mailbox](t)(mailbox.Open(b.store, b.ledger, mailbox.Config{}))
	t.Cleanup(func() { _ = b.mailbox.Close() })
	b.console = b.new()
	b.ledger.AddPlane("console", b.console.End)
	ln := must[net.Listener](t)(console.Listen(dir))
	b.server = &http.Server{Handler: b.console.Handler(), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = b.server.Serve(ln) }()
	t.Cleanup(func() { _ = b.server.Close() })
	b.Client = must[*console.Client](t)(console.Dial(dir))
	t.Cleanup(b.Client.Close)
	return b
}

func (b *bench) new() *console.Console {
	b.t.Helper()
	return must[*console.Console](b.t)(console.New(console.Config{Ledger: b.ledger, Authority: b.pki, Keyring: b.keys, Mailbox: b.mailbox,
		Dir: b.dir, Now: b.clock.Now, Log: slog.New(slog.NewTextHandler(b.log, nil))}))
}

// raw sends a request as it is and returns the status and the answer.
func (b *bench) raw(method, path, contentType, body string) (int, http.Header, string) {
	b.t.Helper()
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(b.dir, console.SocketName))
		}}}
	req := must[*http.Request](b.t)(http.NewRequest(method, "http://keyholder"+path, strings.NewReader(body)))
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp := must[*http.Response](b.t)(client.Do(req))
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header, string(must[[]byte](b.t)(io.ReadAll(resp.Body)))
}

// parties is the least that makes a subscription possible.
type parties struct {
	provider  keyholder.Provider
	owner     keyholder.Owner
	app       keyholder.App
	agreement console.Agreement
}

func (b *bench) parties(end time.Time) parties {
	b.t.Helper()
	ctx := context.Background()
	var p parties
	p.provider = must[keyholder.Provider](b.t)(b.AddProvider(ctx, console.NewProvider{Name: "Soap Inc"}))
	p.owner = must[keyholder.Owner](b.t)(b.AddOwner(ctx, console.NewOwner{Key: "northgate", Name: "Northgate"}))
	added := must[console.AddedApp](b.t)(b.AddApp(ctx, console.NewApp{Name: "Cleaner", Authentication: keyholder.AuthCertificate,
		Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}))
	p.app = added.App
	p.agreement = must[console.Agreement](b.t)(b.AddAgreement(ctx, console.NewAgreement{Provider: string(p.provider.ID), Owner: "northgate", Purpose: "refill", End: end}))
	return p
}

func (b *bench) subscribe(p parties) console.Subscription {
	b.t.Helper()
	return must[console.Subscription](b.t)(b.AddSubscription(context.Background(), console.NewSubscription{Agreement: string(p.agreement.ID), App: string(p.app.ID)}))
}

func request(t testing.TB) string {
	t.Helper()
	key := must[[]byte](t)(pki.NewKey())
	return string(must[[]byte](t)(pki.NewRequest(key, "test")))
}

func codeIs(t testing.TB, what string, err error, code keyholder.Code, words string) {
	t.Helper()
	var e *keyholder.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Detail+" "+e.Hint, words) {
		t.Errorf("%s: got %v (%+v), want %s with %q", what, err, e, code, words)
	}
}

// Ensure that the socket is the owner's only, replaces one that a killed
// server left, and works under a path that is too long for a Unix socket.
func TestSocket(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{t.TempDir(), long} {
		stale, err := console.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		stale.(*net.UnixListener).SetUnlinkOnClose(false)
		if err := stale.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = console.Dial(dir)
		codeIs(t, "a socket nobody serves", err, keyholder.Unavailable, "keyholder serve")
		b := openIn(t, dir)
		info, err := os.Stat(filepath.Join(dir, console.SocketName))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if _, err := b.Providers(context.Background()); err != nil {
			t.Errorf("%d bytes of path: %v", len(dir), err)
		}
	}
}

// Ensure that a missing folder and a stopped server are told apart, both as
// unavailable with a hint.
func TestDialNobody(t *testing.T) {
	dir := t.TempDir()
	_, err := console.Dial(dir)
	codeIs(t, "no server", err, keyholder.Unavailable, "keyholder serve")
	_, err = console.Dial(filepath.Join(dir, "none"))
	codeIs(t, "no folder", err, keyholder.Unavailable, "keyholder init")
	b := open(t)
	if err := b.server.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = b.Providers(context.Background())
	codeIs(t, "server gone", err, keyholder.Unavailable, "")
}

// Ensure that every party can be added, listed and shown through the client,
// and that what is shown is what was added.
func TestParties(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	p := b.parties(time.Time{})
	got, err := b.Provider(ctx, string(p.provider.ID))
	if err != nil || got != p.provider {
		t.Errorf("provider: %+v, %v", got, err)
	}
	for _, keyOrID := range []string{"northgate", string(p.owner.ID)} {
		if o, err := b.Owner(ctx, keyOrID); err != nil || o != p.owner {
			t.Errorf("owner by %s: %+v, %v", keyOrID, o, err)
		}
	}
	u := must[console.User](t)(b.AddUser(ctx, console.NewUser{Owner: "northgate", Login: "facility", Password: "a long password"}))
	if u.OwnerKey != "northgate" {
		t.Errorf("user: %+v", u)
	}
	if _, err := b.ledger.CheckPassword(ctx, "facility", "a long password"); err != nil {
		t.Errorf("the user cannot sign in: %v", err)
	}
	secret := must[console.AddedApp](t)(b.AddApp(ctx, console.NewApp{Name: "Other", Authentication: keyholder.AuthSecret,
		Grants: []keyholder.GrantType{keyholder.GrantAuthorizationCode}, RedirectURIs: []string{"https://app.example/back"}}))
	if !b.ledger.VerifySecret(string(secret.App.ID), secret.Secret) {
		t.Error("the secret of the app does not work")
	}
	second := must[console.AddedSecret](t)(b.AddSecret(ctx, string(secret.App.ID)))
	if !b.ledger.VerifySecret(string(secret.App.ID), second.Secret) || !b.ledger.VerifySecret(string(secret.App.ID), secret.Secret) {
		t.Error("the further secret or the first one does not work")
	}
	_, err = b.AddSecret(ctx, string(p.app.ID))
	codeIs(t, "secret of a certificate app", err, keyholder.Conflict, "cert issue -for app")
	rs := must[console.AddedResourceServer](t)(b.AddResourceServer(ctx, console.NewResourceServer{Name: "gateway"}))
	if !b.ledger.VerifySecret(string(rs.ResourceServer.ID), rs.Secret) {
		t.Error("the secret of the resource server does not work")
	}
	for what, n := range map[string]int{
		"providers": len(must[[]keyholder.Provider](t)(b.Providers(ctx))),
		"owners":    len(must[[]keyholder.Owner](t)(b.Owners(ctx))),
		"users":     len(must[[]console.User](t)(b.Users(ctx))),
		"servers":   len(must[[]keyholder.ResourceServer](t)(b.ResourceServers(ctx))),
		"agreement": len(must[[]console.Agreement](t)(b.Agreements(ctx))),
	} {
		if n != 1 {
			t.Errorf("%d %s, want 1", n, what)
		}
	}
	if apps := must[[]keyholder.App](t)(b.Apps(ctx)); len(apps) != 2 {
		t.Errorf("%d apps", len(apps))
	}
	if events := must[[]keyholder.Event](t)(b.Audit(ctx, 0, 100)); len(events) < 8 || events[0].Actor != ledger.Administrator {
		t.Errorf("audit: %+v", events)
	}
}

// Ensure that a subscription carries its chain, that it may have an ID from
// elsewhere, and that giving the consent again renews it.
func TestSubscription(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	p := b.parties(time.Time{})
	fixed := string(must[keyholder.SubscriptionID](t)(keyholder.NewID[keyholder.SubscriptionID](nil)))
	q := console.NewSubscription{Agreement: string(p.agreement.ID), App: string(p.app.ID), ID: fixed, Scope: []keyholder.Kind{keyholder.Events}}
	s := must[console.Subscription](t)(b.AddSubscription(ctx, q))
	if string(s.ID) != fixed || !s.InForce || s.OwnerKey != "northgate" || s.ProviderName != "Soap Inc" || s.AppName != "Cleaner" {
		t.Errorf("%+v", s)
	}
	if _, err := b.mailbox.Append(ctx, s.ID, "events", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	q.Scope, q.ID = nil, ""
	if again := must[console.Subscription](t)(b.AddSubscription(ctx, q)); again.ID != s.ID || len(again.Scope) != 0 {
		t.Errorf("renewed: %+v", again)
	}
	d := must[console.SubscriptionDetail](t)(b.Subscription(ctx, fixed))
	if d.Queued != 1 || len(d.Chain) != 6 {
		t.Errorf("%+v", d)
	}
	for _, l := range d.Chain {
		if !l.Holds {
			t.Errorf("%s does not hold: %s", l.What, l.State)
		}
	}
	consents := must[[]console.Consent](t)(b.Consents(ctx))
	if len(consents) != 1 || consents[0].Subscription != s.ID {
		t.Errorf("consents: %+v", consents)
	}
	if one, err := b.Consent(ctx, string(consents[0].ID)); err != nil || one.OwnerKey != "northgate" {
		t.Errorf("consent: %+v, %v", one, err)
	}
}

// Ensure that a certificate is issued for what the request asks for, ends with
// the agreement at the latest, and is refused where the right is missing.
func TestCertificate(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	end := b.clock.Now().Add(10 * 24 * time.Hour).UTC().Truncate(time.Second)
	p := b.parties(end)
	s := b.subscribe(p)
	got := must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.ForSubscription, Subject: string(s.ID), Request: request(t)}))
	if !got.NotAfter.Equal(end) {
		t.Errorf("ends %s, want the end of the agreement %s", got.NotAfter, end)
	}
	if strings.Count(got.PEM, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("not a leaf with its issuer:\n%s", got.PEM)
	}
	if shown := must[console.CertificateText](t)(b.Certificate(ctx, got.Serial)); shown.PEM != got.PEM || shown.SubjectName != "northgate, Cleaner" {
		t.Errorf("%+v", shown)
	}
	for _, use := range []struct {
		use     keyholder.CertificateUse
		subject string
	}{{keyholder.ForProvider, string(p.provider.ID)}, {keyholder.ForApp, string(p.app.ID)}} {
		cert := must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: use.use, Subject: use.subject, Request: request(t), Days: 30}))
		if days := cert.NotAfter.Sub(b.clock.Now()).Hours() / 24; days < 29 || days > 31 {
			t.Errorf("%s: %f days", use.use, days)
		}
	}
	valid := console.NewCertificate{Use: keyholder.ForSubscription, Subject: string(s.ID), Request: request(t)}
	for _, tt := range []struct {
		name   string
		change func(*console.NewCertificate)
		code   keyholder.Code
		words  string
	}{
		{"unknown subject", func(q *console.NewCertificate) { q.Subject = "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30" }, keyholder.Denied, "no such subscription"},
		{"subject of another use", func(q *console.NewCertificate) { q.Use = keyholder.ForProvider }, keyholder.Denied, "provider"},
		{"no use", func(q *console.NewCertificate) { q.Use = "" }, keyholder.Denied, "use"},
		{"bad subject", func(q *console.NewCertificate) { q.Subject = "x" }, keyholder.Invalid, "subject: not a UUID"},
		{"too long", func(q *console.NewCertificate) { q.Days = 398 }, keyholder.Invalid, "days"},
		{"negative", func(q *console.NewCertificate) { q.Days = -1 }, keyholder.Invalid, "days"},
		{"no request", func(q *console.NewCertificate) { q.Request = "" }, keyholder.Invalid, "PEM"},
		{"a key", func(q *console.NewCertificate) { q.Request = string(must[[]byte](t)(pki.NewKey())) }, keyholder.Invalid, "private key"},
	} {
		q := valid
		tt.change(&q)
		_, err := b.IssueCertificate(ctx, q)
		codeIs(t, tt.name, err, tt.code, tt.words)
	}
	if all := must[[]console.Certificate](t)(b.Certificates(ctx)); len(all) != 3 {
		t.Errorf("%d certificates on record, want 3", len(all))
	}
	if root := must[console.Authority](t)(b.Authority(ctx)); root.Root != string(b.pki.RootPEM()) {
		t.Error("not the root certificate")
	}
}

// Ensure that the credentials of a webhook are files of mode 0600 as long as
// it is in force, and not a moment longer.
func TestWebhook(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	p := b.parties(time.Time{})
	s := b.subscribe(p)
	folder := filepath.Join(b.dir, console.WebhookFolder)
	q := console.NewWebhook{Subscription: string(s.ID), URL: "https://app.example/push", Issuer: "https://login.app.example", Client: "us",
		Secret: "s3cret", CA: string(b.pki.RootPEM())}

	for name, bad := range map[string]console.NewWebhook{
		"no credential": {Subscription: q.Subscription, URL: q.URL, Issuer: q.Issuer, Client: q.Client},
		"two":           {Subscription: q.Subscription, URL: q.URL, Issuer: q.Issuer, Client: q.Client, Secret: "x", Certificate: "y", Key: "z"},
		"half a pair":   {Subscription: q.Subscription, URL: q.URL, Issuer: q.Issuer, Client: q.Client, Key: "z"},
		"bad CA":        {Subscription: q.Subscription, URL: q.URL, Issuer: q.Issuer, Client: q.Client, Secret: "x", CA: "nothing"},
		"plain http":    {Subscription: q.Subscription, URL: "http://app.example/push", Issuer: q.Issuer, Client: q.Client, Secret: "x"},
	} {
		_, err := b.AddWebhook(ctx, bad)
		codeIs(t, name, err, keyholder.Invalid, "")
	}
	if left, _ := os.ReadDir(folder); len(left) != 0 {
		t.Errorf("refused webhooks left %d folders", len(left))
	}

	w := must[console.Webhook](t)(b.AddWebhook(ctx, q))
	for _, name := range []string{console.WebhookSecret, console.WebhookCA} {
		info, err := os.Stat(filepath.Join(folder, string(w.ID), name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	_, err := b.AddWebhook(ctx, q)
	codeIs(t, "a second one", err, keyholder.Conflict, "")
	if left, _ := os.ReadDir(folder); len(left) != 1 {
		t.Errorf("%d folders, want the one of the first", len(left))
	}
	if shown := must[console.Webhook](t)(b.Webhook(ctx, string(w.ID))); shown != w {
		t.Errorf("%+v", shown)
	}

	receipt := must[keyholder.Receipt](t)(b.Cut(ctx, console.NewCut{Kind: "subscription", ID: string(s.ID), Reason: "test"}))
	if len(receipt.Planes) != 1 || receipt.Planes[0].Ended != 1 {
		t.Errorf("planes: %+v", receipt.Planes)
	}
	if left, _ := os.ReadDir(folder); len(left) != 0 {
		t.Errorf("the credentials outlived the webhook")
	}

	// What a crash left is removed at the next start.
	stray := filepath.Join(folder, "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30")
	other := filepath.Join(folder, "notes")
	for _, dir := range []string{stray, other} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.new()
	if _, err := os.Stat(stray); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left by a crash: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("a strange folder was removed: %v", err)
	}
}

// Ensure that a cut answers a receipt that the published keys verify, and that
// what was cut is so everywhere in the API.
func TestCut(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	p := b.parties(time.Time{})
	s := b.subscribe(p)
	issued := must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.ForSubscription, Subject: string(s.ID), Request: request(t)}))
	receipt := must[keyholder.Receipt](t)(b.Cut(ctx, console.NewCut{Kind: "agreement", ID: string(p.agreement.ID), Reason: "contract ended"}))
	if receipt.Actor != ledger.Administrator || len(receipt.Ended.Subscriptions) != 1 || len(receipt.Ended.Certificates) != 1 {
		t.Errorf("%+v", receipt)
	}
	payload := must[[]byte](t)(keyring.Verify(b.keys.JWKS(), receipt.Signed, "test"))
	var signed keyholder.Receipt
	if err := json.Unmarshal(payload, &signed); err != nil || signed.Receipt != receipt.Receipt {
		t.Errorf("the signed form is of another receipt: %v", err)
	}
	if keys := must[json.RawMessage](t)(b.Keys(ctx)); !bytes.Contains(keys, []byte(`"kty":"EC"`)) || bytes.Contains(keys, []byte(`"d":`)) {
		t.Errorf("keys: %s", keys)
	}
	if got := must[keyholder.Receipt](t)(b.Receipt(ctx, string(receipt.Receipt))); got.Signed != receipt.Signed {
		t.Error("the stored receipt differs")
	}
	if all := must[[]keyholder.Receipt](t)(b.Receipts(ctx)); len(all) != 1 {
		t.Errorf("%d receipts", len(all))
	}
	d := must[console.SubscriptionDetail](t)(b.Subscription(ctx, string(s.ID)))
	if d.InForce || d.Certificates[0].Revoked.IsZero() {
		t.Errorf("%+v", d)
	}
	for name, q := range map[string]struct {
		cut  console.NewCut
		code keyholder.Code
	}{
		"again":    {console.NewCut{Kind: "agreement", ID: string(p.agreement.ID), Reason: "x"}, keyholder.Conflict},
		"cert":     {console.NewCut{Kind: "cert", ID: issued.Serial, Reason: "x"}, keyholder.Conflict},
		"unknown":  {console.NewCut{Kind: "app", ID: "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30", Reason: "x"}, keyholder.NotFound},
		"kind":     {console.NewCut{Kind: "owner", ID: string(p.owner.ID), Reason: "x"}, keyholder.Invalid},
		"reason":   {console.NewCut{Kind: "app", ID: string(p.app.ID)}, keyholder.Invalid},
		"bad UUID": {console.NewCut{Kind: "app", ID: "x", Reason: "x"}, keyholder.Invalid},
	} {
		_, err := b.Cut(ctx, q.cut)
		codeIs(t, name, err, q.code, "")
	}
	if state := must[console.AuditState](t)(b.VerifyAudit(ctx)); state.Rows < 7 {
		t.Errorf("%d audit rows", state.Rows)
	}
}

// Ensure that a trail that was changed behind the server's back is found.
func TestAuditBroken(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	b.parties(time.Time{})
	err := b.store.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec("DROP TRIGGER audit_is_append_only_update; UPDATE audit SET subject = 'x' WHERE seq = 2")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.VerifyAudit(ctx)
	codeIs(t, "verify", err, keyholder.Conflict, "row 2")
}

// Ensure that why gives the verdict of the Permit function with its
// requirement, before and after a cut.
func TestWhy(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	p := b.parties(time.Time{})
	s := must[console.Subscription](t)(b.AddSubscription(ctx, console.NewSubscription{Agreement: string(p.agreement.ID), App: string(p.app.ID), Scope: []keyholder.Kind{keyholder.Statuses}}))
	consumer := must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.ForSubscription, Subject: string(s.ID), Request: request(t)}))
	provider := must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.ForProvider, Subject: string(p.provider.ID), Request: request(t)}))
	stranger := "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"
	type row struct {
		parameters  map[string]string
		allowed     bool
		requirement keyholder.Requirement
		reason      string
	}
	check := func(rows []row) {
		t.Helper()
		for _, r := range rows {
			if r.parameters["subscription"] == "" {
				r.parameters["subscription"] = string(s.ID)
			}
			got, err := b.Why(ctx, r.parameters)
			if err != nil || got.Allowed != r.allowed || got.Requirement != r.requirement || !strings.Contains(got.Reason, r.reason) || got.Question == "" {
				t.Errorf("%v: %+v, %v", r.parameters, got, err)
			}
		}
	}
	check([]row{
		{map[string]string{"action": "read"}, true, keyholder.W8, ""},
		{map[string]string{"action": "read", "kind": "tag"}, true, keyholder.W8, ""},
		{map[string]string{"action": "read", "kind": "events"}, false, keyholder.W5, "does not cover"},
		{map[string]string{"action": "read", "subscription": stranger}, false, keyholder.W6, "no such subscription"},
		{map[string]string{"action": "issue"}, true, keyholder.W8, ""},
		{map[string]string{"action": "issue", "grant": "authorization_code"}, false, keyholder.W5, "not negotiated"},
		{map[string]string{"action": "connect"}, true, keyholder.M5, ""},
		{map[string]string{"action": "connect", "client_id": stranger}, false, keyholder.M5, "client ID"},
		{map[string]string{"action": "connect", "cert": provider.Serial}, false, keyholder.M5, "provider ID"},
		{map[string]string{"action": "connect", "cert": "00ff"}, false, keyholder.M2, "on record"},
		{map[string]string{"action": "subscribe"}, true, keyholder.M6, ""},
		{map[string]string{"action": "subscribe", "topic": "fds/v2/" + stranger + "/#"}, false, keyholder.M6, "own subscription ID"},
		{map[string]string{"action": "subscribe", "cert": provider.Serial}, false, keyholder.M8, "only consumers"},
		{map[string]string{"action": "publish"}, true, keyholder.M7, ""},
		{map[string]string{"action": "publish", "kind": "events"}, false, keyholder.W5, "does not cover"},
		{map[string]string{"action": "publish", "cert": consumer.Serial}, false, keyholder.M7, "only information providers"},
		{map[string]string{"action": "deliver"}, true, keyholder.W6, ""},
		{map[string]string{"action": "certify"}, true, keyholder.M3, ""},
	})
	for name, parameters := range map[string]map[string]string{
		"no action":       {"subscription": string(s.ID)},
		"unknown action":  {"subscription": string(s.ID), "action": "fly"},
		"no subscription": {"action": "read"},
		"bad kind":        {"subscription": string(s.ID), "action": "read", "kind": "x"},
		"bad topic":       {"subscription": string(s.ID), "action": "subscribe", "topic": "#"},
		"bad name":        {"subscription": string(s.ID), "action": "publish", "topic": "fds/v2/" + string(s.ID) + "/#"},
		"bad grant":       {"subscription": string(s.ID), "action": "issue", "grant": "password"},
		"strange":         {"subscription": string(s.ID), "action": "read", "verbose": "1"},
	} {
		_, err := b.Why(ctx, parameters)
		codeIs(t, name, err, keyholder.Invalid, "")
	}
	must[keyholder.Receipt](t)(b.Cut(ctx, console.NewCut{Kind: "agreement", ID: string(p.agreement.ID), Reason: "test"}))
	check([]row{
		{map[string]string{"action": "read"}, false, keyholder.W6, "cut"},
		{map[string]string{"action": "issue"}, false, keyholder.W6, "cut"},
		{map[string]string{"action": "connect"}, false, keyholder.M3, "revoked"},
		{map[string]string{"action": "publish"}, false, keyholder.W6, "cut"},
		{map[string]string{"action": "deliver"}, false, keyholder.W6, "cut"},
		{map[string]string{"action": "certify"}, false, keyholder.W6, "cut"},
	})
}

// Ensure that expiring names what ends in time, not what was renewed or cut,
// and still names a certificate that ended without a successor.
func TestExpiring(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	day := 24 * time.Hour
	p := b.parties(b.clock.Now().Add(200 * day))
	s := must[console.Subscription](t)(b.AddSubscription(ctx, console.NewSubscription{Agreement: string(p.agreement.ID), App: string(p.app.ID), Expires: b.clock.Now().Add(100 * day)}))
	issue := func(days int) console.CertificateText {
		return must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.ForSubscription, Subject: string(s.ID), Request: request(t), Days: days}))
	}
	expect := func(within time.Duration, want ...string) {
		t.Helper()
		var got []string
		for _, e := range must[[]console.Expiry](t)(b.Expiring(ctx, within)) {
			got = append(got, e.What)
			if e.Name == "" || e.Todo == "" {
				t.Errorf("%+v", e)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("within %s: %v, want %v", within, got, want)
		}
	}
	issue(20)
	expect(10 * day)
	expect(30*day, "certificate")
	expect(101*day, "certificate", "consent")
	expect(300*day, "certificate", "consent", "agreement")
	issue(60)
	expect(30 * day)
	b.clock.advance(70 * day)
	expect(day, "certificate")
	must[keyholder.Receipt](t)(b.Cut(ctx, console.NewCut{Kind: "subscription", ID: string(s.ID), Reason: "test"}))
	expect(day)
	for _, d := range []time.Duration{0, -day, 20 * 366 * day} {
		_, err := b.Expiring(ctx, d)
		codeIs(t, d.String(), err, keyholder.Invalid, "within")
	}
}

// Ensure that whatever is sent gets a clear problem document and the server
// goes on.
func TestBadRequests(t *testing.T) {
	b := open(t)
	const j = "application/json"
	unknown := "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"
	for _, tt := range []struct {
		name, method, path, contentType, body string
		status                                int
		words                                 string
	}{
		{"no path", "GET", "/", "", "", 404, "/admin/v1/"},
		{"unknown path", "GET", "/admin/v1/planets", "", "", 404, "no such path"},
		{"method", "DELETE", "/admin/v1/providers", "", "", 405, "GET, POST"},
		{"method of one", "PUT", "/admin/v1/providers/" + unknown, j, "{}", 405, "GET"},
		{"unknown parameter", "GET", "/admin/v1/providers?verbose=1", "", "", 400, `\"verbose\"`},
		{"repeated parameter", "GET", "/admin/v1/audit?limit=1&limit=2", "", "", 400, "more than once"},
		{"malformed query", "GET", "/admin/v1/audit?limit=%zz", "", "", 400, "malformed"},
		{"limit", "GET", "/admin/v1/audit?limit=0", "", "", 400, "limit"},
		{"after", "GET", "/admin/v1/audit?after=x", "", "", 400, "after"},
		{"bad UUID", "GET", "/admin/v1/providers/x", "", "", 400, "UUID"},
		{"upper case", "GET", "/admin/v1/apps/" + strings.ToUpper(unknown), "", "", 400, "lower-case"},
		{"bad serial", "GET", "/admin/v1/certificates/XYZ", "", "", 400, "serial"},
		{"unknown ID", "GET", "/admin/v1/subscriptions/" + unknown, "", "", 404, "no subscription"},
		{"unknown owner", "GET", "/admin/v1/owners/nobody", "", "", 404, "owner list"},
		{"slash in ID", "GET", "/admin/v1/owners/a%2Fb", "", "", 404, "no owner"},
		{"no type", "POST", "/admin/v1/providers", "", `{"name":"x"}`, 400, "application/json"},
		{"form", "POST", "/admin/v1/providers", "application/x-www-form-urlencoded", `name=x`, 400, "application/json"},
		{"empty", "POST", "/admin/v1/providers", j, "", 400, "not a JSON object"},
		{"null", "POST", "/admin/v1/providers", j, "null", 400, "not a JSON object"},
		{"list", "POST", "/admin/v1/providers", j, `[{"name":"x"}]`, 400, "not a JSON object"},
		{"cut off", "POST", "/admin/v1/providers", j, `{"name":"x"`, 400, "ends too early"},
		{"syntax", "POST", "/admin/v1/providers", j, `{"name":x}`, 400, "not valid JSON"},
		{"two values", "POST", "/admin/v1/providers", j, `{"name":"x"}{"name":"y"}`, 400, "follows"},
		{"unknown field", "POST", "/admin/v1/providers", j, `{"name":"x","id":"y"}`, 400, "known here: name"},
		{"repeated field", "POST", "/admin/v1/providers", j, `{"name":"x","name":"y"}`, 400, "more than once"},
		{"repeated in another case", "POST", "/admin/v1/providers", j, `{"name":"x","Name":"y"}`, 400, "more than once"},
		{"wrong type", "POST", "/admin/v1/providers", j, `{"name":7}`, 400, "must be a string"},
		{"wrong list", "POST", "/admin/v1/apps", j, `{"grants":"x"}`, 400, "must be a list"},
		{"bad time", "POST", "/admin/v1/agreements", j, `{"start":"tomorrow"}`, 400, "2027-01-31T00:00:00Z"},
		{"UTF-8", "POST", "/admin/v1/providers", j, "{\"name\":\"\xff\"}", 400, "UTF-8"},
		{"deep", "POST", "/admin/v1/providers", j, `{"name":` + strings.Repeat("[", 100_000), 400, "nested deeper"},
		{"oversize", "POST", "/admin/v1/providers", j, `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 400, "larger than"},
		{"empty name", "POST", "/admin/v1/providers", j, `{"name":" "}`, 400, "empty"},
		{"control character", "POST", "/admin/v1/providers", j, `{"name":"a\u001bb"}`, 400, "printed"},
		{"body with a query", "POST", "/admin/v1/providers?x=1", j, `{"name":"x"}`, 400, "takes none"},
		{"bad party", "POST", "/admin/v1/agreements", j, `{"provider":"x","owner":"y","purpose":"z"}`, 400, "provider: not a UUID"},
		{"unknown agreement", "POST", "/admin/v1/subscriptions", j, `{"agreement":"` + unknown + `","app":"` + unknown + `"}`, 404, "agreement"},
	} {
		status, header, body := b.raw(tt.method, tt.path, tt.contentType, tt.body)
		if status != tt.status || !strings.Contains(body, tt.words) || header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s %s, want %d with %q", tt.name, status, header.Get("Content-Type"), body, tt.status, tt.words)
		}
	}
	if providers := must[[]keyholder.Provider](t)(b.Providers(context.Background())); len(providers) != 0 {
		t.Errorf("a refused request added %+v", providers)
	}
}

// Ensure that an internal failure is logged in full and shown as a reference
// only.
func TestInternalFailure(t *testing.T) {
	b := open(t)
	err := b.store.Write(context.Background(), func(tx *store.Tx) error {
		_, err := tx.Exec("DROP TABLE receipts")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	status, _, body := b.raw("GET", "/admin/v1/receipts", "", "")
	if status != 500 || strings.Contains(body, "receipts") || !strings.Contains(body, "reference ") {
		t.Errorf("%d %s", status, body)
	}
	_, reference, _ := strings.Cut(body, "reference ")
	if !strings.Contains(b.log.String(), reference[:12]) || !strings.Contains(b.log.String(), "no such table") {
		t.Errorf("the log does not explain %s:\n%s", reference, b.log)
	}
	_, err = b.Receipts(context.Background())
	if err == nil || keyholder.CodeOf(err) != "" || !strings.Contains(err.Error(), "reference") {
		t.Errorf("the client got %v", err)
	}
}

// FuzzDecode: no request makes the decoder panic, every refusal is an error
// of code invalid, and what is accepted means the same when written again.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"name":"x"}`, `{"grants":["a","b"],"redirect_uris":[]}`, `{"name":"x","name":"y"}`, `{"name":null}`, `[`, `{"a":{"b":[1,2,{"c":"\ud800"}]}}`, "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var first, second console.NewApp
		if err := console.Decode(body, &first); err != nil {
			if keyholder.CodeOf(err) != keyholder.Invalid {
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := console.Decode(again, &second); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if fmt.Sprint(first) != fmt.Sprint(second) {
			t.Fatalf("%+v became %+v", first, second)
		}
	})
}
