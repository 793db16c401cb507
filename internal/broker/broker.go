// Package broker is the MQTT door (FDS 2.6.4.2, 2.6.5.2): providers publish
// into the mailboxes of the subscriptions they issued, consumers receive from
// their own. FDS is a star and not a tree: a message goes to exactly one
// consumer, so there is no routing of topics here. A publish goes to the
// mailbox and is durable before its PUBACK; sessions and packets in flight are
// kept by this package, in order. It is the only home of the mochi library, of
// which it uses the packet codec.
//
// Every decision is a Permit function of package keyholder, asked with what
// the ledger knows at that moment. The package only translates the verdicts:
// into a TLS alert, CONNACK, SUBACK, PUBACK or the end of the connection.
package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
)

// Config says what a broker needs. Ledger, Mailbox, ClientCAs and one of
// Certificate and GetCertificate are required; zero values of the rest stand
// for the defaults named.
type Config struct {
	Ledger      *ledger.Ledger
	Mailbox     *mailbox.Mailbox
	Certificate tls.Certificate // of the listener
	// GetCertificate is asked in every handshake, for a certificate that is renewed while serving.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	ClientCAs      *x509.CertPool       // who may issue client certificates
	TLS            keyholder.TLSProfile // "": strict, which is exactly TLS 1.2
	Now            func() time.Time     // nil: the ledger's
	Log            *slog.Logger         // nil: slog.Default

	Limits

	MaxHandshakes     int           // under way at the same time; 0: 512
	HandshakeTimeout  time.Duration // for the TLS handshake; 0: 10 s
	ConnectTimeout    time.Duration // from there to CONNECT; 0: 10 s
	WriteTimeout      time.Duration // for a packet to a client that does not read; 0: 20 s
	MaxFilters        int           // of a consumer's session; 0: 64
	DenialsPerMinute  int           // refusals recorded for each client; 0: 20. The rest is counted
	publishBatchBytes int
}

// Broker is a running MQTT broker. Its methods are safe for concurrent use.
type Broker struct {
	cfg     Config
	tls     *tls.Config
	denials *denials
	rate    *ledger.Limit // of the connections of each client
	buffers sync.Pool     // of *bytes.Buffer, for packets on their way out

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // connections and the sweeper

	mu        sync.Mutex // guards the fields below
	closed    bool
	listeners map[net.Listener]struct{}
	pending   int                         // TLS handshakes under way
	conns     map[*connection]struct{}    // past the handshake
	live      map[string]*connection      // by client ID, the latest
	parked    map[string]map[int64]uint16 // by client ID: packet identifiers of messages sent and not acknowledged
}

// New returns a broker. Sessions that a crash left open begin to expire now.
func New(cfg Config) (*Broker, error) {
	if cfg.Ledger == nil || cfg.Mailbox == nil || cfg.ClientCAs == nil ||
		len(cfg.Certificate.Certificate) == 0 && cfg.GetCertificate == nil {
		return nil, errors.New("open the broker: a ledger, a mailbox, a certificate and client authorities are needed")
	}
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	b := &Broker{cfg: cfg, listeners: map[net.Listener]struct{}{}, conns: map[*connection]struct{}{},
		live: map[string]*connection{}, parked: map[string]map[int64]uint16{}}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.tls = b.tlsConfig()
	b.rate = ledger.NewLimit(cfg.ConnectsPerMinute, cfg.Now)
	if err := b.resumeSessions(b.ctx); err != nil {
		return nil, err
	}
	b.denials = newDenials(b)
	b.wg.Go(b.sweep)
	return b, nil
}

func (c *Config) setDefaults() error {
	if c.Now == nil {
		c.Now = c.Ledger.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.MaxHandshakes = cmp.Or(c.MaxHandshakes, 512)
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, 10*time.Second)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 10*time.Second)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, 20*time.Second)
	c.MaxFilters = cmp.Or(c.MaxFilters, 64)
	c.DenialsPerMinute = cmp.Or(c.DenialsPerMinute, 20)
	c.publishBatchBytes = cmp.Or(c.publishBatchBytes, 4<<20)
	if min(int64(c.MaxHandshakes), int64(c.HandshakeTimeout), int64(c.ConnectTimeout), int64(c.WriteTimeout), int64(c.MaxFilters), int64(c.DenialsPerMinute)) < 0 {
		return keyholder.Errorf(keyholder.Invalid, "a bound of the broker is negative")
	}
	c.Limits = c.Limits.WithDefaults()
	return c.Limits.Check()
}

// Serve accepts connections until the listener fails or the broker is closed,
// and then returns nil. The listener is plain TCP; TLS begins inside.
func (b *Broker) Serve(l net.Listener) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return errors.Join(errClosed, l.Close())
	}
	b.listeners[l] = struct{}{}
	b.mu.Unlock()
	defer l.Close()
	var pause time.Duration
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			b.admit(raw)
			continue
		case b.ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept MQTT connections: %w", err)
		}
		// Out of file descriptors, or a client that was gone already.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		b.cfg.Log.Warn("an MQTT connection could not be accepted", "error", err)
		select {
		case <-time.After(pause):
		case <-b.ctx.Done():
			return nil
		}
	}
}

var errClosed = keyholder.Errorf(keyholder.Unavailable, "the broker is stopping")

// admit starts serving a connection if there is room for it.
func (b *Broker) admit(raw net.Conn) {
	b.mu.Lock()
	full := b.closed || b.pending >= b.cfg.MaxHandshakes || len(b.conns)+b.pending >= b.cfg.MaxConnections
	if !full {
		b.pending++
		b.wg.Add(1)
	}
	b.mu.Unlock()
	if full {
		_ = raw.Close()
		b.denials.stranger(raw, "there are too many connections")
		return
	}
	go b.handle(raw)
}

// sweep ends connections whose right ends by itself: at the end of an
// agreement, the expiry of a consent or of a certificate.
func (b *Broker) sweep() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
		}
		now := b.cfg.Now()
		for _, c := range b.connections(func(c *connection) bool { return c.due(now) }) {
			if v := c.recheck(now); !v.Allowed {
				go c.drop(packets.ErrNotAuthorized, v.Reason)
			}
		}
	}
}

// connections lists those that a condition holds for.
func (b *Broker) connections(which func(*connection) bool) []*connection {
	b.mu.Lock()
	defer b.mu.Unlock()
	var some []*connection
	for c := range b.conns {
		if which(c) {
			some = append(some, c)
		}
	}
	return some
}

// End is the broker's plane of a cut: it ends the connections of everything
// that was cut and returns their number. From the commit on nobody of them
// can connect, publish or receive; this only closes what is open.
func (b *Broker) End(ctx context.Context, cut keyholder.Cut) (int, error) {
	ended := map[string]bool{}
	for _, id := range cut.Ended.Subscriptions {
		ended[string(id)] = true
	}
	for _, id := range cut.Ended.Providers {
		ended[string(id)] = true
	}
	for _, serial := range cut.Ended.Certificates {
		ended[serial] = true // a serial is never a UUID
	}
	b.mu.Lock()
	for id := range ended {
		delete(b.parked, id)
	}
	b.mu.Unlock()
	some := b.connections(func(c *connection) bool { return ended[c.subject] || ended[c.serial] })
	return len(some), dropAll(ctx, some, packets.ErrAdministrativeAction, "cut: "+string(cut.Target.Kind))
}

// dropAll ends connections side by side, so that one that does not read
// delays no other.
func dropAll(ctx context.Context, some []*connection, code packets.Code, why string) error {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for _, c := range some {
		wg.Go(func() { c.drop(code, why) })
	}
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		for _, c := range some {
			_ = c.raw.Close()
		}
		return ctx.Err()
	}
}

// Connected returns the number of connections past the TLS handshake.
func (b *Broker) Connected() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// Close ends all listeners and connections, after what was received is
// durable, and waits for them until ctx ends. The mailbox and the store are
// closed after it.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		b.cancel()
		for l := range b.listeners {
			_ = l.Close()
		}
	}
	b.mu.Unlock()
	all := b.connections(func(*connection) bool { return true })
	err := dropAll(ctx, all, packets.ErrServerShuttingDown, "the broker is stopping")
	done := make(chan struct{})
	go func() { b.wg.Wait(); b.denials.stop(); close(done) }()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return errors.Join(err, ctx.Err())
	}
}
