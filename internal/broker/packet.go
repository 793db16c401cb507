package broker

import (
	"errors"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
)

// errLeft is the end of a connection by DISCONNECT.
var errLeft = errors.New("the client disconnected")

// serve handles one packet after the other until the connection ends.
func (c *connection) serve() error {
	for {
		// MQTT 5 section 3.1.2.10: one and a half times the keep-alive.
		if err := c.tls.SetReadDeadline(time.Now().Add(time.Duration(c.terms.keepAlive) * 3 * time.Second / 2)); err != nil {
			return err
		}
		if err := c.next(); err != nil {
			if code := (packets.Code{}); errors.As(err, &code) {
				c.drop(code, err.Error())
			}
			return err
		}
	}
}

// next handles one packet. An error ends the connection; one that is a
// [packets.Code] is told to an MQTT 5 client.
func (c *connection) next() error {
	pk, err := c.read(c.b.cfg.MaxPacket)
	if err != nil {
		return err
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		return c.publish(pk)
	case packets.Puback:
		if c.subscriber != nil {
			c.subscriber.acknowledged(pk.PacketID, pk.ReasonCode)
		}
		return nil
	case packets.Subscribe:
		return c.subscribe(pk)
	case packets.Unsubscribe:
		return c.unsubscribe(pk)
	case packets.Pingreq:
		return c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingresp}})
	case packets.Disconnect:
		return c.leave(pk)
	case packets.Connect:
		return packets.ErrProtocolViolationSecondConnect
	case packets.Auth:
		return c.reject(packets.ErrProtocolViolation, "an AUTH packet without enhanced authentication")
	}
	return c.reject(packets.ErrProtocolViolation, "a packet of QoS 2, which is not supported")
}

// publish handles a PUBLISH. What this broker never accepts ends the
// connection, since MQTT knows no other refusal of it (MQTT 5 section 4.13,
// 3.1.1 section 4.8). Whether the client may publish is decided in the
// transaction that stores it, where the verdict cannot be outdated.
func (c *connection) publish(pk *packets.Packet) error {
	switch {
	case pk.FixedHeader.Qos > 1:
		return c.reject(packets.ErrQosNotSupported, "a publish of QoS 2, which is not supported")
	case pk.FixedHeader.Retain:
		return c.reject(packets.ErrRetainNotSupported, "a retained publish: nothing here is retained")
	case strings.HasPrefix(pk.TopicName, "$"):
		return c.reject(packets.ErrTopicNameInvalid, "a publish into the server's own topics")
	}
	// No topic alias: a topic must be readable in every packet that is judged.
	if code := pk.PublishValidate(0); code != packets.CodeSuccess {
		return code
	}
	if c.publisher == nil {
		return c.refusePublish(pk)
	}
	c.publisher.add(pk)
	return nil
}

// subscribe answers a SUBSCRIBE, filter by filter.
func (c *connection) subscribe(pk *packets.Packet) error {
	if code := pk.SubscribeValidate(); code != packets.CodeSuccess {
		return code
	}
	codes := make([]byte, len(pk.Filters))
	var granted []filter
	for i, sub := range pk.Filters {
		f, code := c.grant(sub.Filter)
		if codes[i] = code; code == 0 {
			codes[i] = min(sub.Qos, 1)
			granted = append(granted, filter{f, codes[i], sub.Identifier})
		}
	}
	if c.subscriber != nil && len(granted) > 0 {
		c.subscriber.subscribe(granted, pk.Filters, codes)
	}
	if c.terms.version < 5 {
		for i, code := range codes {
			if code > 1 {
				codes[i] = packets.ErrUnspecifiedError.Code // the one failure of 3.1.1 section 3.9.3
			}
		}
	}
	err := c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Suback}, PacketID: pk.PacketID, ReasonCodes: codes})
	if err == nil && c.subscriber != nil {
		c.subscriber.subscribed()
	}
	return err
}

// grant decides on one filter of a SUBSCRIBE; the code is 0 on a yes.
func (c *connection) grant(text string) (keyholder.Filter, byte) {
	cfg := &c.b.cfg
	f, err := keyholder.ParseFilter(text)
	if err != nil {
		c.b.denials.filter(c, keyholder.Verdict{Requirement: keyholder.M6, Reason: err.Error()})
		if malformed(text) {
			return f, packets.ErrTopicFilterInvalid.Code
		}
		return f, packets.ErrNotAuthorized.Code
	}
	if v := keyholder.PermitSubscribe(cfg.Ledger.Certificate(c.thumbprint), f, cfg.Ledger.Standing(f.Subscription), cfg.Now()); !v.Allowed {
		c.b.denials.filter(c, v)
		return f, packets.ErrNotAuthorized.Code
	}
	return f, 0
}

// malformed says whether a filter breaks the rules of MQTT itself (MQTT 5
// section 4.7.1), whoever asks for it.
func malformed(filter string) bool {
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if len(level) > 1 && strings.ContainsAny(level, "#+") || level == "#" && i < len(levels)-1 {
			return true
		}
	}
	return filter == ""
}

// unsubscribe answers an UNSUBSCRIBE. Everybody may.
func (c *connection) unsubscribe(pk *packets.Packet) error {
	if code := pk.UnsubscribeValidate(); code != packets.CodeSuccess {
		return code
	}
	codes := make([]byte, len(pk.Filters))
	for i := range codes {
		codes[i] = packets.CodeNoSubscriptionExisted.Code
	}
	if c.subscriber != nil {
		if err := c.subscriber.unsubscribe(pk.Filters, codes); err != nil {
			c.b.cfg.Log.Error("filters could not be deleted", c.attrs("error", err)...)
			return packets.ErrUnspecifiedError
		}
	}
	return c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsuback}, PacketID: pk.PacketID, ReasonCodes: codes})
}

// leave handles a DISCONNECT, which may shorten the life of the session (MQTT
// 5 section 3.14.2.2.2).
func (c *connection) leave(pk *packets.Packet) error {
	if p := &pk.Properties; p.SessionExpiryIntervalFlag {
		if p.SessionExpiryInterval > 0 && c.terms.sessionExpiry == 0 {
			return packets.ErrProtocolViolationZeroNonZeroExpiry
		}
		c.terms.sessionExpiry = min(p.SessionExpiryInterval, uint32(c.b.cfg.MaxSessionExpiry/time.Second))
	}
	return errLeft
}

// reject ends the connection because of a packet.
func (c *connection) reject(code packets.Code, why string) error {
	c.b.denials.packet(c, why)
	c.drop(code, why)
	return code
}
