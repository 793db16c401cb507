// Package mqttpool keeps one MQTT connection open for each subscription of an
// app, as FDS 2.6.4.2 asks: separate connections, client ID and certificate
// being those of the subscription. It is made for thousands of subscriptions
// in one process.
//
// What a provider published while the app was away waits in the broker and
// arrives after it is back. Messages of a subscription are handled one after
// the other, in order, and acknowledged when the handler has returned nil: a
// message is delivered at least once, and [Message].Key tells a repetition.
// While a handler is busy the broker holds messages back.
//
// An app may run as several replicas with the same certificates, of which one
// is active: with a [Lease] in [Config] the others stand by and connect when
// the active one has ended. Without one, a replica whose connection another
// took over leaves the subscription to it, for longer and longer.
package mqttpool

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/internal/link"
)

const (
	defaultHandshakes     = 32
	defaultReceiveMaximum = 32
	defaultKeepAlive      = time.Minute
	defaultSessionExpiry  = 30 * 24 * time.Hour
	defaultTakeoverWait   = 30 * time.Second
	maxKeepAlive          = 18 * time.Hour // MQTT 5 section 3.1.2.10
	// maxPacket bounds a packet from the broker, in bytes; the broker is told.
	maxPacket = 16 << 20
)

// Config says how to reach the broker. Zero values stand for the defaults
// named.
type Config struct {
	// Broker is the broker's address, mqtts://host:port. Required.
	Broker string

	// RootCAs are the roots that the broker is verified with; nil means the
	// system's.
	RootCAs *x509.CertPool

	// TLS is the TLS profile; empty means strict, which is exactly TLS 1.2.
	TLS keyholder.TLSProfile

	// HandshakeLimit is how many connections are being made at the same time,
	// so that a restart of app or broker is no stampede. 0: 32.
	HandshakeLimit int

	// ReceiveMaximum is how many messages of a subscription the broker sends
	// ahead of their acknowledgement (MQTT 5 section 3.1.2.11.3). 0: 32.
	ReceiveMaximum uint16

	// KeepAlive is after how long a silent connection is tried. 0: 1 minute.
	KeepAlive time.Duration

	// SessionExpiry is how long the broker keeps the session of a connection
	// that was lost; the broker may shorten it. 0: 30 days.
	SessionExpiry time.Duration

	// Lease decides which replica of the app is active; [FileLease] and
	// [PostgresLease] are two. Nil: there is one replica, and it is active.
	Lease Lease

	// TakeoverWait is for how long a subscription is left to another
	// connection that took it over. With each further takeover it doubles, up
	// to 32 times as long, until a connection was kept twice as long as that.
	// 0: 30 s.
	TakeoverWait time.Duration

	// Log gets a line when a connection comes or goes and when a handler
	// fails; nil means slog.Default.
	Log *slog.Logger

	// Now is the clock of [Health]; nil means time.Now.
	Now func() time.Time
}

// Subscription is one connection to keep.
type Subscription struct {
	// ID is the subscription ID: the MQTT client ID and the third topic level.
	ID keyholder.SubscriptionID

	// Certificate returns the client certificate of the subscription and its
	// key. It is asked at each connection, so that a renewed certificate is
	// used from the next one on. Required.
	Certificate func() (*tls.Certificate, error)

	// Handler takes a message. After an error it gets the same message again,
	// later and later up to half a minute apart, and no other message of the
	// subscription in between: a message it will never take it must put aside
	// itself and return nil. The context ends when the subscription is removed
	// or the pool closed. Required.
	Handler func(ctx context.Context, m Message) error
}

// Health says how a connection is.
type Health struct {
	Connected bool      // and subscribed
	Since     time.Time // of Connected being as it is
	Standby   bool      // another replica has the lease
	Connects  int       // how often it was connected
	Takeovers int       // how often another connection of the same subscription took over
	Handled   uint64    // messages the handler took
	Repeated  uint64    // messages that came again and were known to be handled
	Failed    uint64    // errors of the handler
	Dropped   uint64    // messages whose topic was malformed or of another subscription
	LastError string    // of connection or handler; empty if there was none since it was connected
}

// Pool keeps the connections. Its methods are safe for concurrent use.
type Pool struct {
	cfg        Config
	broker     *url.URL
	handshakes chan struct{} // holds a token for each connection being made
	resign     func()        // gives the lease back, if there is one

	mu      sync.Mutex // guards the fields below
	closed  bool
	term    *term
	members map[keyholder.SubscriptionID]*member
}

// New returns an empty pool, or an [keyholder.Error] of code Invalid if the
// configuration is unsafe or incomplete. It connects to nobody; with a lease it
// begins to wait for it. Use [Pool.Close] at the end.
func New(cfg Config) (*Pool, error) {
	u, err := link.ParseBroker(cfg.Broker)
	if err != nil {
		return nil, err
	}
	if cfg.HandshakeLimit < 0 || cfg.KeepAlive < 0 || cfg.SessionExpiry < 0 || cfg.TakeoverWait < 0 {
		return nil, keyholder.Errorf(keyholder.Invalid, "a bound of the pool is negative")
	}
	cfg.HandshakeLimit = cmp.Or(cfg.HandshakeLimit, defaultHandshakes)
	cfg.ReceiveMaximum = cmp.Or(cfg.ReceiveMaximum, defaultReceiveMaximum)
	cfg.KeepAlive = cmp.Or(cfg.KeepAlive, defaultKeepAlive)
	cfg.SessionExpiry = cmp.Or(cfg.SessionExpiry, defaultSessionExpiry)
	cfg.TakeoverWait = cmp.Or(cfg.TakeoverWait, defaultTakeoverWait)
	if cfg.KeepAlive < time.Second || cfg.KeepAlive > maxKeepAlive || cfg.SessionExpiry/time.Second >= 1<<32-1 {
		return nil, keyholder.Errorf(keyholder.Invalid, "keep-alive or session expiry are out of what MQTT can express")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Pool{cfg: cfg, broker: u, handshakes: make(chan struct{}, cfg.HandshakeLimit), term: newTerm(), members: map[keyholder.SubscriptionID]*member{}}
	if cfg.Lease == nil {
		p.begin(context.Background())
		p.resign = func() {}
		return p, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.lead(ctx)
	}()
	p.resign = func() { cancel(); <-done }
	return p, nil
}

// Add begins to keep a connection and returns at once; see [Pool.Ready]. It
// returns an [keyholder.Error]: Invalid if the subscription is incomplete,
// Conflict if the pool has it already, Unavailable if the pool is closed.
func (p *Pool) Add(s Subscription) error {
	if _, err := keyholder.ParseID[keyholder.SubscriptionID](string(s.ID)); err != nil {
		return err
	}
	if s.Certificate == nil || s.Handler == nil {
		return keyholder.Errorf(keyholder.Invalid, "the subscription has no certificate or no handler")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return keyholder.Errorf(keyholder.Unavailable, "the pool is closed")
	}
	if p.members[s.ID] != nil {
		return keyholder.Errorf(keyholder.Conflict, "the pool has the subscription already")
	}
	m, err := p.join(s)
	if err != nil {
		return err
	}
	p.members[s.ID] = m
	return nil
}

// Ready waits until a subscription is connected and subscribed. It returns an
// [keyholder.Error] of code NotFound if the pool does not have it, and of code
// Unavailable, with the last failure as its cause, if ctx ends before.
func (p *Pool) Ready(ctx context.Context, id keyholder.SubscriptionID) error {
	m := p.member(id)
	if m == nil {
		return keyholder.Errorf(keyholder.NotFound, "the pool does not have the subscription")
	}
	return m.ready(ctx)
}

// Remove ends a connection and waits until its handler has returned, so it
// must not be called by that handler. What arrives from then on waits in the
// broker. It does nothing if the pool does not have the subscription.
func (p *Pool) Remove(id keyholder.SubscriptionID) {
	p.mu.Lock()
	m := p.members[id]
	delete(p.members, id)
	p.mu.Unlock()
	if m != nil {
		m.leave()
		<-m.manager.Done()
	}
}

// Health says how the connection of a subscription is, and whether the pool
// has it.
func (p *Pool) Health(id keyholder.SubscriptionID) (Health, bool) {
	m := p.member(id)
	if m == nil {
		return Health{}, false
	}
	standby := !p.Active()
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.health
	h.Standby = standby
	return h, true
}

// Close ends all connections, waits for their handlers until ctx ends, and
// gives the lease back. The pool cannot be used afterwards.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	members := p.members
	p.members, p.closed = map[keyholder.SubscriptionID]*member{}, true
	p.mu.Unlock()
	defer p.resign()
	for _, m := range members {
		m.leave()
	}
	for _, m := range members {
		select {
		case <-m.manager.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (p *Pool) member(id keyholder.SubscriptionID) *member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[id]
}

// dial makes a TLS connection for a member when its turn comes. It is closed
// with the term.
func (p *Pool) dial(ctx context.Context, m *member, t *term) (*conn, error) {
	select {
	case p.handshakes <- struct{}{}:
		defer func() { <-p.handshakes }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l, err := link.Dialer{Broker: p.broker, RootCAs: p.cfg.RootCAs, TLS: p.cfg.TLS, Certificate: m.sub.Certificate}.Dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: l, term: t}
	c.keep = context.AfterFunc(t.ctx, func() {
		c.given.Store(true)
		_ = l.Close()
	})
	return c, nil
}

// conn is a connection of a member.
type conn struct {
	*link.Conn
	term  *term
	keep  func() bool // does without the end of the term
	given atomic.Bool // up, at this end
}

// Close closes the connection.
func (c *conn) Close() error {
	c.keep()
	return c.Conn.Close()
}

// handling returns the context of a handler: m's, which ends with the term.
func (c *conn) handling(m *member) (context.Context, func()) {
	ctx, cancel := context.WithCancel(m.ctx)
	stop := context.AfterFunc(c.term.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}
