package authserver

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/luikyv/go-oidc/pkg/goidc"
	"github.com/luikyv/go-oidc/pkg/provider"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// newLibrary is the one place that configures go-oidc. Its defaults are open
// (no PKCE, no iss, refresh tokens without end), so everything the security
// model rests on is switched on here, and a test pins the metadata it gives.
func newLibrary(s *Server) (http.Handler, error) {
	m := &manager{s}
	op, err := provider.New(
		provider.Config{
			Issuer:      s.issuer,
			Manager:     m,
			JWKS:        s.jwks,
			IDTokenAlgs: []goidc.SignatureAlgorithm{goidc.SigAlgES256},
		},
		provider.WithSigner(s.signer),
		provider.WithScopes(goidc.ScopeOpenID, goidc.NewScope(keyholder.ScopeRead),
			goidc.NewScope(keyholder.ScopeIngest), goidc.NewScope(keyholder.ScopePush)),
		provider.WithAuthCodeGrant(
			provider.AuthCodeGrantConfig{Manager: m, ResponseTypes: []goidc.ResponseType{goidc.ResponseTypeCode}},
			provider.WithAuthPolicies(goidc.NewPolicy("owner", acceptAll, s.interact)),
			provider.WithPKCE([]goidc.CodeChallengeMethod{goidc.CodeChallengeMethodSHA256}, provider.WithPKCERequired()),
			provider.WithIssuerResponseParameter(),
			provider.WithPAR(m, provider.WithPAREndpoint("/"+string(endpointPush)), provider.WithPARIDFunc(random("")),
				provider.WithPARLifetime(int(pushLifetime/time.Second)), provider.WithPARSessionHandler(s.checkPushed)),
			provider.WithAuthCodeFunc(random("")),
			provider.WithAuthCodeLifetime(int(codeLifetime/time.Second)),
		),
		provider.WithAuthnSessionIDFunc(random("")),
		provider.WithAuthSessionLifetime(int(sessionLifetime/time.Second)),
		provider.WithRefreshTokenGrant(m,
			provider.WithRefreshTokenFunc(refreshToken),
			provider.WithRefreshTokenLifetime(int(s.refresh/time.Second)),
			provider.WithRefreshTokenRotation(),
		),
		provider.WithClientCredentialsGrant(),
		provider.WithSecretBasicAuthn(), provider.WithSecretPostAuthn(),
		provider.WithTLSAuthn(), provider.WithSelfSignedTLSAuthn(), provider.WithPrivateKeyJWTAuthn(assertionAlgorithms...),
		provider.WithJWTLeewayTime(int(keyholder.AssertionSkew/time.Second)),
		provider.WithClientSecretVerifier(s.verifySecret),
		provider.WithMTLS(provider.MTLSConfig{Host: s.issuer, ClientCert: clientCertificate}, provider.WithMTLSTokenBinding()),
		provider.WithDPoP(proofAlgorithms()),
		provider.WithGrantHandler(s.prepareGrant),
		provider.WithTokenOptions(s.tokenOptions),
		provider.WithTokenClaims(s.tokenClaims),
		provider.WithIDTokenClaims(s.idTokenClaims),
		provider.WithTokenIntrospection(s.mayIntrospect),
		provider.WithTokenRevocation(mayRevoke, provider.WithTokenRevocationRevokeGrantOnAccessToken()),
		provider.WithTokenIntrospectionEndpoint("/"+string(endpointIntrospect)),
		provider.WithJTIConsumer(s.consumeJTI),
		// The library takes clients that change while it runs from its
		// registration manager only. Registration itself is refused here, by
		// the manager, and not routed at all.
		provider.WithDCR(m, provider.WithDCRInitialTokenValidator(refuseRegistration)),
		provider.WithErrorHandler(func(ctx context.Context, err error) { exchangeOf(ctx).cause = err }),
		provider.WithErrorRenderer(s.renderError),
	)
	if err != nil {
		return nil, err
	}
	return op.Handler(), nil
}

func acceptAll(*http.Request, *goidc.AuthnSession, *goidc.Client) bool { return true }

func refuseRegistration(context.Context, string) error {
	return errors.New("clients are registered by the administrator")
}

// jwks returns the public keys, which the library publishes and verifies with.
func (s *Server) jwks(context.Context) (goidc.JSONWebKeySet, error) {
	return goidc.JSONWebKeySet{Keys: s.keys.JWKS().Keys}, nil
}

// signer returns what the library signs with. It puts what the signer returns
// into the token as it is, so the signer's form is that of JWS. An error is a
// fault of ours and not of the client's request.
func (s *Server) signer(ctx context.Context, _ goidc.SignatureAlgorithm) (string, crypto.Signer, error) {
	kid, key := s.keys.Signer()
	return kid, faultSigner{key, exchangeOf(ctx)}, nil
}

// faultSigner notes a failure to sign in the exchange.
type faultSigner struct {
	crypto.Signer
	ex *exchange
}

// Sign implements [crypto.Signer].
func (f faultSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := f.Signer.Sign(random, digest, opts)
	return signature, settle(f.ex, err)
}

// random returns a source of unguessable values of 256 bits.
func random(prefix string) goidc.RandomFunc {
	return func(context.Context) string {
		var b [32]byte
		rand.Read(b[:]) // never fails: the runtime ends the process instead
		return prefix + base64.RawURLEncoding.EncodeToString(b[:])
	}
}

// refreshToken gives the refresh token of the next token answer: a new one,
// unless GrantByRefreshToken has settled that the client keeps one.
func refreshToken(ctx context.Context) string {
	if token := exchangeOf(ctx).keeps; token != "" {
		return token
	}
	return random("khr_")(ctx)
}

// clientCertificate gives the library the certificate that is on record for
// the client, for its own check and for cnf; one that only lies in the
// handshake proves nothing and binds nothing.
func clientCertificate(ctx context.Context) (*x509.Certificate, error) {
	ex := exchangeOf(ctx)
	if !ex.certified || ex.peer == nil {
		return nil, errors.New("no client certificate on record for this client was presented")
	}
	return ex.peer, nil
}

// prepareGrant runs for every new grant and every refresh, before it is
// stored. It puts into the grant what its tokens will need. Whether a token
// may be issued is decided in the ledger's transaction that stores it.
func (s *Server) prepareGrant(ctx context.Context, by goidc.GrantType, g *goidc.Grant) error {
	switch by {
	case goidc.GrantAuthorizationCode:
		g.Store = map[string]any{keySubscription: g.Store[keySubscription], keyResources: g.Store[keyResources], keySignedIn: g.Store[keySignedIn], keyFactors: g.Store[keyFactors]}
	case goidc.GrantClientCredentials:
		return s.prepareMachineGrant(exchangeOf(ctx), g)
	}
	return nil
}

// prepareMachineGrant reads the parameter subscription_id and settles the
// scope: it decides which right is asked for, PermitIssue whether it is given.
func (s *Server) prepareMachineGrant(ex *exchange, g *goidc.Grant) error {
	if hasScope(ex.form.Get("scope"), goidc.ScopeOpenID.ID) {
		// The library drops the scope in silence; what is left could be wider.
		return goidc.NewError(goidc.ErrorCodeInvalidScope, "the scope openid is for people who sign in")
	}
	var sub keyholder.SubscriptionID
	if raw := ex.form.Get(paramSubscription); raw != "" {
		var err error
		if sub, err = keyholder.ParseID[keyholder.SubscriptionID](raw); err != nil {
			return goidc.NewError(goidc.ErrorCodeInvalidRequest, "subscription_id is "+err.Error())
		}
	}
	if g.Scopes == "" {
		switch {
		case ex.role == keyholder.RoleApp:
			g.Scopes = keyholder.ScopeRead
		case sub == "":
			g.Scopes = keyholder.ScopeIngest
		default:
			g.Scopes = keyholder.ScopePush
		}
	}
	if sub == "" && g.Scopes != keyholder.ScopeIngest {
		return goidc.NewError(goidc.ErrorCodeInvalidRequest, "the parameter subscription_id is required: a token carries exactly one subscription")
	}
	if g.Scopes == keyholder.ScopePush && ex.form.Has(paramResource) {
		return goidc.NewError(goidc.ErrorCodeInvalidTarget, "a token for pushing is for the webhook of its subscription")
	}
	g.Store = map[string]any{keySubscription: string(sub)}
	return nil
}

// tokenOptions makes a token end with the chain that carries it, if that is
// before its five minutes are over.
func (s *Server) tokenOptions(_ context.Context, g *goidc.Grant, _ *goidc.Client) goidc.TokenOptions {
	life := tokenLifetime
	if sub := subscriptionOf(g); sub != "" {
		if until := s.ledger.Standing(sub).Until(); !until.IsZero() {
			life = min(life, until.Sub(s.now()))
		}
	}
	return goidc.NewJWTTokenOptions(goidc.SigAlgES256, max(1, int(life/time.Second)))
}

// tokenClaims adds to an access token what RFC 9068 and FDS 2.6.4.1 ask for
// and the library leaves out.
func (s *Server) tokenClaims(ctx context.Context, t *goidc.Token, g *goidc.Grant) map[string]any {
	now := s.now().Unix()
	claims := map[string]any{
		goidc.ClaimIssuedAt: now,
		goidc.ClaimExpiry:   now + int64(t.LifetimeSecs()),
		goidc.ClaimAudience: s.audience(exchangeOf(ctx), t.Scopes, g),
	}
	if sub := subscriptionOf(g); sub != "" {
		claims[s.claim] = string(sub)
	}
	return claims
}

func (s *Server) idTokenClaims(_ context.Context, g *goidc.Grant) map[string]any {
	claims := map[string]any{goidc.ClaimIssuedAt: s.now().Unix(), goidc.ClaimExpiry: s.now().Add(tokenLifetime).Unix()}
	if at, ok := g.Store[keySignedIn].(float64); ok {
		claims[goidc.ClaimAuthTime] = int64(at) / 1e6
	}
	if names, ok := g.Store[keyFactors].(string); ok {
		presented := splitFactors(names)
		claims[goidc.ClaimAMR], claims[goidc.ClaimACR] = keyholder.SignInMethods(presented), keyholder.SignInClass(presented)
	}
	return claims
}

// Names in the free part of the library's records.
const (
	keySubscription = "subscription"
	keyResources    = "resources" // URIs with blanks between; empty: all
	keySignedIn     = "signed_in" // Unix microseconds
	keyFactors      = "factors"   // that were presented
	keyAttempt      = "attempt"   // of a user who is not signed in yet
	keyUser         = "user"
	keyStep         = "step"
	keyLanguages    = "languages" // that the app asked for
	keyBrowser      = "browser"   // hash of the browser's cookie
)

// paramSubscription is the parameter of a client_credentials request that
// names the subscription.
const paramSubscription = "subscription_id"

func subscriptionOf(g *goidc.Grant) keyholder.SubscriptionID {
	id, _ := g.Store[keySubscription].(string)
	return keyholder.SubscriptionID(id)
}

// mayIntrospect is the library's question after authentication; the same has
// been decided when the client was authenticated.
func (s *Server) mayIntrospect(_ context.Context, c *goidc.Client, _ goidc.TokenInfo) bool {
	return keyholder.PermitIntrospect(s.roleOf(c.ID)).Allowed
}

// mayRevoke lets every client end its own tokens; the library compares the
// client of the token.
func mayRevoke(context.Context, *goidc.Client) bool { return true }

func digest(s string) ledger.Digest { return digestOf([]byte(s)) }
