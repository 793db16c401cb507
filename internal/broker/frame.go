package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// maxConnect bounds a CONNECT. A will or a user name, which could make it
// longer, has no use here.
const maxConnect = 16 << 10

// ReadByte reads one byte of a fixed header. An idle connection waits here,
// with no buffer of its own.
func (c *connection) ReadByte() (byte, error) {
	_, err := io.ReadFull(c.tls, c.one[:])
	return c.one[0], err
}

// read reads one packet of at most limit bytes, its header included.
func (c *connection) read(limit int) (*packets.Packet, error) {
	first, err := c.ReadByte()
	if err != nil {
		return nil, err
	}
	pk := &packets.Packet{ProtocolVersion: c.terms.version}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return nil, err
	}
	header := 0
	if pk.FixedHeader.Remaining, header, err = packets.DecodeLength(c); err != nil {
		return nil, err
	}
	if 1+header+pk.FixedHeader.Remaining > limit {
		return nil, packets.ErrPacketTooLarge
	}
	body := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(c.tls, body); err != nil {
		return nil, err
	}
	return pk, decode(pk, body)
}

// decode reads what follows the fixed header of a packet that a client may
// send.
func decode(pk *packets.Packet, body []byte) error {
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Pubrec, packets.Pubrel, packets.Pubcomp: // never accepted
	case packets.Subscribe:
		err = pk.SubscribeDecode(body)
	case packets.Unsubscribe:
		err = pk.UnsubscribeDecode(body)
	case packets.Pingreq:
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	case packets.Auth: // never accepted
	default:
		return packets.ErrProtocolViolation
	}
	if err != nil && !errors.As(err, new(packets.Code)) {
		return fmt.Errorf("%w: %v", packets.ErrMalformedPacket, err)
	}
	return err
}

// encode appends a packet to what is to be sent, or nothing if the client does
// not accept one as large.
func (c *connection) encode(to *bytes.Buffer, pk *packets.Packet) error {
	pk.ProtocolVersion = c.terms.version
	pk.Mods = packets.Mods{AllowResponseInfo: true}
	if pk.FixedHeader.Type != packets.Publish { // whose properties are the publisher's: all of them or no message
		pk.Mods.MaxSize, pk.Mods.DisallowProblemInfo = c.terms.maximumPacket, !c.terms.problems
	}
	before := to.Len()
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackEncode(to)
	case packets.Publish:
		err = pk.PublishEncode(to)
	case packets.Puback:
		err = pk.PubackEncode(to)
	case packets.Suback:
		err = pk.SubackEncode(to)
	case packets.Unsuback:
		err = pk.UnsubackEncode(to)
	case packets.Pingresp:
		err = pk.PingrespEncode(to)
	case packets.Disconnect:
		err = pk.DisconnectEncode(to)
	default:
		err = fmt.Errorf("a server does not send packets of type %d", pk.FixedHeader.Type)
	}
	if size := to.Len() - before; err == nil && c.terms.maximumPacket > 0 && size > int(c.terms.maximumPacket) {
		err = packets.ErrPacketTooLarge // MQTT 5 section 3.1.2.11.4
	}
	if err != nil {
		to.Truncate(before)
	}
	return err
}

// send sends one packet.
func (c *connection) send(pk *packets.Packet) error {
	buf := c.b.buffer()
	defer c.b.release(buf)
	if err := c.encode(buf, pk); err != nil {
		return err
	}
	return c.flush(buf)
}

// flush sends what was encoded, in one piece and with its own time.
func (c *connection) flush(buf *bytes.Buffer) error {
	if buf.Len() == 0 {
		return nil
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	if !c.hurried {
		_ = c.tls.SetWriteDeadline(time.Now().Add(c.b.cfg.WriteTimeout))
	}
	c.mu.Unlock()
	_, err := c.tls.Write(buf.Bytes())
	buf.Reset()
	return err
}

// flushAt is how many bytes are gathered before they are sent, when more
// follows at once.
const flushAt = 16 << 10

// buffer returns an empty buffer, to be given back by release.
func (b *Broker) buffer() *bytes.Buffer {
	if buf, ok := b.buffers.Get().(*bytes.Buffer); ok {
		buf.Reset()
		return buf
	}
	return new(bytes.Buffer)
}

func (b *Broker) release(buf *bytes.Buffer) {
	if buf.Cap() <= 4*flushAt {
		b.buffers.Put(buf)
	}
}
