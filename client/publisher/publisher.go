// Package publisher delivers a provider's items to the owners' apps: over
// MQTT into subscriptions (FDS 2.6.5.2), or over HTTPS into Keyholder's
// ingestion, by one interface.
//
// An item is accepted when the server has it on disk ([Publisher.Publish]
// returns, a [Delivery] is done). What was not acknowledged when a connection
// was lost is sent again, so an item arrives at least once; the items of one
// destination arrive in the order in which they were sent. Apps get an item
// byte for byte: where the provider's items carry an ID of their own, an app
// recognises by it what was sent again. Over HTTPS what is sent again is
// recognised by the server and not pushed twice.
//
// Memory is bounded: where items come faster than they are taken,
// [Publisher.Send] waits. A provider has one MQTT client ID, its own, so only
// one process of it may publish over MQTT at a time; a second one pushes out
// the first. Over HTTPS there may be several.
//
// Nothing here writes a payload into an error or a log.
package publisher

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/internal/link"
)

const (
	defaultWaiting   = 1000
	defaultBytes     = 64 << 20
	defaultInFlight  = 32
	defaultKeepAlive = 30 * time.Second
	maxKeepAlive     = 18 * time.Hour // MQTT 5 section 3.1.2.10
)

// Config says who publishes and where to. Zero values stand for the defaults
// named.
type Config struct {
	// Provider is the provider's ID: the client ID. Required.
	Provider keyholder.ProviderID

	// Broker is the broker's address, mqtts://host:port, to publish over MQTT.
	// Destinations are subscription IDs then. Either Broker or API is required.
	Broker string

	// API is the base URL of the Web API, before /ingest, to publish over
	// HTTPS. Destinations are owners then, named by key or ID; the server
	// pushes statuses, statistics and events to all apps of the owner.
	API string

	// Issuer is the issuer of the tokens for API, an https URL.
	Issuer string

	// Certificate returns the provider's client certificate and its key. It is
	// asked at each connection and before each request, so that a renewed
	// certificate is used from the next one on. Required with Broker.
	Certificate func() (*tls.Certificate, error)

	// Secret is the provider's secret for Issuer, in place of Certificate.
	Secret string

	// RootCAs are the roots that servers are verified with; nil means the
	// system's.
	RootCAs *x509.CertPool

	// TLS is the TLS profile; empty means strict, which is exactly TLS 1.2.
	TLS keyholder.TLSProfile

	// MaxWaiting is how many items of one destination may be unacknowledged,
	// under way or not; also the most of one call. 0: 1,000.
	MaxWaiting int

	// MaxBytes bounds the payloads of all unacknowledged items together, and a
	// quarter of it those of one destination. 0: 64 MiB.
	MaxBytes int

	// InFlight is how many items of one destination are under way over MQTT at
	// the same time, within what the broker allows for all of them. With 1 an
	// item is never overtaken, not even if it is sent again because there was
	// no room for it. 0: 32.
	InFlight int

	// KeepAlive is after how long a silent MQTT connection is tried. 0: 30 s.
	KeepAlive time.Duration

	// Log gets a line when a connection comes or goes and when a destination
	// has trouble; nil means slog.Default.
	Log *slog.Logger

	// Now is the clock of [Health] and of tokens; nil means time.Now.
	Now func() time.Time
}

// Item is one FDS item.
type Item struct {
	// Level is the topic after the subscription ID, for example "statuses".
	// Over HTTPS it is one of [keyholder.Kinds].
	Level string
	// Payload must not be changed before the item is acknowledged.
	Payload []byte
}

// Health says how publishing goes.
type Health struct {
	Connected bool      // over MQTT; over HTTPS: the last request was answered
	Since     time.Time // of Connected being as it is
	Connects  int       // how often it became so
	Waiting   int       // unacknowledged items
	Bytes     int       // of their payloads
	UnderWay  int       // of those items: sent
	Durable   uint64    // items acknowledged
	Failed    uint64    // items given up: refused, too large, invalid, or left when closed
	Again     uint64    // sendings that were repeated
	Full      []string  // destinations that have had no room since they last took an item
	Unpushed  uint64    // over HTTPS: times that a mailbox had no room for a push of a stored item
	LastError string    // of the connection, or of the server as a whole; empty if there was none since it was connected
}

// Publisher publishes. Its methods are safe for concurrent use.
type Publisher struct {
	cfg    Config
	broker *url.URL // nil: over HTTPS
	queue  *queue
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	health  Health     // without what the queue knows
	backend *backend   // nil: over MQTT
}

// New begins to publish; it connects in the background, and again whenever the
// connection is lost. It returns an [keyholder.Error] of code Invalid if the
// configuration is unsafe or incomplete, or, over HTTPS, that of Certificate.
// Use [Publisher.Close] at the end.
func New(cfg Config) (*Publisher, error) {
	for _, bound := range []int{cfg.MaxWaiting, cfg.MaxBytes, cfg.InFlight, int(cfg.KeepAlive)} {
		if bound < 0 {
			return nil, keyholder.Errorf(keyholder.Invalid, "a bound of the publisher is negative")
		}
	}
	cfg.MaxWaiting = cmp.Or(cfg.MaxWaiting, defaultWaiting)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, defaultBytes)
	cfg.InFlight = cmp.Or(cfg.InFlight, defaultInFlight)
	cfg.KeepAlive = cmp.Or(cfg.KeepAlive, defaultKeepAlive)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if _, err := keyholder.ParseID[keyholder.ProviderID](string(cfg.Provider)); err != nil {
		return nil, err
	}
	p := &Publisher{cfg: cfg, health: Health{Since: cfg.Now()}}
	var err error
	switch {
	case (cfg.Broker == "") == (cfg.API == ""):
		return nil, keyholder.Errorf(keyholder.Invalid, "either a broker or a Web API is needed")
	case cfg.Broker == "":
		if _, err = p.provider(); err != nil {
			return nil, err
		}
		cfg.InFlight = 1 // request of a destination
	case cfg.Certificate == nil:
		return nil, keyholder.Errorf(keyholder.Invalid, "the provider's certificate is missing")
	case cfg.KeepAlive < time.Second || cfg.KeepAlive > maxKeepAlive:
		return nil, keyholder.Errorf(keyholder.Invalid, "the keep-alive is out of what MQTT can express")
	default:
		if p.broker, err = link.ParseBroker(cfg.Broker); err != nil {
			return nil, err
		}
	}
	p.queue = newQueue(cfg.MaxWaiting, cfg.MaxBytes, cfg.InFlight)
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	if p.broker != nil {
		p.done.Go(func() { p.keepConnected(ctx) })
	} else {
		for range requests {
			p.done.Go(func() { p.request(ctx) })
		}
	}
	return p, nil
}

// Publish sends items to a destination and waits until they are durable. On
// nil all of them are. An [*Error] names those that were given up, and why;
// the others are durable. If ctx ends before, items that are not under way are
// withdrawn, and the error is an [keyholder.Error] of code Unavailable: items
// that were under way may or may not be stored. The other errors are those of
// [Publisher.Send].
func (p *Publisher) Publish(ctx context.Context, to string, items ...Item) error {
	d, err := p.Send(ctx, to, items...)
	if err != nil {
		return err
	}
	select {
	case <-d.Done():
		return d.Err()
	case <-ctx.Done():
		return p.queue.withdraw(d, ctx.Err())
	}
}

// Send takes items for a destination, all or none of them, and returns without
// waiting for the server. It waits, until ctx ends, while there is no room for
// them. The errors are [ErrClosed], an [keyholder.Error] of code Invalid for
// items that cannot be sent or are more than fit at once, and of code
// Unavailable if ctx ended.
func (p *Publisher) Send(ctx context.Context, to string, items ...Item) (*Delivery, error) {
	if err := p.check(to, items); err != nil {
		return nil, err
	}
	return p.queue.add(ctx, to, items)
}

// check refuses what no server would take.
func (p *Publisher) check(to string, items []Item) error {
	if p.broker == nil {
		if to == "" {
			return keyholder.Errorf(keyholder.Invalid, "the owner is missing")
		}
		for i, item := range items {
			if _, err := keyholder.ParseKind(item.Level); err != nil {
				return err
			}
			if !json.Valid(item.Payload) {
				return keyholder.Errorf(keyholder.Invalid, "item %d is not JSON", i)
			}
		}
		return nil
	}
	sub, err := keyholder.ParseID[keyholder.SubscriptionID](to)
	if err != nil {
		return err
	}
	for _, item := range items {
		if _, err := keyholder.ParseTopic(keyholder.Topic{Subscription: sub, Level: item.Level}.String()); err != nil {
			return err
		}
	}
	return nil
}

// Flush waits until every item that was sent before is acknowledged or given
// up. It returns an [keyholder.Error] of code Unavailable if ctx ends before.
func (p *Publisher) Flush(ctx context.Context) error {
	for _, d := range p.queue.deliveries() {
		select {
		case <-d.done:
		case <-ctx.Done():
			return unavailable(p.queue.waiting(), ctx.Err())
		}
	}
	return nil
}

// Close takes no more items, flushes until ctx ends, and disconnects. What is
// not acknowledged then is given up with [ErrClosed], and Close returns the
// error of Flush.
func (p *Publisher) Close(ctx context.Context) error {
	p.queue.close()
	err := p.Flush(ctx)
	p.stop()
	p.done.Wait()
	p.queue.giveUp()
	if p.backend != nil {
		p.backend.Close()
	}
	return err
}

// Health says how publishing goes.
func (p *Publisher) Health() Health {
	p.mu.Lock()
	h := p.health
	p.mu.Unlock()
	p.queue.describe(&h)
	return h
}

// turn notes that the server can be reached, or why not.
func (p *Publisher) turn(connected bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if connected {
		p.health.LastError = ""
	}
	if err != nil {
		p.health.LastError = err.Error()
	}
	if connected == p.health.Connected {
		return
	}
	p.health.Connected, p.health.Since = connected, p.cfg.Now()
	if connected {
		p.health.Connects++
		p.cfg.Log.Info("publisher connected", "provider", string(p.cfg.Provider))
	} else {
		p.cfg.Log.Info("publisher disconnected", "provider", string(p.cfg.Provider), "reason", p.health.LastError)
	}
}

// trouble puts entries of one destination back, to be sent again later.
func (p *Publisher) trouble(cause error, atLeast time.Duration, entries ...*entry) {
	if p.queue.putBack(cause, atLeast, entries...) {
		p.cfg.Log.Warn("items must wait", "destination", entries[0].lane.to, "reason", cause.Error())
	}
}
