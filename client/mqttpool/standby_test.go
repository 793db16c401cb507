package mqttpool_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
	"github.com/fds-keyholder/keyholder/client/publisher"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// held asks for a lease in the background.
func held(t *testing.T, l mqttpool.Lease) (got chan struct{}, lost <-chan struct{}, release func()) {
	t.Helper()
	got = make(chan struct{})
	gone, free := make(chan struct{}), make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		defer close(gone)
		lost, release, err := l(t.Context())
		if err != nil {
			if t.Context().Err() == nil {
				t.Error(err)
			}
			return
		}
		close(got)
		select {
		case <-lost:
		case <-free:
		}
		release()
	})
	release = sync.OnceFunc(func() { close(free); done.Wait() })
	return got, gone, release
}

func isOpen(c <-chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

// leases are the leases that the SDK has, each with what takes it away from
// who has it.
func leases() map[string]func(t *testing.T) (a, b mqttpool.Lease, lose func()) {
	return map[string]func(t *testing.T) (a, b mqttpool.Lease, lose func()){
		"file": func(t *testing.T) (mqttpool.Lease, mqttpool.Lease, func()) {
			path := filepath.Join(t.TempDir(), "lease")
			return mqttpool.FileLease(path), mqttpool.FileLease(path), func() {
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
			}
		},
		"PostgreSQL": func(t *testing.T) (mqttpool.Lease, mqttpool.Lease, func()) {
			dsn := storetest.NewDSN(t, storetest.Postgres(t))
			open := func() *sql.DB {
				db, err := sql.Open("pgx", dsn)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = db.Close() })
				return db
			}
			other := open()
			return mqttpool.PostgresLease(open(), 7), mqttpool.PostgresLease(open(), 7), func() {
				if _, err := other.ExecContext(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"); err != nil {
					t.Error(err)
				}
			}
		},
	}
}

// Ensure that each lease is held by one at a time, goes to the next when it is
// given back, and that who loses it is told.
func TestLease(t *testing.T) {
	for name, create := range leases() {
		t.Run(name, func(t *testing.T) {
			a, b, lose := create(t)
			gotA, _, releaseA := held(t, a)
			<-gotA
			gotB, lostB, releaseB := held(t, b)
			ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
			defer cancel()
			if _, _, err := b(ctx); err == nil || !isOpen(gotB) {
				t.Fatalf("two have the lease, error %v", err)
			}
			releaseA()
			<-gotB
			lose()
			<-lostB
			releaseB()
			gotA, _, releaseA = held(t, a)
			<-gotA
			releaseA()
		})
	}
	if _, _, err := mqttpool.FileLease(filepath.Join(t.TempDir(), "no", "folder"))(t.Context()); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("no folder: error %v, want unavailable", err)
	}
}

// Ensure that of two replicas with a lease one is connected; that the other
// follows when the first is closed or loses the lease, with everything in
// order; and that the one that lost it tells its handler.
func TestStandby(t *testing.T) {
	w := newWorld(t)
	s := w.subscriber("northgate")
	path := filepath.Join(t.TempDir(), "lease")
	withLease := func(c *mqttpool.Config) { c.Lease = mqttpool.FileLease(path) }
	first := w.pool(withLease)
	add(t, first, s)
	second := w.pool(withLease)
	if err := second.Add(s.subscription()); err != nil {
		t.Fatal(err)
	}
	w.push(s, 0, 20)
	s.check(t, 20)
	if h := health(t, second, s); second.Active() || !h.Standby || h.Connected || h.Takeovers != 0 {
		t.Errorf("health of the second %+v", h)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := second.Ready(ctx, s.id); keyholder.CodeOf(err) != keyholder.Unavailable || !strings.Contains(errors.Unwrap(err).Error(), "lease") {
		t.Errorf("ready: %v, want unavailable", err)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.push(s, 20, 40)
	s.check(t, 40)
	if h := health(t, second, s); !second.Active() || h.Standby || h.Takeovers != 0 {
		t.Errorf("health of the second %+v", h)
	}

	entered, told := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.set(func(ctx context.Context, _ mqttpool.Message) error {
		stays := false
		once.Do(func() { stays = true; close(entered) })
		if stays {
			<-ctx.Done()
			close(told)
			return ctx.Err()
		}
		return nil
	})
	w.push(s, 40, 50)
	<-entered
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	<-told
	s.check(t, 50) // it gets the lease again, and nothing was skipped
}

// Ensure that two replicas without a lease settle: the one that was pushed out
// leaves the subscription to the other for longer and longer, follows when
// that one has ended, and everything arrives in order.
func TestRivalsSettle(t *testing.T) {
	w := newWorld(t)
	s := w.subscriber("northgate")
	rival := func(c *mqttpool.Config) { c.TakeoverWait = 20 * time.Millisecond }
	first, second := w.pool(rival), w.pool(rival)
	add(t, first, s)
	add(t, second, s)
	takeovers := func() int { return health(t, first, s).Takeovers + health(t, second, s).Takeovers }
	// The waits of both together after n takeovers are at least the half of
	// 20 ms, doubled every second time.
	began := time.Now()
	eventually(t, "they have settled", func() bool { return takeovers() >= 8 })
	if took, least := time.Since(began), 2*(10+20+40)*time.Millisecond; took < least {
		t.Errorf("8 takeovers took %v, want at least %v", took, least)
	}
	// They took over in turn, so who is connected has lost one less.
	w.push(s, 0, 20)
	s.check(t, 20)
	active, standby := first, second
	if health(t, second, s).Connected {
		active, standby = second, first
	}
	if err := active.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.push(s, 20, 40)
	s.check(t, 40)
	if !health(t, standby, s).Connected {
		t.Error("who stood by is not connected")
	}
}

// TestMain makes of the test's program a replica where it is asked to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KEYHOLDER_TEST_REPLICA"); dir != "" {
		if err := runReplica(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// runReplica is an app that says what it gets, until it is killed.
func runReplica(dir string) error {
	file := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			panic(err)
		}
		return b
	}
	certificate, err := tls.X509KeyPair(file("cert.pem"), file("key.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(file("ca.pem"))
	p, err := mqttpool.New(mqttpool.Config{Broker: string(file("broker")), RootCAs: roots, Log: slog.New(slog.DiscardHandler),
		Lease: mqttpool.FileLease(filepath.Join(dir, "lease"))})
	if err != nil {
		return err
	}
	id := keyholder.SubscriptionID(file("subscription"))
	err = p.Add(mqttpool.Subscription{ID: id, Certificate: func() (*tls.Certificate, error) { return &certificate, nil },
		Handler: func(_ context.Context, m mqttpool.Message) error {
			_, err := fmt.Printf("got %s\n", m.Payload) // one write: it is out before the message is acknowledged
			return err
		}})
	if err != nil {
		return err
	}
	if err := p.Ready(context.Background(), id); err != nil {
		return err
	}
	fmt.Println("active")
	select {}
}

// replica is a process of an app.
type replica struct {
	cmd    *exec.Cmd
	active chan struct{} // closed when it is connected
}

func startReplica(t *testing.T, dir string, got func(string)) *replica {
	t.Helper()
	r := &replica{cmd: exec.Command(os.Args[0]), active: make(chan struct{})}
	r.cmd.Env = append(os.Environ(), "KEYHOLDER_TEST_REPLICA="+dir)
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if lines.Text() == "active" {
				close(r.active)
			} else if payload, ok := strings.CutPrefix(lines.Text(), "got "); ok {
				got(payload)
			}
		}
	})
	t.Cleanup(func() { r.kill(); reading.Wait(); _ = r.cmd.Wait() })
	return r
}

func (r *replica) kill() { _ = r.cmd.Process.Kill() }

// Ensure that when the active one of two processes of an app is killed under
// load, again and again, the other takes over and a new one stands by; that
// nothing that the provider was told is durable is lost; that the order is
// kept; and that only what the killed one had not acknowledged comes again.
func TestStandbyProcess(t *testing.T) {
	w := newWorld(t)
	s := w.subscriber("northgate")
	dir := t.TempDir()
	certificate, key := w.CertificatePEM(keyholder.ForSubscription, string(s.id))
	for name, content := range map[string]string{"cert.pem": string(certificate), "key.pem": string(key), "ca.pem": w.RootPEM(), "broker": w.MQTT, "subscription": string(s.id)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var got []string
	take := func(payload string) { mu.Lock(); got = append(got, payload); mu.Unlock() }
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(got) }

	own := w.Certificate(keyholder.ForProvider, string(w.id))
	p, err := publisher.New(publisher.Config{Provider: w.id, Broker: w.MQTT, RootCAs: w.Roots(), Log: slog.New(slog.DiscardHandler),
		Certificate: func() (*tls.Certificate, error) { return &own, nil }})
	if err != nil {
		t.Fatal(err)
	}
	// The load goes on while replicas come and go, item after item.
	stop := make(chan struct{})
	published := 0
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for isOpen(stop) {
			if err := p.Publish(t.Context(), string(s.id), publisher.Item{Level: "events", Payload: event(s.owner, published)}); err != nil {
				t.Error(err)
				return
			}
			published++
		}
	})
	active := startReplica(t, dir, take)
	<-active.active
	const kills = 3
	for range kills {
		standby := startReplica(t, dir, take)
		enough := count() + 100
		eventually(t, "the active one receives", func() bool { return count() >= enough })
		if !isOpen(standby.active) {
			t.Fatal("both replicas are active")
		}
		active.kill()
		<-standby.active
		active = standby
	}
	close(stop)
	publishing.Wait()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	last := string(event(s.owner, published-1))
	eventually(t, "the last one arrives", func() bool { mu.Lock(); defer mu.Unlock(); return slices.Contains(got, last) })
	mu.Lock()
	defer mu.Unlock()
	next, again := 0, 0
	for i, payload := range got {
		if payload == string(event(s.owner, next)) {
			next++
		} else if again++; !slices.Contains(got[:i], payload) {
			t.Fatalf("message %d is %s, want number %d", i, payload, next)
		}
	}
	if next != published || again > kills*32 {
		t.Errorf("%d published, %d arrived in order, %d again, want at most %d again", published, next, again, kills*32)
	}
	t.Logf("%d kills, %d published, %d came again", kills, published, again)
}
