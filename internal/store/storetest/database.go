// Package storetest opens databases for tests: SQLite by default, and the
// tests of a whole package once more on PostgreSQL.
package storetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder/internal/store"
)

// onPostgres and template are set in the process that runs tests once more:
// the URL of the server for the databases of the tests, and the name of a
// database with the schema in it, which is quicker to copy than to make.
const (
	onPostgres = "KEYHOLDER_TEST_ON_POSTGRES"
	template   = "KEYHOLDER_TEST_TEMPLATE"
)

// RunOnPostgres runs tests of the package that calls it once more, on
// PostgreSQL: New gives them databases there. run is what go test takes as
// -run. It is called from a test of its own, so that its outcome has a name.
func RunOnPostgres(t *testing.T, run string) {
	t.Helper()
	if os.Getenv(onPostgres) != "" {
		t.Skip("this is that run")
	}
	server := Postgres(t)
	name, dsn := newDatabase(t, server, "template0")
	schema, err := Database{dsn: dsn}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Close(); err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=" + run, "-test.timeout=10m"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), onPostgres+"="+server, template+"="+name)
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("%s", out)
	}
	if err != nil {
		t.Errorf("the tests on PostgreSQL: %v", err)
	}
}

// SQLiteOnly skips a test that makes sense on SQLite alone.
func SQLiteOnly(t testing.TB, why string) {
	t.Helper()
	if os.Getenv(onPostgres) != "" {
		t.Skip(why)
	}
}

// PostgresOnly skips a test outside of [RunOnPostgres].
func PostgresOnly(t testing.TB) {
	t.Helper()
	if os.Getenv(onPostgres) == "" {
		t.Skip("TestOnPostgres runs it")
	}
}

// Database is where a store is, and stays when it is closed.
type Database struct {
	path string // of a SQLite file
	dsn  string // of a PostgreSQL database
}

// New makes room for a database that ends with the test.
func New(t testing.TB) Database {
	t.Helper()
	if server := os.Getenv(onPostgres); server != "" {
		_, dsn := newDatabase(t, server, os.Getenv(template))
		return Database{dsn: dsn}
	}
	return Database{path: filepath.Join(t.TempDir(), "keyholder.db")}
}

// At is the inverse of [Database.String].
func At(text string) Database {
	if strings.HasPrefix(text, "postgres://") {
		return Database{dsn: text}
	}
	return Database{path: text}
}

// String returns a text that names the database to another process.
func (d Database) String() string { return d.path + d.dsn }

// OnPostgres says whether it is on PostgreSQL.
func (d Database) OnPostgres() bool { return d.dsn != "" }

// Open opens the store.
func (d Database) Open(ctx context.Context) (*store.Store, error) {
	if d.dsn != "" {
		return store.OpenPostgres(ctx, d.dsn, slog.New(slog.NewTextHandler(io.Discard, nil)))
	}
	return store.Open(ctx, d.path)
}

// SQL opens the database beside the store, for what Keyholder itself never
// does.
func (d Database) SQL(t testing.TB) *sql.DB {
	t.Helper()
	driver, source := "sqlite", "file:"+d.path+"?_pragma=busy_timeout(10000)"
	if d.dsn != "" {
		driver, source = "pgx", d.dsn
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Contents returns the bytes of all that the database holds, to look for what
// must not be there: of the files, or of every value in every table.
func (d Database) Contents(t testing.TB) []byte {
	t.Helper()
	var all []byte
	if d.dsn == "" {
		files, _ := filepath.Glob(d.path + "*")
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, text...)
		}
		return all
	}
	db := d.SQL(t)
	for _, table := range texts(t, db, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'") {
		for _, column := range texts(t, db, "SELECT column_name FROM information_schema.columns WHERE table_name = '"+table+"'") {
			for _, value := range texts(t, db, "SELECT "+column+" FROM "+table+" WHERE "+column+" IS NOT NULL") {
				all = append(append(all, value...), '\n')
			}
		}
	}
	return all
}

// texts returns the only column of a query.
func texts(t testing.TB, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// NewDSN creates an empty database on a server and returns its DSN. It is
// dropped when the test ends.
func NewDSN(t testing.TB, server string) string {
	t.Helper()
	_, dsn := newDatabase(t, server, "template0")
	return dsn
}

// newDatabase creates a database as a copy of another one, and returns its
// name and its DSN.
func newDatabase(t testing.TB, server, like string) (name, dsn string) {
	t.Helper()
	db, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	name = "keyholder_" + strings.ToLower(rand.Text())
	if _, err := db.ExecContext(t.Context(), "CREATE DATABASE "+name+" TEMPLATE "+like); err != nil {
		t.Fatalf("create a database: %v", err)
	}
	t.Cleanup(func() {
		if _, err := db.Exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Logf("drop a database: %v", err) // the server may be gone with it
		}
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return name, u.String()
}
