package broker_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// raw is an MQTT client of which every packet is written by hand.
type raw struct {
	t       testing.TB
	conn    net.Conn
	in      *bufio.Reader
	version byte
}

// dial opens a TLS connection, without CONNECT.
func (w *world) dial(cfg *tls.Config, version byte) (*raw, error) {
	d := &net.Dialer{Timeout: 10 * time.Second}
	conn, err := tls.DialWithDialer(d, "tcp", w.addr, cfg)
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return &raw{t: w.t, conn: conn, in: bufio.NewReader(conn), version: version}, nil
}

// options change a CONNECT before it is sent.
type option func(*packets.Packet)

func persistent(pk *packets.Packet) {
	pk.Connect.Clean = false
	pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
}

func clientID(id string) option {
	return func(pk *packets.Packet) { pk.Connect.ClientIdentifier = id }
}

func keepAlive(seconds uint16) option {
	return func(pk *packets.Packet) { pk.Connect.Keepalive = seconds }
}

func receiveMaximum(n uint16) option {
	return func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = n }
}

func will(pk *packets.Packet) {
	pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, "fds/v2/"+pk.Connect.ClientIdentifier+"/events", []byte("gone")
}

// connect sends CONNECT as the party and returns the client and its CONNACK.
func (w *world) connect(p party, version byte, options ...option) (*raw, packets.Packet, error) {
	r, err := w.dial(w.tls(p.cert), version)
	if err != nil {
		return nil, packets.Packet{}, err
	}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: version,
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), Clean: true, Keepalive: 60, ClientIdentifier: p.id}}
	for _, o := range options {
		o(&pk)
	}
	r.send(pk)
	ack, err := r.read()
	if err == nil && ack.FixedHeader.Type != packets.Connack {
		err = errors.New("the first packet is not CONNACK")
	}
	return r, ack, err
}

// join is connect that must succeed.
func (w *world) join(p party, version byte, options ...option) *raw {
	w.t.Helper()
	r, ack, err := w.connect(p, version, options...)
	if err != nil || ack.ReasonCode != 0 {
		w.t.Fatalf("connect: code %#x, err %v", ack.ReasonCode, err)
	}
	return r
}

func (r *raw) send(pk packets.Packet) {
	r.t.Helper()
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
	case packets.Pubrel:
		err = pk.PubrelEncode(&buf)
	case packets.Subscribe:
		err = pk.SubscribeEncode(&buf)
	case packets.Unsubscribe:
		err = pk.UnsubscribeEncode(&buf)
	case packets.Pingreq:
		err = pk.PingreqEncode(&buf)
	case packets.Auth:
		err = pk.AuthEncode(&buf)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&buf)
	default:
		r.t.Fatalf("cannot send packet type %d", pk.FixedHeader.Type)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.write(buf.Bytes())
}

// write sends bytes; an error shows when reading.
func (r *raw) write(b []byte) {
	_ = r.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, _ = r.conn.Write(b)
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
	n, shift := 0, 0
	for {
		b, err := r.in.ReadByte()
		if err != nil {
			return nil, err
		}
		frame = append(frame, b)
		n |= int(b&127) << shift
		if shift += 7; b&128 == 0 {
			break
		}
	}
	rest := make([]byte, n)
	if _, err := io.ReadFull(r.in, rest); err != nil {
		return nil, err
	}
	return append(frame, rest...), nil
}

func (r *raw) read() (packets.Packet, error) { return r.readWithin(10 * time.Second) }

func (r *raw) readWithin(wait time.Duration) (packets.Packet, error) {
	frame, err := r.frame(wait)
	if err != nil {
		return packets.Packet{}, err
	}
	pk := packets.Packet{ProtocolVersion: r.version}
	if err := pk.FixedHeader.Decode(frame[0]); err != nil {
		return pk, err
	}
	in := bytes.NewBuffer(frame[1:])
	n, _, err := packets.DecodeLength(in)
	if err != nil {
		return pk, err
	}
	pk.FixedHeader.Remaining = n
	rest := in.Bytes()
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(rest)
	case packets.Publish:
		err = pk.PublishDecode(rest)
	case packets.Puback:
		err = pk.PubackDecode(rest)
	case packets.Suback:
		err = pk.SubackDecode(rest)
	case packets.Unsuback:
		err = pk.UnsubackDecode(rest)
	case packets.Disconnect:
		err = pk.DisconnectDecode(rest)
	case packets.Pingresp:
	default:
		err = errors.New("an unexpected packet type")
	}
	return pk, err
}

// expect reads a packet of the given type.
func (r *raw) expect(kind byte) packets.Packet {
	r.t.Helper()
	pk, err := r.read()
	if err != nil || pk.FixedHeader.Type != kind {
		r.t.Fatalf("got a packet of type %d (code %#x), err %v; want type %d", pk.FixedHeader.Type, pk.ReasonCode, err, kind)
	}
	return pk
}

// closed reads until the connection ends and returns the code of a
// DISCONNECT, if one came.
func (r *raw) closed() (code byte) {
	r.t.Helper()
	for {
		pk, err := r.read()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || isReset(err) {
				return code
			}
			r.t.Fatalf("the connection did not end: %v", err)
		}
		if pk.FixedHeader.Type == packets.Disconnect {
			code = pk.ReasonCode
		}
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout()
}

// alive checks that the connection still works.
func (r *raw) alive() {
	r.t.Helper()
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
	r.expect(packets.Pingresp)
}

// silent checks that nothing but the answer to a ping comes.
func (r *raw) silent(wait time.Duration) {
	r.t.Helper()
	pk, err := r.readWithin(wait)
	var timeout net.Error
	if err == nil || !errors.As(err, &timeout) || !timeout.Timeout() {
		r.t.Fatalf("got a packet of type %d with %q, err %v; want silence", pk.FixedHeader.Type, pk.Payload, err)
	}
}

// subscribe sends one SUBSCRIBE and returns the codes of SUBACK.
func (r *raw) subscribe(qos byte, filters ...string) []byte {
	r.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 7}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: qos})
	}
	r.send(pk)
	return r.expect(packets.Suback).ReasonCodes
}

// publish sends a PUBLISH; for QoS 1 with the identifier id.
func (r *raw) publish(topic string, payload []byte, qos byte, id uint16) {
	r.t.Helper()
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: payload, PacketID: id})
}

// puback acknowledges a message.
func (r *raw) puback(id uint16) {
	r.t.Helper()
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: id})
}

// message reads a PUBLISH and acknowledges it.
func (r *raw) message() packets.Packet {
	r.t.Helper()
	pk := r.expect(packets.Publish)
	if pk.FixedHeader.Qos > 0 {
		r.puback(pk.PacketID)
	}
	return pk
}

func certPEM(c tls.Certificate) []byte {
	var out []byte
	for _, der := range c.Certificate {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func keyPEM(c tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(c.PrivateKey))})
}
