package authserver

import (
	"context"
	"errors"
	"time"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// refreshGrace is how long a used refresh token is taken for a repetition of
// the request whose answer was lost, and not for a theft.
const refreshGrace = 10 * time.Second

// GrantByRefreshToken returns the grant of a refresh token, and settles which
// refresh token the client has afterwards:
//
//   - A client that authenticates by a certificate or an assertion keeps the
//     one it has. It is of use to nobody without the client's private key, and
//     FAPI 2.0 (5.3.2.1) forbids to rotate it, because a lost answer costs the
//     owner a sign-in.
//   - Any other gets a new one, and the old one counts as used.
//   - The one used last, seen again within refreshGrace from the same
//     authenticated client, gives the very successor it gave before, which it
//     alone can unseal. So the answer may be lost, or several workers of an app
//     may refresh at once, and still one token is in force. Once the successor
//     has been used, the client has it, and the grace is over.
//
// Any other used one ends the family when it comes back for a token. Nobody
// else than its client may ask about a refresh token.
func (m *manager) GrantByRefreshToken(ctx context.Context, token string) (*goidc.Grant, error) {
	ex := exchangeOf(ctx)
	if ex.endpoint == endpointIntrospect {
		return nil, goidc.ErrNotFound
	}
	row, used, err := m.ledger.GrantByRefreshToken(ctx, digest(token))
	if err != nil {
		return nil, settle(ex, err)
	}
	g, err := m.readGrant(ex, row)
	if err != nil {
		return nil, err
	}
	if ex.endpoint == endpointToken {
		switch {
		case used.IsZero() && ex.client == row.Client && m.ledger.App(keyholder.AppID(ex.client)).Authentication.Asymmetric():
			ex.keeps = token
		case !used.IsZero():
			if ex.keeps = m.successor(ex, row, token, used); ex.keeps != "" {
				break
			}
			if err := m.endReused(ctx, ex); err != nil {
				return nil, settle(ex, err)
			}
			return nil, errRefused(errors.New("the refresh token was used before"))
		}
	}
	if ex.client == row.Client {
		if err := m.narrow(ex, g); err != nil {
			return nil, err
		}
		bindRefresh(ex, g)
	}
	if g.RefreshTokenExpiresAt != 0 {
		g.RefreshTokenExpiresAt = m.judge(g.RefreshTokenExpiresAt)
	}
	if g.CertThumbprint != "" && ex.certified {
		// Rights hang on the client, not on its certificate: renewal must
		// not cost the owner a new sign-in. The new token is bound to the
		// certificate of this request.
		thumbprint := digestOf(ex.peer.Raw)
		g.CertThumbprint = encodeThumbprint(thumbprint)
	}
	return g, nil
}

// successor returns the refresh token that a used one was exchanged for, if
// its grace still runs for the client of this request; else "".
func (m *manager) successor(ex *exchange, row ledger.Grant, token string, used time.Time) string {
	if ex.client != row.Client || m.now().Sub(used).Abs() > refreshGrace || row.Sealed == nil {
		return ""
	}
	next, err := unseal(token, string(row.ID), row.Sealed)
	if err != nil {
		return "" // sealed under a later token: this one is older than the last
	}
	return next
}

// refreshGrant stores a refresh after which token is in force. It seals a new
// one under the one it replaces.
func (m *manager) refreshGrant(ctx context.Context, ex *exchange, next ledger.Grant, token string) error {
	var err error
	if next.Refresh = digest(token); ex.keeps != "" {
		err = m.ledger.RenewGrant(ctx, next)
	} else {
		if next.Sealed, err = seal(ex.form.Get("refresh_token"), string(next.ID), token); err != nil {
			return err
		}
		err = m.ledger.RefreshGrant(ctx, next)
	}
	if keyholder.CodeOf(err) == keyholder.Conflict {
		// Another request was first. What that makes of this one (a
		// repetition, a reuse, an end) shows when it is read again.
		ex.overrun, ex.fault = true, err
	}
	return settle(ex, err)
}
