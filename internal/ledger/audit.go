package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// detail is the free part of an audit row: identifiers and reasons.
type detail = map[string]string

// Record appends one audit row, durably.
func (l *Ledger) Record(ctx context.Context, kind keyholder.EventKind, actor, subject string, detail map[string]string) error {
	return l.store.Write(ctx, func(tx *store.Tx) error { return l.Append(tx, kind, actor, subject, detail) })
}

// Append appends one audit row in the transaction of the decision it records,
// and hands it to the feed when the transaction is durable. Each row's hash
// covers the row and the hash before it.
func (l *Ledger) Append(tx *store.Tx, kind keyholder.EventKind, actor, subject string, detail map[string]string) error {
	var seq int64
	var previous []byte
	err := tx.QueryRow("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").Scan(&seq, &previous)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read the end of the audit trail: %w", err)
	}
	e := keyholder.Event{Seq: seq + 1, At: l.Now(), Kind: kind, Actor: actor, Subject: subject, Detail: detail}
	text, err := detailText(detail)
	if err != nil {
		return err
	}
	hash := auditHash(previous, e, text)
	if _, err := tx.Exec("INSERT INTO audit (seq, at, kind, actor, subject, detail, hash) VALUES (?, ?, ?, ?, ?, ?, ?)",
		e.Seq, micros(e.At), e.Kind, e.Actor, e.Subject, text, hash); err != nil {
		return fmt.Errorf("append to the audit trail: %w", err)
	}
	tx.After(func() { l.feed.push(e) })
	return nil
}

// detailText is the stored form of a detail: JSON with sorted keys.
func detailText(d detail) (string, error) {
	if d == nil {
		return "{}", nil
	}
	b, err := json.Marshal(d)
	if err != nil {
		return "", fmt.Errorf("write an audit detail: %w", err)
	}
	return string(b), nil
}

// auditHash is SHA-256 over the previous hash and the fields, each with its
// length before it so that no two rows share an encoding.
func auditHash(previous []byte, e keyholder.Event, detail string) []byte {
	h := sha256.New()
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	number := func(i int64) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(i))
		field(n[:])
	}
	field(previous)
	number(e.Seq)
	number(micros(e.At))
	field([]byte(e.Kind))
	field([]byte(e.Actor))
	field([]byte(e.Subject))
	field([]byte(detail))
	return h.Sum(nil)
}

// VerifyAudit follows the chain from the first row and returns how many rows
// it holds. A row that was changed, removed, inserted or reordered is an
// error of code Conflict that names it.
func (l *Ledger) VerifyAudit(ctx context.Context) (int64, error) {
	var rows int64
	var previous []byte
	err := l.each(ctx, "SELECT seq, at, kind, actor, subject, detail, hash FROM audit ORDER BY seq", func(scan scanner) error {
		e, text, hash, err := scanAudit(scan)
		if err != nil {
			return err
		}
		rows++
		if e.Seq != rows || !bytes.Equal(hash, auditHash(previous, e, text)) {
			return keyholder.Errorf(keyholder.Conflict, "the audit trail is broken at row %d", rows)
		}
		previous = hash
		return nil
	})
	return rows, err
}

// Audit returns up to limit rows after the given sequence number, in order.
func (l *Ledger) Audit(ctx context.Context, after int64, limit int) ([]keyholder.Event, error) {
	return l.events(ctx, "SELECT seq, at, kind, actor, subject, detail, hash FROM audit WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
}

// events reads audit rows with their details.
func (l *Ledger) events(ctx context.Context, query string, args ...any) ([]keyholder.Event, error) {
	events := []keyholder.Event{}
	err := l.each(ctx, query, func(scan scanner) error {
		e, text, _, err := scanAudit(scan)
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(text), &e.Detail); err != nil {
			return fmt.Errorf("read an audit detail: %w", err)
		}
		events = append(events, e)
		return nil
	}, args...)
	return events, err
}

func scanAudit(scan scanner) (keyholder.Event, string, []byte, error) {
	var e keyholder.Event
	var at int64
	var text string
	var hash []byte
	err := scan(&e.Seq, &at, &e.Kind, &e.Actor, &e.Subject, &text, &hash)
	e.At = fromMicros(at)
	return e, text, hash, err
}
