package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// soon is how long a lost lease and a taken over one may take, on a machine
// that is busy.
const soon = 30 * time.Second

// lines is a log that tests wait for.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newLines() *lines { return &lines{more: make(chan struct{}, 100)} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.more <- struct{}{}
	return l.text.Write(p)
}

// await returns when the log holds a text.
func (l *lines) await(t *testing.T, text string) {
	t.Helper()
	for limit := time.After(soon); ; {
		l.mu.Lock()
		found := strings.Contains(l.text.String(), text)
		l.mu.Unlock()
		if found {
			return
		}
		select {
		case <-l.more:
		case <-limit:
			t.Fatalf("the log never said %q", text)
		}
	}
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// opening is a store that is being opened.
type opening struct {
	log  *lines
	done chan struct{}
	*store.Store
	err error
}

// openPostgres begins to open a store.
func openPostgres(t *testing.T, dsn string) *opening {
	t.Helper()
	o := &opening{log: newLines(), done: make(chan struct{})}
	go func() {
		defer close(o.done)
		o.Store, o.err = store.OpenPostgres(t.Context(), dsn, o.log.logger())
	}()
	t.Cleanup(func() {
		if <-o.done; o.Store != nil {
			_ = o.Store.Close()
		}
	})
	return o
}

// await returns when the store is open.
func (o *opening) await(t *testing.T) *opening {
	t.Helper()
	select {
	case <-o.done:
	case <-time.After(soon):
		t.Fatal("the store does not open")
	}
	if o.err != nil {
		t.Fatal(o.err)
	}
	return o
}

// session returns the server's number of the writing session.
func (o *opening) session(t *testing.T) int {
	t.Helper()
	var pid int
	if err := o.Write(t.Context(), func(tx *store.Tx) error { return tx.QueryRow("SELECT pg_backend_pid()").Scan(&pid) }); err != nil {
		t.Fatal(err)
	}
	return pid
}

// expectLost checks that the store has lost its lease and takes no write.
func (o *opening) expectLost(t *testing.T) {
	t.Helper()
	select {
	case <-o.Lost():
	case <-time.After(soon):
		t.Fatal("the loss went unnoticed")
	}
	if err := o.Write(t.Context(), addOwner("lost")); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("write after the loss: got %v, want unavailable", err)
	}
}

func exec(t *testing.T, dsn, statement string) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

// Ensure that of two processes on one database one waits until the other has
// ended, and then has all that the other acknowledged.
func TestStandby(t *testing.T) {
	storetest.PostgresOnly(t)
	t.Parallel()
	dsn := storetest.NewDSN(t, storetest.Postgres(t))
	first := openPostgres(t, dsn).await(t)
	second := openPostgres(t, dsn)
	second.log.await(t, "standby")
	if err := first.Write(t.Context(), addOwner("one")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-second.done:
		t.Fatal("two processes are active")
	default:
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second.await(t)
	if err := second.Write(t.Context(), addOwner("two")); err != nil {
		t.Fatal(err)
	}
	if got := countOwners(t, second.Store); got != 2 {
		t.Errorf("got %d owners, want 2", got)
	}
}

// Ensure that a process whose session the server has ended learns that it is
// no longer the active one before a standby is.
func TestSessionEnded(t *testing.T) {
	storetest.PostgresOnly(t)
	t.Parallel()
	dsn := storetest.NewDSN(t, storetest.Postgres(t))
	first := openPostgres(t, dsn).await(t)
	second := openPostgres(t, dsn)
	second.log.await(t, "standby")
	exec(t, dsn, fmt.Sprintf("SELECT pg_terminate_backend(%d)", first.session(t)))
	first.expectLost(t)
	select {
	case <-second.done:
		t.Error("the standby was active before the first process knew that it is not")
	default:
	}
	second.await(t)
	if got := countOwners(t, second.Store); got != 0 {
		t.Errorf("got %d owners of a write that was refused", got)
	}
}

// Ensure that a process that waits for an answer which never comes gives up,
// and tells its callers.
func TestServerSilent(t *testing.T) {
	storetest.PostgresOnly(t)
	t.Parallel()
	dsn := storetest.NewDSN(t, storetest.Postgres(t))
	first := openPostgres(t, dsn).await(t)
	pid := first.session(t)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	answer := make(chan error, 1)
	go func() { answer <- first.Write(context.Background(), addOwner("one")) }()
	first.expectLost(t)
	select {
	case err := <-answer:
		if keyholder.CodeOf(err) != keyholder.Unavailable {
			t.Errorf("got %v, want unavailable", err)
		}
	case <-time.After(soon):
		t.Error("the caller is never answered")
	}
}

// Ensure that a standby stops waiting when it is told to stop.
func TestStandbyCanceled(t *testing.T) {
	storetest.PostgresOnly(t)
	t.Parallel()
	dsn := storetest.NewDSN(t, storetest.Postgres(t))
	openPostgres(t, dsn).await(t)
	ctx, cancel := context.WithCancel(t.Context())
	log := newLines()
	done := make(chan error, 1)
	go func() {
		_, err := store.OpenPostgres(ctx, dsn, log.logger())
		done <- err
	}()
	log.await(t, "standby")
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	case <-time.After(soon):
		t.Error("it does not stop")
	}
}

// Ensure that nothing acknowledged is lost when the server crashes in the
// middle of writes, that every write after it is refused, and that the
// database opens again when the server is back.
func TestServerCrash(t *testing.T) {
	storetest.PostgresOnly(t)
	t.Parallel()
	server := storetest.StartServer(t)
	dsn := storetest.NewDSN(t, server.URL)
	s := openPostgres(t, dsn).await(t)
	var mu sync.Mutex
	var acknowledged []string
	var wg sync.WaitGroup
	enough := make(chan struct{})
	stop := sync.OnceFunc(func() { close(enough) })
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("owner-%d-%d", w, i)
				if err := s.Write(t.Context(), addOwner(key)); err != nil {
					if keyholder.CodeOf(err) != keyholder.Unavailable {
						t.Errorf("got %v, want unavailable", err)
					}
					return
				}
				mu.Lock()
				if acknowledged = append(acknowledged, key); len(acknowledged) == 300 {
					stop()
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	server.Stop(syscall.SIGQUIT)
	wg.Wait()
	s.expectLost(t)
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	server.Start()
	again := openPostgres(t, dsn).await(t)
	for _, key := range acknowledged {
		var n int
		if err := again.Read().QueryRow("SELECT count(*) FROM owners WHERE key = ?", key).Scan(&n); err != nil || n != 1 {
			t.Fatalf("%s was acknowledged and is there %d times, err %v", key, n, err)
		}
	}
}

// Ensure that a change which waits for somebody else's lock gives up, that it
// takes nobody with it, and that the process stays the active one.
func TestStatementTimeout(t *testing.T) {
	storetest.PostgresOnly(t)
	t.Parallel()
	dsn := storetest.NewDSN(t, storetest.Postgres(t))
	s := openPostgres(t, dsn).await(t)
	other, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("LOCK TABLE owners"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Write(t.Context(), addOwner("one")); err == nil || !strings.Contains(err.Error(), "statement timeout") {
			t.Errorf("got %v, want a timeout", err)
		}
	})
	wg.Go(func() {
		if err := s.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec("INSERT INTO resource_servers (id, name, created) VALUES ('r', 'r', 1)")
			return err
		}); err != nil {
			t.Errorf("a change that nobody blocked: %v", err)
		}
	})
	wg.Wait()
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), addOwner("one")); err != nil {
		t.Errorf("after the lock is gone: %v", err)
	}
}

// Ensure that a server which does not write to disk is refused.
func TestServerWithoutFsync(t *testing.T) {
	storetest.PostgresOnly(t)
	t.Parallel()
	server := storetest.StartServer(t)
	exec(t, server.URL, "ALTER SYSTEM SET fsync = off")
	server.Stop(syscall.SIGINT)
	server.Start()
	_, err := store.OpenPostgres(t.Context(), storetest.NewDSN(t, server.URL), slog.Default())
	if keyholder.CodeOf(err) != keyholder.Invalid || !strings.Contains(err.Error(), "fsync") {
		t.Errorf("got %v", err)
	}
}

// Ensure that a DSN which would send anything in the clear over a network is
// refused, that one which leads nowhere is an error that says so, and that no
// error repeats any of it.
func TestDSN(t *testing.T) {
	for _, c := range []struct {
		dsn  string
		code keyholder.Code
	}{
		{"", keyholder.Invalid},
		{" \n", keyholder.Invalid},
		{"postgres://user-x:secret-x@host-x:port/db-x", keyholder.Invalid},
		{"postgres://user-x:secret-x@host-x/db-x", keyholder.Invalid},
		{"postgres://user-x:secret-x@host-x/db-x?sslmode=disable", keyholder.Invalid},
		{"postgres://user-x:secret-x@host-x/db-x?sslmode=prefer", keyholder.Invalid},
		{"postgres://user-x:secret-x@127.0.0.1,host-x/db-x?sslmode=allow", keyholder.Invalid},
		{"host=host-x user=user-x password=secret-x dbname=db-x", keyholder.Invalid},
		{"postgres://user-x:secret-x@host-x.invalid/db-x?sslmode=verify-full", keyholder.Unavailable},
		{"postgres://user-x:secret-x@127.0.0.1:1/db-x", keyholder.Unavailable},
		{"postgres://user-x:secret-x@/db-x?host=/nowhere", keyholder.Unavailable},
	} {
		_, err := store.OpenPostgres(t.Context(), c.dsn, slog.Default())
		if keyholder.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", c.dsn, err, c.code)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			for _, part := range []string{"secret-x", "user-x", "db-x"} {
				if strings.Contains(e.Error(), part) {
					t.Errorf("%s: the error holds %q: %v", c.dsn, part, e)
				}
			}
		}
	}
}
