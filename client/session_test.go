package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/google/go-cmp/cmp"
)

// rotate makes the peer answer the refresh token of generation n with that of
// generation n+1, once, as a server with rotation does.
func (p *peer) rotate() {
	generation := 0
	p.set(func() {
		p.token = func(w http.ResponseWriter, r *http.Request) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if got := r.PostForm.Get("refresh_token"); r.PostForm.Get("grant_type") != "refresh_token" || got != fmt.Sprint("refresh-", generation) {
				p.t.Errorf("refresh token %q in generation %d", got, generation)
				refuse(w, http.StatusBadRequest, "invalid_grant")
				return
			}
			generation++
			p.issue(w, fmt.Sprint("access-", generation), fmt.Sprint("refresh-", generation))
		}
	})
}

// Ensure that tokens are renewed a minute before they expire, once for many
// callers, each refresh token being used once and the new one saved first.
func TestRenewal(t *testing.T) {
	p := newPeer(t)
	p.rotate()
	var saved saver
	cfg := p.config()
	cfg.OnTokens = saved.save
	s := p.restored(cfg)
	for generation := 1; generation <= 3; generation++ {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				access, err := s.Token(t.Context())
				if want := jwt(fmt.Sprint("access-", generation)); err != nil || access != want {
					t.Errorf("token %q, error %v", access, err)
				}
				if saved.last().Refresh != fmt.Sprint("refresh-", generation) {
					t.Errorf("used before it was saved: %v", saved.last())
				}
			})
		}
		wg.Wait()
		p.clock.add(3*time.Minute + 59*time.Second)
		if access, err := s.Token(t.Context()); err != nil || access != jwt(fmt.Sprint("access-", generation)) {
			t.Errorf("more than a minute before expiry: token %q, error %v", access, err)
		}
		p.clock.add(time.Second)
	}
	if n := p.tokenCalls.Load(); n != 3 {
		t.Errorf("%d token requests, want 3", n)
	}
}

// Ensure that a server that does not rotate refresh tokens is understood.
func TestRenewalWithoutRotation(t *testing.T) {
	p := newPeer(t)
	p.set(func() { p.token = func(w http.ResponseWriter, _ *http.Request) { p.issue(w, "access-1", "") } })
	var saved saver
	cfg := p.config()
	cfg.OnTokens = saved.save
	s := p.restored(cfg)
	if _, err := s.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := client.Tokens{Subscription: testSub, Access: jwt("access-1"), Refresh: "refresh-0", Expires: p.clock.now().Add(5 * time.Minute)}
	if d := cmp.Diff(want, saved.last()); d != "" {
		t.Errorf("saved tokens differ (-want +got):\n%s", d)
	}
}

// Ensure that tokens that could not be saved are not used, and are saved on
// the next use without spending another refresh token.
func TestSaveFails(t *testing.T) {
	p := newPeer(t)
	p.rotate()
	var saved saver
	full := errors.New("disk full")
	saved.fail(full)
	cfg := p.config()
	cfg.OnTokens = saved.save
	s := p.restored(cfg)
	for range 2 {
		if access, err := s.Token(t.Context()); !errors.Is(err, full) || access != "" {
			t.Fatalf("token %q, error %v, want the failure to save", access, err)
		}
	}
	saved.fail(nil)
	if access, err := s.Token(t.Context()); err != nil || access != jwt("access-1") {
		t.Errorf("token %q, error %v", access, err)
	}
	if n := p.tokenCalls.Load(); n != 1 || len(saved.saved) != 3 {
		t.Errorf("%d token requests and %d tries to save, want 1 and 3", n, len(saved.saved))
	}
	p.clock.add(5 * time.Minute)
	if access, err := s.Token(t.Context()); err != nil || access != jwt("access-2") {
		t.Errorf("next generation: token %q, error %v", access, err)
	}
}

// Ensure that a busy server is asked again as it wishes, that a session keeps
// its refresh token through an outage, and its access token while that is good.
func TestServerBusy(t *testing.T) {
	p := newPeer(t)
	s := p.restored(p.config())
	busy := func(after string, times int32) {
		p.tokenCalls.Store(0)
		p.set(func() {
			p.token = func(w http.ResponseWriter, r *http.Request) {
				if got := r.PostForm.Get("refresh_token"); got != "refresh-0" && got != "refresh-1" {
					t.Errorf("refresh token %q", got)
				}
				if p.tokenCalls.Load() <= times {
					w.Header().Set("Retry-After", after)
					refuse(w, http.StatusServiceUnavailable, "temporarily_unavailable")
					return
				}
				p.issue(w, "access-1", "refresh-1")
			}
		})
	}
	busy("3600", 1000)
	_, err := s.Token(t.Context())
	if keyholder.CodeOf(err) != keyholder.Unavailable || errors.Is(err, client.ErrSignInAgain) {
		t.Errorf("long outage: error %v, want unavailable", err)
	}
	noSecrets(t, err)
	if n := p.tokenCalls.Load(); n != 1 {
		t.Errorf("%d requests although the server asked for an hour", n)
	}
	if _, err := s.Token(t.Context()); keyholder.CodeOf(err) != keyholder.Unavailable || p.tokenCalls.Load() != 1 {
		t.Errorf("at once again: error %v, %d requests", err, p.tokenCalls.Load())
	}
	p.clock.add(10 * time.Second)
	busy("0", 3)
	if access, err := s.Token(t.Context()); err != nil || access != jwt("access-1") {
		t.Errorf("short outage: token %q, error %v", access, err)
	}
	busy("3600", 1000)
	p.clock.add(4*time.Minute + 30*time.Second)
	if access, err := s.Token(t.Context()); err != nil || access != jwt("access-1") {
		t.Errorf("outage before expiry: token %q, error %v", access, err)
	}
	p.clock.add(30 * time.Second)
	if _, err := s.Token(t.Context()); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("outage at expiry: error %v, want unavailable", err)
	}
}

// Ensure that a renewal whose answer got lost is repeated with the same
// refresh token.
func TestLostAnswer(t *testing.T) {
	p := newPeer(t)
	s := p.restored(p.config())
	p.set(func() {
		p.token = func(w http.ResponseWriter, r *http.Request) {
			if got := r.PostForm.Get("refresh_token"); got != "refresh-0" {
				t.Errorf("refresh token %q", got)
			}
			if p.tokenCalls.Load() == 1 {
				panic(http.ErrAbortHandler)
			}
			p.issue(w, "access-1", "refresh-1")
		}
	})
	if access, err := s.Token(t.Context()); err != nil || access != jwt("access-1") {
		t.Errorf("token %q, error %v", access, err)
	}
}

// Ensure that a session whose grant was ended says so once and for all, and
// does not bother the server again.
func TestSignInAgain(t *testing.T) {
	p := newPeer(t)
	p.set(func() {
		p.token = func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusBadRequest, "invalid_grant") }
	})
	var saved saver
	cfg := p.config()
	cfg.OnTokens = saved.save
	s := p.restored(cfg)
	for range 3 {
		_, err := s.Token(t.Context())
		var oauth *client.OAuthError
		if !errors.Is(err, client.ErrSignInAgain) || !errors.As(err, &oauth) || oauth.Status != 400 {
			t.Fatalf("error %v, want %v", err, client.ErrSignInAgain)
		}
		noSecrets(t, err)
		p.clock.add(time.Minute)
	}
	if n := p.tokenCalls.Load(); n != 1 || len(saved.saved) != 0 {
		t.Errorf("%d token requests, %d saved", n, len(saved.saved))
	}
}

// Ensure that a renewal goes on, and its tokens are saved, if the caller that
// began it stops waiting: the server has used up the refresh token by then.
func TestCallerGoesAway(t *testing.T) {
	p := newPeer(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	p.set(func() {
		p.token = func(w http.ResponseWriter, _ *http.Request) {
			close(asked)
			<-answer
			p.issue(w, "access-1", "refresh-1")
		}
	})
	var saved saver
	cfg := p.config()
	cfg.OnTokens = saved.save
	s := p.restored(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := s.Token(ctx)
		gone <- err
	}()
	<-asked
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the end of the context", err)
	}
	close(answer)
	if access, err := s.Token(t.Context()); err != nil || access != jwt("access-1") || saved.last().Refresh != "refresh-1" {
		t.Errorf("token %q, error %v, saved %v", access, err, saved.last())
	}
	if n := p.tokenCalls.Load(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// Ensure that an access token with a short life is not renewed on each use.
func TestShortLife(t *testing.T) {
	p := newPeer(t)
	p.set(func() {
		p.token = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token":"access-1","token_type":"bearer","expires_in":30,"refresh_token":"refresh-1"}`)
		}
	})
	s := p.restored(p.config())
	for range 20 { // the 20th is 19 seconds after the first
		if _, err := s.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.clock.add(time.Second)
	}
	if n := p.tokenCalls.Load(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// Ensure that a client-credentials session names its subscription and gets a
// new token of the same kind when the old one is used up.
func TestClientCredentials(t *testing.T) {
	p := newPeer(t)
	p.set(func() {
		p.token = func(w http.ResponseWriter, r *http.Request) {
			want := "grant_type=client_credentials&scope=fds%3Aread&subscription_id=" + testSub
			if got := r.PostForm.Encode(); got != want {
				t.Errorf("token request %s, want %s", got, want)
			}
			p.issue(w, fmt.Sprint("access-", p.tokenCalls.Load()), "")
		}
	})
	cfg := p.config()
	cfg.OnTokens = func(context.Context, client.Tokens) error { t.Error("nothing is to be saved"); return nil }
	c := newClient(t, cfg)
	s, err := c.ClientCredentials(t.Context(), testSub)
	if err != nil {
		t.Fatal(err)
	}
	p.clock.add(5 * time.Minute)
	if access, err := s.Token(t.Context()); err != nil || access != jwt("access-2") || s.Subscription() != testSub {
		t.Errorf("token %q of %q, error %v", access, s.Subscription(), err)
	}
	if _, err := c.ClientCredentials(t.Context(), "no-uuid"); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("malformed subscription: error %v, want invalid", err)
	}
	p.set(func() {
		p.token = func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusBadRequest, "unauthorized_client") }
	})
	var oauth *client.OAuthError
	if _, err := c.ClientCredentials(t.Context(), testSub); !errors.As(err, &oauth) || errors.Is(err, client.ErrSignInAgain) {
		t.Errorf("grant not negotiated: error %v", err)
	}
}

// Ensure that tokens do not show when they are printed, and that those
// without a refresh token cannot be restored.
func TestTokens(t *testing.T) {
	tokens := client.Tokens{Subscription: testSub, Access: "access-1", Refresh: "refresh-1"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if s := fmt.Sprintf(format, tokens); strings.Contains(s, "access-") || strings.Contains(s, "refresh-") || !strings.Contains(s, testSub) {
			t.Errorf("%s prints %s", format, s)
		}
	}
	c := newClient(t, newPeer(t).config())
	if _, err := c.Restore(client.Tokens{Access: "access-1"}); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("error %v, want invalid", err)
	}
}

// Ensure that a client speaks to nobody whose certificate it does not trust,
// and under the strict profile to nobody who wants TLS 1.3.
func TestTransport(t *testing.T) {
	p := newPeer(t)
	cfg := p.config()
	cfg.RootCAs = nil
	if _, err := newClient(t, cfg).ClientCredentials(t.Context(), testSub); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("unknown root: error %v, want unavailable", err)
	}
	if n := p.tokenCalls.Load(); n != 0 {
		t.Errorf("%d token requests", n)
	}
	next := newPeer(t, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS13 })
	cfg = next.config()
	if _, err := newClient(t, cfg).ClientCredentials(t.Context(), testSub); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("TLS 1.3 only: error %v, want unavailable", err)
	}
	cfg.TLS = keyholder.TLSModern
	if _, err := newClient(t, cfg).ClientCredentials(t.Context(), testSub); err != nil {
		t.Errorf("TLS 1.3 under the modern profile: %v", err)
	}
}
