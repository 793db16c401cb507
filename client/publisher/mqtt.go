package publisher

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/internal/link"
)

const (
	// takeoverWait is for how long the broker is left to another process of
	// the same provider, at first.
	takeoverWait = 30 * time.Second
	// lastWords is how long a connection that ends may still take to say why.
	lastWords = time.Second
	// maxFromBroker bounds a packet from the broker, in bytes; it is told.
	maxFromBroker = 64 << 10
	// overhead is what a PUBLISH holds beside topic and payload, at most:
	// fixed header, length of the topic, packet ID, no properties.
	overhead = 1 + 4 + 2 + 2 + 1
)

// keepConnected connects, publishes until the connection is lost, and connects
// again.
func (p *Publisher) keepConnected(ctx context.Context) {
	rivalry := link.Rivalry{First: takeoverWait}
	for failures := 0; ctx.Err() == nil; {
		begun := time.Now()
		progress, err := p.session(ctx)
		p.queue.lost()
		held := time.Since(begun)
		if ctx.Err() != nil {
			err = nil
		}
		p.turn(false, err)
		if errors.Is(err, errTakenOver) {
			p.cfg.Log.Warn("another process publishes as the same provider", "provider", string(p.cfg.Provider))
			_ = link.Sleep(ctx, rivalry.Wait(held))
			continue
		}
		if failures++; progress || held > link.LastWait {
			failures = 1
		}
		_ = link.Sleep(ctx, link.Jitter(link.FirstWait, link.LastWait, failures))
	}
}

var errTakenOver = errors.New("another connection of the same provider took over")

// session is one connection: one goroutine writes, another reads.
type session struct {
	p        *Publisher
	conn     *link.Conn
	in       *bufio.Reader
	out      *bufio.Writer
	most     int // publishes not acknowledged, as the broker allows
	maxBytes int // of a packet, as the broker allows; 0: no bound
	keep     time.Duration

	mu     sync.Mutex // guards the fields below
	flight map[uint16]*entry
	last   uint16 // packet ID
	acked  bool   // something was
}

// session connects and publishes until the connection ends. It says whether
// anything was acknowledged.
func (p *Publisher) session(ctx context.Context) (progress bool, err error) {
	conn, err := link.Dialer{Broker: p.broker, RootCAs: p.cfg.RootCAs, TLS: p.cfg.TLS, Certificate: p.cfg.Certificate}.Dial(ctx)
	if err != nil {
		return false, err
	}
	shut := func() { _ = conn.Close() }
	defer shut()
	s := &session{p: p, conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriterSize(conn, 32<<10), flight: map[uint16]*entry{}}
	connecting := context.AfterFunc(ctx, shut)
	if err := s.connect(); err != nil {
		return false, err
	}
	connecting()
	p.turn(true, nil)
	var said error // of the reader
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		said = s.receive()
		shut()
	}()
	err = s.run(ctx)
	// What the broker has answered, and why it ends the connection, may still
	// be on its way.
	end := time.AfterFunc(lastWords, shut)
	defer end.Stop()
	if ctx.Err() != nil {
		shut()
	}
	<-reading
	if said != nil && !errors.Is(said, net.ErrClosed) {
		err = said
	}
	return s.acked, err
}

// connect sends CONNECT and reads the terms of the broker. There is no session
// to resume: what is not acknowledged is kept here.
func (s *session) connect() error {
	cfg := &s.p.cfg
	if err := s.conn.SetReadDeadline(time.Now().Add(link.ConnectWithin)); err != nil {
		return err
	}
	largest, problems := uint32(maxFromBroker), byte(1)
	hello := &packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: string(cfg.Provider), CleanStart: true,
		KeepAlive: uint16(cfg.KeepAlive / time.Second), Properties: &packets.Properties{MaximumPacketSize: &largest, RequestProblemInfo: &problems}}
	if err := s.send(hello); err != nil {
		return err
	}
	pk, err := packets.ReadPacket(s.in)
	if err != nil {
		return fmt.Errorf("the broker does not answer CONNECT: %w", err)
	}
	answer, ok := pk.Content.(*packets.Connack)
	switch {
	case !ok:
		return errors.New("the broker answers CONNECT with another packet than CONNACK")
	case answer.ReasonCode != 0:
		return fmt.Errorf("the broker refused the connection with code %#02x", answer.ReasonCode)
	case answer.Properties.MaximumQOS != nil && *answer.Properties.MaximumQOS == 0:
		return errors.New("the broker acknowledges nothing: its maximum QoS is 0")
	}
	s.most, s.keep = 65535, cfg.KeepAlive
	if n := answer.Properties.ReceiveMaximum; n != nil && *n > 0 {
		s.most = int(*n)
	}
	if n := answer.Properties.MaximumPacketSize; n != nil {
		s.maxBytes = int(*n)
	}
	if n := answer.Properties.ServerKeepAlive; n != nil && *n > 0 {
		s.keep = time.Duration(*n) * time.Second
	}
	return nil
}

// send writes a packet and what was buffered before it.
func (s *session) send(pk packets.Packet) error {
	if _, err := pk.WriteTo(s.out); err != nil {
		return err
	}
	return s.out.Flush()
}

// run writes until the connection or ctx ends.
func (s *session) run(ctx context.Context) error {
	ping := time.NewTicker(s.keep)
	defer ping.Stop()
	// A write may hang; then there is no farewell.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, func() { _ = s.conn.Close() }) })()
	for {
		sent, err := s.publish()
		if err == nil && !sent {
			err = s.out.Flush()
		}
		if err != nil {
			return err
		}
		if sent {
			continue
		}
		select {
		case <-s.p.queue.wake:
		case <-ping.C:
			if err := s.send(&packets.Pingreq{}); err != nil {
				return err
			}
		case <-s.conn.Closed():
			return net.ErrClosed
		case <-ctx.Done():
			_ = s.send(&packets.Disconnect{Properties: &packets.Properties{}})
			return ctx.Err()
		}
	}
}

// publish writes the next PUBLISH, if there is one and it may be sent now.
func (s *session) publish() (sent bool, err error) {
	s.mu.Lock()
	full := len(s.flight) >= s.most
	s.mu.Unlock()
	if full {
		return false, nil // an acknowledgement wakes the writer
	}
	taken := s.p.queue.take(1, 0)
	if len(taken) == 0 {
		return false, nil
	}
	e := taken[0]
	topic := keyholder.Topic{Subscription: keyholder.SubscriptionID(e.lane.to), Level: e.item.Level}.String()
	payload := e.item.Payload
	if s.maxBytes > 0 && overhead+len(topic)+len(payload) > s.maxBytes {
		s.p.queue.settle(fmt.Errorf("%w: %d bytes", ErrTooLarge, s.maxBytes), e)
		return true, nil
	}
	pk := &packets.Publish{QoS: 1, PacketID: s.depart(e), Topic: topic, Payload: payload, Properties: &packets.Properties{}}
	_, err = pk.WriteTo(s.out)
	return err == nil, err
}

// depart gives an entry a packet ID that is free.
func (s *session) depart(e *entry) uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		s.last++
		if s.last != 0 && s.flight[s.last] == nil {
			s.flight[s.last] = e
			return s.last
		}
	}
}

// arrive returns the entry of a packet ID, or nil, and makes the ID free.
func (s *session) arrive(id uint16) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.flight[id]
	delete(s.flight, id)
	s.acked = s.acked || e != nil
	return e
}

// receive reads until the connection ends.
func (s *session) receive() error {
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(s.keep + link.ConnectWithin)); err != nil {
			return err
		}
		pk, err := packets.ReadPacket(s.in)
		if err != nil {
			return err
		}
		switch pk := pk.Content.(type) {
		case *packets.Puback:
			e := s.arrive(pk.PacketID)
			if e == nil {
				return errors.New("the broker acknowledges what was not published")
			}
			s.answered(e, pk)
			s.p.queue.pending()
		case *packets.Pingresp:
		case *packets.Disconnect:
			if pk.ReasonCode == link.SessionTakenOver {
				return errTakenOver
			}
			return fmt.Errorf("the broker ended the connection with code %#02x", pk.ReasonCode)
		default:
			return errors.New("the broker sends what no publisher is sent")
		}
	}
}

// answered translates an acknowledgement (MQTT 5 section 3.4.2.1).
func (s *session) answered(e *entry, ack *packets.Puback) {
	q := s.p.queue
	switch ack.ReasonCode {
	case packets.PubackSuccess, packets.PubackNoMatchingSubscribers:
		q.settle(nil, e)
	case packets.PubackNotAuthorized:
		q.settle(ErrRefused, e)
	case packets.PubackTopicNameInvalid, packets.PubackPayloadFormatInvalid, packets.PubackImplementationSpecificError:
		q.settle(fmt.Errorf("%w: code %#02x", ErrInvalid, ack.ReasonCode), e)
	case packets.PubackQuotaExceeded:
		s.p.trouble(ErrFull, 0, e)
	default:
		s.p.trouble(ErrServer, 0, e)
	}
}
