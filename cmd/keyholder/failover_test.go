package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// onPostgres initialises a data folder whose database is on a PostgreSQL
// server.
func onPostgres(t *testing.T, server string) *served {
	t.Helper()
	file := filepath.Join(t.TempDir(), "postgres.dsn")
	if err := os.WriteFile(file, []byte(storetest.NewDSN(t, server)), 0o600); err != nil {
		t.Fatal(err)
	}
	return initData(t, "-database-dsn-file", file)
}

// copyFolder copies a data folder as an operator would.
func copyFolder(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "D")
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", dir, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

// expectLog returns a log of a process, and a function that waits for a line
// that holds a text and fails where it does not come within a minute.
func expectLog(t *testing.T) (io.Writer, func(text string)) {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	lines := make(chan string, 10_000)
	go func() {
		for log := bufio.NewScanner(r); log.Scan(); {
			lines <- log.Text()
		}
	}()
	return w, func(text string) {
		t.Helper()
		for limit := time.After(time.Minute); ; {
			select {
			case line := <-lines:
				if strings.Contains(line, text) {
					return
				}
			case <-limit:
				t.Fatalf("the log never said %q", text)
			}
		}
	}
}

// reader is an app that holds a token.
type reader struct {
	t      *testing.T
	client *http.Client
	id     string
	secret string
	sub    string
	token  string
}

// newReader onboards an app of an owner and gets it a token.
func newReader(t *testing.T, s *served, owner string) *reader {
	t.Helper()
	ctx := t.Context()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(must(s.admin.Authority(ctx)).Root))
	r := &reader{t: t, client: guard.HTTPClient(roots, keyholder.TLSStrict)}
	t.Cleanup(r.client.CloseIdleConnections)
	provider := must(s.admin.AddProvider(ctx, console.NewProvider{Name: "Soap Inc"}))
	must(s.admin.AddOwner(ctx, console.NewOwner{Key: owner, Name: owner}))
	app := must(s.admin.AddApp(ctx, console.NewApp{Name: "App", Authentication: keyholder.AuthSecret, Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}))
	agreement := must(s.admin.AddAgreement(ctx, console.NewAgreement{Provider: string(provider.ID), Owner: owner, Purpose: "test"}))
	r.sub = string(must(s.admin.AddSubscription(ctx, console.NewSubscription{Agreement: string(agreement.ID), App: string(app.App.ID)})).ID)
	r.id, r.secret = string(app.App.ID), app.Secret
	r.token = s.token(t, r.client, r.id, r.secret, r.sub)
	return r
}

// read returns the status that the Web API answers; 0 if it does not.
func (r *reader) read(s *served) int {
	r.t.Helper()
	q := must(http.NewRequestWithContext(r.t.Context(), http.MethodGet, s.api+"/fds/v2/statuses", nil))
	q.Header.Set("Authorization", "Bearer "+r.token)
	resp, err := r.client.Do(q)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// Ensure that a standby takes the place of a server that is killed: nothing
// acknowledged is lost, what was in force is, and a cut made before still
// holds. The killed one comes back as the standby.
func TestFailover(t *testing.T) {
	s := onPostgres(t, storetest.Postgres(t))
	standby := &served{t: t, dir: copyFolder(t, s.dir)} // with its keys, and on its ports, which a standby leaves alone
	t.Cleanup(standby.kill)
	s.start()
	kept, cut := newReader(t, s, "kept"), newReader(t, s, "cut")
	receipt := must(s.admin.Cut(t.Context(), console.NewCut{Kind: string(keyholder.CutSubscription), ID: cut.sub, Reason: "test"}))
	expect := func(when string) {
		t.Helper()
		if got := [2]int{kept.read(s), cut.read(s)}; got != [2]int{http.StatusOK, http.StatusUnauthorized} {
			t.Errorf("%s: the API answers %v", when, got)
		}
	}
	expect("before")
	log, expectLine := expectLog(t)
	standby.launch(log)
	expectLine("standby")

	away := watchReaders(t, *s, kept, cut)
	killDuringReplay(t, s, 1, func() {
		standby.await()
		first := s.dir
		*s = *standby
		standby.dir, standby.cmd, standby.admin = first, nil, nil
	})
	expect("after")
	gap := away()
	kept.token = s.token(t, kept.client, kept.id, kept.secret, kept.sub)
	expect("with a new token")
	if list := must(s.admin.Receipts(t.Context())); len(list) != 1 || list[0].Receipt != receipt.Receipt || list[0].Signed != receipt.Signed {
		t.Errorf("the receipts are %+v", list)
	}
	if _, err := s.admin.VerifyAudit(t.Context()); err != nil {
		t.Errorf("the audit trail: %v", err)
	}
	log, expectLine = expectLog(t)
	standby.launch(log)
	expectLine("standby")
	t.Logf("no answer for %s", gap.Round(100*time.Millisecond))
}

// Ensure that a server which is frozen is replaced, and that it closes its
// doors when it goes on: what was cut meanwhile stays cut there too.
func TestFrozenServer(t *testing.T) {
	s := onPostgres(t, storetest.Postgres(t))
	standby := &served{t: t, dir: copyFolder(t, s.dir)}
	t.Cleanup(standby.kill)
	standby.freshPorts()
	log, expectLine := expectLog(t)
	s.launch(log)
	s.await()
	r := newReader(t, s, "northgate")
	standbyLog, expectStandbyLine := expectLog(t)
	standby.launch(standbyLog)
	expectStandbyLine("standby")

	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	standby.await()
	must(standby.admin.Cut(t.Context(), console.NewCut{Kind: string(keyholder.CutSubscription), ID: r.sub, Reason: "test"}))
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	expectLine("the database was lost")
	if got := r.read(s); got != 0 {
		t.Errorf("the server that was frozen answers %d", got)
	}
	expectLine("standby")
}

// watchReaders reads all the time, until the function it returns is called,
// which returns the longest time without an answer. What is cut must never be
// answered.
func watchReaders(t *testing.T, s served, kept, cut *reader) func() time.Duration {
	ctx, stop := context.WithCancel(t.Context())
	longest := make(chan time.Duration, 1)
	go func() {
		var gap time.Duration
		last := time.Now()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			if got := cut.read(&s); got == http.StatusOK {
				t.Error("the cut subscription was answered")
			}
			if kept.read(&s) == http.StatusOK {
				gap, last = max(gap, time.Since(last)), time.Now()
			}
		}
		longest <- gap
	}()
	return func() time.Duration {
		stop()
		return <-longest
	}
}

// Ensure that a server whose database goes away closes its doors, and opens
// them again by itself when the database is back, with everything it had
// acknowledged.
func TestDatabaseRestart(t *testing.T) {
	server := storetest.StartServer(t)
	s := onPostgres(t, server.URL)
	log, expectLine := expectLog(t)
	s.launch(log)
	s.await()
	r := newReader(t, s, "northgate")
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		server.Stop(signal)
		expectLine("the database was lost")
		if got := r.read(s); got != 0 {
			t.Errorf("%s: without a database the API answers %d", signal, got)
		}
		expectLine("cannot start again yet")
		server.Start()
		s.await()
		if got := r.read(s); got != http.StatusOK {
			t.Errorf("%s: the API answers %d after the database is back", signal, got)
		}
		r.token = s.token(t, r.client, r.id, r.secret, r.sub)
	}
}

// Ensure that init refuses a database that is in use and a DSN that others may
// read, without leaving a folder behind that cannot be used, and that serve
// says what is wrong with the database.
func TestInitOnPostgres(t *testing.T) {
	dsn := storetest.NewDSN(t, storetest.Postgres(t))
	folder := t.TempDir()
	file := filepath.Join(folder, "postgres.dsn")
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "keyholder", args...).CombinedOutput()
		return fmt.Sprint(string(out), err)
	}
	write := func(text string, mode os.FileMode) {
		t.Helper()
		_ = os.Remove(file)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(folder, "D")
	for _, c := range []struct{ what, dsn, want string }{
		{"nobody there", "postgres://keyholder:hidden@127.0.0.1:1/hidden", "cannot be used"},
		{"no TLS", "postgres://keyholder:hidden@db.example/hidden", "sslmode=verify-full"},
	} {
		write(c.dsn, 0o600)
		if got := run("init", "-data", data, "-database-dsn-file", file); !strings.Contains(got, c.want) || strings.Contains(got, "hidden") {
			t.Errorf("%s: %s", c.what, got)
		}
	}
	write(dsn, 0o644)
	if got := run("init", "-data", data, "-database-dsn-file", file); !strings.Contains(got, "chmod 600") {
		t.Errorf("a DSN that others may read: %s", got)
	}
	write(dsn, 0o600)
	if got := run("init", "-data", data, "-database-dsn-file", file); !strings.HasSuffix(got, "<nil>") {
		t.Errorf("init: %s", got)
	}
	if got := run("init", "-data", filepath.Join(folder, "E"), "-database-dsn-file", file); !strings.Contains(got, "not empty") {
		t.Errorf("a database in use: %s", got)
	}
	write("postgres://keyholder:hidden@127.0.0.1:1/hidden", 0o600)
	if got := run("serve", "-data", data); !strings.Contains(got, "cannot be used") || !strings.Contains(got, "exit status 3") || strings.Contains(got, "hidden") {
		t.Errorf("serve without a database: %s", got)
	}
}
