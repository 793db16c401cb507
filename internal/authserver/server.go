// Package authserver is the authorization server of a Keyholder (FDS 2.6.4.1,
// 2.6.5.1): OAuth 2.0 and OpenID Connect for apps, providers and resource
// servers; the pages on which an owner's user signs in and shares an agreement
// with an app; and the account page on which they look after their sign-in.
//
// The protocol is spoken by github.com/luikyv/go-oidc, WebAuthn by
// github.com/go-webauthn/webauthn, and this package is their only home. What the libraries leave to their embedder is done here: storage in
// the ledger, client certificates checked against the ledger, the binding of a
// sign-in to one browser, and the pages. Whether a token may be issued, a
// token introspected or an agreement shared is decided by the Permit functions
// of package keyholder.
package authserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/federation"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// Lifetimes. A code is redeemed by the app at once, so it lives as short as
// RFC 9700 and FAPI 2.0 ask for at most; a session is one person at two pages.
const (
	tokenLifetime   = 5 * time.Minute
	codeLifetime    = 60 * time.Second
	pushLifetime    = 60 * time.Second // from the push to the browser's arrival
	sessionLifetime = 10 * time.Minute
	refreshLifetime = 30 * 24 * time.Hour
)

// Config says what an authorization server needs. Ledger, Keyring, Authority,
// Issuer and Audiences are required.
type Config struct {
	Ledger    *ledger.Ledger
	Keyring   *keyring.Ring
	Authority *pki.Authority

	// Issuer is the URL of this server as the parties reach it: https, host
	// and port, nothing after them (RFC 8414 2).
	Issuer string
	// Audiences is the aud claim of tokens for reading and for ingestion: the
	// base URL of the Web API, and further ones if the provider has them. A
	// client may ask for some of them only (RFC 8707).
	Audiences []string
	// SubscriptionClaim names the claim that carries the subscription ID.
	// Empty: subscription_id.
	SubscriptionClaim string
	// External says that another authorization server issues the tokens. Then
	// this one serves only what does not depend on who does: the keys of
	// receipts, the authority, and the feed of endings.
	External bool
	// Federation calls the OpenID providers of owners. Nil: a client with the
	// strict TLS profile that trusts the system's authorities.
	Federation *http.Client
	// RefreshLifetime is how long an unused refresh token lives; each use
	// begins it anew. 0: 30 days.
	RefreshLifetime time.Duration

	Log *slog.Logger     // nil: slog.Default
	Now func() time.Time // nil: the ledger's clock
}

// Server is an authorization server. Its methods are safe for concurrent use.
type Server struct {
	ledger    *ledger.Ledger
	authority *pki.Authority
	keys      *keyring.Ring
	issuer    string
	audiences []string
	claim     string
	refresh   time.Duration
	external  bool
	log       *slog.Logger
	now       func() time.Time

	library http.Handler // go-oidc's own routes, never exposed as they are
	handler http.Handler
	pages   *pages

	federation   *federation.Client
	relyingParty *webauthn.WebAuthn // nil: no passkeys

	machines *machineGrants
	denials  *denials
	feed     *feed
	crl      revocationList
	metadata []byte
}

// New returns an authorization server. It serves nothing until its Handler is
// mounted on a TLS listener that asks for client certificates (without
// requiring them) and sets the usual limits on headers and time.
func New(cfg Config) (*Server, error) {
	if cfg.Ledger == nil || cfg.Keyring == nil || cfg.Authority == nil {
		return nil, errors.New("authorization server: a ledger, a keyring and a certificate authority are needed")
	}
	if err := checkIssuer(cfg.Issuer); err != nil {
		return nil, err
	}
	if len(cfg.Audiences) == 0 {
		return nil, errors.New("authorization server: without an audience its tokens would be good anywhere")
	}
	s := &Server{
		ledger: cfg.Ledger, authority: cfg.Authority, keys: cfg.Keyring, issuer: cfg.Issuer,
		audiences: cfg.Audiences, claim: cfg.SubscriptionClaim, refresh: cfg.RefreshLifetime,
		external: cfg.External, log: cfg.Log, now: cfg.Now,
	}
	if s.claim == "" {
		s.claim = "subscription_id"
	}
	if s.refresh == 0 {
		s.refresh = refreshLifetime
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.now == nil {
		s.now = cfg.Ledger.Now
	}
	if cfg.Federation == nil {
		cfg.Federation = guard.HTTPClient(nil, keyholder.TLSStrict)
	}
	s.federation = federation.New(cfg.Federation, s.now)
	s.machines = newMachineGrants(maxMachineGrants)
	s.denials = &denials{ledger.NewDenials(s.ledger, s.log), s.ledger}
	s.feed = newFeed()
	var err error
	if s.pages, err = newPages(cfg.Issuer); err != nil {
		return nil, err
	}
	if s.relyingParty, err = newRelyingParty(cfg.Issuer); err != nil {
		return nil, err
	}
	if s.library, err = newLibrary(s); err != nil {
		return nil, fmt.Errorf("authorization server: %w", err)
	}
	if s.metadata, err = s.readMetadata(); err != nil {
		return nil, err
	}
	s.handler = s.routes()
	return s, nil
}

func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.String() != "https://"+u.Host || strings.Contains(issuer, "@") {
		return keyholder.Errorf(keyholder.Invalid, "the issuer is not of the form https://host[:port]").
			WithHint("write it as the parties reach this server, without a slash at the end")
	}
	if u.Port() == "443" || u.Host != strings.ToLower(u.Host) {
		// DPoP proofs are compared with it, in the normal form of RFC 3986.
		return keyholder.Errorf(keyholder.Invalid, "the issuer is not in its normal form").
			WithHint("write the host in small letters, and leave out the port 443, which is that of https")
	}
	return nil
}

// Handler returns the server's routes. Everything it does not list is 404:
// the library knows more endpoints (registration, user info) than are wanted.
func (s *Server) Handler() http.Handler { return s.handler }

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", s.serveMetadata)
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", s.serveMetadata)
	mux.Handle("GET /jwks", s.library)
	if !s.external {
		s.routeTokens(mux)
	}
	mux.HandleFunc("GET /"+string(endpointEndings), s.serveEndings)
	mux.HandleFunc("GET /pki/root.pem", s.serveRoot)
	mux.HandleFunc("GET /pki/issuing.crl", s.serveCRL)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, http.StatusNotFound, "nothing is served at this address")
	})
	return secureHeaders(mux)
}

// routeTokens adds what it takes to issue tokens.
func (s *Server) routeTokens(mux *http.ServeMux) {
	s.routeAccount(mux)
	s.routeFederation(mux)
	s.routeRecover(mux)
	mux.HandleFunc("GET /authorize", s.serveAuthorize)
	mux.HandleFunc("POST /authorize", s.serveAuthorize)
	mux.HandleFunc("GET /authorize/{session}", offerLanguages(s.serveInteraction))
	mux.HandleFunc("POST /authorize/{session}", s.serveInteraction)
	for _, e := range clientEndpoints {
		mux.HandleFunc("POST /"+string(e), func(w http.ResponseWriter, r *http.Request) { s.serveClient(e, w, r) })
	}
}

// secureHeaders sets what holds for every answer; pages add their own policy.
func secureHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// End is the plane of a cut: it forgets the sign-ins in progress of cut apps
// and the grants by client credentials of everything that ended. Grants with
// refresh tokens were ended in the cut's own transaction. It returns how many
// things it forgot.
func (s *Server) End(ctx context.Context, c keyholder.Cut) (int, error) {
	ended := s.machines.end(c.Ended)
	for _, app := range c.Ended.Apps {
		n, err := s.ledger.ForgetSessions(ctx, string(app))
		if err != nil {
			return ended, fmt.Errorf("end sign-ins of a cut app: %w", err)
		}
		ended += n
	}
	return ended, nil
}
