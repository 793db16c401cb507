package broker

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
)

// messageProperty is the MQTT 5 user property that names a message, for
// receivers that must know a repetition: <subscription_id>/<number>.
const messageProperty = "Keyholder-Message"

// subscriber delivers the mailbox of one subscription to its connection. The
// mailbox belongs to the subscription and not to the MQTT session: a clean
// start discards filters and what was under way, but not queued messages. A
// message that no filter of the session selects is passed over when its turn
// comes; without any filter nothing moves.
type subscriber struct {
	c      *connection
	id     keyholder.SubscriptionID
	clean  bool
	opened bool          // the session was opened and must be left
	kept   bool          // it has a row in the store
	window chan struct{} // a token for every message sent and not acknowledged
	turned chan struct{} // holds a token when the filters changed
	done   chan struct{} // closed when the goroutine has ended
	box    *mailbox.Consumer
	next   []filter // granted and not yet in filters; of the reading goroutine

	mu      sync.Mutex // guards the fields below
	filters []filter
	flight  flight
}

// filter is one subscription of the MQTT session.
type filter struct {
	keyholder.Filter
	qos        byte
	identifier int
}

func newSubscriber(c *connection, clean bool) *subscriber {
	window := int(c.b.cfg.MaxInflight)
	if most := c.cl.Properties.Props.ReceiveMaximum; c.version == 5 && most > 0 {
		window = min(window, int(most))
	}
	return &subscriber{c: c, id: keyholder.SubscriptionID(c.subject), clean: clean, window: make(chan struct{}, window),
		turned: make(chan struct{}, 1), flight: newFlight(nil)}
}

func (s *subscriber) start() {
	s.done = make(chan struct{})
	s.box = s.c.b.cfg.Mailbox.Consumer(s.id, mailbox.MQTT)
	go s.run()
}

// finish ends the delivery and leaves the session to the next connection.
func (s *subscriber) finish() {
	if s.done != nil {
		<-s.done
		s.box.Close()
	}
	if !s.opened {
		return
	}
	s.mu.Lock()
	sent := s.flight.sent()
	s.mu.Unlock()
	s.c.b.leaveSession(s, sent)
}

// run delivers one message after the other, as many under way as the window
// allows.
func (s *subscriber) run() {
	defer close(s.done)
	ctx := s.c.ctx
	for {
		select {
		case s.window <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if !s.wanted(ctx) {
			return
		}
		msg, err := s.box.Next(ctx)
		if err != nil {
			s.fail(err)
			return
		}
		underway, err := s.deliver(ctx, msg)
		if err != nil {
			s.fail(err)
			return
		}
		if !underway {
			_ = s.box.Ack(ctx, msg.Seq)
			<-s.window
		}
	}
}

// fail ends the connection because the delivery cannot go on.
func (s *subscriber) fail(err error) {
	switch {
	case s.c.ctx.Err() != nil:
	case keyholder.CodeOf(err) == keyholder.Denied:
		// If this is a cut, [Broker.End] ends the connection and counts it.
		select {
		case <-s.c.ctx.Done():
			return
		case <-time.After(time.Second):
		}
		s.c.drop(packets.ErrNotAuthorized, err.Error())
	case keyholder.CodeOf(err) == keyholder.Unavailable:
		s.c.drop(packets.ErrServerShuttingDown, err.Error())
	default:
		s.c.b.cfg.Log.Error("messages could not be delivered", s.c.attrs("error", err)...)
		s.c.drop(packets.ErrUnspecifiedError, "the delivery failed")
	}
}

// wanted waits until the session has a filter.
func (s *subscriber) wanted(ctx context.Context) bool {
	for {
		s.mu.Lock()
		some := len(s.filters) > 0
		s.mu.Unlock()
		if some {
			return true
		}
		select {
		case <-s.turned:
		case <-ctx.Done():
			return false
		}
	}
}

// deliver sends a message if it may leave and is wanted. underway says that
// an acknowledgement is awaited; otherwise the message is done with.
func (s *subscriber) deliver(ctx context.Context, msg mailbox.Message) (underway bool, err error) {
	cfg := &s.c.b.cfg
	standing, now := cfg.Ledger.Standing(s.id), cfg.Now()
	if v := keyholder.PermitDeliver(standing, msg.Level, now); !v.Allowed {
		if holds := standing.Holds(now); !holds.Allowed {
			return false, holds.Err()
		}
		return false, nil // the consent no longer covers it
	}
	topic := keyholder.Topic{Subscription: s.id, Level: msg.Level}
	for {
		qos, identifiers, wanted := s.match(topic)
		if !wanted {
			s.mu.Lock()
			none := len(s.filters) == 0
			s.mu.Unlock()
			if !none {
				return false, nil
			}
			// Unsubscribed from all while the message was on its way: it waits.
			if !s.wanted(ctx) {
				return false, ctx.Err()
			}
			continue
		}
		return s.send(topic, msg, qos, identifiers)
	}
}

// match says whether a filter selects the topic, with the highest QoS and all
// identifiers of those that do (MQTT 5 section 3.3.4).
func (s *subscriber) match(t keyholder.Topic) (qos byte, identifiers []int, wanted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.filters {
		if !f.Matches(t) {
			continue
		}
		wanted = true
		qos = max(qos, f.qos)
		if f.identifier > 0 {
			identifiers = append(identifiers, f.identifier)
		}
	}
	return qos, identifiers, wanted
}

func (s *subscriber) send(topic keyholder.Topic, msg mailbox.Message, qos byte, identifiers []int) (underway bool, err error) {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic.String(), Payload: msg.Payload,
		Properties: packets.Properties{SubscriptionIdentifier: identifiers,
			User: []packets.UserProperty{{Key: messageProperty, Val: string(s.id) + "/" + strconv.FormatInt(msg.Seq, 10)}}}}
	if qos > 0 {
		s.mu.Lock()
		pk.PacketID, pk.FixedHeader.Dup = s.flight.begin(msg.Seq)
		s.mu.Unlock()
	}
	err = s.c.cl.WritePacket(pk)
	if errors.Is(err, packets.ErrPacketTooLarge) {
		// MQTT 5 section 3.1.2.11.4: behave as if it had been sent.
		s.c.b.cfg.Log.Warn("a message is larger than its consumer accepts and was passed over", s.c.attrs("message", msg.Seq)...)
		s.mu.Lock()
		s.flight.end(pk.PacketID)
		s.mu.Unlock()
		return false, nil
	}
	return qos > 0, err
}

// acknowledged handles a PUBACK. One with an error ends the message as well:
// the consumer has it and will not take it.
func (s *subscriber) acknowledged(id uint16, code byte) {
	s.mu.Lock()
	seq, ok := s.flight.end(id)
	s.mu.Unlock()
	if !ok {
		return
	}
	if code >= packets.ErrUnspecifiedError.Code {
		s.c.b.cfg.Log.Warn("a consumer refused a message", s.c.attrs("message", seq, "code", code)...)
	}
	_ = s.box.Ack(s.c.ctx, seq)
	<-s.window
}

// subscribe adds the accepted filters to the session. If it outlives the
// connection they are durable before SUBACK.
func (s *subscriber) subscribe(subs packets.Subscriptions, codes []byte) {
	refused := packets.ErrQuotaExceeded.Code
	if s.c.version < 5 {
		refused = packets.ErrUnspecifiedError.Code
	}
	s.mu.Lock()
	filters := slices.Clone(s.filters)
	s.mu.Unlock()
	var added []filter
	for i, sub := range subs {
		f, err := keyholder.ParseFilter(sub.Filter)
		if codes[i] >= packets.ErrUnspecifiedError.Code || err != nil {
			continue
		}
		at := slices.IndexFunc(filters, func(o filter) bool { return o.Filter == f })
		if at < 0 && len(filters) >= s.c.b.cfg.MaxFilters {
			codes[i] = refused
			continue
		}
		if at >= 0 {
			filters = slices.Delete(filters, at, at+1)
		}
		added = append(added, filter{f, min(sub.Qos, 1), sub.Identifier})
		filters = append(filters, added[len(added)-1])
	}
	if len(added) == 0 {
		return
	}
	if err := s.c.b.saveFilters(s, added); err != nil {
		s.c.b.cfg.Log.Error("filters could not be stored", s.c.attrs("error", err)...)
		for i := range codes {
			codes[i] = packets.ErrUnspecifiedError.Code
		}
		return
	}
	s.next = filters
}

// subscribed lets the filters of the last SUBSCRIBE work. SUBACK was sent:
// MQTT allows messages before it, but few clients expect them.
func (s *subscriber) subscribed() {
	if s.next != nil {
		s.set(s.next)
		s.next = nil
	}
}

// unsubscribe removes filters from the session.
func (s *subscriber) unsubscribe(subs packets.Subscriptions) {
	s.mu.Lock()
	filters := slices.Clone(s.filters)
	s.mu.Unlock()
	var removed []string
	filters = slices.DeleteFunc(filters, func(f filter) bool {
		gone := slices.ContainsFunc(subs, func(sub packets.Subscription) bool { return sub.Filter == f.String() })
		if gone {
			removed = append(removed, f.String())
		}
		return gone
	})
	if len(removed) == 0 {
		return
	}
	if err := s.c.b.deleteFilters(s, removed); err != nil {
		s.c.b.cfg.Log.Error("filters could not be deleted", s.c.attrs("error", err)...)
		s.c.drop(packets.ErrUnspecifiedError, "the session could not be stored")
		return
	}
	s.set(filters)
}

func (s *subscriber) set(filters []filter) {
	s.mu.Lock()
	s.filters = filters
	s.mu.Unlock()
	signal(s.turned)
}
