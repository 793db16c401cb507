package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// askTimeout bounds one introspection, which a request waits for.
	askTimeout = 2 * time.Second
	// maxAsking bounds the introspections under way, so that made-up tokens
	// cannot be turned into a flood of requests.
	maxAsking = 32
)

// introspectionMemory is how long an answer is used by a guard that
// introspects every token; a token that its issuer has revoked is taken for
// that long. What the caller's Permit function asks is asked each time.
const introspectionMemory = 10 * time.Second

// Introspection says as whom a guard asks the issuer about tokens (RFC 7662).
// An answer is used for ten seconds at most.
type Introspection struct {
	// ClientID and Secret are sent by HTTP Basic authentication. Without a
	// secret the client is authenticated by the certificate that HTTP
	// presents.
	ClientID, Secret string
	// HTTP is as for [Discover].
	HTTP *http.Client
}

// introspect is Verify without the cache, by introspection. It also returns
// until when the answer may be used.
func (g *Guard) introspect(ctx context.Context, raw string, now time.Time) (keyholder.Token, time.Time, error) {
	if raw == "" {
		return keyholder.Token{}, time.Time{}, refuse("it is empty")
	}
	answer, err := g.asker.ask(ctx, raw)
	if err != nil {
		return keyholder.Token{}, time.Time{}, err
	}
	r := reader{raw: answer}
	noRefreshToken(&r)
	c, err := r.claims(g.cfg.SubscriptionClaim, g.dialect, false)
	if err != nil {
		return keyholder.Token{}, time.Time{}, err
	}
	if c.token.Issuer == "" {
		c.token.Issuer = g.cfg.Issuer
	}
	if c.token.IssuedAt.IsZero() {
		c.token.IssuedAt = now
	}
	if err := g.checkClaims(c, now); err != nil {
		return keyholder.Token{}, time.Time{}, err
	}
	until := now.Add(introspectionMemory)
	if c.token.Expires.Before(until) {
		until = c.token.Expires
	}
	return c.token, until, nil
}

// noRefreshToken refuses an answer that says it is about another token than an
// access token: RFC 7662 lets issuers call those active, too.
func noRefreshToken(r *reader) {
	for name, want := range map[string][]string{
		"token_type": {"bearer", "dpop"}, "token_use": {"access_token"}, "typ": {"bearer", "at+jwt"},
	} {
		if _, ok := r.raw[name]; ok && !slices.Contains(want, strings.ToLower(r.text(name, true))) {
			r.fail(name)
		}
	}
}

// introspector asks an issuer what a token is worth (RFC 7662).
type introspector struct {
	issuer     string
	id, secret string // without a secret the client presents a certificate
	client     *http.Client
	asking     chan struct{} // a place for each introspection under way

	mu       sync.Mutex // guards endpoint
	endpoint string     // empty: not known yet
}

func newIntrospector(issuer, id, secret string, client *http.Client) *introspector {
	return &introspector{issuer: issuer, id: id, secret: secret, client: fetcher(client), asking: make(chan struct{}, maxAsking)}
}

// ask returns the answer about a token if it is active. The error is of code
// Denied if it is not, and Unavailable if that cannot be found out.
func (i *introspector) ask(ctx context.Context, raw string) (map[string]json.RawMessage, error) {
	select {
	case i.asking <- struct{}{}:
		defer func() { <-i.asking }()
	default:
		return nil, unavailable("too many tokens are being introspected", nil)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	endpoint, err := i.discover(ctx)
	if err != nil {
		return nil, unavailable("the authorization server cannot be asked about the token", err)
	}
	body, err := i.post(ctx, endpoint, raw)
	if err != nil {
		if errors.Is(err, errToken) {
			return nil, err
		}
		i.forget()
		i.client.CloseIdleConnections() // the next try must not wait on one that is dead
		return nil, unavailable("the authorization server cannot be asked about the token", err)
	}
	var answer map[string]json.RawMessage
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, unavailable("the answer about the token is malformed", err)
	}
	switch string(answer["active"]) {
	case "true":
		return answer, nil
	case "false":
		return nil, refuse("it is not active")
	}
	return nil, unavailable("the answer about the token is malformed", nil)
}

// discover finds the endpoint, once.
func (i *introspector) discover(ctx context.Context) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.endpoint != "" {
		return i.endpoint, nil
	}
	m, err := Discover(ctx, i.issuer, i.client)
	if err != nil {
		return "", err
	}
	if m.IntrospectionEndpoint == "" {
		return "", errors.New("the metadata name no introspection endpoint")
	}
	i.endpoint = m.IntrospectionEndpoint
	return i.endpoint, nil
}

// forget makes the next introspection look for the endpoint again.
func (i *introspector) forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.endpoint = ""
}

func (i *introspector) post(ctx context.Context, endpoint, raw string) ([]byte, error) {
	form := url.Values{"token": {raw}, "token_type_hint": {"access_token"}}
	if i.secret == "" {
		form.Set("client_id", i.id)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	if i.secret != "" {
		setBasic(r, i.id, i.secret)
	}
	resp, err := i.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	var refusal struct {
		Code string `json:"error"`
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("introspect a token: %w", err)
	case len(body) > maxDocument:
		return nil, errors.New("introspect a token: the answer is too long")
	case resp.StatusCode == http.StatusBadRequest && json.Unmarshal(body, &refusal) == nil && refusal.Code == "unsupported_token_type":
		return nil, refuse("the issuer does not introspect tokens of its kind")
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("introspect a token: status %d", resp.StatusCode)
	}
	return body, nil
}

// setBasic sets credentials of a client, both form-encoded (RFC 6749 2.3.1).
func setBasic(r *http.Request, id, secret string) {
	r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
}

// checkClient checks the credentials of a client as configured.
func checkClient(issuer, id string) error {
	if _, err := parseIssuer(issuer); err != nil {
		return err
	}
	if id == "" {
		return keyholder.Errorf(keyholder.Invalid, "the client that asks the authorization server has no ID").
			WithHint("`keyholder resourceserver add` registers one")
	}
	return nil
}
