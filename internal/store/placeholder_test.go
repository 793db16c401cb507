package store_test

import (
	"context"
	"database/sql"
	"regexp"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder/internal/store"
)

// Ensure that placeholders become those of PostgreSQL, and that what stands in
// quotes and comments stays.
func TestNumbered(t *testing.T) {
	for _, c := range []struct{ query, want string }{
		{"", ""},
		{"SELECT 1", "SELECT 1"},
		{"SELECT ?, ?", "SELECT $1, $2"},
		{"SELECT ?2, ?1, ?2", "SELECT $2, $1, $2"},
		{"SELECT ?3, ?", "SELECT $3, $4"},
		{"a = ?10", "a = $10"},
		{"SELECT '?', ?", "SELECT '?', $1"},
		{"SELECT 'it''s ?', ?", "SELECT 'it''s ?', $1"},
		{`SELECT "a?b", ?`, `SELECT "a?b", $1`},
		{"SELECT ? -- why?\n, ?", "SELECT $1 -- why?\n, $2"},
		{"SELECT ? - 1 / ?", "SELECT $1 - 1 / $2"},
		{"SELECT /* ? */ ?", "SELECT /* ? */ $1"},
		{"SELECT /*/ ? */ ?", "SELECT /*/ ? */ $1"},
		{"SELECT '?", "SELECT '?"},
		{"?-- ?", "$1-- ?"},
	} {
		if got := store.Numbered(c.query); got != c.want {
			t.Errorf("%q became %q, want %q", c.query, got, c.want)
		}
	}
}

// FuzzNumbered: without quotes and comments exactly the placeholders change,
// and what has none is not changed.
func FuzzNumbered(f *testing.F) {
	f.Add("INSERT INTO a VALUES (?1, '?', ?) -- ?")
	f.Add(`"?" ? /* ? */ ?`)
	placeholder := regexp.MustCompile(`\?[0-9]*`)
	f.Fuzz(func(t *testing.T, query string) {
		got := store.Numbered(query)
		if !strings.Contains(query, "?") && got != query {
			t.Errorf("%q became %q", query, got)
		}
		if strings.ContainsAny(query, `'"-/$`) {
			return
		}
		if want := len(placeholder.FindAllString(query, -1)); strings.Contains(got, "?") || strings.Count(got, "$") != want {
			t.Errorf("%q became %q, want %d placeholders", query, got, want)
		}
	})
}

// Ensure that both databases take the Go values that Keyholder stores, and
// give them back.
func TestValues(t *testing.T) {
	type name string
	s, _ := open(t)
	if err := s.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO grants (id, client, version, body, code_hash, sealed, created, ended) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			name("a"), "ä'?", uint8(3), []byte{}, []byte{0, 1, 255}, []byte(nil), int64(1)<<60, true)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var id name
	var client string
	var version uint8
	var body, hash, sealed []byte
	var created int64
	var ended, none bool
	if err := s.Read().QueryRowContext(context.Background(), `SELECT id, client, version, body, code_hash, sealed, created, ended, EXISTS (SELECT 1 FROM grants WHERE id = ?2)
		FROM grants WHERE id = ?1`, name("a"), name("b")).Scan(&id, &client, &version, &body, &hash, &sealed, &created, &ended, &none); err != nil {
		t.Fatal(err)
	}
	if id != "a" || client != "ä'?" || version != 3 || len(body) != 0 || string(hash) != "\x00\x01\xff" || sealed != nil || created != 1<<60 || !ended || none {
		t.Errorf("got %q %q %d %x %x %x %d %t %t", id, client, version, body, hash, sealed, created, ended, none)
	}
	if err := s.Read().QueryRow("SELECT id FROM grants WHERE sealed IS NOT NULL").Scan(&id); err != sql.ErrNoRows {
		t.Errorf("no bytes are not NULL: %v", err)
	}
}
