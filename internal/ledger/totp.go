package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base32"
	"errors"
	"fmt"
	"image/png"
	"io"
	"strings"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/pquerna/otp/totp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// Parameters of RFC 6238 that every authenticator app knows.
const (
	totpPeriod = 30 // seconds
	totpSkew   = 1  // steps that the clocks may be apart, either way
	totpImage  = 232
)

// FactorKeySize is the size of Config.FactorKey, in bytes.
const FactorKeySize = 32

// TOTPEnrolment is what a user's authenticator app has to be told: the secret,
// as text to type and as a picture to scan.
type TOTPEnrolment struct {
	Secret string // base32
	Image  []byte // QR code, PNG
}

// BeginTOTP draws a secret for a user's authenticator app, in place of one
// that was never confirmed. It counts for nothing before ConfirmTOTP. Errors:
// Conflict if an app is set up already.
func (l *Ledger) BeginTOTP(ctx context.Context, user keyholder.UserID) error {
	secret := make([]byte, 20) // RFC 4226 4, R6
	if _, err := io.ReadFull(l.random, secret); err != nil {
		return fmt.Errorf("draw a TOTP secret: %w", err)
	}
	sealed, err := l.seal(string(user), secret)
	if err != nil {
		return err
	}
	return l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		result, err := tx.Exec(`INSERT INTO totps (user_id, secret) VALUES (?, ?)
ON CONFLICT (user_id) DO UPDATE SET secret = excluded.secret WHERE totps.confirmed = 0`, user, sealed)
		if err != nil {
			return fmt.Errorf("add a TOTP secret: %w", err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return keyholder.Errorf(keyholder.Conflict, "an authenticator app is set up already").WithHint("remove it first")
	})
}

// PendingTOTP returns what BeginTOTP drew and nobody has confirmed yet. issuer
// is the name under which the app files the secret. Errors: NotFound.
func (l *Ledger) PendingTOTP(ctx context.Context, user keyholder.UserID, issuer string) (TOTPEnrolment, error) {
	row, err := l.readTOTP(ctx, l.store.Read(), user)
	if err != nil {
		return TOTPEnrolment{}, err
	}
	if row.secret == nil || row.confirmed {
		return TOTPEnrolment{}, keyholder.Errorf(keyholder.NotFound, "no authenticator app is being set up")
	}
	key, err := totp.Generate(totp.GenerateOpts{Issuer: issuer, AccountName: l.User(user).Login, Secret: row.secret})
	if err != nil {
		return TOTPEnrolment{}, fmt.Errorf("write a TOTP key: %w", err)
	}
	picture, err := key.Image(totpImage, totpImage)
	if err != nil {
		return TOTPEnrolment{}, fmt.Errorf("draw a QR code: %w", err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, picture); err != nil {
		return TOTPEnrolment{}, fmt.Errorf("draw a QR code: %w", err)
	}
	return TOTPEnrolment{Secret: key.Secret(), Image: b.Bytes()}, nil
}

// ConfirmTOTP sets the authenticator app up, after a code has shown that it
// has the secret. It returns the user's recovery codes if there were none.
// Errors as for CheckTOTP.
func (l *Ledger) ConfirmTOTP(ctx context.Context, user keyholder.UserID, code string) ([]string, error) {
	var codes []string
	err := l.guess(ctx, user, keyholder.FactorTOTP, func(tx *store.Tx) (bool, error) {
		right, err := l.spendCode(ctx, tx, user, code, false)
		if !right || err != nil {
			return false, err
		}
		if _, err := tx.Exec("UPDATE totps SET confirmed = ? WHERE user_id = ?", micros(l.Now()), user); err != nil {
			return false, fmt.Errorf("confirm a TOTP secret: %w", err)
		}
		if err := l.appendSignIn(tx, keyholder.EventFactorAdded, string(user), user, detail{"factor": string(keyholder.FactorTOTP)}); err != nil {
			return false, err
		}
		codes, err = l.firstRecoveryCodes(ctx, tx, user)
		return true, err
	})
	return codes, err
}

// CheckTOTP accepts a code of a user's authenticator app, each once. Errors:
// Denied; Unavailable while the user is locked out (see [LockedUntil]).
func (l *Ledger) CheckTOTP(ctx context.Context, user keyholder.UserID, code string) error {
	return l.guess(ctx, user, keyholder.FactorTOTP, func(tx *store.Tx) (bool, error) { return l.spendCode(ctx, tx, user, code, true) })
}

// spendCode says whether a code is right and of a later step than the last one
// that was accepted (RFC 6238 5.2), and notes its step. confirmed says which
// secret it has to be of.
func (l *Ledger) spendCode(ctx context.Context, tx *store.Tx, user keyholder.UserID, code string, confirmed bool) (bool, error) {
	row, err := l.readTOTP(ctx, tx, user)
	if err != nil || row.secret == nil || row.confirmed != confirmed {
		return false, err
	}
	code = strings.ReplaceAll(code, " ", "")
	now := l.Now().Unix() / totpPeriod
	for step := now - totpSkew; step <= now+totpSkew; step++ {
		right, err := hotp.ValidateCustom(code, uint64(step), base32.StdEncoding.EncodeToString(row.secret), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if errors.Is(err, otp.ErrValidateInputInvalidLength) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("check a code: %w", err)
		}
		if right && step > row.lastStep {
			_, err := tx.Exec("UPDATE totps SET last_step = ? WHERE user_id = ?", step, user)
			return err == nil, err
		}
	}
	return false, nil
}

// RemoveTOTP removes a user's authenticator app, also one that is only being
// set up. Errors: NotFound.
func (l *Ledger) RemoveTOTP(ctx context.Context, user keyholder.UserID) error {
	return l.removeFactor(ctx, user, keyholder.FactorTOTP, "DELETE FROM totps WHERE user_id = ?", user)
}

// removeFactor runs a statement that deletes one factor.
func (l *Ledger) removeFactor(ctx context.Context, user keyholder.UserID, factor keyholder.Factor, statement string, args ...any) error {
	return l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		result, err := tx.Exec(statement, args...)
		if err != nil {
			return fmt.Errorf("remove a factor: %w", err)
		}
		if n, err := result.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return keyholder.Errorf(keyholder.NotFound, "there is no such factor")
		}
		if err := dropLastRecoveryCodes(ctx, tx, user); err != nil {
			return err
		}
		return l.appendSignIn(tx, keyholder.EventFactorRemoved, string(user), user, detail{"factor": string(factor)})
	})
}

// storedTOTP is a row of totps; its secret is nil if there is none.
type storedTOTP struct {
	secret    []byte
	confirmed bool
	lastStep  int64
}

func (l *Ledger) readTOTP(ctx context.Context, q rowQuerier, user keyholder.UserID) (storedTOTP, error) {
	var row storedTOTP
	var sealed []byte
	err := q.QueryRowContext(ctx, "SELECT secret, confirmed <> 0, last_step FROM totps WHERE user_id = ?", user).Scan(&sealed, &row.confirmed, &row.lastStep)
	if errors.Is(err, sql.ErrNoRows) {
		return storedTOTP{}, nil
	}
	if err != nil {
		return storedTOTP{}, fmt.Errorf("read a TOTP secret: %w", err)
	}
	row.secret, err = l.unseal(string(user), sealed)
	return row, err
}
