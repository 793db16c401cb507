package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"modernc.org/sqlite"
)

// maxStatements bounds how many statements a connection keeps. The texts are
// those in the code, which are fewer.
const maxStatements = 256

// preparing opens SQLite connections that keep their statements: to parse one
// costs as much as to run it. (The driver of PostgreSQL does so by itself.)
type preparing struct{ driver.Connector }

// newPreparing returns what opens them.
func newPreparing(dsn string) (driver.Connector, error) {
	c, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return preparing{c}, nil
}

func (p preparing) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := p.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	k := &keeping{Conn: conn, statements: map[string]*kept{}}
	var ok [4]bool
	k.ConnPrepareContext, ok[0] = conn.(driver.ConnPrepareContext)
	k.Pinger, ok[1] = conn.(driver.Pinger)
	k.SessionResetter, ok[2] = conn.(driver.SessionResetter)
	k.Validator, ok[3] = conn.(driver.Validator)
	if ok != [4]bool{true, true, true, true} {
		return nil, errors.Join(fmt.Errorf("the driver of SQLite is not what it was: %T", conn), conn.Close())
	}
	return k, nil
}

// keeping is a SQLite connection with its statements. Like every connection it
// is used by one goroutine at a time.
type keeping struct {
	driver.Conn
	driver.ConnPrepareContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
	statements map[string]*kept
}

// kept is a statement that is kept.
type kept struct {
	driver.Stmt
	busy bool // rows of it are being read
}

// BeginTx implements [driver.ConnBeginTx]. Only the writer begins
// transactions, so it takes the lock that it needs at once.
func (k *keeping) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	if _, err := k.ExecContext(ctx, "BEGIN IMMEDIATE", nil); err != nil {
		return nil, err
	}
	return transaction{k}, nil
}

// transaction is ended by kept statements like the others.
type transaction struct{ conn *keeping }

// Commit implements [driver.Tx]. What cannot be committed is rolled back, so
// that the connection can be used again.
func (t transaction) Commit() error {
	_, err := t.conn.ExecContext(context.Background(), "COMMIT", nil)
	if err != nil {
		_ = t.Rollback() // where SQLite has done so itself there is nothing to roll back
	}
	return err
}

// Rollback implements [driver.Tx].
func (t transaction) Rollback() error {
	_, err := t.conn.ExecContext(context.Background(), "ROLLBACK", nil)
	return err
}

// ExecContext implements [driver.ExecerContext].
func (k *keeping) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := k.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return k.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
	}
	return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

// QueryContext implements [driver.QueryerContext].
func (k *keeping) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := k.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return k.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
	}
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return nil, err
	}
	s.busy = true
	return &reading{Rows: rows, statement: s}, nil
}

// statement returns the kept statement of a text, or nil if it is not to be
// kept: a script, one too many, or one of which rows are being read already.
func (k *keeping) statement(ctx context.Context, query string) (*kept, error) {
	if s := k.statements[query]; s != nil {
		if s.busy {
			return nil, nil
		}
		return s, nil
	}
	if len(k.statements) >= maxStatements || strings.Contains(query, ";") {
		return nil, nil
	}
	prepared, err := k.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s := &kept{Stmt: prepared}
	k.statements[query] = s
	return s, nil
}

// Close ends the statements and the connection.
func (k *keeping) Close() error {
	var errs []error
	for _, s := range k.statements {
		errs = append(errs, s.Close())
	}
	clear(k.statements)
	return errors.Join(append(errs, k.Conn.Close())...)
}

// reading is the rows of a kept statement.
type reading struct {
	driver.Rows
	statement *kept
}

// Close gives the statement free.
func (r *reading) Close() error {
	err := r.Rows.Close()
	r.statement.busy = false
	return err
}
