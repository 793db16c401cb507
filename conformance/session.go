package conformance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// maxPacket bounds one MQTT packet from a broker, in bytes.
const maxPacket = 1 << 20

// maxKept bounds how many messages of one connection are remembered.
const maxKept = 1 << 16

// session is an MQTT 5 connection that the broker has accepted. It keeps and
// acknowledges what it receives. One probe uses it from one goroutine; the
// reading goroutine ends when the connection does.
type session struct {
	name    string
	conn    net.Conn
	replies chan *packets.ControlPacket // all but PUBLISH
	ended   chan struct{}               // closed when reading ends; cause is set before
	cause   error
	next    uint16

	mu       sync.Mutex
	received []message
	arrived  chan struct{} // closed and replaced with each message
}

// message is a PUBLISH from the broker.
type message struct {
	topic   string
	payload string
}

// attempt is the outcome of a CONNECT. session is nil unless accepted; how
// says in words what the broker did.
type attempt struct {
	session  *session
	how      string
	assigned string // client ID that the broker gave
}

// connect opens a connection with a certificate and client ID. A refusal, in
// the TLS handshake, by CONNACK, by closing or by silence, is no error; that
// the broker cannot be reached, is not trusted or speaks no MQTT 5 is one.
// change may alter the CONNECT packet.
func (d *deployment) connect(ctx context.Context, certificate *tls.Certificate, clientID string, change func(*packets.Connect)) (attempt, error) {
	s, err := d.mqttSurface()
	if err != nil {
		return attempt{}, err
	}
	raw, err := dial(ctx, s.address)
	if err != nil {
		return attempt{}, err
	}
	wait, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	conn := tls.Client(raw, d.trust(s.host, certificate))
	if err := conn.HandshakeContext(wait); err != nil {
		raw.Close()
		return refusedHandshake(ctx, s, err)
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	packet := newConnect(clientID)
	if change != nil {
		change(packet)
	}
	// A write that fails shows in the read below, with the broker's alert.
	writeErr := write(conn, packet)
	conn.SetReadDeadline(deadlineOf(wait))
	reader := bufio.NewReader(conn)
	ack, err := readConnack(reader)
	if err == nil && ack.ReasonCode == packets.ConnackSuccess {
		conn.SetReadDeadline(deadlineOf(ctx))
		session := &session{name: clientID, conn: conn, replies: make(chan *packets.ControlPacket, 64), ended: make(chan struct{}), arrived: make(chan struct{})}
		go session.read(reader, stop)
		out := attempt{session: session, how: "CONNACK 0x00 (success)"}
		if ack.Properties != nil {
			out.assigned = ack.Properties.AssignedClientID
		}
		return out, nil
	}
	stop()
	raw.Close()
	switch {
	case errors.Is(err, errNotMQTT5), errors.Is(err, errMQTT3), err == nil && ack.ReasonCode == packets.ConnackUnsupportedProtocolVersion:
		return attempt{}, fmt.Errorf("the broker does not speak MQTT 5, the only version this check speaks")
	case err == nil:
		return attempt{how: fmt.Sprintf("CONNACK 0x%02x (%s)", ack.ReasonCode, reason(ack.Reason()))}, nil
	case ctx.Err() != nil:
		return attempt{}, fmt.Errorf("wait for CONNACK: %w", ctx.Err())
	case isTimeout(err):
		return attempt{how: fmt.Sprintf("no CONNACK within %s", d.patience)}, nil
	case writeErr != nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return attempt{how: "connection closed without CONNACK"}, nil
	}
	return attempt{how: "connection ended: " + clean(err.Error())}, nil
}

func refusedHandshake(ctx context.Context, s surface, err error) (attempt, error) {
	switch {
	case isTrust(err):
		return attempt{}, fmt.Errorf("the broker at %s is not trusted: %w", s.address, err)
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		return attempt{}, fmt.Errorf("the broker at %s gave no answer to a TLS handshake: %w", s.address, err)
	}
	return attempt{how: "TLS handshake refused (" + clean(err.Error()) + ")"}, nil
}

// reason is the short first part of a packet library's explanation.
func reason(s string) string {
	short, _, _ := strings.Cut(s, " -")
	if short == "" {
		return "unknown reason"
	}
	return short
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func deadlineOf(ctx context.Context) time.Time {
	t, _ := ctx.Deadline()
	return t
}

func newConnect(clientID string) *packets.Connect {
	return &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: clientID, CleanStart: true, KeepAlive: 60,
		Properties: &packets.Properties{}, WillProperties: &packets.Properties{},
	}
}

// write sends a packet in one piece, so that goroutines do not mix theirs.
func write(w io.Writer, p io.WriterTo) error {
	var b bytes.Buffer
	if _, err := p.WriteTo(&b); err != nil {
		return fmt.Errorf("encode an MQTT packet: %w", err)
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("send an MQTT packet: %w", err)
	}
	return nil
}

var (
	errMQTT3    = errors.New("the answer is a CONNACK of MQTT 3")
	errNotMQTT5 = errors.New("the answer is not MQTT 5")
)

func readConnack(r *bufio.Reader) (*packets.Connack, error) {
	if head, err := r.Peek(2); err == nil && head[0] == packets.CONNACK<<4 && head[1] == 2 {
		return nil, errMQTT3 // MQTT 5 has three bytes or more here
	}
	p, err := readPacket(r)
	if err != nil {
		return nil, err
	}
	ack, ok := p.Content.(*packets.Connack)
	if !ok {
		return nil, fmt.Errorf("%w: it begins with %s", errNotMQTT5, p.PacketType())
	}
	return ack, nil
}

// readPacket reads one packet, after looking at its stated length: the packet
// library would reserve whatever a broker claims.
func readPacket(r *bufio.Reader) (p *packets.ControlPacket, err error) {
	for i := 2; ; i++ {
		head, err := r.Peek(i)
		if err != nil {
			return nil, err
		}
		if head[i-1] < 0x80 {
			if length, _ := binary.Uvarint(head[1:]); length > maxPacket {
				return nil, fmt.Errorf("the broker sends a packet of %d bytes", length)
			}
			break
		}
		if i == 5 {
			return nil, errors.New("the broker sends a packet without a proper length")
		}
	}
	defer func() {
		if x := recover(); x != nil {
			p, err = nil, fmt.Errorf("the broker sends a packet that cannot be read: %v", x)
		}
	}()
	return packets.ReadPacket(r)
}

func (s *session) read(r *bufio.Reader, stop func() bool) {
	defer close(s.ended)
	defer stop()
	defer s.conn.Close()
	for {
		p, err := readPacket(r)
		if err != nil {
			if s.cause == nil {
				s.cause = err
			}
			return
		}
		switch c := p.Content.(type) {
		case *packets.Publish:
			s.keep(c)
			if c.QoS == 1 {
				write(s.conn, &packets.Puback{PacketID: c.PacketID, Properties: &packets.Properties{}})
			}
		case *packets.Disconnect:
			s.cause = fmt.Errorf("DISCONNECT 0x%02x (%s)", c.ReasonCode, reason(c.Reason()))
		default:
			select {
			case s.replies <- p:
			default: // nobody asked for that many
			}
		}
	}
}

// keep notes a message. Test messages are short: of longer ones only the
// topic is kept.
func (s *session) keep(p *packets.Publish) {
	m := message{topic: p.Topic}
	if len(p.Payload) < 256 {
		m.payload = string(p.Payload)
	}
	m.topic = m.topic[:min(len(m.topic), 256)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.received) == maxKept {
		return // a flood; what is looked for comes early or not at all
	}
	s.received = append(s.received, m)
	close(s.arrived)
	s.arrived = make(chan struct{})
}

// close ends the session and waits for its reader.
func (s *session) close() {
	if s == nil {
		return
	}
	write(s.conn, &packets.Disconnect{Properties: &packets.Properties{}})
	s.conn.Close()
	<-s.ended
}

// reply is the broker's answer to one packet. codes is nil if it gave none;
// how says what it did.
type reply struct {
	codes []byte
	how   string
}

// refused says whether every code is a refusal, or there is none.
func (r reply) refused() bool {
	for _, c := range r.codes {
		if c < 0x80 {
			return false
		}
	}
	return true
}

// ask sends a packet and waits for the packet that answers it. Closing the
// connection and silence are answers too.
func (s *session) ask(ctx context.Context, patience time.Duration, p io.WriterTo, answers func(*packets.ControlPacket) (reply, bool)) (reply, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	if err := write(s.conn, p); err != nil {
		select {
		case <-s.ended:
		case <-timer.C:
		}
	}
	for {
		select {
		case got := <-s.replies:
			if r, ok := answers(got); ok {
				return r, nil
			}
		case <-s.ended:
			if ctx.Err() != nil {
				return reply{}, fmt.Errorf("wait for the broker: %w", ctx.Err())
			}
			return reply{how: "the broker ended the connection (" + clean(s.cause.Error()) + ")"}, nil
		case <-timer.C:
			return reply{how: fmt.Sprintf("no answer within %s", patience)}, nil
		case <-ctx.Done():
			return reply{}, fmt.Errorf("wait for the broker: %w", ctx.Err())
		}
	}
}

func (s *session) packetID() uint16 {
	s.next++
	return s.next
}

// subscribe asks for filters in one packet, at QoS 1.
func (s *session) subscribe(ctx context.Context, patience time.Duration, filters ...string) (reply, error) {
	id := s.packetID()
	p := &packets.Subscribe{PacketID: id, Properties: &packets.Properties{}}
	for _, f := range filters {
		p.Subscriptions = append(p.Subscriptions, packets.SubOptions{Topic: f, QoS: 1})
	}
	return s.ask(ctx, patience, p, func(got *packets.ControlPacket) (reply, bool) {
		ack, ok := got.Content.(*packets.Suback)
		if !ok || ack.PacketID != id || len(ack.Reasons) != len(filters) {
			return reply{}, false
		}
		var how []string
		for i := range ack.Reasons {
			how = append(how, fmt.Sprintf("0x%02x", ack.Reasons[i]))
		}
		return reply{ack.Reasons, "SUBACK " + strings.Join(how, " ")}, true
	})
}

// publish sends a message at QoS 1 and waits for its PUBACK.
func (s *session) publish(ctx context.Context, patience time.Duration, topic, payload string, retain bool) (reply, error) {
	id := s.packetID()
	p := &packets.Publish{PacketID: id, QoS: 1, Topic: topic, Payload: []byte(payload), Retain: retain, Properties: &packets.Properties{}}
	return s.ask(ctx, patience, p, func(got *packets.ControlPacket) (reply, bool) {
		ack, ok := got.Content.(*packets.Puback)
		if !ok || ack.PacketID != id {
			return reply{}, false
		}
		return reply{[]byte{ack.ReasonCode}, fmt.Sprintf("PUBACK 0x%02x", ack.ReasonCode)}, true
	})
}

// alive says whether the session still answers a ping.
func (s *session) alive(ctx context.Context, patience time.Duration) (reply, error) {
	return s.ask(ctx, patience, &packets.Pingreq{}, func(got *packets.ControlPacket) (reply, bool) {
		_, ok := got.Content.(*packets.Pingresp)
		return reply{[]byte{0}, "PINGRESP"}, ok
	})
}

// messages returns what has been received so far.
func (s *session) messages() []message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]message(nil), s.received...)
}

// wait returns once a message with the payload has come, or false when the
// time is over or the connection has ended.
func (s *session) wait(ctx context.Context, within time.Duration, payload string) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		s.mu.Lock()
		arrived := s.arrived
		found := false
		for _, m := range s.received {
			found = found || m.payload == payload
		}
		s.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-arrived:
		case <-s.ended:
			// What came before the end is in the list already, or never comes.
			return s.has(payload)
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (s *session) has(payload string) bool {
	for _, m := range s.messages() {
		if m.payload == payload {
			return true
		}
	}
	return false
}

// canary returns a payload that nobody else has.
func canary() string { return `{"keyholder_check":"` + rand.Text() + `"}` }
