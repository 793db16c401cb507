package broker

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
)

// subscriber delivers the mailbox of one subscription to its connection. The
// mailbox belongs to the subscription and not to the MQTT session: a clean
// start discards filters and what was under way, but not queued messages. A
// message that no filter of the session selects is passed over when its turn
// comes; without any filter nothing moves.
//
// The goroutine that delivers lives only as long as there is something to do:
// whatever may give it work calls poke.
type subscriber struct {
	c      *connection
	id     keyholder.SubscriptionID
	opened bool // the session was opened and must be left
	kept   bool // it has a row in the store
	box    *mailbox.Consumer
	next   []filter // granted and not yet in filters; of the reading goroutine
	runs   sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	filters []filter
	flight  flight
	running bool             // there is a goroutine that delivers
	poked   bool             // there may be something to deliver that it has not seen
	ended   bool             // nothing more is delivered
	held    *mailbox.Message // taken from the mailbox when the last filter went
}

// filter is one subscription of the MQTT session.
type filter struct {
	keyholder.Filter
	qos        byte
	identifier int
}

func newSubscriber(c *connection) *subscriber {
	return &subscriber{c: c, id: keyholder.SubscriptionID(c.subject), flight: newFlight(nil)}
}

func (s *subscriber) start() {
	s.box = s.c.b.cfg.Mailbox.Watch(s.id, mailbox.MQTT, s.poke)
	s.poke()
}

// finish ends the delivery and leaves the session to the next connection.
func (s *subscriber) finish() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.runs.Wait()
	if s.box != nil {
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

// poke says that there may be something to deliver.
func (s *subscriber) poke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.poked = true
	if !s.running && !s.ended {
		s.running = true
		s.runs.Go(s.run)
	}
}

// run delivers until there is nothing more to do.
func (s *subscriber) run() {
	for s.again() {
		if err := s.drain(); err != nil {
			s.mu.Lock()
			s.ended = true
			s.mu.Unlock()
			s.fail(err)
		}
	}
}

func (s *subscriber) again() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = s.poked && !s.ended
	s.poked = false
	return s.running
}

// drain delivers messages while the client takes them, as many under way as
// the window allows. What is ready at once leaves in one piece.
func (s *subscriber) drain() error {
	out := s.c.b.buffer()
	defer s.c.b.release(out)
	var done []int64 // messages that need no acknowledgement of the client
	flush := func() error {
		if err := s.c.flush(out); err != nil {
			return err
		}
		for _, seq := range done {
			_ = s.box.Ack(s.c.ctx, seq)
		}
		done = done[:0]
		return nil
	}
	for s.room() {
		msg, found, err := s.take()
		if err != nil {
			return err
		}
		if !found {
			break
		}
		switch fate, err := s.deliver(out, msg); {
		case err != nil:
			return err
		case fate == finished:
			done = append(done, msg.Seq)
		}
		if out.Len() >= flushAt {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// room says whether one more message may be under way and somebody wants it.
func (s *subscriber) room() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended && len(s.filters) > 0 && len(s.flight.seqs) < int(s.c.terms.receiveMaximum)
}

// take takes the next message.
func (s *subscriber) take() (mailbox.Message, bool, error) {
	s.mu.Lock()
	held := s.held
	s.held = nil
	s.mu.Unlock()
	if held != nil {
		return *held, true, nil
	}
	return s.box.Take(s.c.ctx)
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

// fate is what became of a message that was to be delivered.
type fate int

const (
	underway fate = iota // it was sent and an acknowledgement is awaited
	finished             // there is nothing more to do about it
	kept                 // it waits for a filter
)

// deliver sends a message if it may leave and is wanted.
func (s *subscriber) deliver(out *bytes.Buffer, msg mailbox.Message) (fate, error) {
	cfg := &s.c.b.cfg
	standing, now := cfg.Ledger.Standing(s.id), cfg.Now()
	if v := keyholder.PermitDeliver(standing, msg.Level, now); !v.Allowed {
		// Either the right is over, or the consent no longer covers this item.
		return finished, standing.Holds(now).Err()
	}
	topic := keyholder.Topic{Subscription: s.id, Level: msg.Level}
	properties, alive, err := onward(msg, string(s.id)+"/"+strconv.FormatInt(msg.Seq, 10), now)
	if err != nil || !alive {
		return finished, err
	}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: topic.String(), Payload: msg.Payload, Properties: properties}
	if fate := s.address(&pk, topic, msg); fate != underway {
		return fate, nil
	}
	err = s.c.encode(out, &pk)
	if errors.Is(err, packets.ErrPacketTooLarge) {
		// MQTT 5 section 3.1.2.11.4: behave as if it had been sent.
		cfg.Log.Warn("a message is larger than its consumer accepts and was passed over", s.c.attrs("message", msg.Seq)...)
		s.mu.Lock()
		s.flight.end(pk.PacketID)
		s.mu.Unlock()
		return finished, nil
	}
	if pk.FixedHeader.Qos == 0 {
		return finished, err
	}
	return underway, err
}

// address completes a message for those filters of the session that select it
// and takes its place in the window, all against the same filters.
func (s *subscriber) address(pk *packets.Packet, topic keyholder.Topic, msg mailbox.Message) fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.filters) == 0 {
		// Unsubscribed from all while the message was on its way.
		s.held = &msg
		return kept
	}
	wanted := false
	for _, f := range s.filters {
		if !f.Matches(topic) {
			continue
		}
		// MQTT 5 section 3.3.4: the highest QoS, all identifiers.
		wanted = true
		pk.FixedHeader.Qos = max(pk.FixedHeader.Qos, f.qos)
		if f.identifier > 0 {
			pk.Properties.SubscriptionIdentifier = append(pk.Properties.SubscriptionIdentifier, f.identifier)
		}
	}
	if !wanted {
		return finished
	}
	if pk.FixedHeader.Qos > 0 {
		pk.PacketID, pk.FixedHeader.Dup = s.flight.begin(msg.Seq)
	}
	return underway
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
	s.poke()
}

// subscribe adds granted filters to the session, or turns the codes of those
// for which there is no room into refusals. asked are all filters of the
// SUBSCRIBE, in the order of the codes. If the session outlives the connection
// they are durable before SUBACK.
func (s *subscriber) subscribe(granted []filter, asked packets.Subscriptions, codes []byte) {
	refuse := func(f filter, code byte) {
		for i := range asked {
			if asked[i].Filter == f.String() {
				codes[i] = code
			}
		}
	}
	s.mu.Lock()
	filters := slices.Clone(s.filters)
	s.mu.Unlock()
	var added []filter
	for _, f := range granted {
		same := func(o filter) bool { return o.Filter == f.Filter }
		if !slices.ContainsFunc(filters, same) && len(filters) >= s.c.b.cfg.MaxFilters {
			refuse(f, packets.ErrQuotaExceeded.Code)
			continue
		}
		filters = append(slices.DeleteFunc(filters, same), f)
		added = append(added, f)
	}
	if len(added) == 0 {
		return
	}
	if err := s.c.b.saveFilters(s, added); err != nil {
		s.c.b.cfg.Log.Error("filters could not be stored", s.c.attrs("error", err)...)
		for _, f := range added {
			refuse(f, packets.ErrUnspecifiedError.Code)
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

// unsubscribe removes filters from the session and sets the codes of those
// that were there to 0.
func (s *subscriber) unsubscribe(asked packets.Subscriptions, codes []byte) error {
	s.mu.Lock()
	filters := slices.Clone(s.filters)
	s.mu.Unlock()
	var removed []string
	for i := range asked {
		before := len(filters)
		filters = slices.DeleteFunc(filters, func(f filter) bool { return f.String() == asked[i].Filter })
		if len(filters) < before {
			codes[i] = packets.CodeSuccess.Code
			removed = append(removed, asked[i].Filter)
		}
	}
	if len(removed) == 0 {
		return nil
	}
	if err := s.c.b.deleteFilters(s, removed); err != nil {
		return err
	}
	s.set(filters)
	return nil
}

func (s *subscriber) set(filters []filter) {
	s.mu.Lock()
	s.filters = filters
	s.mu.Unlock()
	s.poke()
}
