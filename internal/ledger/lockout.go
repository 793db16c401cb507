package ledger

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// gate names what a lock-out keeps shut: the password of a login, whether it
// exists or not, in one known browser or in all others; the second factors of
// a user; or the codes of the administrator for a login.
type gate string

func passwordGateOf(login string) gate        { return gate("password\x00" + login) }
func factorGateOf(user keyholder.UserID) gate { return gate("factor\x00" + string(user)) }
func recoveryGateOf(login string) gate        { return gate("recovery\x00" + login) }

func browserGateOf(login string, browser Digest) gate {
	return passwordGateOf(login) + gate("\x00"+string(browser[:]))
}

func (l *Ledger) gateKey(g gate) []byte {
	mac := hmac.New(sha256.New, l.factorKey)
	mac.Write([]byte("lockout\x00" + string(g)))
	return mac.Sum(nil)
}

// enter counts an attempt as failed before it is looked at, so that neither a
// crash nor many attempts at once give one more; reopen takes that back after
// a right one. Errors: Unavailable with [LockedUntil] while the gate is shut.
func (l *Ledger) enter(ctx context.Context, tx *store.Tx, g gate) error {
	key, now := l.gateKey(g), l.Now()
	if _, err := tx.Exec("DELETE FROM lockouts WHERE forget <= ?", micros(now)); err != nil {
		return fmt.Errorf("forget failed sign-ins: %w", err)
	}
	var failures int
	var until time.Time
	err := eachRow(ctx, tx, "SELECT failures, until FROM lockouts WHERE gate = ?", func(scan scanner) error {
		var at int64
		err := scan(&failures, &at)
		until = fromMicros(at)
		return err
	}, key)
	if err != nil {
		return err
	}
	if now.Before(until) {
		return &lockedError{until, now}
	}
	failures++
	_, err = tx.Exec(`INSERT INTO lockouts (gate, failures, until, forget) VALUES (?, ?, ?, ?)
ON CONFLICT (gate) DO UPDATE SET failures = excluded.failures, until = excluded.until, forget = excluded.forget`,
		key, failures, micros(now.Add(keyholder.LockOut(failures))), micros(now.Add(keyholder.LockMemory)))
	if err != nil {
		return fmt.Errorf("count a sign-in: %w", err)
	}
	return nil
}

// reopen forgets the failures at a gate.
func (l *Ledger) reopen(tx *store.Tx, g gate) error {
	if _, err := tx.Exec("DELETE FROM lockouts WHERE gate = ?", l.gateKey(g)); err != nil {
		return fmt.Errorf("forget failed sign-ins: %w", err)
	}
	return nil
}

// UnlockUser ends the lock-outs of a user after failed sign-ins. Errors: NotFound.
func (l *Ledger) UnlockUser(ctx context.Context, actor string, user keyholder.UserID) (keyholder.User, error) {
	return l.changeUser(ctx, user, func(tx *store.Tx, u *keyholder.User) error {
		gates := []gate{passwordGateOf(u.Login), factorGateOf(user), recoveryGateOf(u.Login)}
		err := eachRow(ctx, tx, "SELECT browser FROM known_browsers WHERE user_id = ?", func(scan scanner) error {
			var browser []byte
			err := scan(&browser)
			gates = append(gates, browserGateOf(u.Login, Digest(browser)))
			return err
		}, user)
		if err != nil {
			return err
		}
		for _, g := range gates {
			if err := l.reopen(tx, g); err != nil {
				return err
			}
		}
		return l.appendSignIn(tx, keyholder.EventUserUnlocked, actor, user, nil)
	})
}

// lockedError is a sign-in that is not looked at because too many before it
// failed.
type lockedError struct{ until, now time.Time }

func (e *lockedError) Error() string {
	return "too many failed sign-ins; try again in " + e.until.Sub(e.now).Round(time.Second).String()
}

func (e *lockedError) Unwrap() error {
	return &keyholder.Error{Code: keyholder.Unavailable, Detail: "too many failed sign-ins"}
}

// LockedUntil returns when a sign-in that was not looked at may be tried
// again, or the zero time if err is another error.
func LockedUntil(err error) time.Time {
	var locked *lockedError
	if errors.As(err, &locked) {
		return locked.until
	}
	return time.Time{}
}
