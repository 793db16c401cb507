package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/fds-keyholder/keyholder"
)

const (
	// maxTries bounds how often one request is sent.
	maxTries = 5
	// maxWait bounds a wait that a server asks for.
	maxWait = 30 * time.Second
	// firstWait is the wait before the second try where the server names none.
	firstWait = 250 * time.Millisecond
	// unknownLifetime is taken for a token whose expiry is not told.
	unknownLifetime = time.Minute
	// maxText bounds what is repeated of a server's words.
	maxText = 300
)

// ErrSignInAgain is in the chain of the error of a session that has ended for
// good: the owner's consent, the agreement or the refresh token is no longer
// in force. Only a new sign-in of the owner's user can help.
var ErrSignInAgain = errors.New("the owner's user must sign in again")

// OAuthError is an error response of the authorization server (RFC 6749
// sections 4.1.2.1 and 5.2).
type OAuthError struct {
	Code        string // for example "invalid_grant"
	Description string // may be empty
	Status      int    // HTTP status; 0 in a callback
}

// Error returns code and description.
func (e *OAuthError) Error() string {
	if e.Description == "" {
		return "the authorization server refused: " + e.Code
	}
	return "the authorization server refused: " + e.Code + ": " + e.Description
}

// Tokens is what a session needs to go on after a restart. They are secrets:
// whoever has them acts as the app on behalf of the owner, unless they are
// bound to the app's certificate.
type Tokens struct {
	// Subscription is the subscription that the owner's consent created. It
	// was read from the token without verifying it, for the app's own
	// bookkeeping; nothing is decided by it.
	Subscription keyholder.SubscriptionID `json:"subscription"`
	Access       string                   `json:"access_token"`
	Refresh      string                   `json:"refresh_token,omitempty"`
	Expires      time.Time                `json:"expires"` // of the access token
	// Key is the thumbprint of the DPoP key that the access token is bound to;
	// empty: none.
	Key string `json:"jkt,omitempty"`
}

// String shows whose tokens they are, and none of them.
func (t Tokens) String() string {
	return fmt.Sprintf("tokens of subscription %s, expiring %s", t.Subscription, t.Expires.Format(time.RFC3339))
}

// GoString is String, so that %#v shows no token either.
func (t Tokens) GoString() string { return t.String() }

// redeem exchanges a code for tokens. It is sent again only if the server
// said that it did not look at it: a code may be used once.
func (c *Client) redeem(ctx context.Context, code, verifier string) (Tokens, error) {
	m, err := c.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	return c.fetch(ctx, false, func(ctx context.Context) (*oauth2.Token, error) {
		return c.oauth(m).Exchange(ctx, code, oauth2.VerifierOption(verifier))
	})
}

// refresh exchanges a refresh token for new tokens.
func (c *Client) refresh(ctx context.Context, old Tokens) (Tokens, error) {
	m, err := c.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	t, err := c.fetch(ctx, true, func(ctx context.Context) (*oauth2.Token, error) {
		return c.oauth(m).TokenSource(ctx, &oauth2.Token{RefreshToken: old.Refresh}).Token()
	})
	if t.Subscription == "" {
		t.Subscription = old.Subscription
	}
	var refused *OAuthError
	if errors.As(err, &refused) && refused.Code == "invalid_grant" {
		return Tokens{}, fmt.Errorf("%w: %w", ErrSignInAgain, refused)
	}
	return t, err
}

// clientCredentials gets a token for the client itself; sub is empty for
// ingestion.
func (c *Client) clientCredentials(ctx context.Context, scope string, sub keyholder.SubscriptionID) (Tokens, error) {
	m, err := c.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	o := c.oauth(m)
	cc := clientcredentials.Config{
		ClientID: o.ClientID, ClientSecret: o.ClientSecret, TokenURL: o.Endpoint.TokenURL,
		AuthStyle: o.Endpoint.AuthStyle, Scopes: []string{scope},
	}
	if sub != "" {
		cc.EndpointParams = url.Values{"subscription_id": {string(sub)}}
	}
	t, err := c.fetch(ctx, true, cc.Token)
	t.Subscription = sub
	return t, err
}

// fetch asks the token endpoint, again if the server is busy, and after a
// broken connection if the request is repeatable. Errors hold nothing of the
// request.
func (c *Client) fetch(ctx context.Context, repeatable bool, ask func(context.Context) (*oauth2.Token, error)) (Tokens, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, c.asking)
	wait := firstWait
	for try := 1; ; try++ {
		t, err := ask(ctx)
		if err == nil {
			return c.tokens(t)
		}
		var answered *oauth2.RetrieveError
		pause, again := wait, repeatable
		switch {
		case errors.As(err, &answered) && !busy(answered.Response.StatusCode):
			if answered.ErrorCode == "" {
				return Tokens{}, unavailable("the authorization server gave no OAuth2 answer", fmt.Errorf("status %d", answered.Response.StatusCode))
			}
			return Tokens{}, &OAuthError{Code: printable(answered.ErrorCode), Description: printable(answered.ErrorDescription), Status: answered.Response.StatusCode}
		case answered != nil:
			again = true
			pause = retryAfter(answered.Response.Header, wait, c.cfg.Now())
			err = fmt.Errorf("status %d", answered.Response.StatusCode)
		}
		if !again || try == maxTries || pause > maxWait || !sleep(ctx, pause) {
			return Tokens{}, unavailable("the authorization server cannot be asked now", err)
		}
		wait *= 2
	}
}

// tokens reads a token response.
func (c *Client) tokens(t *oauth2.Token) (Tokens, error) {
	switch {
	case c.prover == nil && !strings.EqualFold(t.Type(), "Bearer"):
		return Tokens{}, keyholder.Errorf(keyholder.Invalid, "the authorization server issued a token of an unknown type")
	case c.prover != nil && !strings.EqualFold(t.Type(), "DPoP"):
		return Tokens{}, keyholder.Errorf(keyholder.Invalid, "the authorization server issued a token that is not bound to the DPoP key").
			WithHint("it may not know DPoP: leave DPoPKey out")
	}
	lifetime := time.Duration(t.ExpiresIn) * time.Second
	if lifetime <= 0 {
		lifetime = unknownLifetime
	}
	named, _ := t.Extra("subscription_id").(string)
	if named == "" {
		named = claimedSubscription(t.AccessToken)
	}
	sub, err := keyholder.ParseID[keyholder.SubscriptionID](named)
	if err != nil {
		sub = ""
	}
	return Tokens{Subscription: sub, Access: t.AccessToken, Refresh: t.RefreshToken, Expires: c.cfg.Now().Add(lifetime), Key: c.keyThumbprint()}, nil
}

// claimedSubscription reads the claim subscription_id of a token without
// verifying anything; it returns "" if there is none.
func claimedSubscription(access string) string {
	parts := strings.Split(access, ".")
	if len(parts) != 3 {
		return ""
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Subscription string `json:"subscription_id"`
	}
	if json.Unmarshal(body, &claims) != nil {
		return ""
	}
	return claims.Subscription
}

// busy says whether a status means that the same request may succeed later.
func busy(status int) bool {
	return status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests
}

// retryAfter reads how long a server asks to wait (RFC 9110 section 10.2.3).
func retryAfter(h http.Header, fallback time.Duration, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0)
	}
	return fallback
}

// sleep waits and says whether the context still holds.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// printable bounds a server's words and strips what could disturb a terminal
// or a log.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

func unavailable(detail string, cause error) error {
	return &keyholder.Error{Code: keyholder.Unavailable, Detail: detail, Err: cause}
}
