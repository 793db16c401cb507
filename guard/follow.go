package guard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

const (
	// feedSilence is how long after the last sign of life the feed is no
	// longer relied on: two beats.
	feedSilence = 2 * keyholder.FeedBeat
	// minReconnect and maxReconnect bound the pause before a follower tries
	// again; each is drawn from its upper half, so that many followers do not
	// come back at once.
	minReconnect = 100 * time.Millisecond
	maxReconnect = 2 * time.Second
)

// FollowConfig says whose endings a [Follower] follows, and as whom.
type FollowConfig struct {
	// Issuer is the issuer identifier of the Keyholder. Required.
	Issuer string

	// ClientID and Secret are those of a registered resource server. Required.
	ClientID, Secret string

	// Client is as for [Discover].
	Client *http.Client

	// Grace is how long tokens are still taken, on the strength of what is
	// known, after the last sign of life of the feed and while introspection
	// fails too. When it is over they are refused as Unavailable. Zero means
	// no grace.
	Grace time.Duration

	// MaxLifetime is the longest lifetime of a token, as in [Config]; endings
	// are remembered for that long. Zero means one hour.
	MaxLifetime time.Duration

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Follower learns from a Keyholder in another process what has ended, usually
// within milliseconds. Give it to one or more guards as [Config].Follower.
//
// While the feed gives no sign of life for two seconds, the authorization
// server is asked about each token by introspection (RFC 7662) instead; an
// answer is used for one second. If that fails too, tokens are taken for
// the stated grace, and from then on refused as Unavailable. What is known
// to have ended is refused in every case.
//
// It is safe for concurrent use.
type Follower struct {
	cfg       FollowConfig
	feed      *http.Client // without a limit of time
	endings   endings
	fallback  *fallback
	heartbeat heartbeat

	mu    sync.Mutex // guards state
	state FeedState
}

// FeedState is what a [Follower] says of itself, for health checks.
type FeedState struct {
	// Connected says whether the feed is open and all that has ended is known.
	Connected bool
	// Since is when Connected became what it is.
	Since time.Time
	// LastSign is when the last beat came; zero if none ever did.
	LastSign time.Time
	// Lag is how long ago that was: what has ended since may not be known.
	Lag time.Duration
	// Endings is how many endings are remembered.
	Endings int
	// Failure says why the feed is not open, if that is known.
	Failure error
}

// Follow begins to follow and goes on until ctx is done. It does not wait for
// the connection: until there is one, tokens are introspected. The error is a
// [keyholder.Error] of code Invalid if the configuration is incomplete.
func Follow(ctx context.Context, cfg FollowConfig) (*Follower, error) {
	if err := checkClient(cfg.Issuer, cfg.ClientID); err != nil {
		return nil, err
	}
	if cfg.Secret == "" {
		return nil, keyholder.Errorf(keyholder.Invalid, "the resource server has no secret").
			WithHint("`keyholder resourceserver add` shows it once")
	}
	if cfg.Grace < 0 || cfg.MaxLifetime < 0 {
		return nil, keyholder.Errorf(keyholder.Invalid, "the grace or the longest lifetime is negative")
	}
	if cfg.MaxLifetime == 0 {
		cfg.MaxLifetime = defaultLifetime
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	feed, fallbackClient := apart(cfg.Client), apart(cfg.Client)
	feed.Timeout = 0
	f := &Follower{cfg: cfg, feed: feed, state: FeedState{Since: cfg.Now()},
		fallback: &fallback{introspector: newIntrospector(cfg.Issuer, cfg.ClientID, cfg.Secret, fallbackClient), now: cfg.Now}}
	go f.run(ctx)
	return f, nil
}

// apart returns a copy of a client with connections of its own, where that is
// possible: a dead connection that others wait on is not closed, and would be
// tried again.
func apart(client *http.Client) *http.Client {
	c := fetcher(client)
	if t, ok := c.Transport.(*http.Transport); ok {
		c.Transport = t.Clone()
	}
	return c
}

// State returns the present state.
func (f *Follower) State() FeedState {
	f.mu.Lock()
	s := f.state
	f.mu.Unlock()
	s.LastSign = f.heartbeat.last()
	s.Endings = f.endings.len()
	if !s.LastSign.IsZero() {
		s.Lag = f.cfg.Now().Sub(s.LastSign)
	}
	return s
}

// Ended says whether the token is known to rest on something that has ended.
// A no is worth something only while [Follower.State] says that the feed is
// connected; a [Guard] with a Follower looks at both.
func (f *Follower) Ended(t keyholder.Token) bool { return f.endings.has(t) }

// check decides about a verified token.
func (f *Follower) check(ctx context.Context, raw string, sum hash, t keyholder.Token) error {
	if f.endings.has(t) {
		return refuse("it was ended")
	}
	now, last := f.cfg.Now(), f.heartbeat.last()
	if !last.IsZero() && now.Sub(last) <= feedSilence {
		return nil
	}
	err := f.fallback.ask(ctx, raw, sum)
	if keyholder.CodeOf(err) == keyholder.Unavailable && !last.IsZero() && now.Sub(last) <= f.cfg.Grace {
		return nil
	}
	return err
}

// run connects again and again.
func (f *Follower) run(ctx context.Context) {
	pause, last := minReconnect, ""
	for {
		seen, err := f.connect(ctx, &last)
		f.become(false, err)
		// The next try must not wait on a connection that is dead.
		f.feed.CloseIdleConnections()
		if seen {
			pause = minReconnect
		}
		wait := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		pause = min(2*pause, maxReconnect)
	}
}

// become notes whether the feed is open.
func (f *Follower) become(connected bool, failure error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state.Connected != connected {
		f.state.Connected, f.state.Since = connected, f.cfg.Now()
	}
	f.state.Failure = failure
}

// connect opens the feed from after the event last, and follows it until it
// breaks off or falls silent. It says whether there was a beat, and why it
// ended.
func (f *Follower) connect(ctx context.Context, last *string) (seen bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(fetchTimeout, func() { cancel(errors.New("the feed fell silent")) })
	defer silence.Stop()
	m, err := Discover(ctx, f.cfg.Issuer, f.feed)
	if err != nil {
		return false, err
	}
	if m.EndingsEndpoint == "" {
		return false, keyholder.Errorf(keyholder.Invalid, "the authorization server has no feed of endings")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.EndingsEndpoint, nil)
	if err != nil {
		return false, invalid("the address of the feed is malformed", err)
	}
	setBasic(r, f.cfg.ClientID, f.cfg.Secret)
	r.Header.Set("Accept", "text/event-stream")
	if *last != "" {
		r.Header.Set("Last-Event-ID", *last)
	}
	resp, err := f.feed.Do(r)
	if err != nil {
		return false, unavailable("the feed cannot be opened", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	if err := checkFeed(resp); err != nil {
		return false, err
	}
	err = readEvents(resp.Body, func(e feedEvent) {
		silence.Reset(feedSilence)
		now := f.cfg.Now()
		if e.ending != nil {
			f.endings.add([]keyholder.Ending{*e.ending}, now.Add(f.cfg.MaxLifetime+maxLeeway), now)
		} else {
			f.heartbeat.beat(now)
			f.become(true, nil)
			seen = true
		}
		*last = e.id
	})
	return seen, errors.Join(err, context.Cause(ctx))
}

// checkFeed says what is wrong with the answer to a request for the feed.
func checkFeed(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return keyholder.Errorf(keyholder.Denied, "the authorization server does not let this client follow").
			WithHint("give the ID and a valid secret of a registered resource server")
	default:
		return unavailable("the feed cannot be opened", fmt.Errorf("status %d", resp.StatusCode))
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != "text/event-stream" {
		return invalid("the feed is not a stream of events", err)
	}
	return nil
}
