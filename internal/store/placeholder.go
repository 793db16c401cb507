package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// numbered turns the placeholders of SQLite into those of PostgreSQL: ?N
// becomes $N, and ? the number after the highest one before it. What stands
// in quotes or in a comment is left as it is.
func numbered(query string) string {
	var out strings.Builder
	highest := 0
	for rest := query; ; {
		i := strings.IndexAny(rest, `?'"-/`)
		if i < 0 {
			out.WriteString(rest)
			return out.String()
		}
		out.WriteString(rest[:i])
		rest = rest[i:]
		if rest[0] != '?' {
			n := quoted(rest)
			out.WriteString(rest[:n])
			rest = rest[n:]
			continue
		}
		digits := 1
		for digits < len(rest) && '0' <= rest[digits] && rest[digits] <= '9' {
			digits++
		}
		n, err := strconv.Atoi(rest[1:digits])
		if err != nil {
			n = highest + 1
		}
		highest = max(highest, n)
		out.WriteString("$" + strconv.Itoa(n))
		rest = rest[digits:]
	}
}

// quoted returns the length of the literal, quoted name or comment that s
// begins with; 1 if it begins with none. One that does not end is the rest. A
// doubled quote inside a literal reads as two literals, which is the same.
func quoted(s string) int {
	closing := ""
	switch {
	case s[0] == '\'' || s[0] == '"':
		closing = s[:1]
	case strings.HasPrefix(s, "--"):
		closing = "\n"
	case strings.HasPrefix(s, "/*"):
		closing = "*/"
	default:
		return 1
	}
	open := min(len(closing), 2)
	if closing == "\n" {
		open = 2
	}
	end := strings.Index(s[open:], closing)
	if end < 0 {
		return len(s)
	}
	return open + end + len(closing)
}

// connector opens connections that take the SQL and the values of SQLite.
type connector struct {
	driver.Connector
	answered func(sent time.Time) // is told of every answer of the server; may be nil
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &session{Conn: conn.(*stdlib.Conn), answered: c.answered}, nil
}

// session is a connection of pgx under the SQL and the values of SQLite.
type session struct {
	*stdlib.Conn
	answered func(sent time.Time)
}

// CheckNamedValue gives every value the form that SQLite gets: named strings
// are text, and a truth is 0 or 1, because no column is a BOOLEAN.
func (s *session) CheckNamedValue(v *driver.NamedValue) error {
	value, err := driver.DefaultParameterConverter.ConvertValue(v.Value)
	if err != nil {
		return err
	}
	if truth, ok := value.(bool); ok {
		value = int64(0)
		if truth {
			value = int64(1)
		}
	}
	v.Value = value
	return nil
}

func (s *session) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	sent := time.Now()
	result, err := s.Conn.ExecContext(ctx, numbered(query), args)
	s.heard(sent, err)
	return result, err
}

func (s *session) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	sent := time.Now()
	rows, err := s.Conn.QueryContext(ctx, numbered(query), args)
	s.heard(sent, err)
	return rows, err
}

// PrepareContext asks the server nothing: pgx prepares every statement at its
// first use and keeps it for the connection.
func (s *session) PrepareContext(_ context.Context, query string) (driver.Stmt, error) {
	return &statement{session: s, query: query}, nil
}

// Prepare is PrepareContext.
func (s *session) Prepare(query string) (driver.Stmt, error) {
	return s.PrepareContext(context.Background(), query)
}

// heard notes that the server has answered, also where its answer is a
// refusal.
func (s *session) heard(sent time.Time, err error) {
	if s.answered != nil && (err == nil || errors.As(err, new(*pgconn.PgError))) {
		s.answered(sent)
	}
}

// statement is a query to be run on its session.
type statement struct {
	session *session
	query   string
}

func (s *statement) Close() error  { return nil }
func (s *statement) NumInput() int { return -1 } // the server checks

func (s *statement) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.session.ExecContext(ctx, s.query, args)
}

func (s *statement) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.session.QueryContext(ctx, s.query, args)
}

// Exec and Query are required by driver.Stmt and never called where the
// methods with a context exist.
func (s *statement) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }
func (s *statement) Query([]driver.Value) (driver.Rows, error)  { return nil, driver.ErrSkip }
