package broker_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/broker"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// world is a broker on a real ledger, mailbox, certificate authority and
// listener, and what it needs to be opened again.
type world struct {
	t         testing.TB
	dir       string
	at        storetest.Database
	addr      string
	cfg       broker.Config  // settings of the test
	box       mailbox.Config // likewise
	log       *logbook
	store     *store.Store
	ledger    *ledger.Ledger
	mailbox   *mailbox.Mailbox
	authority *pki.Authority
	broker    *broker.Broker
	served    chan error
}

// Ensure that what the broker keeps is as safe on PostgreSQL as on SQLite.
func TestOnPostgres(t *testing.T) {
	storetest.RunOnPostgres(t, "Delivery|Isolation|Takeover|Cut|Expir|SlowConsumer|AwayAndBack|Leave|Return|Reconnects|Killed|FullMailbox|PublishRefuses")
}

func newWorld(t testing.TB, set ...func(*world)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), at: storetest.New(t), addr: "127.0.0.1:0", log: &logbook{}, box: mailbox.Config{AckEvery: time.Millisecond}}
	for _, f := range set {
		f(w)
	}
	if err := pki.Init(w.dir, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	w.open()
	t.Cleanup(w.close)
	return w
}

func (w *world) open() {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(w.log, nil))
	w.store = must(w.at.Open(context.Background()))
	w.ledger = must(ledger.Open(context.Background(), ledger.Config{Store: w.store, Log: log,
		Sign: func(p []byte) (string, error) { return fmt.Sprintf("signed-%x", sha256.Sum256(p)), nil }}))
	w.authority = must(pki.Open(w.dir))
	w.box.Log = log
	w.mailbox = must(mailbox.Open(w.store, w.ledger, w.box))
	cfg := w.cfg
	cfg.Ledger, cfg.Mailbox, cfg.ClientCAs, cfg.Log = w.ledger, w.mailbox, w.authority.Pool(), log
	cfg.Certificate = must(w.authority.ServerCertificate([]string{"127.0.0.1"}, time.Now()))
	w.broker = must(broker.New(cfg))
	w.ledger.AddPlane("broker", w.broker.End)
	w.ledger.AddPlane("mailbox", w.mailbox.End)
	l := must(net.Listen("tcp", w.addr))
	w.addr = l.Addr().String()
	w.served = make(chan error, 1)
	b, served := w.broker, w.served
	go func() { served <- b.Serve(l) }()
}

func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.broker.Close(ctx); err != nil {
		w.t.Errorf("close the broker: %v", err)
	}
	if err := <-w.served; err != nil {
		w.t.Errorf("serve: %v", err)
	}
	if err := errors.Join(w.mailbox.Close()); err != nil {
		w.t.Errorf("close the mailbox: %v", err)
	}
	w.ledger.Close()
	if err := w.store.Close(); err != nil {
		w.t.Errorf("close the store: %v", err)
	}
}

func (w *world) reopen() {
	w.t.Helper()
	w.close()
	w.open()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// party is a provider or a subscription with its certificate.
type party struct {
	id   string // subscription or provider ID
	cert tls.Certificate
	rec  keyholder.Certificate
}

func (p party) sub() keyholder.SubscriptionID { return keyholder.SubscriptionID(p.id) }

func (w *world) provider(name string) party {
	w.t.Helper()
	p := must(w.ledger.AddProvider(context.Background(), ledger.Administrator, name))
	return w.certify(keyholder.ForProvider, string(p.ID))
}

// subscription makes a new owner, app, agreement and subscription of a
// provider.
func (w *world) subscription(provider party, name string, scope ...keyholder.Kind) party {
	w.t.Helper()
	ctx := context.Background()
	owner := must(w.ledger.AddOwner(ctx, ledger.Administrator, name, name))
	app := must(w.ledger.AddApp(ctx, ledger.Administrator, keyholder.App{Name: name, Authentication: keyholder.AuthSecret,
		Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}))
	agreement := must(w.ledger.AddAgreement(ctx, ledger.Administrator, keyholder.Agreement{Provider: keyholder.ProviderID(provider.id), Owner: owner.ID, Purpose: "test"}))
	sub := must(w.ledger.GiveConsent(ctx, ledger.Administrator, keyholder.Consent{Agreement: agreement.ID, App: app.ID, Scope: scope}, ""))
	return w.certify(keyholder.ForSubscription, string(sub.ID))
}

// certify issues a certificate and records it.
func (w *world) certify(use keyholder.CertificateUse, subject string) party {
	w.t.Helper()
	p := sign(w.authority, use, subject)
	chain, _, _ := strings.Cut("PEM", " ")
	if err := w.ledger.AddCertificate(context.Background(), ledger.Administrator, p.rec, chain); err != nil {
		w.t.Fatal(err)
	}
	p.rec = w.ledger.Certificate(p.rec.Thumbprint)
	return p
}

// sign issues a certificate that no ledger knows yet.
func sign(a *pki.Authority, use keyholder.CertificateUse, subject string) party {
	key := must(pki.NewKey())
	request := must(pki.ParseRequest(must(pki.NewRequest(key, "test"))))
	now := time.Now()
	pem, rec, err := a.Sign(request, use, subject, now.Add(-time.Minute), now.Add(time.Hour))
	if err != nil {
		panic(err)
	}
	return party{id: subject, cert: must(tls.X509KeyPair(pem, key)), rec: rec}
}

// tls is the configuration of a client with the given certificates.
func (w *world) tls(certs ...tls.Certificate) *tls.Config {
	c := keyholder.TLSStrict.Config()
	c.RootCAs, c.Certificates, c.ServerName = w.authority.Pool(), certs, "127.0.0.1"
	return c
}

// write stores the certificate, key and root for a foreign tool.
func (p party) write(t testing.TB, root []byte) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	ca, cert, key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, content := range map[string][]byte{ca: root, cert: certPEM(p.cert), key: keyPEM(p.cert)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ca, cert, key
}

// logbook collects log lines.
type logbook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) contains(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), s)
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(15 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// denied counts the refusals on the audit trail whose detail has the pair.
func (w *world) denied(key, value string) int {
	n := 0
	for _, e := range must(w.ledger.Audit(context.Background(), 0, 10_000)) {
		if e.Kind == keyholder.EventDenied && e.Detail[key] == value {
			n++
		}
	}
	return n
}

// queued counts the messages in a mailbox.
func (w *world) queued(p party) int64 {
	return must(w.mailbox.Depths(context.Background()))[p.sub()].Messages
}

func topic(p party, level string) string { return "fds/v2/" + p.id + "/" + level }

func body(i int) []byte { return fmt.Appendf(nil, `{"n":%d}`, i) }

var _ io.Writer = (*logbook)(nil)
