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

// Digest is a SHA-256 hash: what the ledger keeps of an authorization code, a
// refresh token, a session ID or a jti. The zero value means "none".
type Digest [32]byte

// blob is the stored form of a digest; none becomes NULL.
func (d Digest) blob() []byte {
	if d == (Digest{}) {
		return nil
	}
	return d[:]
}

// usedMemory is how long a rotated refresh token is recognised as used. An
// older one is merely unknown, which gives no right either.
const usedMemory = 7 * 24 * time.Hour

// Grant is an OAuth2 grant: the family of tokens of one authorization. Codes
// and refresh tokens are here only as hashes.
type Grant struct {
	ID           keyholder.GrantID
	Client       string // ID of the app or provider
	Subscription keyholder.SubscriptionID
	Scope        string // the FDS scope; not stored, needed to ask PermitIssue
	Version      int64  // of the stored row, set on reading; a change needs the version it was made from
	Body         []byte // the authorization server's record, without code and refresh token
	Code         Digest // of the authorization code; stays after redemption, so that a replay is recognised
	Refresh      Digest // of the refresh token in force
	Sealed       []byte // refresh token in force, readable only with what it was given for: the code until redemption, then the refresh token before it
	Created      time.Time
	Ended        time.Time
}

// permitIssue asks PermitIssue about a token of the grant. In a transaction
// the view it reads is exact, so a cut before it always wins.
func (l *Ledger) permitIssue(g Grant, by keyholder.GrantType) error {
	return keyholder.PermitIssue(keyholder.Issuance{
		Grant:    by,
		App:      l.App(keyholder.AppID(g.Client)),
		Provider: l.Provider(keyholder.ProviderID(g.Client)),
		Scope:    g.Scope,
		Standing: l.Standing(g.Subscription),
	}, l.Now()).Err()
}

// CreateGrant records the grant that an owner's consent produced, with its
// code and sealed refresh token. actor is the user. Errors: Denied with the
// verdict's reason.
func (l *Ledger) CreateGrant(ctx context.Context, actor string, g Grant) error {
	return l.store.Write(ctx, func(tx *store.Tx) error {
		if err := l.permitIssue(g, keyholder.GrantAuthorizationCode); err != nil {
			return err
		}
		if err := sweepGrants(tx, l.Now()); err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO grants (id, client, subscription, version, body, code_hash, sealed, created) VALUES (?, ?, ?, 1, ?, ?, ?, ?)`,
			g.ID, g.Client, g.Subscription, g.Body, g.Code.blob(), g.Sealed, micros(l.Now())); err != nil {
			return fmt.Errorf("add a grant: %w", err)
		}
		return l.Append(tx, keyholder.EventGrantCreated, actor, string(g.ID), detail{
			"grant_type": string(keyholder.GrantAuthorizationCode), "client": g.Client, "subscription": string(g.Subscription)})
	})
}

// sweepGrants takes away some grants that have had no use for usedMemory:
// ended ones, and those that never got a refresh token, whose one access token
// has long expired. The audit trail keeps what happened to them.
func sweepGrants(tx *store.Tx, now time.Time) error {
	const ended = "SELECT id FROM grants WHERE ended > 0 AND ended <= ? ORDER BY ended LIMIT 4"
	before := micros(now.Add(-usedMemory))
	for _, query := range []string{
		"DELETE FROM used_refresh_tokens WHERE grant_id IN (" + ended + ")",
		"DELETE FROM grants WHERE id IN (" + ended + ")",
		"DELETE FROM grants WHERE id IN (SELECT id FROM grants WHERE refresh_hash IS NULL AND ended = 0 AND created <= ? ORDER BY created LIMIT 4)",
	} {
		if _, err := tx.Exec(query, before); err != nil {
			return fmt.Errorf("sweep grants: %w", err)
		}
	}
	return nil
}

// RedeemGrant consumes the code of a grant: the sealed refresh token goes and
// its hash comes into force. g.Version must be that of the row the change was
// made from. Errors: Conflict if another was first, Denied if the grant has
// ended or PermitIssue says no.
func (l *Ledger) RedeemGrant(ctx context.Context, g Grant) error {
	g.Sealed = nil
	return l.store.Write(ctx, func(tx *store.Tx) error {
		if err := l.permitIssue(g, keyholder.GrantAuthorizationCode); err != nil {
			return err
		}
		if err := l.changeGrant(tx, g); err != nil {
			return err
		}
		return l.Append(tx, keyholder.EventGrantRefreshed, g.Client, string(g.ID), detail{
			"grant_type": string(keyholder.GrantAuthorizationCode), "subscription": string(g.Subscription)})
	})
}

// RefreshGrant puts a new refresh token of a grant into force; the one before
// counts as used from then on. g.Sealed is kept for a client whose answer gets
// lost. g.Version must be that of the row the change
// was made from. Errors: Conflict if another was first, Denied if the grant
// has ended or PermitIssue says no.
func (l *Ledger) RefreshGrant(ctx context.Context, g Grant) error {
	return l.store.Write(ctx, func(tx *store.Tx) error {
		if err := l.permitIssue(g, keyholder.GrantRefreshToken); err != nil {
			return err
		}
		now := l.Now()
		if _, err := tx.Exec(`INSERT INTO used_refresh_tokens (hash, grant_id, used)
			SELECT refresh_hash, id, ? FROM grants WHERE id = ? AND version = ? AND ended = 0 AND refresh_hash IS NOT NULL`,
			micros(now), g.ID, g.Version); err != nil {
			return fmt.Errorf("keep a used refresh token: %w", err)
		}
		if err := l.changeGrant(tx, g); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM used_refresh_tokens WHERE grant_id = ? AND used < ?`, g.ID, micros(now.Add(-usedMemory))); err != nil {
			return fmt.Errorf("forget old refresh tokens: %w", err)
		}
		return l.Append(tx, keyholder.EventGrantRefreshed, g.Client, string(g.ID), detail{
			"grant_type": string(keyholder.GrantRefreshToken), "subscription": string(g.Subscription)})
	})
}

// RenewGrant stores that a grant was refreshed and kept its refresh token,
// g.Refresh. What it changes is the body, so of two at once the later stands.
// Errors: Conflict if another refresh token is in force, Denied if the grant
// has ended or PermitIssue says no.
func (l *Ledger) RenewGrant(ctx context.Context, g Grant) error {
	return l.store.Write(ctx, func(tx *store.Tx) error {
		if err := l.permitIssue(g, keyholder.GrantRefreshToken); err != nil {
			return err
		}
		result, err := tx.Exec(`UPDATE grants SET version = version + 1, body = ? WHERE id = ? AND refresh_hash = ? AND ended = 0`,
			g.Body, g.ID, g.Refresh.blob())
		if err != nil {
			return fmt.Errorf("renew a grant: %w", err)
		}
		if err := changed(tx, g.ID, result); err != nil {
			return err
		}
		return l.Append(tx, keyholder.EventGrantRefreshed, g.Client, string(g.ID), detail{
			"grant_type": string(keyholder.GrantRefreshToken), "subscription": string(g.Subscription), "refresh_token": "kept"})
	})
}

// changeGrant replaces the row of a grant by compare-and-swap on its version.
func (l *Ledger) changeGrant(tx *store.Tx, g Grant) error {
	result, err := tx.Exec(`UPDATE grants SET version = version + 1, body = ?, refresh_hash = ?, sealed = ? WHERE id = ? AND version = ? AND ended = 0`,
		g.Body, g.Refresh.blob(), g.Sealed, g.ID, g.Version)
	if err != nil {
		return fmt.Errorf("change a grant: %w", err)
	}
	return changed(tx, g.ID, result)
}

// changed says why a change of a grant found no row to change, or nil if it
// found one.
func changed(tx *store.Tx, id keyholder.GrantID, result sql.Result) error {
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	var ended int64
	if err := tx.QueryRow("SELECT ended FROM grants WHERE id = ?", id).Scan(&ended); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("change a grant: %w", err)
	}
	if ended != 0 {
		return keyholder.Errorf(keyholder.Denied, "the grant has ended")
	}
	return keyholder.Errorf(keyholder.Conflict, "the grant was changed meanwhile")
}

// RecordMachineGrant decides on and records a grant by client credentials. It
// holds nothing durable, so there is an audit row but no row of its own.
// Errors: Denied with the verdict's reason.
func (l *Ledger) RecordMachineGrant(ctx context.Context, g Grant) error {
	return l.store.Write(ctx, func(tx *store.Tx) error {
		if err := l.permitIssue(g, keyholder.GrantClientCredentials); err != nil {
			return err
		}
		d := detail{"grant_type": string(keyholder.GrantClientCredentials), "scope": g.Scope}
		if g.Subscription != "" {
			d["subscription"] = string(g.Subscription)
		}
		return l.Append(tx, keyholder.EventGrantCreated, g.Client, string(g.ID), d)
	})
}

// EndMachineGrant ends a grant by client credentials before its token
// expires. A row is kept, so that the end outlives a restart.
func (l *Ledger) EndMachineGrant(ctx context.Context, actor string, g Grant, reason string) error {
	return l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		at := l.Now()
		result, err := tx.Exec(`INSERT INTO grants (id, client, subscription, version, body, created, ended) VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT DO NOTHING`,
			g.ID, g.Client, g.Subscription, []byte{}, micros(g.Created), micros(at))
		if err != nil {
			return fmt.Errorf("end a grant: %w", err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err
		}
		tx.After(func() { l.endGrantsView([]keyholder.GrantID{g.ID}, at) })
		return l.Append(tx, keyholder.EventGrantEnded, actor, string(g.ID), detail{"reason": reason})
	})
}

const grantColumns = "SELECT id, client, subscription, version, body, code_hash, refresh_hash, sealed, created, ended FROM grants WHERE "

// Grant returns a grant, ended ones included. Errors: NotFound; any other
// means that the database did not answer.
func (l *Ledger) Grant(ctx context.Context, id keyholder.GrantID) (Grant, error) {
	return l.grantWhere(ctx, "id = ?", id)
}

// GrantByCode returns the grant of an authorization code, redeemed or not.
// Errors: as [Ledger.Grant].
func (l *Ledger) GrantByCode(ctx context.Context, code Digest) (Grant, error) {
	return l.grantWhere(ctx, "code_hash = ?", code[:])
}

// GrantByRefreshToken returns the grant of a refresh token, and since when the
// token counts as used; the zero time if it is in force. Errors: as
// [Ledger.Grant].
func (l *Ledger) GrantByRefreshToken(ctx context.Context, token Digest) (g Grant, used time.Time, err error) {
	g, err = l.grantWhere(ctx, "refresh_hash = ?", token[:])
	if keyholder.CodeOf(err) != keyholder.NotFound {
		return g, time.Time{}, err
	}
	var id keyholder.GrantID
	var at int64
	err = l.store.Read().QueryRowContext(ctx, "SELECT grant_id, used FROM used_refresh_tokens WHERE hash = ?", token[:]).Scan(&id, &at)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Grant{}, time.Time{}, keyholder.Errorf(keyholder.NotFound, "no such grant")
	case err != nil:
		return Grant{}, time.Time{}, fmt.Errorf("read a used refresh token: %w", err)
	}
	g, err = l.grantWhere(ctx, "id = ?", id)
	return g, fromMicros(at), err
}

func (l *Ledger) grantWhere(ctx context.Context, where string, arg any) (Grant, error) {
	var g Grant
	var code, refresh []byte
	var created, ended int64
	err := l.store.Read().QueryRowContext(ctx, grantColumns+where, arg).
		Scan(&g.ID, &g.Client, &g.Subscription, &g.Version, &g.Body, &code, &refresh, &g.Sealed, &created, &ended)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Grant{}, keyholder.Errorf(keyholder.NotFound, "no such grant")
	case err != nil:
		return Grant{}, fmt.Errorf("read a grant: %w", err)
	}
	copy(g.Code[:], code)
	copy(g.Refresh[:], refresh)
	g.Created, g.Ended = fromMicros(created), fromMicros(ended)
	return g, nil
}
