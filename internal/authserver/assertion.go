package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Client assertions (RFC 7523, OpenID Connect Core 9, private_key_jwt). The
// library verifies the signature with the key that the assertion names. What
// the assertion must say differs between profiles, which the library does not
// know, so PermitAssertion decides on it, before the library, by the server's
// clock; the library's own checks come on top.

// assertionAlgorithms are those that an assertion may be signed with.
var assertionAlgorithms = []goidc.SignatureAlgorithm{goidc.SigAlgES256, goidc.SignatureAlgorithm(jose.EdDSA), goidc.SigAlgPS256, goidc.SigAlgRS256}

// readAssertion reads the client assertion of a request, if there is one.
func readAssertion(ex *exchange) *refusal {
	if !ex.form.Has("client_assertion") && !ex.form.Has("client_assertion_type") {
		return nil
	}
	if ex.method != "" {
		return &refusal{http.StatusBadRequest, string(goidc.ErrorCodeInvalidRequest), "the client authenticates in two ways: use one"}
	}
	as, err := parseAssertion(ex.form.Get("client_assertion"))
	if err != nil {
		return &refusal{http.StatusUnauthorized, string(goidc.ErrorCodeInvalidClient), "the client could not be authenticated"}
	}
	ex.asserted = &as
	return nil
}

// parseAssertion reads what a compact JWS says, without verifying it.
func parseAssertion(raw string) (keyholder.Assertion, error) {
	var as keyholder.Assertion
	parsed, err := jwt.ParseSigned(raw, assertionAlgorithms)
	if err != nil || len(parsed.Headers) != 1 {
		return as, errors.Join(errors.New("not an assertion"), err)
	}
	var claims struct {
		jwt.Claims
		Audience json.RawMessage `json:"aud"`
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return as, err
	}
	as.Algorithm, as.KeyID = parsed.Headers[0].Algorithm, parsed.Headers[0].KeyID
	as.Issuer, as.Subject, as.ID = claims.Issuer, claims.Subject, claims.ID
	var one string
	if json.Unmarshal(claims.Audience, &one) == nil {
		as.Audience = []string{one}
	} else if as.List = true; json.Unmarshal(claims.Audience, &as.Audience) != nil {
		return as, errors.New("the audience is neither a text nor a list of texts")
	}
	as.Issued, as.NotBefore, as.Expires = at(claims.IssuedAt), at(claims.NotBefore), at(claims.Expiry)
	return as, nil
}

// at is a date of a JWT as a time; a missing one is zero.
func at(d *jwt.NumericDate) time.Time {
	if d == nil {
		return time.Time{}
	}
	return d.Time()
}

// unproven is the reason why a client cannot be who it says. To the library it
// is a client that does not exist.
type unproven string

func (e unproven) Error() string { return string(e) }

// Is makes the library answer invalid_client.
func (e unproven) Is(target error) bool { return target == goidc.ErrNotFound }

// byAssertion makes private_key_jwt the client's method, unless the request
// has an assertion that does not say what it must. Tokens are bound to the
// app's certificate if it presents one.
func (m *manager) byAssertion(ex *exchange, c *goidc.Client, app keyholder.App) error {
	c.TokenAuthnMethod = goidc.AuthnMethodPrivateKeyJWT
	c.JWKS = &goidc.JSONWebKeySet{}
	if ex.asserted == nil {
		return nil
	}
	if v := keyholder.PermitAssertion(*ex.asserted, app, m.issuer, m.clientAddresses(), m.now()); !v.Allowed {
		return unproven(v.Reason)
	}
	for _, k := range app.Keys {
		c.JWKS.Keys = append(c.JWKS.Keys, goidc.JSONWebKey{Key: k.Key, KeyID: k.ID, Algorithm: k.Algorithm, Use: "sig"})
	}
	m.certify(ex, c.ID, keyholder.ForApp)
	return nil
}

// clientAddresses are those of the endpoints that clients call.
func (s *Server) clientAddresses() []string {
	var all []string
	for _, e := range clientEndpoints {
		all = append(all, s.issuer+"/"+string(e))
	}
	return all
}

// jtiMemory is longer than an assertion is accepted for, leeway included.
const jtiMemory = keyholder.AssertionLife + 5*time.Minute

// consumeJTI is the library's question whether an identifier is new, asked
// when the signature over it has been verified. That of the assertion is asked
// about first, and is the last thing that can be wrong with it.
func (s *Server) consumeJTI(ctx context.Context, jti string) error {
	ex := exchangeOf(ctx)
	owner := ex.client
	if ex.asserted != nil && owner == "" {
		owner = ex.asserted.Issuer
	}
	d := digest(owner + " " + jti) // two clients may draw the same
	if !ex.spent[d] {
		if err := s.ledger.ConsumeJTI(ctx, d, s.now().Add(jtiMemory)); err != nil {
			return settle(ex, err)
		}
		if ex.spent == nil {
			ex.spent = map[ledger.Digest]bool{}
		}
		ex.spent[d] = true
	}
	if ex.client == "" && ex.asserted != nil {
		s.authenticated(ex, ex.asserted.Issuer)
		if ex.refusal != nil {
			return errors.New("the client may not use this endpoint")
		}
	}
	return nil
}
