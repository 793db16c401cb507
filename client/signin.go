package client

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/fds-keyholder/keyholder"
)

// signInWithin is how long the owner's user may take.
const signInWithin = 15 * time.Minute

// SignIn is one attempt of an owner's user to sign in and to give consent
// (FDS 2.6.5.1). It belongs to the browser that began it: keep it under State
// in that browser's session and nowhere else.
type SignIn struct {
	// URL is where to send the user's browser.
	URL string
	// State comes back in the callback as the parameter "state".
	State string

	c        *Client
	verifier string
	iss      bool // the response must name its issuer
	until    time.Time
	finished atomic.Bool
}

// SignIn begins a sign-in: send the user's browser to its URL, and give the
// address that it comes back to to [SignIn.Finish].
func (c *Client) SignIn(ctx context.Context) (*SignIn, error) {
	u, err := url.Parse(c.cfg.RedirectURI)
	if err != nil || c.cfg.RedirectURI == "" || !u.IsAbs() || u.Fragment != "" {
		return nil, keyholder.Errorf(keyholder.Invalid, "the redirect URI is not an absolute URL")
	}
	m, err := c.discover(ctx)
	if err != nil {
		return nil, err
	}
	if m.AuthorizationEndpoint == "" {
		return nil, keyholder.Errorf(keyholder.Invalid, "the authorization server signs nobody in")
	}
	s := &SignIn{
		State: rand.Text(), c: c, verifier: oauth2.GenerateVerifier(),
		iss: m.IssuerInResponse, until: c.cfg.Now().Add(signInWithin),
	}
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(s.verifier)}
	if c.prover != nil { // who steals the code needs the key, too
		options = append(options, oauth2.SetAuthURLParam("dpop_jkt", c.prover.jkt))
	}
	s.URL = c.oauth(m).AuthCodeURL(s.State, options...)
	return s, nil
}

// Finish ends a sign-in with the address that the user's browser came back
// to: it checks state and issuer (RFC 9207), redeems the code once and returns
// the session, whose tokens have been saved. It can be called once only.
//
// A refusal by the user or the server is an [OAuthError]; a callback that
// does not belong to this sign-in an [keyholder.Error] of code Denied.
func (s *SignIn) Finish(ctx context.Context, callback *url.URL) (*Session, error) {
	q, err := url.ParseQuery(callback.RawQuery)
	if err != nil {
		return nil, keyholder.Errorf(keyholder.Invalid, "the callback is malformed")
	}
	for _, name := range []string{"state", "code", "iss", "error"} {
		if len(q[name]) > 1 {
			return nil, keyholder.Errorf(keyholder.Denied, "the callback repeats a parameter")
		}
	}
	iss := q.Get("iss")
	switch {
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(s.State)) != 1:
		return nil, keyholder.Errorf(keyholder.Denied, "the callback belongs to another sign-in")
	case iss != s.c.cfg.Issuer && (s.iss || q.Has("iss")):
		return nil, keyholder.Errorf(keyholder.Denied, "the callback is from another authorization server")
	case !s.finished.CompareAndSwap(false, true):
		return nil, keyholder.Errorf(keyholder.Denied, "the sign-in was finished before")
	case s.c.cfg.Now().After(s.until):
		return nil, keyholder.Errorf(keyholder.Denied, "the sign-in took too long").WithHint("begin again")
	case q.Has("error"):
		return nil, &OAuthError{Code: printable(q.Get("error")), Description: printable(q.Get("error_description"))}
	case q.Get("code") == "":
		return nil, keyholder.Errorf(keyholder.Invalid, "the callback holds neither a code nor an error")
	}
	t, err := s.c.redeem(ctx, q.Get("code"), s.verifier)
	if err != nil {
		return nil, err
	}
	session := s.c.session(t, s.c.refresh)
	session.unsaved = true
	if _, err := session.Token(ctx); err != nil {
		return nil, err
	}
	return session, nil
}
