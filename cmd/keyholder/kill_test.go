package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// served is a `keyholder serve` process that a test kills and starts again.
type served struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	out  *bufio.Scanner // its standard output
	log  *bytes.Buffer  // its log, if no test wanted it; to be read when it has ended
	mqtt string         // host:port
	// https://host:port of the authorization server and the Web API
	issuer, api string
	admin       *console.Client
}

// serveData initialises a data folder and serves it on fixed free ports.
func serveData(t *testing.T) *served {
	t.Helper()
	s := initData(t)
	s.start()
	return s
}

// initData initialises a data folder that is to be served on fixed free ports.
// more are arguments of init.
func initData(t *testing.T, more ...string) *served {
	t.Helper()
	return initIn(t, filepath.Join(t.TempDir(), "D"), more...)
}

func initIn(t *testing.T, dir string, more ...string) *served {
	t.Helper()
	s := &served{t: t, dir: dir}
	if out, err := exec.CommandContext(t.Context(), "keyholder", append([]string{"init", "-data", s.dir}, more...)...).CombinedOutput(); err != nil {
		t.Fatalf("init: %v: %s", err, out)
	}
	s.freshPorts()
	t.Cleanup(s.kill)
	return s
}

var listenAddress = regexp.MustCompile(`(auth|api|mqtt): 127\.0\.0\.1:\d+`)

// freshPorts has the server listen on free ports.
func (s *served) freshPorts() {
	s.t.Helper()
	path := filepath.Join(s.dir, "keyholder.yaml")
	config, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	text := strings.Replace(string(config), "[localhost, 127.0.0.1]", "[127.0.0.1]", 1)
	text = listenAddress.ReplaceAllStringFunc(text, func(line string) string {
		door, _, _ := strings.Cut(line, ":")
		return door + ": " + freeAddress(s.t)
	})
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// freeAddress is an address that stays free while the server is killed and
// started again: below the ports that systems give to outgoing connections
// (from 32768 on), as a client that dials the dead server could be given the
// server's own port.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.N(12000)))
		if err != nil {
			continue // taken
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	t.Fatal("no free port between 20000 and 32000")
	return ""
}

// start returns when every door answers.
func (s *served) start() {
	s.t.Helper()
	s.launch(nil)
	s.await()
}

// launch starts the process. Its log goes to w; to nil: shown when it ends
// before it listens.
func (s *served) launch(w io.Writer) {
	s.t.Helper()
	s.cmd = exec.Command("keyholder", "serve", "-data", s.dir)
	s.log = &bytes.Buffer{}
	if s.cmd.Stderr = w; w == nil {
		s.cmd.Stderr = s.log
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.out = bufio.NewScanner(out)
}

// await returns when every door answers.
func (s *served) await() {
	s.t.Helper()
	s.mqtt = ""
	for s.out.Scan() {
		name, address, _ := strings.Cut(s.out.Text(), " ")
		switch address = strings.TrimSpace(address); name {
		case "issuer":
			s.issuer = address
		case "api":
			s.api = address
		case "mqtt":
			s.mqtt = strings.TrimPrefix(address, "mqtts://")
		}
		if s.mqtt != "" {
			break
		}
	}
	if s.mqtt == "" {
		_ = s.cmd.Wait() // all of its log is there
		s.t.Fatalf("serve ended before it listened: %s", s.log.String())
	}
	var err error
	if s.admin, err = console.Dial(s.dir); err != nil {
		s.t.Fatal(err)
	}
}

// kill is kill -9.
func (s *served) kill() {
	if s.cmd == nil {
		return
	}
	if s.admin != nil {
		s.admin.Close()
	}
	_ = s.cmd.Process.Signal(syscall.SIGKILL)
	_ = s.cmd.Wait()
}

func (s *served) certificate(use keyholder.CertificateUse, subject string) tls.Certificate {
	s.t.Helper()
	key := must(pki.NewKey())
	issued := must(s.admin.IssueCertificate(s.t.Context(), console.NewCertificate{Use: use, Subject: subject, Request: string(must(pki.NewRequest(key, "test")))}))
	return must(tls.X509KeyPair([]byte(issued.PEM), key))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Ensure that a server killed in the middle of a replay of the sample feed has
// lost nothing it acknowledged, and that the consumer, who was away, gets it
// in order.
func TestKillDuringReplay(t *testing.T) {
	s := serveData(t)
	killDuringReplay(t, s, 3, s.start)
}

// killDuringReplay kills a server in the middle of a replay as often as rounds
// says, goes on with what next makes of it, and checks what the consumer gets.
func killDuringReplay(t *testing.T, s *served, rounds int, next func()) {
	const before = 150 // acknowledged messages before each kill
	ctx := t.Context()
	provider := must(s.admin.AddProvider(ctx, console.NewProvider{Name: "Fork Inc"}))
	must(s.admin.AddOwner(ctx, console.NewOwner{Key: northgate, Name: northgate}))
	app := must(s.admin.AddApp(ctx, console.NewApp{Name: "App", Authentication: keyholder.AuthCertificate, Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}))
	agreement := must(s.admin.AddAgreement(ctx, console.NewAgreement{Provider: string(provider.ID), Owner: northgate, Purpose: "test"}))
	sub := must(s.admin.AddSubscription(ctx, console.NewSubscription{Agreement: string(agreement.ID), App: string(app.App.ID)}))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(must(s.admin.Authority(ctx)).Root))
	publisher, consumer := s.certificate(keyholder.ForProvider, string(provider.ID)), s.certificate(keyholder.ForSubscription, string(sub.ID))

	feed := must(loadSample()).feed
	var tried, acked []string
	for round := range rounds {
		mqtt := connectPublisher(t, s.mqtt, roots, publisher, string(provider.ID))
		enough := len(acked) + before
		for i := len(tried); ; i++ {
			// The number makes every message one of a kind.
			payload := fmt.Sprintf(`{"n":%d,"item":%s}`, i, feed[i].item)
			tried = append(tried, payload)
			publishing, cancel := context.WithTimeout(ctx, 10*time.Second)
			ack, err := mqtt.Publish(publishing, &paho.Publish{QoS: 1, Topic: keyholder.Topic{Subscription: sub.ID, Level: string(feed[i].kind)}.String(), Payload: []byte(payload)})
			cancel()
			if err != nil {
				break // the server is gone
			}
			if ack.ReasonCode != 0 {
				t.Fatalf("round %d: publish answered 0x%02x", round, ack.ReasonCode)
			}
			if acked = append(acked, payload); len(acked) == enough {
				go s.cmd.Process.Kill() // while the next ones are under way
			}
		}
		s.kill()
		next()
	}

	received := make(chan string, len(tried)+1000)
	pool := must(mqttpool.New(mqttpool.Config{Broker: "mqtts://" + s.mqtt, RootCAs: roots}))
	if err := pool.Add(mqttpool.Subscription{ID: sub.ID, Certificate: func() (*tls.Certificate, error) { return &consumer, nil },
		Handler: func(_ context.Context, m mqttpool.Message) error { received <- string(m.Payload); return nil }}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pool.Close(context.WithoutCancel(ctx)) }()
	var got []string
	deadline := time.After(30 * time.Second)
	for len(got) == 0 || got[len(got)-1] != acked[len(acked)-1] {
		select {
		case m := <-received:
			got = append(got, m)
		case <-deadline:
			t.Fatalf("%d messages came, the last acknowledged one did not", len(got))
		}
	}
	// Everything acknowledged came, in the order of publishing, and nothing
	// that was never published.
	rest := tried
	for _, m := range got {
		i := slices.Index(rest, m)
		if i < 0 {
			t.Fatalf("out of order, twice or never published: %.40s", m)
		}
		rest = rest[i+1:]
	}
	for _, m := range acked {
		if !slices.Contains(got, m) {
			t.Errorf("acknowledged and lost: %.40s", m)
		}
	}
	t.Logf("%d kills, %d published, %d acknowledged, %d received", rounds, len(tried), len(acked), len(got))
}

func connectPublisher(t *testing.T, address string, roots *x509.CertPool, c tls.Certificate, id string) *paho.Client {
	t.Helper()
	config := keyholder.TLSStrict.Config()
	config.RootCAs, config.Certificates = roots, []tls.Certificate{c}
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	mqtt := paho.NewClient(paho.ClientConfig{ClientID: id, Conn: packets.NewThreadSafeConn(conn), PacketTimeout: 10 * time.Second})
	if _, err := mqtt.Connect(t.Context(), &paho.Connect{ClientID: id, CleanStart: true, KeepAlive: 30}); err != nil {
		t.Fatal(err)
	}
	return mqtt
}
