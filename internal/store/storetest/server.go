package storetest

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// externalServer may hold the URL of a PostgreSQL server whose databases tests
// may create; without it they start a server of their own.
const externalServer = "KEYHOLDER_TEST_POSTGRES"

// Postgres returns the URL of a PostgreSQL server in which tests may create
// databases, until the test ends.
func Postgres(t testing.TB) string {
	t.Helper()
	for _, name := range []string{onPostgres, externalServer} {
		if url := os.Getenv(name); url != "" {
			return url
		}
	}
	return StartServer(t).URL
}

// Server is a PostgreSQL server of a test's own, on a Unix socket only.
type Server struct {
	URL string // of its first database, as the superuser

	t      testing.TB
	folder string
	cmd    *exec.Cmd
	leash  io.Closer // the server ends when it is closed, also by our death
	out    bytes.Buffer
}

// StartServer makes a server from the installed PostgreSQL and starts it.
// Where there is none the test is skipped and says so; under
// KEYHOLDER_TEST_ALL it fails.
func StartServer(t testing.TB) *Server {
	t.Helper()
	initdb := program(t, "initdb")
	folder, err := os.MkdirTemp("", "keyholder-pg-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	s := &Server{t: t, folder: folder, URL: "postgres://keyholder@/postgres?host=" + url.QueryEscape(folder)}
	s.own()
	cmd := s.command(initdb, "-D", s.data(), "-U", "keyholder", "--auth=trust", "--no-sync", "--encoding=UTF8", "--no-locale")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.Start()
	t.Cleanup(func() { s.Stop(syscall.SIGQUIT) })
	return s
}

func (s *Server) data() string { return filepath.Join(s.folder, "data") }

// own gives the folder to the user that the server runs as.
func (s *Server) own() {
	s.t.Helper()
	if u := unprivileged(s.t); u != nil {
		if err := os.Chown(s.folder, int(u.Uid), int(u.Gid)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// unprivileged is the user that PostgreSQL runs as where we are root, which
// it refuses; nil where we are not.
func unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.folder
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: unprivileged(s.t)}
	return cmd
}

// Start starts the server and returns when it answers.
func (s *Server) Start() {
	s.t.Helper()
	// The shell ends with the server, and ends it when its input ends, which
	// it does when this process dies, however it dies.
	s.cmd = s.command("sh", "-c", `exec 3<&0; "$0" "$@" & server=$!; (read -r _ <&3; kill -QUIT $server) & wait $server; kill $!`,
		program(s.t, "postgres"), "-D", s.data(), "-k", s.folder, "-c", "listen_addresses=", "-c", "max_connections=200")
	s.out.Reset()
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	var err error
	if s.leash, err = s.cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.await()
}

// await returns when the server answers.
func (s *Server) await() {
	s.t.Helper()
	db, err := sql.Open("pgx", s.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for err = db.PingContext(ctx); err != nil; err = db.PingContext(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Stop(syscall.SIGQUIT)
			s.t.Fatalf("the server does not answer: %v\n%s", err, s.out.String())
		}
	}
}

// Stop ends the server, if it runs, by a signal to its first process: SIGINT
// lets it end in order, SIGQUIT at once as a crash would. It returns when it
// has ended.
func (s *Server) Stop(signal syscall.Signal) {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	if pid := s.pid(); pid > 0 {
		_ = syscall.Kill(pid, signal)
	} else {
		_ = s.leash.Close()
	}
	_ = s.cmd.Wait() // its status is that of a signal
	_ = s.leash.Close()
	s.cmd = nil
}

// pid reads the number of the server's first process.
func (s *Server) pid() int {
	text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	pid, err := strconv.Atoi(string(line))
	if err != nil {
		return 0
	}
	return pid
}

// program finds a program of PostgreSQL, which Debian keeps outside of PATH.
func program(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 {
		return slices.Max(found)
	}
	if os.Getenv("KEYHOLDER_TEST_ALL") != "" {
		t.Fatalf("PostgreSQL (%s) is not installed, and KEYHOLDER_TEST_ALL forbids to skip", name)
	}
	t.Skipf("SKIPPED: PostgreSQL (%s) is not installed", name)
	return ""
}
