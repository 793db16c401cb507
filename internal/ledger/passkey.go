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

// maxPasskeys bounds the passkeys of a user.
const maxPasskeys = 10

// Passkey is a WebAuthn credential of a user.
type Passkey struct {
	ID         []byte // chosen by the authenticator
	User       keyholder.UserID
	Name       string // given by the user
	PublicKey  []byte // COSE
	Synced     bool   // its maker copies it between the user's devices
	Transports []string
	SignCount  uint32
	Created    time.Time
	Used       time.Time
}

// Factor is what the passkey is to a sign-in.
func (p Passkey) Factor() keyholder.Factor {
	if p.Synced {
		return keyholder.FactorSyncedPasskey
	}
	return keyholder.FactorPasskey
}

// AddPasskey registers a passkey whose attestation has been verified. It
// returns the user's recovery codes if there were none. Errors: Invalid,
// Conflict if the credential is registered, to whomever, or there are too many.
func (l *Ledger) AddPasskey(ctx context.Context, p Passkey) ([]string, error) {
	if err := checkName("name of the passkey", p.Name); err != nil {
		return nil, err
	}
	transports, err := toJSON(p.Transports)
	if err != nil {
		return nil, err
	}
	var codes []string
	err = l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		set, err := factors(ctx, tx, p.User)
		if err != nil {
			return err
		}
		if set.Passkeys >= maxPasskeys {
			return keyholder.Errorf(keyholder.Conflict, "there are %d passkeys already", maxPasskeys).WithHint("remove one first")
		}
		result, err := tx.Exec(`INSERT INTO passkeys (id, user_id, name, public_key, synced, transports, sign_count, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING`, p.ID, p.User, p.Name, p.PublicKey, flag(p.Synced), transports, int64(p.SignCount), micros(l.Now()))
		if err != nil {
			return fmt.Errorf("add a passkey: %w", err)
		}
		if n, err := result.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return keyholder.Errorf(keyholder.Conflict, "the passkey is registered already")
		}
		if err := l.appendSignIn(tx, keyholder.EventFactorAdded, string(p.User), p.User, detail{"factor": string(p.Factor()), "name": p.Name}); err != nil {
			return err
		}
		codes, err = l.firstRecoveryCodes(ctx, tx, p.User)
		return err
	})
	return codes, err
}

// flag is the stored form of a yes or no.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// PasskeysOf returns the passkeys of a user, oldest first.
func (l *Ledger) PasskeysOf(ctx context.Context, user keyholder.UserID) ([]Passkey, error) {
	return l.passkeys(ctx, "user_id = ? ORDER BY created, id", user)
}

// Passkey returns the passkey of a credential ID. Errors: NotFound.
func (l *Ledger) Passkey(ctx context.Context, id []byte) (Passkey, error) {
	found, err := l.passkeys(ctx, "id = ?", id)
	if err != nil {
		return Passkey{}, err
	}
	if len(found) == 0 {
		return Passkey{}, keyholder.Errorf(keyholder.NotFound, "no such passkey")
	}
	return found[0], nil
}

func (l *Ledger) passkeys(ctx context.Context, condition string, arg any) ([]Passkey, error) {
	var out []Passkey
	err := l.each(ctx, "SELECT id, user_id, name, public_key, synced, transports, sign_count, created, used FROM passkeys WHERE "+condition, func(scan scanner) error {
		var p Passkey
		var transports string
		var synced, count, created, used int64
		if err := scan(&p.ID, &p.User, &p.Name, &p.PublicKey, &synced, &transports, &count, &created, &used); err != nil {
			return err
		}
		p.Synced, p.SignCount, p.Created, p.Used = synced != 0, uint32(count), fromMicros(created), fromMicros(used)
		var err error
		p.Transports, err = fromJSON[string](transports)
		out = append(out, p)
		return err
	}, arg)
	return out, err
}

// UsePasskey notes a use of a passkey whose signature has been verified, with
// the authenticator's count of signatures. Errors: Denied if the count did not
// grow, which means that a copy of the passkey, or of this answer, is about
// (WebAuthn 7.2, step 22); NotFound.
func (l *Ledger) UsePasskey(ctx context.Context, id []byte, count uint32) error {
	var refused error
	err := l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		var user keyholder.UserID
		var stored int64
		err := tx.QueryRow("SELECT user_id, sign_count FROM passkeys WHERE id = ?", id).Scan(&user, &stored)
		if errors.Is(err, sql.ErrNoRows) {
			return keyholder.Errorf(keyholder.NotFound, "no such passkey")
		}
		if err != nil {
			return fmt.Errorf("read a passkey: %w", err)
		}
		if int64(count) <= stored && (count != 0 || stored != 0) {
			refused = keyholder.Errorf(keyholder.Denied, "the passkey may have been copied")
			return l.appendSignIn(tx, keyholder.EventFactorCloned, "user", user, detail{"factor": string(keyholder.FactorPasskey)})
		}
		_, err = tx.Exec("UPDATE passkeys SET sign_count = ?, used = ? WHERE id = ?", int64(count), micros(l.Now()), id)
		return err
	})
	if err != nil {
		return err
	}
	return refused
}

// RemovePasskey removes a passkey of a user. Errors: NotFound.
func (l *Ledger) RemovePasskey(ctx context.Context, user keyholder.UserID, id []byte) error {
	return l.removeFactor(ctx, user, keyholder.FactorPasskey, "DELETE FROM passkeys WHERE id = ? AND user_id = ?", id, user)
}
