// Package store is the one database of a Keyholder: a SQLite file, or a
// PostgreSQL database of which one process at a time is active. Either has one
// writer that commits many callers' changes with one fsync. The packages
// ledger, mailbox and facility keep their tables in it, so that a cut can end
// rights, queues and sessions in a single transaction.
//
// Both databases run the same SQL: placeholders are ?, times and numbers are
// BIGINT, a truth is 0 or 1, and ON CONFLICT DO UPDATE names its columns.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"sync"

	"github.com/pressly/goose/v3"

	"github.com/fds-keyholder/keyholder"
)

//go:embed schema/*/*.sql
var schema embed.FS

// Store is an open database. Its methods are safe for concurrent use.
type Store struct {
	read  *sql.DB
	write *sql.DB
	begin func(context.Context, *sql.TxOptions) (*sql.Tx, error) // of the writing connection
	lease *lease                                                 // nil for SQLite
	log   *copier                                                // nil for PostgreSQL
	queue chan *change
	done  chan struct{} // closed when the writer has stopped

	mu     sync.RWMutex // guards closed and, shared, every send to queue
	closed bool
}

// Open opens the SQLite file, creating it with mode 0600 if it is not there,
// applies pending migrations and starts the writer.
func Open(ctx context.Context, path string) (*Store, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	write, err := openPool(path, "&_pragma=wal_autocheckpoint(0)", 1)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, write, goose.DialectSQLite3, "schema/sqlite"); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	read, err := openPool(path, "&_pragma=query_only(1)", 4)
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	log, err := newCopier(path)
	if err != nil {
		return nil, errors.Join(err, read.Close(), write.Close())
	}
	s := &Store{read: read, write: write, begin: write.BeginTx, log: log}
	s.start()
	return s, nil
}

func (s *Store) start() {
	s.queue, s.done = make(chan *change, maxBatch), make(chan struct{})
	go s.writer()
}

// openPool opens the file with the settings that "acknowledged means durable"
// rests on: WAL with synchronous=FULL syncs the log at every commit.
func openPool(path, extra string, conns int) (*sql.DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=cache_size(-65536)" + extra
	c, err := newPreparing(dsn)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect, folder string) error {
	files, err := fs.Sub(schema, folder)
	if err != nil {
		return fmt.Errorf("read the schema: %w", err)
	}
	p, err := goose.NewProvider(dialect, db, files)
	if err != nil {
		return fmt.Errorf("read the schema: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	return nil
}

// Read returns the pool for queries. It refuses statements that write.
func (s *Store) Read() *sql.DB { return s.read }

// Lost returns a channel that is closed when the right to write is lost, which
// can only happen to PostgreSQL: then nothing that was read of the database
// before may be relied upon any longer, and every write fails with an error of
// code Unavailable. All that is left to do is Close.
func (s *Store) Lost() <-chan struct{} {
	if s.lease == nil {
		return nil
	}
	return s.lease.lost
}

// Close stops the writer after the changes already accepted are durable, and
// closes the database. Later writes fail with an error of code Unavailable.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.queue)
	s.mu.Unlock()
	<-s.done
	errs := []error{s.read.Close()}
	if s.lease != nil {
		errs = append(errs, s.lease.close())
	}
	if s.log != nil {
		errs = append(errs, s.log.close())
	}
	return errors.Join(append(errs, s.write.Close())...)
}

var errClosed = keyholder.Errorf(keyholder.Unavailable, "the server is stopping")
