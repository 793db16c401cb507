package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/daemon"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// fleet is a data folder with many subscriptions, each with a certificate for
// the broker, served by a process of its own, so that its memory is not that
// of the clients.
type fleet struct {
	address string
	pid     int
	roots   *x509.CertPool
	members []member
}

type member struct {
	id          keyholder.SubscriptionID
	certificate tls.Certificate
}

// newFleet prepares the folder without the server, which is quicker, and then
// starts the server.
func newFleet(b *testing.B, members int) *fleet {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "data")
	check(b, daemon.Init(dir, time.Now()))
	f := &fleet{}
	f.prepare(b, dir, members)
	f.serve(b, dir)
	return f
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (f *fleet) prepare(b *testing.B, dir string, members int) {
	ctx := b.Context()
	db, err := store.Open(ctx, filepath.Join(dir, "keyholder.db"))
	check(b, err)
	defer db.Close()
	ring, err := keyring.Open(dir)
	check(b, err)
	authority, err := pki.Open(dir)
	check(b, err)
	f.roots = authority.Pool()
	l, err := ledger.Open(ctx, ledger.Config{Store: db, Log: slog.New(slog.DiscardHandler),
		Sign: func(p []byte) (string, error) { return ring.Sign(p, keyholder.ReceiptType) }})
	check(b, err)
	defer l.Close()
	provider, err := l.AddProvider(ctx, ledger.Administrator, "Provider")
	check(b, err)
	// One owner for each hundred apps: rights are many, parties are few.
	var apps []keyholder.AppID
	for i := range min(members, 100) {
		app, err := l.AddApp(ctx, ledger.Administrator, keyholder.App{Name: fmt.Sprintf("App %d", i), Authentication: keyholder.AuthCertificate,
			Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}})
		check(b, err)
		apps = append(apps, app.ID)
	}
	var agreement keyholder.AgreementID
	for i := range members {
		if i%len(apps) == 0 {
			owner, err := l.AddOwner(ctx, ledger.Administrator, fmt.Sprintf("owner-%d", i), "Owner")
			check(b, err)
			a, err := l.AddAgreement(ctx, ledger.Administrator, keyholder.Agreement{Provider: provider.ID, Owner: owner.ID, Purpose: "measuring", Start: time.Now()})
			check(b, err)
			agreement = a.ID
		}
		sub, err := l.GiveConsent(ctx, ledger.Administrator, keyholder.Consent{Agreement: agreement, App: apps[i%len(apps)]}, "")
		check(b, err)
		f.members = append(f.members, member{sub.ID, f.certify(b, l, authority, sub.ID)})
	}
}

func (f *fleet) certify(b *testing.B, l *ledger.Ledger, authority *pki.Authority, id keyholder.SubscriptionID) tls.Certificate {
	key, err := pki.NewKey()
	check(b, err)
	csr, err := pki.NewRequest(key, "consumer")
	check(b, err)
	request, err := pki.ParseRequest(csr)
	check(b, err)
	pem, record, err := authority.Sign(request, keyholder.ForSubscription, string(id), time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour))
	check(b, err)
	check(b, l.AddCertificate(b.Context(), ledger.Administrator, record, string(pem)))
	c, err := tls.X509KeyPair(pem, key)
	check(b, err)
	return c
}

// serve builds and starts the real binary on free ports.
func (f *fleet) serve(b *testing.B, dir string) {
	path := filepath.Join(dir, daemon.ConfigName)
	config, err := os.ReadFile(path)
	check(b, err)
	for _, port := range []string{"8443", "8444", "8883"} {
		config = bytes.ReplaceAll(config, []byte("127.0.0.1:"+port), []byte("127.0.0.1:0"))
	}
	check(b, os.WriteFile(path, config, 0o600))
	binary := filepath.Join(b.TempDir(), "keyholder")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/keyholder").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(binary, "serve", "-data", dir)
	stderr, err := cmd.StderrPipe()
	check(b, err)
	check(b, cmd.Start())
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	f.pid = cmd.Process.Pid
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "mqtt=mqtts://"); ok {
			f.address = strings.Fields(rest)[0]
			break
		}
	}
	if f.address == "" {
		b.Fatal("the server did not say where it serves")
	}
	go func() {
		for lines.Scan() { // its log must not stop it
		}
	}()
}

// connect opens an MQTT 5 connection with a session that ends with it, and a
// subscription to everything below the own prefix.
func (f *fleet) connect(ctx context.Context, m member) (net.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 30 * time.Second}, Config: &tls.Config{RootCAs: f.roots, Certificates: []tls.Certificate{m.certificate},
		ServerName: "localhost", MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}}
	conn, err := d.DialContext(ctx, "tcp", f.address)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	hello := &packets.Connect{ClientID: string(m.id), CleanStart: true, KeepAlive: 1200, ProtocolName: "MQTT", ProtocolVersion: 5, Properties: &packets.Properties{}}
	if _, err := hello.WriteTo(conn); err != nil {
		return conn, err
	}
	if p, err := packets.ReadPacket(conn); err != nil || p.Type != packets.CONNACK || p.Content.(*packets.Connack).ReasonCode != 0 {
		return conn, fmt.Errorf("CONNECT was answered by %v, %w", p, err)
	}
	subscribe := &packets.Subscribe{PacketID: 1, Properties: &packets.Properties{}, Subscriptions: []packets.SubOptions{{Topic: "fds/v2/" + string(m.id) + "/#", QoS: 1}}}
	if _, err := subscribe.WriteTo(conn); err != nil {
		return conn, err
	}
	p, err := packets.ReadPacket(conn)
	if err != nil || p.Type != packets.SUBACK || p.Content.(*packets.Suback).Reasons[0] != 1 {
		return conn, fmt.Errorf("SUBSCRIBE was answered by %v, %w", p, err)
	}
	return conn, conn.SetDeadline(time.Time{})
}

// connectAll opens a connection for every member, a few handshakes at a time.
func (f *fleet) connectAll(b *testing.B) []net.Conn {
	conns := make([]net.Conn, len(f.members))
	var wg sync.WaitGroup
	turns := make(chan struct{}, 16)
	for i, m := range f.members {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			var err error
			if conns[i], err = f.connect(b.Context(), m); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	return conns
}

// resident is the memory of a process in KiB.
func resident(b *testing.B, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(b, err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	check(b, err)
	return n
}

// settled waits until the memory of a process has not fallen for a while: the
// collector gives memory back some time after a burst.
func settled(b *testing.B, pid int) int {
	least, since := resident(b, pid), time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range tick.C {
		if now := resident(b, pid); now < least-least/200 {
			least, since = now, time.Now()
		}
		if time.Since(since) > 20*time.Second {
			return least
		}
	}
	return 0
}

// BenchmarkConnection reports what an idle consumer costs the server:
// resident memory for each connection with mutual TLS 1.2, one filter and an
// empty mailbox.
func BenchmarkConnection(b *testing.B) {
	for _, n := range []int{2_000, 10_000} {
		b.Run(fmt.Sprintf("idle/%d", n), func(b *testing.B) {
			f := newFleet(b, n)
			before := settled(b, f.pid)
			b.ResetTimer()
			for range b.N {
				begun := time.Now()
				conns := f.connectAll(b)
				b.ReportMetric(float64(n)/time.Since(begun).Seconds(), "connects/s")
				b.ReportMetric(float64(settled(b, f.pid)-before)/float64(n), "KiB/connection")
				for _, c := range conns {
					if c != nil {
						_ = c.Close()
					}
				}
			}
		})
	}
}
