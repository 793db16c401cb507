package mqttpool

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/internal/link"
)

const (
	// firstRetry and lastRetry bound the waits between tries of a handler.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// member is one subscription of a pool.
type member struct {
	pool    *Pool
	sub     Subscription
	filter  string
	manager *autopaho.ConnectionManager
	ctx     context.Context // ends when the member leaves
	leave   context.CancelFunc
	seed    maphash.Seed

	// Used by the goroutine that receives, of which there is one at a time.
	known []handled // the latest messages
	next  int       // where the next one goes

	mu         sync.Mutex // guards the fields below
	conn       *conn      // the latest
	failures   int        // since it was last subscribed
	rivalry    link.Rivalry
	early      time.Time // no try to connect before, in the term it is of
	earlyIn    *term
	subscribed time.Time // the latest time that it was
	health     Health
	turned     chan struct{} // closed when health.Connected turns
}

// handled identifies a message that was handled. The hash of the payload is
// there because a broker that was restored from a backup gives keys again.
type handled struct {
	key     string
	level   string
	payload uint64
}

// join makes a member and begins to connect.
func (p *Pool) join(s Subscription) (*member, error) {
	filter := keyholder.Filter{Subscription: s.ID, Pattern: "#"}
	m := &member{pool: p, sub: s, filter: filter.String(), turned: make(chan struct{}), rivalry: link.Rivalry{First: p.cfg.TakeoverWait},
		// The broker may send that many messages again after a lost connection.
		known: make([]handled, p.cfg.ReceiveMaximum), seed: maphash.MakeSeed()}
	m.health.Since = p.cfg.Now()
	m.ctx, m.leave = context.WithCancel(context.Background())
	manager, err := autopaho.NewConnection(m.ctx, autopaho.ClientConfig{
		ServerUrls:            []*url.URL{p.broker},
		KeepAlive:             uint16(p.cfg.KeepAlive / time.Second),
		SessionExpiryInterval: uint32(p.cfg.SessionExpiry / time.Second),
		// It would run while a try waits for its turn; the parts of a try have
		// bounds of their own.
		ConnectTimeout:       math.MaxInt64,
		ReconnectBackoff:     func(int) time.Duration { return m.backoff() },
		ConnectPacketBuilder: m.connect,
		AttemptConnection: func(ctx context.Context, _ autopaho.ClientConfig, _ *url.URL) (net.Conn, error) {
			return m.attempt(ctx)
		},
		OnConnectionUp: func(manager *autopaho.ConnectionManager, _ *paho.Connack) {
			c := m.current() // no other try begins before this returns
			go m.up(manager, c)
		},
		OnConnectionDown: m.down,
		OnConnectError:   m.failed,
		ClientConfig: paho.ClientConfig{
			ClientID:           string(s.ID),
			PacketTimeout:      link.ConnectWithin,
			OnServerDisconnect: m.disconnected,
			OnClientError:      m.lost,
			// The library acknowledges a message when this returns, in order.
			// Its "manual" acknowledgement would add a timer of 20 Hz to each
			// connection; take returns too late to acknowledge what was not
			// handled.
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
				m.take(r.Packet)
				return true, nil
			}},
		},
	})
	if err != nil {
		m.leave()
		return nil, fmt.Errorf("keep an MQTT connection: %w", err)
	}
	m.manager = manager
	return m, nil
}

// connect completes the CONNECT packet.
func (m *member) connect(p *paho.Connect, _ *url.URL) (*paho.Connect, error) {
	if p.Properties == nil {
		p.Properties = &paho.ConnectProperties{}
	}
	p.Properties.ReceiveMaximum = paho.Uint16(m.pool.cfg.ReceiveMaximum)
	p.Properties.MaximumPacketSize = paho.Uint32(maxPacket)
	p.Properties.RequestProblemInfo = true
	return p, nil
}

// attempt makes one try to reach the broker, as soon as this replica may.
func (m *member) attempt(ctx context.Context) (net.Conn, error) {
	term, err := m.pool.awaitTerm(ctx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	early := m.early
	if m.earlyIn != term {
		early = time.Time{}
	}
	m.mu.Unlock()
	trying, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(term.ctx, cancel)()
	if err := link.Sleep(trying, time.Until(early)); err != nil {
		return nil, err
	}
	c, err := m.pool.dial(trying, m, term)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.conn = c
	m.mu.Unlock()
	return c, nil
}

// current returns the latest connection.
func (m *member) current() *conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conn
}

// backoff is how long to wait before the next try: not at all at first, then
// a random time within a bound that doubles.
func (m *member) backoff() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failures == 0 {
		return 0
	}
	return link.Jitter(link.FirstWait, link.LastWait, m.failures)
}

// up subscribes after each connection, to everything of the subscription in
// one packet. If that fails the connection is of no use.
func (m *member) up(manager *autopaho.ConnectionManager, c *conn) {
	ctx, cancel := context.WithTimeout(m.ctx, link.ConnectWithin)
	defer cancel()
	_, err := manager.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: m.filter, QoS: 1}}})
	if err != nil {
		if m.ctx.Err() == nil {
			m.note(fmt.Errorf("subscribe: %w", err))
		}
		c.given.Store(true)
		_ = c.Close()
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != c || c.IsClosed() { // it went down meanwhile, which down deals with
		return
	}
	m.failures, m.subscribed = 0, time.Now()
	m.health.Connects++
	m.health.LastError = ""
	m.turn(true)
	m.pool.cfg.Log.Info("mqtt connected", "subscription", string(m.sub.ID))
}

// down is called when a connection that was up is lost.
func (m *member) down() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures++
	if m.health.Connected {
		m.turn(false)
		m.pool.cfg.Log.Info("mqtt connection lost", "subscription", string(m.sub.ID), "reason", m.health.LastError)
	}
	return true
}

// turn sets Connected and wakes those who wait. The caller holds mu.
func (m *member) turn(connected bool) {
	m.health.Connected, m.health.Since = connected, m.pool.cfg.Now()
	close(m.turned)
	m.turned = make(chan struct{})
}

// failed is called when a try to connect fails.
func (m *member) failed(err error) {
	var refused *autopaho.ConnackError
	if errors.As(err, &refused) {
		err = fmt.Errorf("the broker refused the connection with code %#02x", refused.ReasonCode)
	}
	m.mu.Lock()
	m.failures++
	m.mu.Unlock()
	m.note(err)
	m.pool.cfg.Log.Debug("mqtt connection failed", "subscription", string(m.sub.ID), "error", err.Error())
}

// disconnected is called when the broker says why it ends a connection.
func (m *member) disconnected(d *paho.Disconnect) {
	err := fmt.Errorf("the broker ended the connection with code %#02x", d.ReasonCode)
	if d.ReasonCode == link.SessionTakenOver {
		err = errors.New("another connection of the same subscription took over")
		m.mu.Lock()
		m.health.Takeovers++
		m.early, m.earlyIn = time.Now().Add(m.rivalry.Wait(time.Since(m.subscribed))), m.conn.term
		m.mu.Unlock()
		m.pool.cfg.Log.Warn("another mqtt connection of the same subscription took over", "subscription", string(m.sub.ID))
	}
	m.note(err)
}

// lost is called when a connection ends with an error. If it was given up at
// this end the error says nothing: why was noted before.
func (m *member) lost(err error) {
	if !m.current().given.Load() && !errors.Is(err, net.ErrClosed) {
		m.note(err)
	}
}

func (m *member) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.health.LastError = err.Error()
}

// ready waits for Connected.
func (m *member) ready(ctx context.Context) error {
	for {
		m.mu.Lock()
		connected, turned, last := m.health.Connected, m.turned, m.health.LastError
		m.mu.Unlock()
		if connected {
			return nil
		}
		select {
		case <-turned:
		case <-m.ctx.Done():
			return keyholder.Errorf(keyholder.NotFound, "the pool does not have the subscription")
		case <-ctx.Done():
			cause := ctx.Err()
			if !m.pool.Active() {
				last = "another replica has the lease"
			}
			if last != "" {
				cause = fmt.Errorf("%w: %s", cause, last)
			}
			return &keyholder.Error{Code: keyholder.Unavailable, Detail: "the subscription is not connected", Err: cause}
		}
	}
}

// take handles one message. It returns when the message may be acknowledged,
// or when the connection is closed, so that it cannot be.
func (m *member) take(p *paho.Publish) {
	msg, ok := parseMessage(m.sub.ID, p.Topic, userProperties(p), p.Payload)
	if !ok {
		m.count(func(h *Health) { h.Dropped++ })
		m.pool.cfg.Log.Warn("an mqtt message with a foreign or malformed topic was dropped", "subscription", string(m.sub.ID))
		return
	}
	this := handled{msg.Key, msg.Level, maphash.Bytes(m.seed, msg.Payload)}
	if msg.Key != "" && slices.Contains(m.known, this) {
		m.count(func(h *Health) { h.Repeated++ })
		return
	}
	c := m.current()
	for try := 1; ; try++ {
		if m.ctx.Err() != nil {
			<-c.Closed()
		}
		// Nothing may overtake a message that was not taken and will come
		// again over the next connection.
		if c.IsClosed() {
			return
		}
		ctx, handled := c.handling(m)
		err := m.sub.Handler(ctx, msg)
		handled()
		if err == nil {
			break
		}
		m.count(func(h *Health) { h.Failed++; h.LastError = err.Error() })
		if m.ctx.Err() == nil {
			m.pool.cfg.Log.Warn("an mqtt message was not taken", "subscription", string(m.sub.ID), "level", msg.Level, "try", try, "error", err.Error())
		}
		wait := time.NewTimer(link.Jitter(firstRetry, lastRetry, try))
		select {
		case <-wait.C:
		case <-m.ctx.Done():
		case <-c.Closed():
		}
		wait.Stop()
	}
	m.count(func(h *Health) { h.Handled++ })
	m.known[m.next] = this
	m.next = (m.next + 1) % len(m.known)
}

func (m *member) count(change func(*Health)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.health)
}

func userProperties(p *paho.Publish) []string {
	if p.Properties == nil {
		return nil
	}
	return p.Properties.User.GetAll(propertyMessage)
}
