package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/fds-keyholder/keyholder"
)

// readers bounds the connections that queries share.
const readers = 8

// ErrLost is what a write is answered when the right to write is lost.
var ErrLost = keyholder.Errorf(keyholder.Unavailable, "the connection to the database was lost").
	WithHint("see that PostgreSQL runs and can be reached")

// OpenPostgres opens a PostgreSQL database (14 or later), applies pending
// migrations and starts the writer. While another process is active on the
// database it waits, as a standby, for that to end. dsn is a connection string
// of libpq; it may hold a password, so no error and no line of the log repeats
// it. Errors: Invalid for a DSN or a server that cannot be relied on,
// Unavailable if the server cannot be reached or is lost meanwhile.
func OpenPostgres(ctx context.Context, dsn string, log *slog.Logger) (*Store, error) {
	config, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	s := &Store{lease: newLease()}
	s.write = openWriter(config, s.lease)
	s.write.SetMaxOpenConns(1)
	s.read = openReaders(config)
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	if err := s.openPostgres(ctx, config, log); err != nil {
		return nil, errors.Join(err, s.read.Close(), s.lease.close(), s.write.Close())
	}
	s.begin = s.lease.conn.BeginTx
	s.start()
	return s, nil
}

func (s *Store) openPostgres(ctx context.Context, config *pgx.ConnConfig, log *slog.Logger) error {
	if err := s.lease.acquire(ctx, s.write, log); err != nil {
		return err
	}
	var fsync string
	if err := s.read.QueryRowContext(ctx, "SHOW fsync").Scan(&fsync); err != nil {
		return unreachable(err)
	}
	if fsync != "on" {
		return keyholder.Errorf(keyholder.Invalid, "the PostgreSQL server runs with fsync off, so nothing it acknowledges is durable").
			WithHint("set fsync = on in postgresql.conf")
	}
	// The files of the schema are PostgreSQL's own SQL.
	db := stdlib.OpenDB(*config)
	if err := migrate(ctx, db, goose.DialectPostgres, "schema/postgres"); err != nil {
		return errors.Join(err, db.Close())
	}
	return db.Close()
}

// InitPostgres puts the schema into an empty PostgreSQL database. Errors:
// Conflict if it holds a table, else as OpenPostgres.
func InitPostgres(ctx context.Context, dsn string) error {
	config, err := parseDSN(dsn)
	if err != nil {
		return err
	}
	db := openReaders(config)
	defer db.Close()
	var tables int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema()").Scan(&tables); err != nil {
		return unreachable(err)
	}
	if tables > 0 {
		return keyholder.Errorf(keyholder.Conflict, "the database is not empty").
			WithHint("give an empty one; for a standby copy the data folder of the server that is there, docs/operate.md says how")
	}
	s, err := OpenPostgres(ctx, dsn, slog.Default())
	if err != nil {
		return err
	}
	return s.Close()
}

// parseDSN reads a DSN and adds what every connection needs.
func parseDSN(dsn string) (*pgx.ConnConfig, error) {
	if strings.TrimSpace(dsn) == "" {
		return nil, keyholder.Errorf(keyholder.Invalid, "the DSN of the database is empty")
	}
	config, err := pgx.ParseConfig(strings.TrimSpace(dsn))
	if err != nil { // its text holds parts of the DSN
		return nil, keyholder.Errorf(keyholder.Invalid, "the DSN of the database cannot be read").
			WithHint("for example postgres://keyholder:PASSWORD@db.example:5432/keyholder?sslmode=verify-full")
	}
	ends := append([]*pgconn.FallbackConfig{{Host: config.Host, TLSConfig: config.TLSConfig}}, config.Fallbacks...)
	for _, end := range ends {
		if end.TLSConfig == nil && !isLocal(end.Host) {
			return nil, keyholder.Errorf(keyholder.Invalid, "the DSN of the database allows a connection over the network without TLS").
				WithHint("add sslmode=verify-full, and sslrootcert=FILE for an authority of your own")
		}
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	if config.ValidateConnect == nil { // a replica does not know what is in force
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	return config, nil
}

// isLocal says whether a host is a Unix socket or this machine.
func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return strings.HasPrefix(host, "/") || host == "localhost" || ip != nil && ip.IsLoopback()
}

// openWriter prepares the pool of the writing session: every commit waits for
// the disk, a statement that waits for others gives up, and a session whose
// process is frozen or cut off is ended by the server within leaseTerm.
func openWriter(config *pgx.ConnConfig, l *lease) *sql.DB {
	c := config.Copy()
	term := fmt.Sprint(leaseTerm.Milliseconds())
	maps.Copy(c.RuntimeParams, map[string]string{
		"synchronous_commit":                  "on",
		"statement_timeout":                   fmt.Sprint((leaseTerm * 2 / 3).Milliseconds()),
		"idle_session_timeout":                term,
		"idle_in_transaction_session_timeout": term,
		"tcp_user_timeout":                    term,
		"tcp_keepalives_idle":                 "2",
		"tcp_keepalives_interval":             "1",
		"tcp_keepalives_count":                "4",
	})
	c.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, wire net.Conn) (net.Conn, error) {
		l.wire.Store(&wire)
		return wire, nil
	}
	return sql.OpenDB(connector{stdlib.GetConnector(*c), l.answered})
}

// openReaders prepares the pool for queries. It is made to refuse writes only
// after the connection is known to be to the primary, which some ways of
// telling take for the opposite.
func openReaders(config *pgx.ConnConfig) *sql.DB {
	readOnly := stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SET default_transaction_read_only = on")
		return err
	})
	return sql.OpenDB(connector{stdlib.GetConnector(*config, readOnly), nil})
}

// unreachable says that the server did not answer. pgx puts user and database
// into its message, but not into the cause of it.
func unreachable(err error) error {
	if c := (*pgconn.ConnectError)(nil); errors.As(err, &c) {
		err = c.Unwrap()
	}
	return &keyholder.Error{Code: keyholder.Unavailable, Detail: "the PostgreSQL server cannot be used",
		Hint: "see that it runs and can be reached, and that the DSN names the right host, database, user and password", Err: err}
}
