package ledger

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// BeginRecovery draws a code with which a user sets a new password, in place
// of an earlier one. It is good once and for [keyholder.RecoveryLife], is not
// kept and cannot be shown again. Errors: NotFound, Conflict if the user is
// disabled.
func (l *Ledger) BeginRecovery(ctx context.Context, actor string, user keyholder.UserID) (code string, expires time.Time, err error) {
	if code, err = l.drawCode(); err != nil {
		return "", time.Time{}, err
	}
	hash := recoveryHash(user, code)
	err = l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		u := l.User(user)
		expires = l.Now().Add(keyholder.RecoveryLife)
		switch {
		case u.ID == "":
			return keyholder.Errorf(keyholder.NotFound, "no such user")
		case !keyholder.PermitRecovery(u, expires, l.Now()).Allowed:
			return keyholder.Errorf(keyholder.Conflict, "the user is disabled").WithHint("`keyholder user enable` lets them sign in again")
		}
		if _, err := tx.Exec(`INSERT INTO recoveries (user_id, hash, expires) VALUES (?, ?, ?)
ON CONFLICT (user_id) DO UPDATE SET hash = excluded.hash, expires = excluded.expires`, user, hash[:], micros(expires)); err != nil {
			return fmt.Errorf("add a recovery: %w", err)
		}
		return l.appendSignIn(tx, keyholder.EventRecoveryBegun, actor, user, nil)
	})
	if err != nil {
		return "", time.Time{}, err
	}
	return code, expires, nil
}

// Recover sets the password of a user who has a code of the administrator. It
// ends the code, every sign-in of the user, and what was known of their
// browsers but for this one; second factors stay. An unknown login is answered
// as a wrong code. Errors: Invalid, Denied; Unavailable while wrong codes are
// not looked at (see [LockedUntil]): a right one always is, because it cannot
// be guessed, so that strangers keep nobody from recovery.
func (l *Ledger) Recover(ctx context.Context, browser Digest, login, code, password string) error {
	hash, err := l.newPassword(ctx, password)
	if err != nil {
		return err
	}
	gate := recoveryGateOf(login)
	var refused error
	err = l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		refused = nil
		u := l.UserByLogin(login)
		right, err := l.rightRecovery(ctx, tx, u, code)
		if err != nil {
			return err
		}
		if !right {
			if err := l.enter(ctx, tx, gate); err != nil {
				return err
			}
			refused = keyholder.Errorf(keyholder.Denied, "the login or the code is wrong, or the code has ended")
			return l.appendSignIn(tx, keyholder.EventSignInFailed, "user", u.ID,
				detail{"factor": string(keyholder.FactorPassword), "reason": "wrong code of the administrator"})
		}
		if err := errors.Join(l.setPassword(tx, &u, hash), forgetBrowsers(tx, u.ID), l.knowBrowser(tx, browser, u.ID), l.reopen(tx, gate)); err != nil {
			return err
		}
		tx.After(func() { l.view.set(func() { l.view.users[u.ID] = u }) })
		return l.appendSignIn(tx, keyholder.EventUserRecovered, string(u.ID), u.ID, nil)
	})
	return errors.Join(err, refused)
}

// rightRecovery says whether a code sets the password of a user, the zero one
// if the login is unknown.
func (l *Ledger) rightRecovery(ctx context.Context, tx *store.Tx, u keyholder.User, code string) (bool, error) {
	hash := recoveryHash(u.ID, code)
	var right bool
	err := eachRow(ctx, tx, "SELECT hash, expires FROM recoveries WHERE user_id = ?", func(scan scanner) error {
		var kept []byte
		var expires int64
		err := scan(&kept, &expires)
		right = subtle.ConstantTimeCompare(kept, hash[:]) == 1 && keyholder.PermitRecovery(u, fromMicros(expires), l.Now()).Allowed
		return err
	}, u.ID)
	return right, err
}

// endRecovery ends the code of a user, if there is one.
func endRecovery(tx *store.Tx, user keyholder.UserID) error {
	if _, err := tx.Exec("DELETE FROM recoveries WHERE user_id = ?", user); err != nil {
		return fmt.Errorf("end a recovery: %w", err)
	}
	return nil
}
