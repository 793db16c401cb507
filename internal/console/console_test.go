package console_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
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
