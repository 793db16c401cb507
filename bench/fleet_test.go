package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/daemon"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// fleet is a broker in a process of its own, so that its memory is not that of
// the clients, and the clients it knows. Each consumer belongs to one
// publisher: consumer i to publisher i modulo their number.
type fleet struct {
	address    string
	dir        string    // of a Keyholder: its data folder
	program    string    // of a Keyholder: what is served with
	cmd        *exec.Cmd // the running broker
	pid        int
	roots      *x509.CertPool
	publishers []member
	consumers  []member
}

// member is a client. A consumer receives what is below its prefix.
type member struct {
	id          string
	certificate tls.Certificate
}

func (m member) prefix() string { return "fds/v2/" + m.id + "/" }

// topics are those that a publisher writes to.
func (f *fleet) topics(publisher int) []string {
	var all []string
	for i := publisher; i < len(f.consumers); i += len(f.publishers) {
		all = append(all, f.consumers[i].prefix()+"statuses")
	}
	return all
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// newFleet is a Keyholder. It prepares the data folder without the server,
// which is quicker, and then starts the server.
func newFleet(tb testing.TB, publishers, consumers int) *fleet {
	tb.Helper()
	f := &fleet{dir: filepath.Join(tb.TempDir(), "data")}
	check(tb, daemon.Init(f.dir, time.Now()))
	f.prepare(tb, publishers, consumers)
	f.serve(tb)
	return f
}

func (f *fleet) prepare(tb testing.TB, publishers, consumers int) {
	ctx := tb.Context()
	db, err := store.Open(ctx, filepath.Join(f.dir, "keyholder.db"))
	check(tb, err)
	defer db.Close()
	ring, err := keyring.Open(f.dir)
	check(tb, err)
	authority, err := pki.Open(f.dir)
	check(tb, err)
	f.roots = authority.Pool()
	l, err := ledger.Open(ctx, ledger.Config{Store: db, Log: slog.New(slog.DiscardHandler),
		Sign: func(p []byte) (string, error) { return ring.Sign(p, keyholder.ReceiptType) }})
	check(tb, err)
	defer l.Close()
	var providers []keyholder.ProviderID
	for i := range publishers {
		p, err := l.AddProvider(ctx, ledger.Administrator, fmt.Sprintf("Provider %d", i))
		check(tb, err)
		providers = append(providers, p.ID)
		f.publishers = append(f.publishers, certify(tb, l, authority, keyholder.ForProvider, string(p.ID)))
	}
	// One owner for each hundred apps: rights are many, parties are few.
	var apps []keyholder.AppID
	for i := range min(consumers, 100) {
		app, err := l.AddApp(ctx, ledger.Administrator, keyholder.App{Name: fmt.Sprintf("App %d", i), Authentication: keyholder.AuthCertificate,
			Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}})
		check(tb, err)
		apps = append(apps, app.ID)
	}
	var owner keyholder.Owner
	var agreements map[keyholder.ProviderID]keyholder.AgreementID // of the owner
	for i := range consumers {
		if i%len(apps) == 0 {
			owner, err = l.AddOwner(ctx, ledger.Administrator, fmt.Sprintf("owner-%d", i), "Owner")
			check(tb, err)
			agreements = map[keyholder.ProviderID]keyholder.AgreementID{}
		}
		provider := providers[i%len(providers)]
		if agreements[provider] == "" {
			a, err := l.AddAgreement(ctx, ledger.Administrator, keyholder.Agreement{Provider: provider, Owner: owner.ID, Purpose: "measuring", Start: time.Now()})
			check(tb, err)
			agreements[provider] = a.ID
		}
		sub, err := l.GiveConsent(ctx, ledger.Administrator, keyholder.Consent{Agreement: agreements[provider], App: apps[i%len(apps)]}, "")
		check(tb, err)
		f.consumers = append(f.consumers, certify(tb, l, authority, keyholder.ForSubscription, string(sub.ID)))
	}
}

func certify(tb testing.TB, l *ledger.Ledger, authority *pki.Authority, use keyholder.CertificateUse, id string) member {
	key, err := pki.NewKey()
	check(tb, err)
	csr, err := pki.NewRequest(key, "client")
	check(tb, err)
	request, err := pki.ParseRequest(csr)
	check(tb, err)
	pem, record, err := authority.Sign(request, use, id, time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour))
	check(tb, err)
	check(tb, l.AddCertificate(tb.Context(), ledger.Administrator, record, string(pem)))
	c, err := tls.X509KeyPair(pem, key)
	check(tb, err)
	return member{id, c}
}

// serve builds and starts the real binary on free ports.
func (f *fleet) serve(tb testing.TB) {
	path := filepath.Join(f.dir, daemon.ConfigName)
	config, err := os.ReadFile(path)
	check(tb, err)
	for _, port := range []string{"8443", "8444", "8883"} {
		config = bytes.ReplaceAll(config, []byte("127.0.0.1:"+port), []byte("127.0.0.1:0"))
	}
	check(tb, os.WriteFile(path, config, 0o600))
	if f.program == "" {
		f.program = build(tb, "..", "./cmd/keyholder")
	}
	cmd := exec.Command(f.program, "serve", "-data", f.dir)
	log, err := cmd.StderrPipe()
	check(tb, err)
	lines := f.start(tb, cmd, log)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "mqtt=mqtts://localhost:"); ok {
			f.address = "127.0.0.1:" + strings.Fields(rest)[0]
			break
		}
	}
	if f.address == "" {
		tb.Fatal("the server did not say where it serves")
	}
	go func() {
		for lines.Scan() { // its log must not stop it
		}
	}()
}

// build compiles a program of a module.
func build(tb testing.TB, module, program string) string {
	tb.Helper()
	binary := filepath.Join(tb.TempDir(), "program")
	if out, err := exec.CommandContext(tb.Context(), "go", "build", "-C", module, "-o", binary, program).CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// start runs a broker until the test ends and returns what it says.
func (f *fleet) start(tb testing.TB, cmd *exec.Cmd, says io.Reader) *bufio.Scanner {
	tb.Helper()
	check(tb, cmd.Start())
	tb.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	f.cmd, f.pid = cmd, cmd.Process.Pid
	return bufio.NewScanner(says)
}

// newPeer prepares a peer: its folder, with certificates of a Keyholder's
// authority, and as many clients. They share a certificate: it tells the peer
// nothing but that they may connect.
func newPeer(tb testing.TB, publishers, consumers int) *fleet {
	tb.Helper()
	s := keyholdertest.Start(tb)
	f := &fleet{dir: tb.TempDir(), roots: s.TLS().RootCAs}
	own, key := s.ServerCertificatePEM("127.0.0.1")
	for name, data := range map[string][]byte{"ca.pem": []byte(s.RootPEM()), "cert.pem": own, "key.pem": key} {
		check(tb, os.WriteFile(filepath.Join(f.dir, name), data, 0o600))
	}
	client := s.Certificate(keyholder.ForProvider, string(s.AddProvider("Provider").ID))
	for i := range publishers {
		f.publishers = append(f.publishers, member{fmt.Sprintf("publisher-%d", i), client})
	}
	for i := range consumers {
		f.consumers = append(f.consumers, member{fmt.Sprintf("consumer-%d", i), client})
	}
	return f
}

// newMosquitto is Debian's broker, which keeps all in memory.
func newMosquitto(tb testing.TB, publishers, consumers int) *fleet {
	tb.Helper()
	path := "/usr/sbin/mosquitto" // not in every PATH
	if _, err := os.Stat(path); err != nil {
		path = keyholdertest.RequireProgram(tb, "mosquitto")
	}
	f := newPeer(tb, publishers, consumers)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(tb, err)
	f.address = ln.Addr().String()
	check(tb, ln.Close())
	_, port, _ := net.SplitHostPort(f.address)
	conf := filepath.Join(f.dir, "mosquitto.conf")
	check(tb, os.WriteFile(conf, fmt.Appendf(nil, "listener %s 127.0.0.1\ncafile %[2]s/ca.pem\ncertfile %[2]s/cert.pem\nkeyfile %[2]s/key.pem\n"+
		"require_certificate true\nallow_anonymous true\ntls_version tlsv1.2\nuser root\nmax_queued_messages 0\n", port, f.dir), 0o600))
	f.start(tb, exec.Command(path, "-c", conf), nil)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		if conn, err := net.Dial("tcp", f.address); err == nil {
			_ = conn.Close()
			return f
		}
		if time.Now().After(deadline) {
			tb.Fatal("mosquitto does not listen")
		}
	}
}

// embedded starts a broker of ./peer/broker.
func embedded(kind string) func(tb testing.TB, publishers, consumers int) *fleet {
	return func(tb testing.TB, publishers, consumers int) *fleet {
		return newEmbedded(tb, kind, publishers, consumers)
	}
}

func newEmbedded(tb testing.TB, kind string, publishers, consumers int) *fleet {
	tb.Helper()
	f := newPeer(tb, publishers, consumers)
	cmd := exec.Command(build(tb, "peer/broker", "."), "-kind", kind, "-dir", f.dir)
	cmd.Stderr = tb.Output()
	out, err := cmd.StdoutPipe()
	check(tb, err)
	if lines := f.start(tb, cmd, out); lines.Scan() {
		f.address = lines.Text()
	}
	if f.address == "" {
		tb.Fatalf("%s did not say where it listens", kind)
	}
	return f
}

// brokers are those that are compared.
var brokers = []struct {
	name  string
	start func(tb testing.TB, publishers, consumers int) *fleet
}{
	{"keyholder durable", newFleet},
	{"nats durable", embedded("nats")},
	{"mochi and badger durable", embedded("mochi-synced")},
	{"mochi and badger unsynced", embedded("mochi")},
	{"mosquitto in memory", newMosquitto},
}

// all does something for many members, a few at a time, and returns what came
// of it.
func all(tb testing.TB, members []member, do func(context.Context, member) (*wire, error)) []*wire {
	tb.Helper()
	wires := make([]*wire, len(members))
	var wg sync.WaitGroup
	turns := make(chan struct{}, 16)
	for i, m := range members {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			var err error
			if wires[i], err = do(tb.Context(), m); err != nil {
				tb.Error(err)
			}
		})
	}
	wg.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
	return wires
}

// joinAll connects every consumer.
func (f *fleet) joinAll(tb testing.TB, clean bool) []*wire {
	tb.Helper()
	wires := all(tb, f.consumers, func(ctx context.Context, m member) (*wire, error) { return f.join(ctx, m, clean) })
	tb.Cleanup(func() { closeAll(wires) })
	return wires
}

// dialAll connects every publisher.
func (f *fleet) dialAll(tb testing.TB) []*wire {
	tb.Helper()
	wires := all(tb, f.publishers, func(ctx context.Context, m member) (*wire, error) { return f.dial(ctx, m, true) })
	tb.Cleanup(func() { closeAll(wires) })
	return wires
}

func closeAll(wires []*wire) {
	for _, w := range wires {
		_ = w.conn.Close()
	}
}
