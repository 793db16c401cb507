package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// maxSessions bounds the sessions kept at a time, because anybody can begin
// one. Each is small and goes after some minutes.
const maxSessions = 20_000

// sweepRows bounds how many expired rows one insert takes away: more than it
// adds, so that the tables shrink after a flood.
const sweepRows = 16

// Session is a sign-in and consent in progress at the authorization server.
type Session struct {
	ID      Digest // of the ID in the browser's address
	Client  string // ID of the app that asked, or what else it is for
	Version int64  // of the stored row; 0 for a session not yet stored
	Body    []byte // the authorization server's record, without the ID
	Pending bool   // false once finished: then it never changes again
	Expires time.Time
}

// SaveSession stores a session: a new one if its version is 0, else by
// compare-and-swap while it is still pending. Errors: Conflict if it was
// changed or finished meanwhile, Unavailable if too many are open.
func (l *Ledger) SaveSession(ctx context.Context, s Session) error {
	return l.store.Write(ctx, func(tx *store.Tx) error {
		if s.Version == 0 {
			return l.insertSession(tx, s)
		}
		result, err := tx.Exec("UPDATE sessions SET version = version + 1, body = ?, pending = ? WHERE id = ? AND version = ? AND pending = 1",
			s.Body, s.Pending, s.ID[:], s.Version)
		if err != nil {
			return fmt.Errorf("save a session: %w", err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return keyholder.Errorf(keyholder.Conflict, "the session was changed or finished meanwhile")
	})
}

func (l *Ledger) insertSession(tx *store.Tx, s Session) error {
	if err := sweep(tx, "sessions", "id", l.Now()); err != nil {
		return err
	}
	var open int
	if err := tx.QueryRow("SELECT count(*) FROM sessions").Scan(&open); err != nil {
		return fmt.Errorf("count sessions: %w", err)
	}
	if open >= maxSessions {
		return keyholder.Errorf(keyholder.Unavailable, "too many sign-ins are open").WithHint("try again in some minutes")
	}
	// The account page keeps the ID of a session that has expired.
	result, err := tx.Exec(`INSERT INTO sessions (id, client, version, body, pending, expires) VALUES (?, ?, 1, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET client = excluded.client, version = 1, body = excluded.body, pending = excluded.pending, expires = excluded.expires
WHERE sessions.expires <= ?`, s.ID[:], s.Client, s.Body, s.Pending, micros(s.Expires), micros(l.Now()))
	if err != nil {
		return fmt.Errorf("add a session: %w", err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return keyholder.Errorf(keyholder.Conflict, "there is such a session")
}

// sweep takes some expired rows out of a table with a column expires.
func sweep(tx *store.Tx, table, key string, now time.Time) error {
	if _, err := tx.Exec("DELETE FROM "+table+" WHERE "+key+" IN (SELECT "+key+" FROM "+table+" WHERE expires <= ? ORDER BY expires LIMIT ?)",
		micros(now), sweepRows); err != nil {
		return fmt.Errorf("sweep %s: %w", table, err)
	}
	return nil
}

// PendingSession returns a session that is neither finished nor expired.
// Errors: NotFound; any other means that the database did not answer.
func (l *Ledger) PendingSession(ctx context.Context, id Digest) (Session, error) {
	s := Session{ID: id, Pending: true}
	var expires int64
	err := l.store.Read().QueryRowContext(ctx, "SELECT client, version, body, expires FROM sessions WHERE id = ? AND pending = 1 AND expires > ?",
		id[:], micros(l.Now())).Scan(&s.Client, &s.Version, &s.Body, &expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Session{}, keyholder.Errorf(keyholder.NotFound, "no such session")
	case err != nil:
		return Session{}, fmt.Errorf("read a session: %w", err)
	}
	s.Expires = fromMicros(expires)
	return s, nil
}

// ForgetSessions removes the pending sessions of a client and returns how
// many there were.
func (l *Ledger) ForgetSessions(ctx context.Context, client string) (int, error) {
	var n int64
	err := l.store.Write(ctx, func(tx *store.Tx) error {
		result, err := tx.Exec("DELETE FROM sessions WHERE client = ? AND pending = 1", client)
		if err != nil {
			return fmt.Errorf("forget sessions: %w", err)
		}
		n, err = result.RowsAffected()
		return err
	})
	return int(n), err
}

// ConsumeJTI records the identifier of a client assertion or proof (RFC 7519
// 4.1.7) until expires. Errors: Conflict if it was used before.
func (l *Ledger) ConsumeJTI(ctx context.Context, jti Digest, expires time.Time) error {
	return l.store.Write(ctx, func(tx *store.Tx) error {
		if err := sweep(tx, "jtis", "hash", l.Now()); err != nil {
			return err
		}
		result, err := tx.Exec("INSERT INTO jtis (hash, expires) VALUES (?, ?) ON CONFLICT DO NOTHING", jti[:], micros(expires))
		if err != nil {
			return fmt.Errorf("record a jti: %w", err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return keyholder.Errorf(keyholder.Conflict, "the identifier was used before")
	})
}
