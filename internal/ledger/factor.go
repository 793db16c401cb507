package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"io"
	"strings"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// recoveryCodes is how many recovery codes a user gets at a time, and
// recoveryBytes their size: 80 bits, so that a fast hash protects them.
const (
	recoveryCodes = 8
	recoveryBytes = 10
)

// SignIn decides whether the factors that a user has presented sign them in
// under a policy, and records it if they do. at says where: the ID of the app
// that asked, or a word. The browser is known from then on. Errors: Denied,
// when the user has to present more or may not sign in at all.
func (l *Ledger) SignIn(ctx context.Context, browser Digest, user keyholder.UserID, presented []keyholder.Factor, policy keyholder.FactorPolicy, at string) error {
	return l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		u := l.User(user)
		set, err := factors(ctx, tx, user)
		if err != nil {
			return err
		}
		if err := keyholder.PermitSignIn(u, presented, set, policy).Err(); err != nil {
			return err
		}
		if err := l.knowBrowser(tx, browser, user); err != nil {
			return err
		}
		return l.appendSignIn(tx, keyholder.EventSignedIn, string(user), user, detail{"owner": string(u.Owner), "factors": joined(presented), "at": at})
	})
}

// FailSignIn records that a user presented a factor in vain. An empty user
// stands for an unknown one.
func (l *Ledger) FailSignIn(ctx context.Context, user keyholder.UserID, factor keyholder.Factor, reason string) error {
	return l.store.Write(ctx, func(tx *store.Tx) error {
		return l.appendSignIn(tx, keyholder.EventSignInFailed, "user", user, detail{"factor": string(factor), "reason": reason})
	})
}

func joined(presented []keyholder.Factor) string {
	names := make([]string, len(presented))
	for i, f := range presented {
		names[i] = string(f)
	}
	return strings.Join(names, " ")
}

// Factors returns what a user has set up besides the password.
func (l *Ledger) Factors(ctx context.Context, user keyholder.UserID) (keyholder.Factors, error) {
	return factors(ctx, l.store.Read(), user)
}

func factors(ctx context.Context, q querier, user keyholder.UserID) (keyholder.Factors, error) {
	var f keyholder.Factors
	var since int64
	err := eachRow(ctx, q, `SELECT (SELECT coalesce(max(confirmed), 0) FROM totps WHERE user_id = ?),
		(SELECT count(*) FROM passkeys WHERE user_id = ?), (SELECT count(*) FROM recovery_codes WHERE user_id = ?)`,
		func(scan scanner) error { return scan(&since, &f.Passkeys, &f.RecoveryCodes) }, user, user, user)
	f.TOTP = fromMicros(since)
	return f, err
}

// SignInEvents returns the last events about a user's sign-in, the latest
// first.
func (l *Ledger) SignInEvents(ctx context.Context, user keyholder.UserID, limit int) ([]keyholder.Event, error) {
	return l.events(ctx, `SELECT a.seq, a.at, a.kind, a.actor, a.subject, a.detail, a.hash
FROM sign_in_events s JOIN audit a ON a.seq = s.seq WHERE s.user_id = ? ORDER BY s.seq DESC LIMIT ?`, user, limit)
}

// appendSignIn appends an audit row about a user's sign-in, which the user is
// shown. An empty user stands for an unknown login.
func (l *Ledger) appendSignIn(tx *store.Tx, kind keyholder.EventKind, actor string, user keyholder.UserID, detail map[string]string) error {
	if err := l.Append(tx, kind, actor, string(user), detail); err != nil || user == "" {
		return err
	}
	if _, err := tx.Exec("INSERT INTO sign_in_events (user_id, seq) SELECT ?, max(seq) FROM audit", user); err != nil {
		return fmt.Errorf("note a sign-in event: %w", err)
	}
	return nil
}

// guess runs check, which says whether a user has presented a factor rightly,
// in the transaction that records the outcome, one at a time: many guesses at
// once must not outrun the throttle. Errors: Denied; Unavailable
// while the user is locked out (see [LockedUntil]).
func (l *Ledger) guess(ctx context.Context, user keyholder.UserID, factor keyholder.Factor, check func(tx *store.Tx) (bool, error)) error {
	gate := factorGateOf(user) // not that of the password: a right one must not reopen this one
	var refused error
	err := l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if err := l.enter(ctx, tx, gate); err != nil {
			return err
		}
		right, err := check(tx)
		if err != nil {
			return err
		}
		if right {
			return l.reopen(tx, gate)
		}
		refused = keyholder.Errorf(keyholder.Denied, "the code is wrong or was used before")
		return l.appendSignIn(tx, keyholder.EventSignInFailed, "user", user, detail{"factor": string(factor)})
	})
	if err != nil {
		return err
	}
	return refused
}

// CheckRecoveryCode spends one of a user's recovery codes. Errors as for
// CheckTOTP.
func (l *Ledger) CheckRecoveryCode(ctx context.Context, user keyholder.UserID, code string) error {
	hash := recoveryHash(user, code)
	return l.guess(ctx, user, keyholder.FactorRecovery, func(tx *store.Tx) (bool, error) {
		result, err := tx.Exec("DELETE FROM recovery_codes WHERE hash = ? AND user_id = ?", hash[:], user)
		if err != nil {
			return false, fmt.Errorf("spend a recovery code: %w", err)
		}
		n, err := result.RowsAffected()
		return n == 1, err
	})
}

// DrawRecoveryCodes gives a user new recovery codes in place of all earlier
// ones. They are not kept and cannot be shown again. Errors: Conflict if the
// user has no second factor that they could stand in for.
func (l *Ledger) DrawRecoveryCodes(ctx context.Context, user keyholder.UserID) ([]string, error) {
	var codes []string
	err := l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		set, err := factors(ctx, tx, user)
		if err != nil {
			return err
		}
		if !set.Any() {
			return keyholder.Errorf(keyholder.Conflict, "recovery codes stand in for a second factor, and there is none")
		}
		codes, err = l.drawRecoveryCodes(tx, user)
		return err
	})
	return codes, err
}

// firstRecoveryCodes draws recovery codes for a user who gets a second factor
// and has none; else it returns nothing.
func (l *Ledger) firstRecoveryCodes(ctx context.Context, tx *store.Tx, user keyholder.UserID) ([]string, error) {
	if set, err := factors(ctx, tx, user); err != nil || set.RecoveryCodes > 0 {
		return nil, err
	}
	return l.drawRecoveryCodes(tx, user)
}

func (l *Ledger) drawRecoveryCodes(tx *store.Tx, user keyholder.UserID) ([]string, error) {
	if _, err := tx.Exec("DELETE FROM recovery_codes WHERE user_id = ?", user); err != nil {
		return nil, fmt.Errorf("drop recovery codes: %w", err)
	}
	codes := make([]string, recoveryCodes)
	for i := range codes {
		var err error
		if codes[i], err = l.drawCode(); err != nil {
			return nil, err
		}
		hash := recoveryHash(user, codes[i])
		if _, err := tx.Exec("INSERT INTO recovery_codes (hash, user_id) VALUES (?, ?)", hash[:], user); err != nil {
			return nil, fmt.Errorf("add a recovery code: %w", err)
		}
	}
	return codes, l.appendSignIn(tx, keyholder.EventRecoveryCodesDrawn, string(user), user, nil)
}

// drawCode draws a code for people.
func (l *Ledger) drawCode() (string, error) {
	var raw [recoveryBytes]byte
	if _, err := io.ReadFull(l.random, raw[:]); err != nil {
		return "", fmt.Errorf("draw a recovery code: %w", err)
	}
	text := strings.ToLower(base32.StdEncoding.EncodeToString(raw[:])) // 16 letters and digits
	return text[0:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:16], nil
}

// recoveryHash hashes a recovery code as a person may type it.
func recoveryHash(user keyholder.UserID, code string) Digest {
	plain := strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, strings.ToLower(code))
	return sha256.Sum256([]byte(string(user) + "\x00" + plain))
}

// dropFactors takes away everything a user has set up besides the password.
func dropFactors(tx *store.Tx, user keyholder.UserID) error {
	for _, table := range []string{"totps", "passkeys", "recovery_codes"} {
		if _, err := tx.Exec("DELETE FROM "+table+" WHERE user_id = ?", user); err != nil {
			return fmt.Errorf("drop the factors of a user: %w", err)
		}
	}
	return nil
}

// dropLastRecoveryCodes takes away the recovery codes of a user without any
// second factor that they could stand in for.
func dropLastRecoveryCodes(ctx context.Context, tx *store.Tx, user keyholder.UserID) error {
	if set, err := factors(ctx, tx, user); err != nil || set.Any() {
		return err
	}
	return dropFactors(tx, user)
}

// SetFactorPolicy settles whether the users of an owner need a second factor.
// Errors: NotFound.
func (l *Ledger) SetFactorPolicy(ctx context.Context, actor string, owner keyholder.OwnerID, policy keyholder.FactorPolicy) (keyholder.Owner, error) {
	var o keyholder.Owner
	err := l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		o = l.Owner(owner)
		if o.ID == "" {
			return keyholder.Errorf(keyholder.NotFound, "no such owner")
		}
		o.Factor = policy
		if _, err := tx.Exec("UPDATE owners SET factor = ? WHERE id = ?", policy, owner); err != nil {
			return fmt.Errorf("set the policy of second factors: %w", err)
		}
		changed := o
		tx.After(func() { l.view.set(func() { l.view.owners[changed.ID] = changed }) })
		return l.Append(tx, keyholder.EventFactorPolicySet, actor, string(owner), detail{"policy": string(policy)})
	})
	return o, err
}
