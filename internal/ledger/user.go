package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// ResetUser gives a user a new password and takes away all second factors,
// for somebody who has lost them. Every sign-in of the user ends. Errors:
// Invalid, NotFound.
func (l *Ledger) ResetUser(ctx context.Context, actor string, user keyholder.UserID, password string) (keyholder.User, error) {
	hash, err := l.newPassword(ctx, password)
	if err != nil {
		return keyholder.User{}, err
	}
	return l.changeUser(ctx, user, func(tx *store.Tx, u *keyholder.User) error {
		set, err := factors(ctx, tx, user)
		if err != nil {
			return err
		}
		if err := errors.Join(dropFactors(tx, user), forgetBrowsers(tx, user)); err != nil {
			return err
		}
		if err := l.setPassword(tx, u, hash); err != nil {
			return err
		}
		return l.appendSignIn(tx, keyholder.EventUserReset, actor, user,
			detail{"totp": strconv.FormatBool(!set.TOTP.IsZero()), "passkeys": strconv.Itoa(set.Passkeys)})
	})
}

// ChangePassword replaces a user's password by one they chose, after asking
// for the present one. Every earlier sign-in of the user ends. Errors:
// Invalid, Denied if the present password is wrong, Unavailable with a hint
// while the user has to wait.
func (l *Ledger) ChangePassword(ctx context.Context, browser Digest, user keyholder.UserID, present, next string) (keyholder.User, error) {
	hash, err := l.newPassword(ctx, next)
	if err != nil {
		return keyholder.User{}, err
	}
	if _, err := l.CheckPassword(ctx, browser, l.User(user).Login, present); err != nil {
		return keyholder.User{}, err
	}
	return l.changeUser(ctx, user, func(tx *store.Tx, u *keyholder.User) error {
		if err := l.setPassword(tx, u, hash); err != nil {
			return err
		}
		return l.appendSignIn(tx, keyholder.EventPasswordChanged, string(user), user, nil)
	})
}

// DisableUser keeps a user from signing in, and ends their sign-ins. What they
// have shared goes on. Errors: NotFound.
func (l *Ledger) DisableUser(ctx context.Context, actor string, user keyholder.UserID) (keyholder.User, error) {
	return l.setDisabled(ctx, actor, user, keyholder.EventUserDisabled, l.Now())
}

// EnableUser undoes DisableUser. Errors: NotFound.
func (l *Ledger) EnableUser(ctx context.Context, actor string, user keyholder.UserID) (keyholder.User, error) {
	return l.setDisabled(ctx, actor, user, keyholder.EventUserEnabled, time.Time{})
}

func (l *Ledger) setDisabled(ctx context.Context, actor string, user keyholder.UserID, kind keyholder.EventKind, at time.Time) (keyholder.User, error) {
	return l.changeUser(ctx, user, func(tx *store.Tx, u *keyholder.User) error {
		u.Disabled = at
		if _, err := tx.Exec("UPDATE users SET disabled = ? WHERE id = ?", micros(at), user); err != nil {
			return fmt.Errorf("disable or enable a user: %w", err)
		}
		if err := endRecovery(tx, user); err != nil {
			return err
		}
		return l.appendSignIn(tx, kind, actor, user, nil)
	})
}

// changeUser runs a change of a user and brings the view up to date with it.
func (l *Ledger) changeUser(ctx context.Context, user keyholder.UserID, change func(*store.Tx, *keyholder.User) error) (keyholder.User, error) {
	var u keyholder.User
	err := l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if u = l.User(user); u.ID == "" {
			return keyholder.Errorf(keyholder.NotFound, "no such user")
		}
		if err := change(tx, &u); err != nil {
			return err
		}
		changed := u
		tx.After(func() { l.view.set(func() { l.view.users[changed.ID] = changed }) })
		return nil
	})
	return u, err
}

// setPassword stores a hashed password. A code for a new one ends with it.
func (l *Ledger) setPassword(tx *store.Tx, u *keyholder.User, hash string) error {
	u.Renewed = l.Now()
	if _, err := tx.Exec("UPDATE users SET password = ?, renewed = ? WHERE id = ?", hash, micros(u.Renewed), u.ID); err != nil {
		return fmt.Errorf("set a password: %w", err)
	}
	return endRecovery(tx, u.ID)
}
