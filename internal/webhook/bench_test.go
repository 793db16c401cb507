package webhook_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/authserver"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/webhook"
)

// bench is a webhook door with real parts around it: store, ledger, mailbox,
// an authorization server and the SDK's receiver, both behind TLS 1.2 on
// loopback. In front of those two stands a handler that a test may change.
type bench struct {
	t         testing.TB
	dir       string
	ledger    *ledger.Ledger
	mailbox   *mailbox.Mailbox
	authority *pki.Authority
	door      *webhook.Webhook
	log       *logBuffer
	issuer    string

	provider keyholder.Provider
	secret   string
	subs     []keyholder.Subscription

	auth, receiver *faulty
	receiverURL    string

	mu   sync.Mutex
	got  map[keyholder.SubscriptionID][]string // what the receiver took, in order
	fail func(client.Push) error               // what Deliver answers; nil: takes all
}

// faulty is a handler that a test can put another one in front of.
type faulty struct {
	mu       sync.Mutex
	behind   http.Handler
	front    func(w http.ResponseWriter, r *http.Request) bool // true: answered
	requests []*http.Request
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, r)
	front := f.front
	f.mu.Unlock()
	if front != nil && front(w, r) {
		return
	}
	f.behind.ServeHTTP(w, r)
}

func (f *faulty) set(front func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.front = front
}

func (f *faulty) seen(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if r.URL.Path == path {
			n++
		}
	}
	return n
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// open builds the bench; change may alter the door's configuration.
func open(t testing.TB, change func(*webhook.Config)) *bench {
	t.Helper()
	ctx := context.Background()
	b := &bench{t: t, dir: t.TempDir(), log: &logBuffer{}, got: map[keyholder.SubscriptionID][]string{}}
	log := slog.New(slog.NewTextHandler(b.log, nil))
	if err := errorsOf(keyring.Init(b.dir), pki.Init(b.dir, time.Now(), nil)); err != nil {
		t.Fatal(err)
	}
	ring := must(keyring.Open(b.dir))
	b.authority = must(pki.Open(b.dir))
	s := must(store.Open(ctx, filepath.Join(b.dir, "keyholder.db")))
	b.ledger = must(ledger.Open(ctx, ledger.Config{Store: s, Log: log, Sign: func(p []byte) (string, error) { return ring.Sign(p, "receipt") }}))
	b.mailbox = must(mailbox.Open(s, b.ledger, mailbox.Config{AckEvery: time.Millisecond}))
	t.Cleanup(func() {
		if err := b.mailbox.Close(); err != nil {
			t.Error(err)
		}
		b.ledger.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b.serveAuth(ring)
	b.serveReceiver(ring)
	b.onboard(2)
	c := webhook.Config{Ledger: b.ledger, Mailbox: b.mailbox, Dir: b.dir, RootCAs: b.authority.Pool(), AllowPrivate: true,
		Backoff: func(int) time.Duration { return 5 * time.Millisecond }, Log: log}
	if change != nil {
		change(&c)
	}
	b.door = must(webhook.New(c))
	b.ledger.AddPlane("mailbox", b.mailbox.End)
	b.ledger.AddPlane("webhook", b.door.End)
	return b
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// listen puts a handler behind TLS 1.2, asking for client certificates.
func (b *bench) listen(ln net.Listener, h http.Handler) {
	c := keyholder.TLSStrict.Config()
	c.Certificates = []tls.Certificate{must(b.authority.ServerCertificate([]string{"127.0.0.1"}, time.Now()))}
	c.ClientAuth = tls.RequestClientCert
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(tls.NewListener(ln, c)) // always ErrServerClosed
	}()
	b.t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

func (b *bench) serveAuth(ring *keyring.Ring) {
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	b.issuer = "https://" + ln.Addr().String()
	server := must(authserver.New(authserver.Config{Ledger: b.ledger, Keyring: ring, Authority: b.authority, Issuer: b.issuer,
		Audiences: []string{"https://api.example"}, Log: slog.New(slog.DiscardHandler)}))
	b.ledger.AddPlane("authserver", server.End)
	b.auth = &faulty{behind: server.Handler()}
	b.listen(ln, b.auth)
}

// serveReceiver runs an app's webhook as the SDK makes it.
func (b *bench) serveReceiver(ring *keyring.Ring) {
	g := must(guard.New(guard.Config{Issuer: b.issuer, AudienceFor: keyholder.WebhookAudience,
		Keys: func(_ context.Context, kid string) (crypto.PublicKey, error) {
			set := ring.JWKS()
			for _, k := range set.Key(kid) {
				return k.Key, nil
			}
			return nil, keyholder.Errorf(keyholder.NotFound, "no such key")
		}}))
	h := must(client.NewReceiver(client.ReceiverConfig{
		Guard:   func(keyholder.SubscriptionID) *guard.Guard { return g },
		Deliver: b.deliver, Log: slog.New(slog.DiscardHandler),
	}))
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	mux := http.NewServeMux()
	mux.Handle("/hook/{subscription}", h)
	b.receiver = &faulty{behind: mux}
	b.receiverURL = "https://" + ln.Addr().String()
	b.listen(ln, b.receiver)
}

func (b *bench) deliver(_ context.Context, p client.Push) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		if err := b.fail(p); err != nil {
			return err
		}
	}
	b.got[p.Subscription] = append(b.got[p.Subscription], p.Level+" "+string(p.Payload)+" "+p.Key)
	return nil
}

func (b *bench) failWith(f func(client.Push) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = f
}

func (b *bench) received(sub keyholder.SubscriptionID) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got[sub])
}

// onboard makes a provider with a secret, and owners with a subscription each.
func (b *bench) onboard(owners int) {
	ctx, admin := context.Background(), ledger.Administrator
	b.provider = must(b.ledger.AddProvider(ctx, admin, "Fork Inc"))
	b.secret = must(b.ledger.AddSecret(ctx, admin, string(b.provider.ID)))
	app := must(b.ledger.AddApp(ctx, admin, keyholder.App{Name: "App", Authentication: keyholder.AuthSecret,
		Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}))
	for i := range owners {
		o := must(b.ledger.AddOwner(ctx, admin, fmt.Sprintf("owner-%d", i), "Owner"))
		a := must(b.ledger.AddAgreement(ctx, admin, keyholder.Agreement{Provider: b.provider.ID, Owner: o.ID, Purpose: "test"}))
		b.subs = append(b.subs, must(b.ledger.GiveConsent(ctx, admin, keyholder.Consent{Agreement: a.ID, App: app.ID}, "")))
	}
}

// hook registers a webhook for a subscription, its secret being in place
// before; change may alter it.
func (b *bench) hook(sub keyholder.Subscription, change func(*ledger.Webhook)) ledger.Webhook {
	b.t.Helper()
	h := ledger.Webhook{ID: must(keyholder.NewID[keyholder.WebhookID](nil)), Subscription: sub.ID,
		URL: b.receiverURL + "/hook/" + string(sub.ID), Issuer: b.issuer, Client: string(b.provider.ID)}
	if change != nil {
		change(&h)
	}
	b.file(h, "secret", b.secret+"\n", 0o600)
	h, err := b.ledger.AddWebhook(context.Background(), ledger.Administrator, h)
	if err != nil {
		b.t.Fatal(err)
	}
	return h
}

// file writes one of a webhook's files.
func (b *bench) file(h ledger.Webhook, name, content string, mode os.FileMode) {
	b.t.Helper()
	dir := webhook.Dir(b.dir, h.ID)
	path := filepath.Join(dir, name)
	if err := errorsOf(os.MkdirAll(dir, 0o700), os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) remove(h ledger.Webhook, name string) {
	b.t.Helper()
	if err := os.Remove(filepath.Join(webhook.Dir(b.dir, h.ID), name)); err != nil {
		b.t.Fatal(err)
	}
}

// run runs the door until the test ends or the returned function is called.
func (b *bench) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.door.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				b.t.Error(err)
			}
		})
	}
	b.t.Cleanup(stop)
	return stop
}

// push queues events and returns what the receiver must get for them.
func (b *bench) push(sub keyholder.Subscription, from, n int) []string {
	b.t.Helper()
	var want []string
	for i := from; i < from+n; i++ {
		payload := fmt.Sprintf(`{"n":%d,"of":"%s"}`, i, sub.ID)
		seq, err := b.mailbox.Append(context.Background(), sub.ID, "events", []byte(payload))
		if err != nil {
			b.t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("events %s %s/%d", payload, sub.ID, seq))
	}
	return want
}

// arrives waits until the receiver has exactly what is wanted.
func (b *bench) arrives(sub keyholder.Subscription, want []string) {
	b.t.Helper()
	eventually(b.t, func() string {
		if got := b.received(sub.ID); len(got) < len(want) {
			return fmt.Sprintf("%d of %d messages arrived; log:\n%s", len(got), len(want), b.log)
		}
		return ""
	})
	if d := cmp.Diff(want, b.received(sub.ID)); d != "" {
		b.t.Errorf("arrived (-want +got):\n%s", d)
	}
}

// state returns the state of a webhook; the zero one if it is not served.
func (b *bench) state(h ledger.Webhook) webhook.State {
	b.t.Helper()
	for _, s := range must(b.door.States(context.Background())) {
		if s.Webhook == h.ID {
			return s
		}
	}
	return webhook.State{}
}

// fails waits until a webhook fails for the given reason.
func (b *bench) fails(h ledger.Webhook, why string) {
	b.t.Helper()
	eventually(b.t, func() string {
		if s := b.state(h); s.Failing != why || s.Attempts == 0 {
			return fmt.Sprintf("it fails for %q, want %q", s.Failing, why)
		}
		return ""
	})
}

// eventually waits until condition has nothing to object.
func eventually(t testing.TB, condition func() string) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for {
		objection := condition()
		if objection == "" {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal(objection)
		}
	}
}

// stranger is a certificate authority that nobody here trusts.
func stranger(t testing.TB) (*x509.CertPool, *pki.Authority) {
	t.Helper()
	dir := t.TempDir()
	if err := pki.Init(dir, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	a := must(pki.Open(dir))
	return a.Pool(), a
}
