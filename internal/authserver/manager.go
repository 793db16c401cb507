package authserver

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// manager keeps the library's records in the ledger. The library reads,
// changes and saves without a transaction, so every save is a compare-and-swap
// on the version that was read; it saves before it signs, so who loses gets no
// token.
type manager struct{ *Server }

// errRefused is what the library is told when the ledger says no; the answer
// is invalid_grant, and the reason stands in the audit trail.
func errRefused(err error) error {
	return goidc.WrapError(goidc.ErrorCodeInvalidGrant, "the grant gives no right to a token", err)
}

// settle turns an error of the ledger into one the library understands. A
// ledger that did not answer is noted as a fault: the library calls every
// error of a refresh invalid_grant, upon which apps throw their refresh token
// away and the owner has to sign in again.
func settle(ex *exchange, err error) error {
	switch keyholder.CodeOf(err) {
	case keyholder.NotFound:
		return goidc.ErrNotFound
	case keyholder.Denied, keyholder.Conflict, keyholder.Invalid:
		return errRefused(err)
	}
	if err != nil && ex.fault == nil {
		ex.fault = err
	}
	return err
}

// SaveSession stores a sign-in in progress. A finished one is never changed.
func (m *manager) SaveSession(ctx context.Context, as *goidc.AuthnSession) error {
	ex := exchangeOf(ctx)
	if ex.endpoint == endpointPush {
		return m.savePushed(ctx, ex, as)
	}
	pending := as.Status == goidc.StatusPending
	stored := *as
	stored.ID, stored.ExpiresAt = "", 0
	body, err := json.Marshal(stored)
	if err != nil {
		return fmt.Errorf("write a session: %w", err)
	}
	next := ledger.Session{ID: digest(as.ID), Client: as.ClientID, Body: body, Pending: pending, Expires: m.now().Add(sessionLifetime)}
	if ex.session.ID == next.ID {
		next.Version = ex.session.Version
		if pending && string(body) == string(ex.session.Body) {
			return nil // a page was shown, nothing happened
		}
	} else if !pending {
		return nil // refused before it began: there is no page that could be posted
	}
	if err := m.ledger.SaveSession(ctx, next); err != nil {
		return settle(ex, err)
	}
	next.Version++
	ex.session = next
	return nil
}

// Session returns a session only while it is pending, because the library
// itself would accept a finished page again and give a second code.
func (m *manager) Session(ctx context.Context, id string) (*goidc.AuthnSession, error) {
	ex := exchangeOf(ctx)
	if !idForm.MatchString(id) {
		return nil, goidc.ErrNotFound
	}
	s, err := m.ledger.PendingSession(ctx, digest(id))
	if err != nil {
		return nil, settle(ex, err)
	}
	as := new(goidc.AuthnSession)
	if err := json.Unmarshal(s.Body, as); err != nil {
		return nil, fmt.Errorf("read a session: %w", err)
	}
	// The ledger has judged the expiry by its clock.
	as.ID, as.ExpiresAt = id, math.MaxInt32
	ex.session = s
	return as, nil
}

// SaveGrant stores a new grant or one change of it: its end, the redemption
// of its code, or a new refresh token.
func (m *manager) SaveGrant(ctx context.Context, g *goidc.Grant) error {
	ex := exchangeOf(ctx)
	switch {
	case ex.grant.ID == "" && g.AuthCode != "":
		return m.addGrant(ctx, ex, g)
	case ex.grant.ID != "" && g.RevokedAt != 0:
		return m.endGrant(ctx, ex)
	}
	// What is left gives a token.
	if v := keyholder.PermitBearer(m.ledger.App(keyholder.AppID(g.ClientID))); !v.Allowed && g.CertThumbprint == "" && g.JWKThumbprint == "" {
		return goidc.NewError(goidc.ErrorCodeInvalidRequest, v.Reason)
	}
	if ex.grant.ID == "" {
		return m.addMachineGrant(ctx, ex, g)
	}
	next := ex.grant
	next.Scope = keyholder.ScopeRead
	var err error
	if next.Body, err = m.grantBody(g); err != nil {
		return err
	}
	if ex.form.Get("grant_type") == string(goidc.GrantRefreshToken) {
		return m.refreshGrant(ctx, ex, next, g.RefreshToken)
	}
	next.Refresh = ledger.Digest{}
	if g.RefreshToken != "" {
		next.Refresh = digest(g.RefreshToken)
	}
	err = m.ledger.RedeemGrant(ctx, next)
	if keyholder.CodeOf(err) == keyholder.Conflict {
		// Somebody used the same code a moment before.
		if err := m.endReused(ctx, ex); err != nil {
			return settle(ex, err)
		}
	}
	return settle(ex, err)
}

// addGrant stores the grant of an owner's consent. The library draws the
// refresh token now and hands it out at redemption, so until then it is kept
// sealed: only who has the code can read it.
func (m *manager) addGrant(ctx context.Context, ex *exchange, g *goidc.Grant) error {
	stored := *g
	stored.AuthCodeExpiresAt = int(m.now().Add(codeLifetime).Unix())
	body, err := m.grantBody(&stored)
	if err != nil {
		return err
	}
	row := ledger.Grant{ID: keyholder.GrantID(g.ID), Client: g.ClientID, Subscription: subscriptionOf(g), Scope: keyholder.ScopeRead,
		Body: body, Code: digest(g.AuthCode)}
	if g.RefreshToken != "" {
		if row.Sealed, err = seal(g.AuthCode, g.ID, g.RefreshToken); err != nil {
			return err
		}
	}
	return settle(ex, m.ledger.CreateGrant(ctx, g.Subject, row))
}

// endGrant ends the grant of this request: the client revoked it, or a code
// was refused at redemption. An end wins over every change made meanwhile.
func (m *manager) endGrant(ctx context.Context, ex *exchange) error {
	if ex.fault != nil {
		return ex.fault // the code was not consumed: after a passing fault it must still be good
	}
	ctx = context.WithoutCancel(ctx)
	switch {
	case ex.endpoint == endpointRevoke && ex.grant.Body == nil:
		return settle(ex, m.ledger.EndMachineGrant(ctx, ex.client, ex.grant, "the client revoked its token"))
	case ex.endpoint == endpointRevoke:
		return settle(ex, m.ledger.EndGrant(ctx, ex.client, ex.grant.ID, "the client revoked its token"))
	case ex.consumed:
		return settle(ex, m.endReused(ctx, ex))
	}
	return settle(ex, m.ledger.EndGrant(ctx, ledger.System, ex.grant.ID, "its code was refused at redemption"))
}

// endReused ends the family of a code or refresh token that came a second
// time: one of the two who had it has stolen it (RFC 9700 4.14.2, 2.1.1).
func (m *manager) endReused(ctx context.Context, ex *exchange) error {
	if !ex.grant.Ended.IsZero() {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	what := "a refresh token"
	if ex.form.Get("grant_type") == string(goidc.GrantAuthorizationCode) {
		what = "an authorization code"
	}
	if err := m.ledger.Record(ctx, keyholder.EventTokenReused, ex.client, string(ex.grant.ID),
		map[string]string{"what": what, "subscription": string(ex.grant.Subscription)}); err != nil {
		return err
	}
	return m.ledger.EndGrant(ctx, ledger.System, ex.grant.ID, what+" was used twice")
}

// GrantByAuthCode returns the grant of a code, also when it was redeemed
// before: then the library ends it.
func (m *manager) GrantByAuthCode(ctx context.Context, code string) (*goidc.Grant, error) {
	ex := exchangeOf(ctx)
	row, err := m.ledger.GrantByCode(ctx, digest(code))
	if err != nil {
		return nil, settle(ex, err)
	}
	g, err := m.readGrant(ex, row)
	if err != nil {
		return nil, err
	}
	ex.consumed = g.AuthCodeConsumedAt != 0
	if !ex.consumed && ex.client == row.Client {
		if err := m.narrow(ex, g); err != nil {
			return nil, err
		}
	}
	g.AuthCodeExpiresAt = m.judge(g.AuthCodeExpiresAt)
	if row.Sealed != nil && !ex.consumed {
		if g.RefreshToken, err = unseal(code, g.ID, row.Sealed); err != nil {
			return nil, settle(ex, err)
		}
	}
	return g, nil
}

// Grant returns the grant of an access token, for introspection and
// revocation. One that gives no right any more is shown as revoked.
func (m *manager) Grant(ctx context.Context, id string) (*goidc.Grant, error) {
	ex := exchangeOf(ctx)
	by := keyholder.GrantClientCredentials
	row, ok := m.machines.get(keyholder.GrantID(id), m.now())
	var g *goidc.Grant
	if ok {
		ex.grant = row
		g = &goidc.Grant{ID: id, ClientID: row.Client, Subject: row.Client, Scopes: row.Scope}
	} else {
		var err error
		if row, err = m.ledger.Grant(ctx, keyholder.GrantID(id)); err != nil {
			return nil, settle(ex, err)
		}
		if len(row.Body) == 0 { // a grant by client credentials that was ended
			return nil, goidc.ErrNotFound
		}
		if g, err = m.readGrant(ex, row); err != nil {
			return nil, err
		}
		by, row.Scope = keyholder.GrantAuthorizationCode, keyholder.ScopeRead
	}
	if ex.endpoint == endpointIntrospect && !m.stillIssues(row, by) || m.ledger.GrantEnded(row.ID) {
		g.RevokedAt = revoked
	}
	return g, nil
}

// stillIssues says whether a grant would be given a token now: the question
// behind "is this token active" (RFC 7662 2.2).
func (m *manager) stillIssues(g ledger.Grant, by keyholder.GrantType) bool {
	return keyholder.PermitIssue(keyholder.Issuance{
		Grant:    by,
		App:      m.ledger.App(keyholder.AppID(g.Client)),
		Provider: m.ledger.Provider(keyholder.ProviderID(g.Client)),
		Scope:    g.Scope,
		Standing: m.ledger.Standing(g.Subscription),
	}, m.now()).Allowed
}

// revoked and expired are times that the library, which reads its own clock,
// takes for "was" and "is over"; distant stands for "not yet".
const (
	revoked = 1
	expired = 1
	distant = math.MaxInt32
)

// judge decides an expiry by the server's clock.
func (m *manager) judge(at int) int {
	if m.now().Before(time.Unix(int64(at), 0)) {
		return distant
	}
	return expired
}

// grantBody is the stored form of the library's record, without the code and
// the refresh token, whose life begins now.
func (m *manager) grantBody(g *goidc.Grant) ([]byte, error) {
	stored := *g
	if g.RefreshToken != "" {
		stored.RefreshTokenExpiresAt = int(m.now().Add(m.refresh).Unix())
	}
	stored.AuthCode, stored.RefreshToken = "", ""
	body, err := json.Marshal(stored)
	if err != nil {
		return nil, fmt.Errorf("write a grant: %w", err)
	}
	return body, nil
}

func (m *manager) readGrant(ex *exchange, row ledger.Grant) (*goidc.Grant, error) {
	g := new(goidc.Grant)
	if err := json.Unmarshal(row.Body, g); err != nil {
		return nil, fmt.Errorf("read a grant: %w", err)
	}
	if !row.Ended.IsZero() {
		g.RevokedAt = revoked
	}
	ex.grant = row
	return g, nil
}
