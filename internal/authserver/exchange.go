package authserver

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"net/url"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// endpoint names an endpoint by the last segment of its address.
type endpoint string

const (
	endpointAuthorize   endpoint = "authorize"
	endpointInteraction endpoint = "interaction"
	endpointToken       endpoint = "token"
	endpointIntrospect  endpoint = "introspect"
	endpointRevoke      endpoint = "revoke"
	endpointPush        endpoint = "par"
	endpointEndings     endpoint = "endings"
	endpointAccount     endpoint = "account"
	endpointFederation  endpoint = "federation"
	endpointRecover     endpoint = "recover"
)

// clientEndpoints are those that clients call, not browsers.
var clientEndpoints = []endpoint{endpointToken, endpointIntrospect, endpointRevoke, endpointPush}

// exchange is what is known of one request. It travels in the request's
// context, because the library's hooks get nothing else, and is used by the
// request's goroutine only.
type exchange struct {
	endpoint endpoint
	form     url.Values
	method   goidc.AuthnMethod    // how the request carries a secret; empty: not at all
	peer     *x509.Certificate    // presented in the handshake; proves nothing by itself
	asserted *keyholder.Assertion // the client assertion, which anybody could have written until the library has verified it; nil: none

	key keyholder.KeyThumbprint // of the request's DPoP proof, which the library has yet to use up; zero: none

	client    string // authenticated, else empty
	role      keyholder.Role
	certified bool                   // peer is on record for the client, so that its tokens are bound to it
	spent     map[ledger.Digest]bool // the jti that this request has used, in a turn before this one too

	grant    ledger.Grant   // the row a change starts from
	session  ledger.Session // the row a change starts from
	consumed bool           // the code had been redeemed when the grant was read
	keeps    string         // the refresh token that a refresh hands out; empty: a new one
	overrun  bool           // another request changed the grant meanwhile: this one must look again

	arrival *arrival // a user who has come back from the provider of their owner; nil: none

	fault   error    // a part did not answer: the outcome is 503, whatever the library makes of it
	refusal *refusal // overrides what the library answers
	cause   error    // what the library reports as the reason of its answer
}

// refusal is an OAuth error answer (RFC 6749 5.2).
type refusal struct {
	status      int
	code        string
	description string
}

// again is the exchange of the same request when it is decided anew.
func (ex *exchange) again() exchange {
	return exchange{endpoint: ex.endpoint, form: ex.form, method: ex.method, peer: ex.peer, asserted: ex.asserted, key: ex.key, spent: ex.spent}
}

type exchangeKey struct{}

func withExchange(ctx context.Context, ex *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, ex)
}

// exchangeOf returns the exchange of a request's context; for a request that
// has none (metadata, keys), one that nobody looks at.
func exchangeOf(ctx context.Context) *exchange {
	if ex, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return ex
	}
	return &exchange{}
}

func digestOf(b []byte) ledger.Digest { return ledger.Digest(sha256.Sum256(b)) }
