package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

const (
	defaultRenewBefore = time.Minute
	defaultMaxResponse = 64 << 20
	// metadataFor is how long the authorization server's metadata are used.
	metadataFor = time.Hour
	// requestTimeout bounds a request to the authorization server.
	requestTimeout = 30 * time.Second
)

// Config says who the app or provider is and where its counterparts are.
type Config struct {
	// Issuer is the issuer identifier of the provider's authorization server,
	// an https URL. Required.
	Issuer string

	// API is the base URL of the provider's Web API, before /fds/v2. Required
	// unless only push is used.
	API string

	// ClientID is the ID of the app or provider. Required.
	ClientID string

	// Secret is the client secret. Either Secret or Certificate is required.
	Secret string

	// Certificate is the client certificate and its key, for tls_client_auth
	// (RFC 8705 section 2.1), which FDS 2.6.5.1 strongly recommends. It is
	// presented to the Web API too, since the tokens are bound to it. After
	// its renewal make a new client and restore the sessions.
	Certificate *tls.Certificate

	// DPoPKey is a key that the tokens are bound to (RFC 9449), an ECDSA key on
	// P-256 or an Ed25519 key: who steals a token cannot use it without the
	// key. Beside a certificate the tokens are bound to both. It may be made
	// anew with every start; tokens that the authorization server does not
	// bind are refused then. Nil means that no DPoP is used. Servers that
	// demand a nonce are not supported.
	DPoPKey crypto.Signer

	// RedirectURI is where the owner's user comes back to after signing in,
	// exactly as registered. Needed for SignIn only.
	RedirectURI string

	// RootCAs are the roots that servers are verified with; nil means the
	// system's.
	RootCAs *x509.CertPool

	// TLS is the TLS profile; empty means strict, which is TLS 1.2.
	TLS keyholder.TLSProfile

	// OnTokens saves the tokens of a session that was signed in to. It is
	// called with each new set before the session uses it, so that a crash
	// loses none: with an older set the owner's user may have to sign in
	// again. An error keeps the session from using them; it tries again on
	// the next use. Tokens are secrets and must be stored as such. May be nil.
	OnTokens func(ctx context.Context, t Tokens) error

	// RenewBefore is how long before its expiry an access token is renewed.
	// Zero means one minute; it is never more than a third of the lifetime.
	RenewBefore time.Duration

	// MaxResponse bounds an answer of the Web API, in bytes. Zero means 64 MiB.
	MaxResponse int64

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Client is the app, or the provider's back end, towards one provider. It is
// safe for concurrent use.
type Client struct {
	cfg    Config
	http   *http.Client
	asking *http.Client // for tokens
	prover *prover      // nil: the tokens are not bound to a key

	mu         sync.Mutex // guards the fields below
	metadata   guard.Metadata
	discovered time.Time // zero: never
}

// New returns a client, or an [keyholder.Error] of code Invalid if the
// configuration is incomplete or unsafe. It does not contact anybody.
func New(cfg Config) (*Client, error) {
	switch {
	case !secureURL(cfg.Issuer):
		return nil, keyholder.Errorf(keyholder.Invalid, "the issuer is not an https URL")
	case cfg.API != "" && !secureURL(cfg.API):
		return nil, keyholder.Errorf(keyholder.Invalid, "the address of the Web API is not an https URL")
	case cfg.ClientID == "":
		return nil, keyholder.Errorf(keyholder.Invalid, "the client ID is missing")
	case (cfg.Secret == "") == (cfg.Certificate == nil):
		return nil, keyholder.Errorf(keyholder.Invalid, "either a client secret or a client certificate is needed")
	case cfg.RenewBefore < 0 || cfg.MaxResponse < 0:
		return nil, keyholder.Errorf(keyholder.Invalid, "a bound is negative")
	}
	if cfg.RenewBefore == 0 {
		cfg.RenewBefore = defaultRenewBefore
	}
	if cfg.MaxResponse == 0 {
		cfg.MaxResponse = defaultMaxResponse
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.API = strings.TrimSuffix(cfg.API, "/")
	p, err := newProver(cfg.DPoPKey, cfg.Now)
	if err != nil {
		return nil, err
	}
	tlsConfig := cfg.TLS.Config()
	tlsConfig.RootCAs = cfg.RootCAs
	if cfg.Certificate != nil {
		tlsConfig.Certificates = []tls.Certificate{*cfg.Certificate}
	}
	c := &Client{cfg: cfg, prover: p, http: &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			TLSClientConfig:       tlsConfig,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: requestTimeout,
			IdleConnTimeout:       90 * time.Second,
			MaxIdleConnsPerHost:   16,
			ForceAttemptHTTP2:     true,
		},
		// A token must go to nobody but the one it is for.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	c.asking = c.http
	if p != nil {
		c.asking = &http.Client{Transport: proving{p, c.http.Transport}, CheckRedirect: c.http.CheckRedirect}
	}
	return c, nil
}

// Close closes connections that are not in use. The client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// HTTPClient returns the client's HTTP client, which speaks the TLS profile,
// presents the certificate and follows no redirect: for example for
// [guard.FetchKeys].
func (c *Client) HTTPClient() *http.Client { return c.http }

// discover returns the metadata of the authorization server.
func (c *Client) discover(ctx context.Context) (guard.Metadata, error) {
	c.mu.Lock()
	m, at := c.metadata, c.discovered
	c.mu.Unlock()
	if !at.IsZero() && c.cfg.Now().Sub(at) < metadataFor {
		return m, nil
	}
	fresh, err := guard.Discover(ctx, c.cfg.Issuer, c.http)
	if err == nil && fresh.TokenEndpoint == "" {
		err = keyholder.Errorf(keyholder.Invalid, "the authorization server names no token endpoint")
	}
	if err != nil {
		if !at.IsZero() && keyholder.CodeOf(err) == keyholder.Unavailable {
			return m, nil // what was true an hour ago is better than nothing
		}
		return guard.Metadata{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.metadata, c.discovered = fresh, c.cfg.Now()
	return fresh, nil
}

// oauth returns the OAuth2 configuration of the client: with a secret it
// authenticates in the header, with a certificate its ID stands in the body
// (RFC 8705 section 2).
func (c *Client) oauth(m guard.Metadata) *oauth2.Config {
	o := &oauth2.Config{
		ClientID: c.cfg.ClientID, ClientSecret: c.cfg.Secret, RedirectURL: c.cfg.RedirectURI,
		Scopes: []string{keyholder.ScopeRead},
		Endpoint: oauth2.Endpoint{
			AuthURL: m.AuthorizationEndpoint, TokenURL: m.TokenEndpoint, AuthStyle: oauth2.AuthStyleInHeader,
		},
	}
	if c.cfg.Certificate != nil {
		o.Endpoint.AuthStyle = oauth2.AuthStyleInParams
		if m.MTLS.TokenEndpoint != "" {
			o.Endpoint.TokenURL = m.MTLS.TokenEndpoint
		}
	}
	return o
}

// secureURL says whether s is an absolute https URL without user, query or
// fragment.
func secureURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && !strings.ContainsAny(s, "?#")
}
