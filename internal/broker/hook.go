package broker

import (
	"strings"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
)

// hook is the one hook of the protocol engine. With several, any one that
// says yes would win.
type hook struct {
	mqtt.HookBase
	b *Broker
}

// ID names the hook.
func (h *hook) ID() string { return "keyholder" }

// Provides lists the methods below; mochi calls no other.
func (h *hook) Provides(method byte) bool {
	switch method {
	case mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnSessionEstablish, mqtt.OnSessionEstablished,
		mqtt.OnPacketRead, mqtt.OnPacketProcessed, mqtt.OnPacketEncode, mqtt.OnPublish, mqtt.OnSubscribed, mqtt.OnUnsubscribed:
		return true
	}
	return false
}

// OnConnectAuthenticate decides on CONNECT. mochi calls it before anything of
// another session is touched; a no is a CONNACK.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	c, ok := cl.Net.Conn.(*connection)
	if !ok {
		return false
	}
	now := h.b.cfg.Now()
	peer := h.b.cfg.Ledger.Peer(c.thumbprint)
	v := keyholder.PermitConnect(keyholder.Connection{TLSVersion: c.ConnectionState().Version, Certificate: peer.Certificate,
		Standing: peer.Standing, Provider: peer.Provider, ClientID: pk.Connect.ClientIdentifier, Will: pk.Connect.WillFlag}, now)
	if !v.Allowed {
		h.b.denials.connect(c, pk.Connect.ClientIdentifier, v)
		return false
	}
	if pk.Properties.AuthenticationMethod != "" {
		h.b.cfg.Log.Warn("mqtt refused", c.attrs("reason", "enhanced authentication is not supported: the certificate is the credential")...)
		return false
	}
	c.accept(cl, pk)
	c.recheck(now)
	return true
}

// accept makes the connection that of an identified client.
func (c *connection) accept(cl *mqtt.Client, pk packets.Packet) {
	cfg := &c.b.cfg
	c.cl, c.version = cl, cl.Properties.ProtocolVersion
	if longest := uint16(cfg.MaxKeepAlive / time.Second); cl.State.Keepalive == 0 || cl.State.Keepalive > longest {
		cl.State.Keepalive = longest
		cl.State.ServerKeepalive = true // tells an MQTT 5 client
	}
	// mochi's own window is not used. At 0 it also never looks for messages to
	// send, which it does under a lock taken twice.
	cl.State.Inflight.ResetSendQuota(0)
	if c.use == keyholder.ForProvider {
		c.publisher = newPublisher(c)
		return
	}
	c.subscriber = newSubscriber(c, pk.Connect.Clean)
}

// OnSessionEstablish takes over from an earlier connection of the client and
// opens the session. It runs after the identity was proven and before CONNACK.
func (h *hook) OnSessionEstablish(cl *mqtt.Client, _ packets.Packet) {
	c := cl.Net.Conn.(*connection)
	if !h.b.enter(c) {
		cl.Stop(packets.ErrSessionTakenOver)
		return
	}
	if c.subscriber == nil {
		return
	}
	present, err := c.subscriber.open()
	if err != nil {
		h.b.cfg.Log.Error("a session could not be opened", c.attrs("error", err)...)
		cl.Stop(packets.ErrServerUnavailable)
		return
	}
	c.present = present
}

// enter makes c the connection of its client ID. An earlier one is ended, and
// everything it had received and sent is finished before c goes on, so that
// order holds across the two. It returns false if c itself ended meanwhile.
func (b *Broker) enter(c *connection) bool {
	b.mu.Lock()
	old := b.live[c.subject]
	b.live[c.subject] = c
	b.mu.Unlock()
	if old != nil {
		if old.serial != c.serial {
			b.cfg.Log.Warn("mqtt takeover by another certificate of the same client", c.attrs("earlier_certificate", old.serial)...)
		}
		old.drop(packets.ErrSessionTakenOver, "a later connection of the same client took over")
		select {
		case <-old.done:
		case <-c.ctx.Done():
		}
	}
	return c.ctx.Err() == nil
}

// OnSessionEstablished starts the work of the connection; CONNACK was sent.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	c := cl.Net.Conn.(*connection)
	c.established.Store(true)
	if c.publisher != nil {
		c.publisher.start()
	}
	if c.subscriber != nil {
		c.subscriber.start()
	}
	h.b.cfg.Log.Info("mqtt connected", c.attrs("use", string(c.use), "version", c.version, "session_present", c.present)...)
	if c.ctx.Err() != nil { // it was ended while CONNACK was on its way
		cl.Stop(packets.ErrNotAuthorized)
	}
}

// OnPacketRead sees every packet first: acknowledgements of messages are
// taken here, and what this broker never accepts ends the connection, since
// MQTT knows no other refusal of it (MQTT 5 section 4.13, 3.1.1 section 4.8).
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c := cl.Net.Conn.(*connection)
	if c.cl == nil {
		return pk, nil // CONNECT
	}
	switch pk.FixedHeader.Type {
	case packets.Puback:
		if c.subscriber != nil {
			c.subscriber.acknowledged(pk.PacketID, pk.ReasonCode)
		}
	case packets.Publish:
		switch {
		case pk.FixedHeader.Qos > 1:
			return c.reject(pk, packets.ErrQosNotSupported, "a publish of QoS 2, which is not supported")
		case pk.FixedHeader.Retain:
			return c.reject(pk, packets.ErrRetainNotSupported, "a retained publish: nothing here is retained")
		case strings.HasPrefix(pk.TopicName, "$"):
			return c.reject(pk, packets.ErrTopicNameInvalid, "a publish into the server's own topics")
		}
	case packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		return c.reject(pk, packets.ErrProtocolViolation, "a packet of QoS 2, which is not supported")
	case packets.Auth:
		return c.reject(pk, packets.ErrProtocolViolation, "an AUTH packet without enhanced authentication")
	}
	return pk, nil
}

// reject ends the connection because of a packet.
func (c *connection) reject(pk packets.Packet, code packets.Code, why string) (packets.Packet, error) {
	c.b.denials.packet(c, why)
	c.drop(code, why)
	return pk, packets.ErrRejectPacket
}

// OnPacketEncode completes what mochi answers to CONNECT.
func (h *hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type != packets.Connack {
		return pk
	}
	c, ok := cl.Net.Conn.(*connection)
	v5 := cl.Properties.ProtocolVersion >= 5
	switch {
	case !ok:
	case pk.ReasonCode == packets.CodeSuccess.Code:
		pk.SessionPresent = c.present
		if v5 {
			p := &pk.Properties
			p.RetainAvailable, p.RetainAvailableFlag = 0, true
			p.SharedSubAvailable, p.SharedSubAvailableFlag = 0, true
			p.MaximumPacketSize = maxPacket
		}
	case v5 && pk.ReasonCode == packets.ErrBadUsernameOrPassword.Code:
		// There is no user name and no password here.
		pk.ReasonCode, pk.Properties.ReasonString = packets.ErrNotAuthorized.Code, packets.ErrNotAuthorized.Reason
	case !v5 && pk.ReasonCode > packets.Err3NotAuthorized.Code:
		pk.ReasonCode = packets.Err3NotAuthorized.Code
	}
	return pk
}

// OnACLCheck decides on one filter of a SUBSCRIBE. Publishes are decided in
// the transaction that stores them, where the verdict cannot be outdated;
// OnPublish lets none pass to mochi.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	c, ok := cl.Net.Conn.(*connection)
	if !ok {
		return false
	}
	if write {
		return true
	}
	f, err := keyholder.ParseFilter(topic)
	if err != nil {
		h.b.denials.filter(c, keyholder.Verdict{Requirement: keyholder.M6, Reason: err.Error()})
		return false
	}
	v := keyholder.PermitSubscribe(h.b.cfg.Ledger.Certificate(c.thumbprint), f, h.b.cfg.Ledger.Standing(f.Subscription), h.b.cfg.Now())
	if !v.Allowed {
		h.b.denials.filter(c, v)
		return false
	}
	return c.subscriber != nil
}

// OnPublish takes a publish out of mochi's hands. The error makes mochi
// neither acknowledge nor distribute it: the publisher does the first when
// the message is durable, the mailbox the second.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c := cl.Net.Conn.(*connection)
	if c.publisher != nil {
		c.publisher.add(pk)
	} else {
		c.refusePublish(pk)
	}
	return pk, packets.ErrRejectPacket
}

// OnSubscribed keeps the accepted filters. It runs before SUBACK and may turn
// an answer into a failure.
func (h *hook) OnSubscribed(cl *mqtt.Client, pk packets.Packet, reasonCodes []byte) {
	if c := cl.Net.Conn.(*connection); c.subscriber != nil {
		c.subscriber.subscribe(pk.Filters, reasonCodes)
	}
}

// OnPacketProcessed runs after the answer to a packet was sent.
func (h *hook) OnPacketProcessed(cl *mqtt.Client, pk packets.Packet, _ error) {
	if c := cl.Net.Conn.(*connection); pk.FixedHeader.Type == packets.Subscribe && c.subscriber != nil {
		c.subscriber.subscribed()
	}
}

// OnUnsubscribed forgets filters, except when mochi only cleans up after a
// connection.
func (h *hook) OnUnsubscribed(cl *mqtt.Client, pk packets.Packet) {
	if c := cl.Net.Conn.(*connection); c.subscriber != nil && c.ctx.Err() == nil {
		c.subscriber.unsubscribe(pk.Filters)
	}
}
