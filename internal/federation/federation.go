// Package federation is our side of a sign-in at an OpenID provider of an
// owner: it sends a browser there, and makes of the answer who somebody is
// there (OpenID Connect Core 3.1, with PKCE). Whom that names here, and whether
// it signs them in, is not decided here.
//
// The protocol is spoken by github.com/coreos/go-oidc, which has no other home. It calls nothing but what
// [keyholder.IdentityProvider.Reaches] allows, follows no redirect, and bounds
// the time and the size of every answer.
package federation

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/fds-keyholder/keyholder"
)

// Bounds of what a provider is waited for and listened to, and how long what
// it says of itself is taken for true.
const (
	patience     = 10 * time.Second
	maxAnswer    = 1 << 20
	discoveryAge = time.Hour
	failureAge   = 10 * time.Second // so that many sign-ins do not knock at a closed door
	maxSubject   = 255              // bytes, OpenID Connect Core 2
)

// ErrDeclined is the answer of a provider at which the user, or the provider,
// did not want to sign in (access_denied).
var ErrDeclined = keyholder.Errorf(keyholder.Denied, "the provider answered access_denied")

// Client signs people in at providers. It is safe for concurrent use.
type Client struct {
	http *http.Client
	now  func() time.Time

	mu    sync.Mutex // guards known
	known map[keyholder.OwnerID]*discovery
}

// New returns a client that calls providers by the transport of c.
func New(c *http.Client, now func() time.Time) *Client {
	return &Client{http: c, now: now, known: map[keyholder.OwnerID]*discovery{}}
}

// Transaction is what both halves of a sign-in share: unguessable values, new
// for each.
type Transaction struct {
	State    string `json:"-"`
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"` // of PKCE (RFC 7636)
}

// Identity is who somebody is at a provider.
type Identity struct {
	Subject string
	Methods []string // amr: how they have signed in there (RFC 8176)
}

// Begin returns the address at the provider to which the browser is sent.
// back is our redirect URI for this provider alone. Errors: Unavailable if
// the provider does not answer, Denied if what it says of itself is no good.
func (c *Client) Begin(ctx context.Context, p keyholder.IdentityProvider, back string, t Transaction) (string, error) {
	d, err := c.discover(ctx, p)
	if err != nil {
		return "", err
	}
	return d.config(back, "").AuthCodeURL(t.State, oidc.Nonce(t.Nonce), oauth2.S256ChallengeOption(t.Verifier)), nil
}

// Finish makes of the provider's answer, the query of our redirect URI, who
// has signed in. Errors: ErrDeclined; Denied if the answer is another
// provider's, or not of this transaction, or its ID token not good for us;
// Unavailable.
func (c *Client) Finish(ctx context.Context, p keyholder.IdentityProvider, secret, back string, t Transaction, answer url.Values) (Identity, error) {
	d, err := c.discover(ctx, p)
	if err != nil {
		return Identity{}, err
	}
	// RFC 9207 2.4: a provider that says who it is in its answers must do so
	// in each.
	if iss := answer.Get("iss"); iss != p.Issuer && (iss != "" || d.names) {
		return Identity{}, keyholder.Errorf(keyholder.Denied, "the answer is not of the provider that was asked")
	}
	switch code := answer.Get("error"); {
	case code == "access_denied":
		return Identity{}, ErrDeclined
	case code != "":
		return Identity{}, keyholder.Errorf(keyholder.Denied, "the provider answered %.40q", code)
	case answer.Get("code") == "":
		return Identity{}, keyholder.Errorf(keyholder.Denied, "the answer holds no code")
	}
	ctx = d.reach(ctx)
	token, err := d.config(back, secret).Exchange(ctx, answer.Get("code"), oauth2.VerifierOption(t.Verifier))
	if err != nil {
		return Identity{}, explain(err)
	}
	return c.identify(ctx, d, token, t.Nonce)
}

// identify verifies the ID token: signature, issuer, audience and times by
// the library, the rest here.
func (c *Client) identify(ctx context.Context, d *discovery, token *oauth2.Token, nonce string) (Identity, error) {
	raw, _ := token.Extra("id_token").(string)
	id, err := d.provider.Verifier(&oidc.Config{ClientID: d.of.ClientID, Now: c.now}).Verify(ctx, raw)
	if err != nil {
		return Identity{}, &keyholder.Error{Code: keyholder.Denied, Detail: "the ID token of the provider is not good", Err: err}
	}
	var claims struct {
		Party   string          `json:"azp"`
		Methods json.RawMessage `json:"amr"`
	}
	if err := id.Claims(&claims); err != nil {
		return Identity{}, &keyholder.Error{Code: keyholder.Denied, Detail: "the ID token of the provider cannot be read", Err: err}
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1:
		return Identity{}, keyholder.Errorf(keyholder.Denied, "the ID token is not of this sign-in (nonce)")
	case (len(id.Audience) > 1 || claims.Party != "") && claims.Party != d.of.ClientID:
		return Identity{}, keyholder.Errorf(keyholder.Denied, "the ID token was issued to another client (azp)")
	case id.Subject == "" || len(id.Subject) > maxSubject:
		return Identity{}, keyholder.Errorf(keyholder.Denied, "the ID token names nobody")
	}
	out := Identity{Subject: id.Subject}
	if json.Unmarshal(claims.Methods, &out.Methods) != nil {
		out.Methods = nil // of a form that says nothing
	}
	return out, nil
}

// discovery is what a provider says of itself.
type discovery struct {
	of     keyholder.IdentityProvider
	client *http.Client

	mu       sync.Mutex // guards the rest, and lets one ask at a time
	until    time.Time
	provider *oidc.Provider
	style    oauth2.AuthStyle
	names    bool // it names itself in its answers (RFC 9207)
	err      error
}

// discover returns what a provider says of itself, now or lately.
func (c *Client) discover(ctx context.Context, p keyholder.IdentityProvider) (*discovery, error) {
	c.mu.Lock()
	d := c.known[p.Owner]
	if d == nil || !d.of.Set.Equal(p.Set) || d.of.Issuer != p.Issuer {
		client := *c.http
		if client.Timeout == 0 {
			client.Timeout = patience
		}
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		client.Transport = reaching{c.http.Transport, p}
		d = &discovery{of: p, client: &client}
		c.known[p.Owner] = d
	}
	c.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := c.now(); now.After(d.until) {
		// Whoever asks asks for all: the answer does not depend on whether
		// this browser still waits.
		if d.err = d.fetch(context.WithoutCancel(ctx)); d.err != nil {
			d.until = now.Add(failureAge)
		} else {
			d.until = now.Add(discoveryAge)
		}
	}
	return d, d.err
}

func (d *discovery) fetch(ctx context.Context) error {
	provider, err := oidc.NewProvider(d.reach(ctx), d.of.Issuer)
	if err != nil {
		return explain(err)
	}
	var says struct {
		Authorize string   `json:"authorization_endpoint"`
		Token     string   `json:"token_endpoint"`
		Keys      string   `json:"jwks_uri"`
		Methods   []string `json:"token_endpoint_auth_methods_supported"`
		Names     bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := provider.Claims(&says); err != nil {
		return &keyholder.Error{Code: keyholder.Denied, Detail: "the metadata of the provider cannot be read", Err: err}
	}
	if u, err := url.Parse(says.Authorize); err != nil || u.Scheme != "https" || u.Host == "" {
		return keyholder.Errorf(keyholder.Denied, "the provider's authorization endpoint is not an https address")
	}
	for _, address := range []string{says.Token, says.Keys} {
		if u, err := url.Parse(address); err != nil || !d.of.Reaches(u) {
			return errElsewhere
		}
	}
	d.provider, d.names, d.style = provider, says.Names, oauth2.AuthStyleInHeader
	if len(says.Methods) > 0 && !slices.Contains(says.Methods, "client_secret_basic") {
		d.style = oauth2.AuthStyleInParams
	}
	return nil
}

func (d *discovery) reach(ctx context.Context) context.Context {
	return oidc.ClientContext(ctx, d.client)
}

func (d *discovery) config(back, secret string) *oauth2.Config {
	endpoint := d.provider.Endpoint()
	endpoint.AuthStyle = d.style
	return &oauth2.Config{ClientID: d.of.ClientID, ClientSecret: secret, RedirectURL: back, Endpoint: endpoint,
		Scopes: append([]string{oidc.ScopeOpenID}, d.of.Scopes...)}
}

var errElsewhere = keyholder.Errorf(keyholder.Denied, "the provider's metadata name a host that is not registered for it")

// reaching is a transport that calls what the provider may have called, and
// bounds the answers.
type reaching struct {
	base http.RoundTripper
	of   keyholder.IdentityProvider
}

// RoundTrip is part of http.RoundTripper.
func (t reaching) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.of.Reaches(r.URL) {
		return nil, errElsewhere
	}
	resp, err := t.base.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// explain says what became of a call, without what the provider wrote.
func explain(err error) error {
	if errors.Is(err, errElsewhere) {
		return errElsewhere
	}
	if refused := new(oauth2.RetrieveError); errors.As(err, &refused) && refused.Response != nil && refused.Response.StatusCode < http.StatusInternalServerError {
		return keyholder.Errorf(keyholder.Denied, "the provider did not take the code: %.40q", refused.ErrorCode)
	}
	return keyholder.Errorf(keyholder.Unavailable, "the provider did not answer as one does")
}
