package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// wire is a connection of MQTT 3.1.1, which all the peers speak, with as
// little of a client as can be: what is measured is the broker. One goroutine
// may write while another reads.
type wire struct {
	conn *tls.Conn
	in   *bufio.Reader
	out  bytes.Buffer
	last uint16 // packet identifier
}

// dial opens a connection with mutual TLS 1.2. A session that is not clean
// outlives it.
func (f *fleet) dial(ctx context.Context, m member, clean bool) (*wire, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 30 * time.Second}, Config: &tls.Config{RootCAs: f.roots, Certificates: []tls.Certificate{m.certificate},
		ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}}
	conn, err := d.DialContext(ctx, "tcp", f.address)
	if err != nil {
		return nil, err
	}
	w := &wire{conn: conn.(*tls.Conn), in: bufio.NewReaderSize(conn, 512)}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if err := w.write(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect},
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), Clean: clean, Keepalive: 1200, ClientIdentifier: m.id}}); err != nil {
		return w, err
	}
	if pk, err := w.read(); err != nil || pk.FixedHeader.Type != packets.Connack || pk.ReasonCode != 0 {
		return w, fmt.Errorf("CONNECT was answered by type %d, code %#x, %w", pk.FixedHeader.Type, pk.ReasonCode, err)
	}
	return w, conn.SetDeadline(time.Time{})
}

// join is dial with a subscription to everything below the own prefix.
func (f *fleet) join(ctx context.Context, m member, clean bool) (*wire, error) {
	w, err := f.dial(ctx, m, clean)
	if err != nil {
		return w, err
	}
	_ = w.conn.SetDeadline(time.Now().Add(30 * time.Second))
	if err := w.write(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: m.prefix() + "#", Qos: 1}}}); err != nil {
		return w, err
	}
	pk, err := w.read()
	if err != nil || pk.FixedHeader.Type != packets.Suback || pk.ReasonCodes[0] != 1 {
		return w, fmt.Errorf("SUBSCRIBE was answered by type %d, %v, %w", pk.FixedHeader.Type, pk.ReasonCodes, err)
	}
	return w, w.conn.SetDeadline(time.Time{})
}

func (w *wire) publish(topic string, payload []byte) error {
	if w.last++; w.last == 0 {
		w.last++
	}
	return w.write(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, TopicName: topic, Payload: payload, PacketID: w.last})
}

// leave ends the connection as a client does that comes back.
func (w *wire) leave() {
	_ = w.write(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	_ = w.conn.Close()
}

func (w *wire) write(pk packets.Packet) error {
	pk.ProtocolVersion = 4
	w.out.Reset()
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&w.out)
	case packets.Subscribe:
		err = pk.SubscribeEncode(&w.out)
	case packets.Publish:
		err = pk.PublishEncode(&w.out)
	case packets.Puback:
		err = pk.PubackEncode(&w.out)
	case packets.Pingreq:
		err = pk.PingreqEncode(&w.out)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&w.out)
	}
	if err != nil {
		return err
	}
	_, err = w.conn.Write(w.out.Bytes())
	return err
}

func (w *wire) read() (packets.Packet, error) {
	pk := packets.Packet{ProtocolVersion: 4}
	first, err := w.in.ReadByte()
	if err != nil {
		return pk, err
	}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	if pk.FixedHeader.Remaining, _, err = packets.DecodeLength(w.in); err != nil {
		return pk, err
	}
	body := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(w.in, body); err != nil {
		return pk, err
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	}
	return pk, err
}
