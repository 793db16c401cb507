package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

const (
	// renewWithin bounds one renewal with all its tries.
	renewWithin = 2 * time.Minute
	// renewPause is how long a failed renewal is not tried again while the
	// old token still serves.
	renewPause = 5 * time.Second
	// discardAfter is the age at which an access token that the Web API
	// refuses is worth a renewal.
	discardAfter = 10 * time.Second
)

// Session is an app's access to one subscription. It is safe for concurrent
// use and renews its tokens when it is used.
type Session struct {
	c     *Client
	fetch func(context.Context, Tokens) (Tokens, error) // gets new tokens in place of old ones
	save  bool                                          // new tokens are given to OnTokens

	mu      sync.Mutex // guards the fields below
	tokens  Tokens
	renewAt time.Time
	got     time.Time     // when tokens.Access was got; zero: restored
	unsaved bool          // OnTokens has not taken tokens yet
	ended   error         // the session is over for good
	running chan struct{} // closed when the running renewal is over; nil: none runs
	failure error         // of the last renewal
	pause   time.Time     // no renewal before that
}

// session returns a session that begins with the given tokens.
func (c *Client) session(t Tokens, fetch func(context.Context, Tokens) (Tokens, error)) *Session {
	s := &Session{c: c, fetch: fetch, save: true}
	s.accept(t)
	return s
}

// Restore returns the session that saved tokens belong to. Restore tokens in
// one process only: a refresh token is used up by its use.
func (c *Client) Restore(t Tokens) (*Session, error) {
	if t.Refresh == "" {
		return nil, keyholder.Errorf(keyholder.Invalid, "the saved tokens hold no refresh token")
	}
	if t.Key != c.keyThumbprint() {
		t.Access = "" // it is of no use with this key; the refresh token is
	}
	s := c.session(t, c.refresh)
	s.got = time.Time{}
	return s, nil
}

// ClientCredentials returns a session for machine calls, where the provider
// negotiated that grant with the app (FDS 2.6.5.1): the first token for the
// subscription is got at once. Such a session has nothing to save.
func (c *Client) ClientCredentials(ctx context.Context, sub keyholder.SubscriptionID) (*Session, error) {
	if _, err := keyholder.ParseID[keyholder.SubscriptionID](string(sub)); err != nil {
		return nil, err
	}
	s := c.machine(keyholder.ScopeRead, sub)
	if _, err := s.Token(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// machine returns a session by client credentials.
func (c *Client) machine(scope string, sub keyholder.SubscriptionID) *Session {
	s := c.session(Tokens{Subscription: sub}, func(ctx context.Context, _ Tokens) (Tokens, error) {
		return c.clientCredentials(ctx, scope, sub)
	})
	s.save = false
	return s
}

// Subscription returns the subscription of the session.
func (s *Session) Subscription() keyholder.SubscriptionID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens.Subscription
}

// Token returns an access token that is good for a while. If it is time to
// renew it, the call waits for that; many callers share one renewal, which
// goes on if a caller stops waiting. While a renewal fails, the old token is
// returned until it expires.
//
// The error has [ErrSignInAgain] in its chain if the session is over; it is an
// [keyholder.Error] of code Unavailable if the authorization server cannot be
// asked now, and the refresh token is kept then.
func (s *Session) Token(ctx context.Context) (string, error) {
	s.mu.Lock()
	now := s.c.cfg.Now()
	if s.ended != nil {
		defer s.mu.Unlock()
		return "", s.ended
	}
	if s.usable(now) && now.Before(s.renewAt) {
		defer s.mu.Unlock()
		return s.tokens.Access, nil
	}
	running := s.running
	if running == nil && !now.Before(s.pause) {
		running = s.start(ctx)
	}
	s.mu.Unlock()
	if running != nil {
		select {
		case <-running:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for a new access token: %w", ctx.Err())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended != nil:
		return "", s.ended
	case s.usable(s.c.cfg.Now()):
		return s.tokens.Access, nil
	}
	return "", s.failure
}

// usable says whether the access token may be used now. The caller holds mu.
func (s *Session) usable(now time.Time) bool {
	return s.tokens.Access != "" && !s.unsaved && now.Before(s.tokens.Expires)
}

// start begins a renewal. It does not end with the request that needs it: the
// server may have used up the refresh token already, and the answer must not
// get lost. The caller holds mu.
func (s *Session) start(ctx context.Context) chan struct{} {
	done := make(chan struct{})
	s.running = done
	old, unsaved := s.tokens, s.unsaved
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewWithin)
	go func() {
		defer cancel()
		s.renew(ctx, old, unsaved)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running = nil
		close(done)
	}()
	return done
}

// renew gets new tokens, unless the old ones only wait to be saved, and gives
// them to OnTokens before anything can use them.
func (s *Session) renew(ctx context.Context, t Tokens, unsaved bool) {
	now := s.c.cfg.Now
	if !unsaved || !now().Before(t.Expires) {
		fresh, err := s.fetch(ctx, t)
		s.mu.Lock()
		if err != nil {
			s.failure, s.pause = err, now().Add(renewPause)
			if errors.Is(err, ErrSignInAgain) {
				s.ended = err
			}
			s.mu.Unlock()
			return
		}
		s.accept(fresh)
		s.unsaved = s.save
		s.mu.Unlock()
		t = fresh
	}
	var err error
	if s.save && s.c.cfg.OnTokens != nil {
		err = s.c.cfg.OnTokens(ctx, t)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failure, s.pause = fmt.Errorf("save the new tokens: %w", err), time.Time{}
		return
	}
	s.unsaved, s.failure, s.pause = false, nil, time.Time{}
}

// accept takes new tokens. The caller holds mu, or nobody else has s.
func (s *Session) accept(t Tokens) {
	now := s.c.cfg.Now()
	early := min(s.c.cfg.RenewBefore, t.Expires.Sub(now)/3)
	s.tokens, s.got, s.renewAt = t, now, t.Expires.Add(-max(early, 0))
}

// discard gives up an access token that the Web API refused, and says whether
// another try is worth it.
func (s *Session) discard(access string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens.Access != access {
		return true // it was renewed meanwhile
	}
	if !s.got.IsZero() && s.c.cfg.Now().Sub(s.got) < discardAfter {
		return false
	}
	s.tokens.Access = ""
	return true
}
