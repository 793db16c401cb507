package external_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// raw is an MQTT client of which every packet is written by hand, so that it
// can ask for what no library would.
type raw struct {
	conn    net.Conn
	in      *bufio.Reader
	version byte
	inbox   []string // messages that came while something else was awaited
}

// answerLimit is how long a broker may take to answer.
const answerLimit = 10 * time.Second

// dial opens a TLS connection, without CONNECT.
func dial(t testing.TB, addr string, cfg *tls.Config, version byte) (*raw, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: answerLimit}, "tcp", addr, cfg)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &raw{conn: conn, in: bufio.NewReader(conn), version: version}, nil
}

// connect sends CONNECT and returns the code of CONNACK.
func (r *raw) connect(id string, change ...func(*packets.Packet)) (byte, error) {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: r.version,
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), Clean: true, Keepalive: 60, ClientIdentifier: id}}
	for _, f := range change {
		f(&pk)
	}
	if err := r.send(pk); err != nil {
		return 0, err
	}
	ack, err := r.read(answerLimit)
	if err == nil && ack.FixedHeader.Type != packets.Connack {
		err = errors.New("the first packet is not CONNACK")
	}
	return ack.ReasonCode, err
}

func (r *raw) send(pk packets.Packet) error {
	pk.ProtocolVersion = r.version
	var buf bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&buf)
	case packets.Publish:
		err = pk.PublishEncode(&buf)
	case packets.Puback:
		err = pk.PubackEncode(&buf)
	case packets.Subscribe:
		err = pk.SubscribeEncode(&buf)
	case packets.Pingreq:
		err = pk.PingreqEncode(&buf)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&buf)
	default:
		err = fmt.Errorf("cannot send packet type %d", pk.FixedHeader.Type)
	}
	if err != nil {
		return err
	}
	_ = r.conn.SetWriteDeadline(time.Now().Add(answerLimit))
	_, err = r.conn.Write(buf.Bytes())
	return err
}

// frame reads one packet as it stands on the wire.
func (r *raw) frame(wait time.Duration) ([]byte, error) {
	if err := r.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	first, err := r.in.ReadByte()
	if err != nil {
		return nil, err
	}
	frame := []byte{first}
	for n, shift := 0, 0; ; {
		b, err := r.in.ReadByte()
		if err != nil {
			return nil, err
		}
		frame = append(frame, b)
		n |= int(b&127) << shift
		if shift += 7; b&128 == 0 {
			rest := make([]byte, n)
			_, err := io.ReadFull(r.in, rest)
			return append(frame, rest...), err
		}
	}
}

func (r *raw) read(wait time.Duration) (packets.Packet, error) {
	frame, err := r.frame(wait)
	if err != nil {
		return packets.Packet{}, err
	}
	pk := packets.Packet{ProtocolVersion: r.version}
	if err := pk.FixedHeader.Decode(frame[0]); err != nil {
		return pk, err
	}
	in := bytes.NewBuffer(frame[1:])
	if pk.FixedHeader.Remaining, _, err = packets.DecodeLength(in); err != nil {
		return pk, err
	}
	rest := in.Bytes()
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(rest)
	case packets.Publish:
		err = pk.PublishDecode(rest)
	case packets.Puback:
		err = pk.PubackDecode(rest)
	case packets.Pubrec:
		err = pk.PubrecDecode(rest)
	case packets.Suback:
		err = pk.SubackDecode(rest)
	case packets.Disconnect:
		err = pk.DisconnectDecode(rest)
	case packets.Pingresp:
	default:
		err = fmt.Errorf("packet type %d came", pk.FixedHeader.Type)
	}
	return pk, err
}

// expect reads until a packet of the given type comes. Messages that come
// before it are acknowledged and kept.
func (r *raw) expect(kind byte) (packets.Packet, error) {
	for {
		pk, err := r.next(answerLimit)
		switch {
		case err != nil, pk.FixedHeader.Type == kind:
			return pk, err
		case pk.FixedHeader.Type == packets.Publish:
			r.inbox = append(r.inbox, string(pk.Payload))
		case pk.FixedHeader.Type == packets.Disconnect:
			return pk, io.EOF
		default:
			return pk, fmt.Errorf("packet type %d came, want %d", pk.FixedHeader.Type, kind)
		}
	}
}

// next reads a packet, and acknowledges it if it is a message.
func (r *raw) next(wait time.Duration) (packets.Packet, error) {
	pk, err := r.read(wait)
	if err == nil && pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos > 0 {
		err = r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID})
	}
	return pk, err
}

// message returns the next message that comes within a time.
func (r *raw) message(wait time.Duration) (string, error) {
	if len(r.inbox) > 0 {
		m := r.inbox[0]
		r.inbox = r.inbox[1:]
		return m, nil
	}
	pk, err := r.next(wait)
	if err == nil && pk.FixedHeader.Type != packets.Publish {
		err = fmt.Errorf("packet type %d came", pk.FixedHeader.Type)
	}
	return string(pk.Payload), err
}

// subscribe sends one SUBSCRIBE and returns the codes of SUBACK.
func (r *raw) subscribe(filters ...string) ([]byte, error) {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 7}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: 1})
	}
	if err := r.send(pk); err != nil {
		return nil, err
	}
	ack, err := r.expect(packets.Suback)
	return ack.ReasonCodes, err
}

// publish sends a PUBLISH of QoS 1 and returns the code of PUBACK.
func (r *raw) publish(topic, payload string, change ...func(*packets.Packet)) (byte, error) {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, TopicName: topic, Payload: []byte(payload), PacketID: 9}
	for _, f := range change {
		f(&pk)
	}
	if err := r.send(pk); err != nil {
		return 0, err
	}
	if pk.FixedHeader.Qos == 0 {
		return 0, r.alive()
	}
	kind := packets.Puback
	if pk.FixedHeader.Qos == 2 {
		kind = packets.Pubrec
	}
	ack, err := r.expect(kind)
	return ack.ReasonCode, err
}

// alive says whether the connection still works.
func (r *raw) alive() error {
	if err := r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}); err != nil {
		return err
	}
	_, err := r.expect(packets.Pingresp)
	return err
}

// leave ends the connection in good order and waits for the broker's end of
// it.
func (r *raw) leave() {
	_ = r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	r.ended(answerLimit)
}

// ended says whether the connection ends within wait.
func (r *raw) ended(wait time.Duration) bool {
	for until := time.Now().Add(wait); ; {
		_, err := r.read(time.Until(until))
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return false
		}
		if err != nil {
			return true
		}
	}
}
