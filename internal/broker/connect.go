package broker

import (
	"fmt"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
)

// terms is what a client asked for in CONNECT, within the bounds of the
// broker. They do not change afterwards, but for the session's expiry.
type terms struct {
	version        byte // 4: MQTT 3.1.1, 5: MQTT 5
	clean          bool
	keepAlive      uint16 // seconds
	sessionExpiry  uint32 // seconds, MQTT 5
	receiveMaximum uint16 // unacknowledged messages to the client
	maximumPacket  uint32 // bytes to the client; 0: no bound
	problems       bool   // the client wants reasons (MQTT 5 section 3.1.2.11.7)

	askedKeepAlive, askedExpiry bool // the client asked for the same
}

// termsOf reads a CONNECT.
func (c *Config) termsOf(pk *packets.Packet) terms {
	p := &pk.Properties
	t := terms{version: pk.ProtocolVersion, clean: pk.Connect.Clean, keepAlive: pk.Connect.Keepalive, askedKeepAlive: true,
		sessionExpiry: p.SessionExpiryInterval, askedExpiry: true, receiveMaximum: c.MaxInflight, maximumPacket: p.MaximumPacketSize,
		problems: !p.RequestProblemInfoFlag || p.RequestProblemInfo != 0}
	if longest := uint16(c.MaxKeepAlive / time.Second); t.keepAlive == 0 || t.keepAlive > longest {
		t.keepAlive, t.askedKeepAlive = longest, false
	}
	if longest := uint32(c.MaxSessionExpiry / time.Second); t.sessionExpiry > longest {
		t.sessionExpiry, t.askedExpiry = longest, false
	}
	if p.ReceiveMaximum > 0 {
		t.receiveMaximum = min(t.receiveMaximum, p.ReceiveMaximum)
	}
	return t
}

// connect reads CONNECT and answers it. A session is opened, and an earlier
// connection of the client ended, only after the identity is proven.
func (c *connection) connect() error {
	pk, err := c.read(maxConnect)
	if err != nil {
		return fmt.Errorf("read CONNECT: %w", err)
	}
	if pk.FixedHeader.Type != packets.Connect {
		return packets.ErrProtocolViolationRequireFirstConnect
	}
	c.terms = c.b.cfg.termsOf(pk)
	code := pk.ConnectValidate()
	if code == packets.CodeSuccess && pk.ProtocolVersion < 4 {
		code = packets.ErrUnsupportedProtocolVersion
	}
	if code == packets.CodeSuccess {
		code = c.admit(pk)
	}
	if code != packets.CodeSuccess {
		_ = c.send(c.refusal(code))
		return code
	}
	c.recheck(c.b.cfg.Now())
	if c.use == keyholder.ForProvider {
		c.publisher = newPublisher(c)
	} else {
		c.subscriber = newSubscriber(c)
		if c.present, err = c.subscriber.open(); err != nil {
			c.b.cfg.Log.Error("a session could not be opened", c.attrs("error", err)...)
			_ = c.send(c.refusal(packets.ErrServerUnavailable))
			return packets.ErrServerUnavailable
		}
	}
	if err := c.send(c.connack()); err != nil {
		return fmt.Errorf("answer CONNECT: %w", err)
	}
	c.begin()
	return nil
}

// admit decides on CONNECT. On a yes the connection has its client ID, and an
// earlier one has ended.
func (c *connection) admit(pk *packets.Packet) packets.Code {
	b := c.b
	if _, ok := b.rate.Take(c.subject); !ok {
		b.denials.connect(c, pk.Connect.ClientIdentifier, keyholder.Verdict{Requirement: keyholder.M5, Reason: "the client connects too often"})
		return packets.ErrConnectionRateExceeded
	}
	if pk.Properties.AuthenticationMethod != "" {
		b.denials.connect(c, pk.Connect.ClientIdentifier, keyholder.Verdict{Requirement: keyholder.M2,
			Reason: "enhanced authentication is not supported: the certificate is the credential"})
		return packets.ErrNotAuthorized
	}
	earlier, v := b.enter(c, pk.Connect.ClientIdentifier, pk.Connect.WillFlag)
	switch {
	case !v.Allowed && earlier != nil:
		b.denials.takeover(c, earlier, v)
		return packets.ErrNotAuthorized
	case !v.Allowed:
		b.denials.connect(c, pk.Connect.ClientIdentifier, v)
		return packets.ErrNotAuthorized
	}
	if earlier != nil {
		// Everything the earlier one had received and sent is finished before
		// this one goes on, so that order holds across the two.
		earlier.drop(packets.ErrSessionTakenOver, "a later connection of the same client took over")
		select {
		case <-earlier.done:
		case <-c.ctx.Done():
		}
	}
	if c.ctx.Err() != nil {
		return packets.ErrSessionTakenOver
	}
	return packets.CodeSuccess
}

// enter decides whether c may connect under the client ID and, on a yes, makes
// it the connection of that ID. It returns the one that had it, and on a no
// the one because of which it is a no.
func (b *Broker) enter(c *connection, clientID string, will bool) (earlier *connection, v keyholder.Verdict) {
	peer := b.cfg.Ledger.Peer(c.thumbprint)
	asked := keyholder.Connection{TLSVersion: c.tls.ConnectionState().Version, Certificate: peer.Certificate,
		Standing: peer.Standing, Provider: peer.Provider, ClientID: clientID, Will: will}
	b.mu.Lock()
	defer b.mu.Unlock()
	live := b.live[clientID]
	if live != nil && live.ctx.Err() == nil {
		asked.Holder = live.thumbprint
	}
	now := b.cfg.Now()
	if v = keyholder.PermitConnect(asked, now); !v.Allowed {
		if asked.Holder = (keyholder.Thumbprint{}); !keyholder.PermitConnect(asked, now).Allowed {
			live = nil // it is refused whoever has the client ID
		}
		return live, v
	}
	b.live[c.subject] = c
	return live, v
}

// begin starts the work of the connection; CONNACK was sent.
func (c *connection) begin() {
	c.established.Store(true)
	if c.subscriber != nil {
		c.subscriber.start()
	}
	if c.publisher != nil {
		c.publisher.start()
	}
	c.b.cfg.Log.Info("mqtt connected", c.attrs("use", string(c.use), "version", c.terms.version, "session_present", c.present)...)
}

// connack is the positive answer to CONNECT, with the bounds of the broker.
func (c *connection) connack() *packets.Packet {
	cfg := &c.b.cfg
	pk := &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, SessionPresent: c.present}
	if c.terms.version < 5 {
		return pk
	}
	pk.Properties = packets.Properties{
		ReceiveMaximum: cfg.ReceiveMaximum, MaximumQosFlag: true, MaximumQos: 1, RetainAvailableFlag: true, MaximumPacketSize: uint32(cfg.MaxPacket),
		SharedSubAvailableFlag: true, ServerKeepAliveFlag: !c.terms.askedKeepAlive, ServerKeepAlive: c.terms.keepAlive,
		SessionExpiryIntervalFlag: !c.terms.askedExpiry, SessionExpiryInterval: c.terms.sessionExpiry,
	}
	return pk
}

// refusal is the negative answer to CONNECT. MQTT 3.1.1 has few codes.
func (c *connection) refusal(code packets.Code) *packets.Packet {
	pk := &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ReasonCode: code.Code}
	if c.terms.version >= 5 {
		pk.Properties.ReasonString = code.Reason
		return pk
	}
	pk.ReasonCode = packets.Err3NotAuthorized.Code
	switch code {
	case packets.ErrServerUnavailable, packets.ErrConnectionRateExceeded:
		pk.ReasonCode = packets.Err3ServerUnavailable.Code
	case packets.ErrUnsupportedProtocolVersion, packets.ErrProtocolViolationProtocolVersion:
		pk.ReasonCode = packets.Err3UnsupportedProtocolVersion.Code
	}
	return pk
}
