package store_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// Ensure that what holds of a store on SQLite holds on PostgreSQL.
func TestOnPostgres(t *testing.T) { storetest.RunOnPostgres(t, "^Test") }

func open(t *testing.T) (*store.Store, storetest.Database) {
	t.Helper()
	d := storetest.New(t)
	s, err := d.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, d
}

func addOwner(key string) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		_, err := tx.Exec("INSERT INTO owners (id, key, name, created) VALUES (?, ?, ?, 1)", key, key, key)
		return err
	}
}

func countOwners(t *testing.T, s *store.Store) int {
	t.Helper()
	var n int
	if err := s.Read().QueryRow("SELECT count(*) FROM owners").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Ensure that concurrent writers all succeed, and that one that fails or
// panics takes nothing of the others with it.
func TestWriteIsolatesCallers(t *testing.T) {
	s, _ := open(t)
	boom := errors.New("boom")
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			key := "owner-" + string(rune('a'+i%26)) + string(rune('a'+i/26))
			err := s.Write(t.Context(), func(tx *store.Tx) error {
				if err := addOwner(key)(tx); err != nil {
					return err
				}
				switch i % 3 {
				case 1:
					return boom
				case 2:
					panic("boom")
				}
				return nil
			})
			switch {
			case i%3 == 0 && err != nil:
				t.Errorf("write %d: %v", i, err)
			case i%3 == 1 && !errors.Is(err, boom):
				t.Errorf("write %d: got %v, want its own error", i, err)
			case i%3 == 2 && err == nil:
				t.Errorf("write %d: a panic was called success", i)
			}
		})
	}
	wg.Wait()
	if got := countOwners(t, s); got != 100 {
		t.Errorf("got %d owners, want 100", got)
	}
}

// Ensure that After runs before the caller is answered, and never for a
// change that failed.
func TestAfterRunsOnlyOnSuccess(t *testing.T) {
	s, _ := open(t)
	ran := 0
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		tx.After(func() { ran++ })
		return addOwner("one")(tx)
	})
	if err != nil || ran != 1 {
		t.Fatalf("err %v, ran %d; want nil and 1", err, ran)
	}
	err = s.Write(t.Context(), func(tx *store.Tx) error {
		tx.After(func() { ran++ })
		return addOwner("one")(tx) // the key is unique
	})
	if err == nil || ran != 1 {
		t.Fatalf("err %v, ran %d; want an error and still 1", err, ran)
	}
}

// Ensure that what was acknowledged is there after reopening, and that a
// closed store says it is unavailable.
func TestReopen(t *testing.T) {
	s, d := open(t)
	if err := s.Write(t.Context(), addOwner("one")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), addOwner("two")); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("write after close: got %v, want unavailable", err)
	}
	again, err := d.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := countOwners(t, again); got != 1 {
		t.Errorf("got %d owners after reopening, want 1", got)
	}
}

// Ensure that the file is private.
func TestFileMode(t *testing.T) {
	storetest.SQLiteOnly(t, "a PostgreSQL database is no file of ours")
	_, d := open(t)
	info, err := os.Stat(d.String())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, err %v; want 0600", info.Mode(), err)
	}
}

// Ensure that under writes without a pause the log is copied into the database
// and begins anew: neither grows beyond what it holds.
func TestLogStaysShort(t *testing.T) {
	storetest.SQLiteOnly(t, "PostgreSQL keeps its own log")
	s, d := open(t)
	page := strings.Repeat("x", 64<<10)
	const writes = 1600 // of 16 pages each: 100 MiB
	for i := range writes {
		if err := s.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec("INSERT INTO owners (id, key, name, created) VALUES ('one', 'one', ?1, ?2) ON CONFLICT (id) DO UPDATE SET name = ?1, created = ?2", page, i)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(d.String() + "-wal")
	if err != nil || info.Size() > 60<<20 {
		t.Errorf("the log has %d MiB, err %v", info.Size()>>20, err)
	}
}

// Ensure that a canceled caller that was not accepted changed nothing.
func TestWriteCanceled(t *testing.T) {
	s, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Write(ctx, addOwner("one"))
	if n := countOwners(t, s); (err == nil) != (n == 1) {
		t.Errorf("err %v with %d owners: the answer is not the truth", err, n)
	}
}

// Ensure that readers cannot write.
func TestReadRefusesWrites(t *testing.T) {
	s, _ := open(t)
	if _, err := s.Read().Exec("DELETE FROM owners"); err == nil {
		t.Error("the read pool took a write")
	}
}
