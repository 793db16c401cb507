package broker_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/broker"
)

// endsWithin checks that the other side closes the connection in time.
func endsWithin(t *testing.T, conn net.Conn, limit time.Duration) {
	t.Helper()
	began := time.Now()
	_ = conn.SetReadDeadline(began.Add(10 * time.Second))
	_, err := io.Copy(io.Discard, conn)
	if netErr, ok := err.(net.Error); ok && netErr.Timeout() {
		t.Fatal("the connection did not end")
	}
	if took := time.Since(began); took > limit {
		t.Errorf("the connection ended after %v", took)
	}
}

// Ensure that a client that stays silent, in the handshake, before CONNECT or
// beyond its keep-alive, is let go.
func TestSilentClients(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.cfg.HandshakeTimeout, w.cfg.ConnectTimeout = 200*time.Millisecond, 200*time.Millisecond
	})
	sub := w.subscription(w.provider("p"), "a")
	plain := must(net.Dial("tcp", w.addr))
	defer plain.Close()
	endsWithin(t, plain, 5*time.Second)
	secure := must(w.dial(w.tls(sub.cert), 5))
	endsWithin(t, secure.conn, 5*time.Second)
	idle := w.join(sub, 5, keepAlive(1))
	idle.alive()
	endsWithin(t, idle.conn, 5*time.Second)
	eventually(t, "all are gone", func() bool { return w.broker.Connected() == 0 })
}

// Ensure that connections beyond the bound are closed at once and that there
// is room again when one leaves; the bound on handshakes likewise.
func TestMaxConnections(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.MaxConnections, w.cfg.MaxHandshakes = 2, 1 })
	provider := w.provider("p")
	one, two, three := w.subscription(provider, "a"), w.subscription(provider, "b"), w.subscription(provider, "c")
	first := w.join(one, 5)
	waiting := must(net.Dial("tcp", w.addr)) // in the handshake, for its whole timeout
	defer waiting.Close()
	eventually(t, "the handshake has the only place", func() bool {
		_, err := w.dial(w.tls(two.cert), 5)
		return err != nil
	})
	_ = waiting.Close()
	eventually(t, "the place is free", func() bool {
		r, err := w.dial(w.tls(two.cert), 5)
		if err == nil {
			_ = r.conn.Close()
		}
		return err == nil
	})
	eventually(t, "the second is connected", func() bool {
		_, ack, err := w.connect(two, 5)
		return err == nil && ack.ReasonCode == 0
	})
	if _, err := w.dial(w.tls(three.cert), 5); err == nil {
		t.Error("a third connection was accepted")
	}
	first.alive()
}

// Ensure that the number of filters of a session is bounded, also within one
// SUBSCRIBE, and that a filter of the session can still be renewed.
func TestMaxFilters(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t, func(w *world) { w.cfg.MaxFilters = 3 })
		sub := w.subscription(w.provider("p"), "a")
		consumer := w.join(sub, version)
		refused := packets.ErrQuotaExceeded.Code
		if version == 4 {
			refused = 0x80
		}
		codes := consumer.subscribe(1, topic(sub, "a"), topic(sub, "b"), topic(sub, "c"), topic(sub, "d"))
		if want := []byte{1, 1, 1, refused}; !bytes.Equal(codes, want) {
			t.Errorf("codes %v, want %v", codes, want)
		}
		if codes := consumer.subscribe(0, topic(sub, "b")); !bytes.Equal(codes, []byte{0}) {
			t.Errorf("a known filter got %v", codes)
		}
	})
}

// Ensure that a returning consumer can unsubscribe from what it had
// subscribed to before, and that this lasts.
func TestUnsubscribeAfterReturn(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	w.join(sub, 5, persistent).subscribe(1, topic(sub, "events"), topic(sub, "statuses"))
	w.reopen()
	back := w.returns(sub, 5)
	back.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 5,
		Filters: packets.Subscriptions{{Filter: topic(sub, "events")}, {Filter: topic(sub, "spaces")}}})
	if ack := back.expect(packets.Unsuback); !bytes.Equal(ack.ReasonCodes, []byte{0, packets.CodeNoSubscriptionExisted.Code}) {
		t.Errorf("UNSUBACK %v", ack.ReasonCodes)
	}
	w.reopen()
	back = w.returns(sub, 5)
	publisher := w.join(provider, 5)
	publisher.publish(topic(sub, "events"), body(1), 1, 1)
	publisher.publish(topic(sub, "statuses"), body(2), 1, 2)
	if msg := back.message(); !bytes.Equal(msg.Payload, body(2)) {
		t.Errorf("got %q", msg.Payload)
	}
}

// Ensure that a provider that loses its connection with publishes under way
// and repeats them on the next one does not turn their order around.
func TestProviderReconnects(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	const last = 300
	for next := 1; next <= last; {
		r := w.join(provider, 5)
		for i := next; i <= last; i++ {
			r.publish(topic(sub, "events"), body(i), 1, uint16(i))
		}
		for range 60 {
			ack, err := r.read()
			if err != nil {
				t.Fatal(err)
			}
			if next = int(ack.PacketID) + 1; next > last {
				break
			}
		}
		// No farewell: the next connection takes over from this one.
	}
	consumer := w.join(sub, 5)
	consumer.subscribe(1, topic(sub, "#"))
	var got []int
	for len(got) == 0 || got[len(got)-1] != last || int64(len(got)) < w.total(sub) {
		got = append(got, number(t, consumer.message()))
	}
	inOrder(t, got, last)
}

// total is the number of messages ever put into a mailbox.
func (w *world) total(p party) int64 {
	var next int64
	if err := w.store.Read().QueryRow("SELECT next_seq FROM mailboxes WHERE subscription = ?", p.id).Scan(&next); err != nil {
		w.t.Fatal(err)
	}
	return next - 1
}

// Ensure that a listener certificate can be renewed while serving.
func TestRenewedServerCertificate(t *testing.T) {
	var served *tls.Certificate
	w := newWorld(t, func(w *world) {
		w.cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return served, nil }
	})
	sub := w.subscription(w.provider("p"), "a")
	var serials []string
	for range 2 {
		c := must(w.authority.ServerCertificate([]string{"127.0.0.1"}, time.Now()))
		served = &c
		r := must(w.dial(w.tls(sub.cert), 5))
		serials = append(serials, r.conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String())
	}
	if serials[0] == serials[1] {
		t.Error("the second connection got the first certificate")
	}
}

// Ensure that messages larger than an MQTT 5 consumer accepts are passed over
// and the rest goes on.
func TestConsumerPacketSize(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	consumer := w.join(sub, 5, func(pk *packets.Packet) { pk.Properties.MaximumPacketSize = 2000 })
	consumer.subscribe(1, topic(sub, "#"))
	publisher := w.join(provider, 5)
	publisher.publish(topic(sub, "events"), make([]byte, 3000), 1, 1)
	publisher.publish(topic(sub, "events"), body(2), 1, 2)
	if msg := consumer.message(); !bytes.Equal(msg.Payload, body(2)) {
		t.Errorf("got %d bytes", len(msg.Payload))
	}
	eventually(t, "the mailbox is empty", func() bool { return w.queued(sub) == 0 })
}

// FuzzPackets sends any bytes, before and after CONNECT, as a consumer. The
// server must live, and nothing may reach a mailbox.
func FuzzPackets(f *testing.F) {
	w := newWorld(f, func(w *world) { w.cfg.ConnectsPerMinute = 1_000_000 })
	provider := w.provider("p")
	attacker, other := w.subscription(provider, "a"), w.subscription(provider, "b")
	witness := w.join(other, 5, keepAlive(0))
	witness.subscribe(1, topic(other, "#"))
	publish := func(version byte, topic string) []byte {
		var buf bytes.Buffer
		pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, ProtocolVersion: version, TopicName: topic, Payload: body(1), PacketID: 1}
		if err := pk.PublishEncode(&buf); err != nil {
			f.Fatal(err)
		}
		return buf.Bytes()
	}
	f.Add(true, true, []byte{0x82, 6, 0, 1, 0, 0, 1, 'a'})
	f.Add(true, false, publish(4, topic(other, "events")))
	f.Add(true, true, publish(5, topic(attacker, "events")))
	f.Add(false, true, connectFrame(other.id))
	f.Add(false, false, []byte{0x10, 0xff, 0xff, 0xff, 0x7f})
	f.Add(true, true, []byte{0xf0, 2, 0x19, 0, 0xe0, 0})
	f.Fuzz(func(t *testing.T, connected, v5 bool, data []byte) {
		w := *w
		w.t, witness.t = t, t
		version := byte(4)
		if v5 {
			version = 5
		}
		var r *raw
		if connected {
			r = w.join(attacker, version)
		} else {
			r = must(w.dial(w.tls(attacker.cert), version))
		}
		r.write(data)
		_ = r.conn.(*tls.Conn).CloseWrite()
		_ = r.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, r.conn); err != nil && !isReset(err) {
			t.Fatalf("the connection did not end: %v", err)
		}
		_ = r.conn.Close()
		witness.alive()
		if n := w.total(attacker) + w.total(other); n != 0 {
			t.Fatalf("%d messages were queued", n)
		}
	})
}

// Ensure that a client that connects too often is told so, is on the audit
// trail, and takes nothing from another.
func TestConnectsPerMinute(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t, func(w *world) { w.cfg.ConnectsPerMinute = 2 })
		provider := w.provider("p")
		one, other := w.subscription(provider, "a"), w.subscription(provider, "b")
		w.join(one, version)
		last := w.join(one, version)
		want := packets.ErrConnectionRateExceeded.Code
		if version == 4 {
			want = packets.Err3ServerUnavailable.Code
		}
		if _, ack, err := w.connect(one, version); err != nil || ack.ReasonCode != want {
			t.Errorf("code %#x, err %v; want %#x", ack.ReasonCode, err, want)
		}
		last.alive()
		w.join(other, version)
		eventually(t, "it is on the audit trail", func() bool { return w.denied("reason", "the client connects too often") == 1 })
	})
}

// Ensure that a client that asks for enhanced authentication is refused, and
// that this leaves its connection as the one that a later one takes over.
func TestEnhancedAuthenticationRefused(t *testing.T) {
	w := newWorld(t)
	sub := w.subscription(w.provider("p"), "a")
	first := w.join(sub, 5)
	_, ack, err := w.connect(sub, 5, func(pk *packets.Packet) { pk.Properties.AuthenticationMethod = "SCRAM-SHA-256" })
	if err != nil || ack.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Fatalf("code %#x, err %v", ack.ReasonCode, err)
	}
	first.alive()
	eventually(t, "the refused one is gone", func() bool { return w.broker.Connected() == 1 })
	w.join(sub, 5)
	if code := first.closed(); code != packets.ErrSessionTakenOver.Code {
		t.Errorf("the first connection was told %#x", code)
	}
}

// Ensure that a client is told how large a packet may be, that one as large is
// taken, and that a larger one ends the connection with the reason.
func TestMaxPacket(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.MaxPacket = 2048 })
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	r, ack, err := w.connect(provider, 5)
	if err != nil || ack.Properties.MaximumPacketSize != 2048 {
		t.Fatalf("the client was told %d, err %v", ack.Properties.MaximumPacketSize, err)
	}
	around := 1 + 2 + 2 + len(topic(sub, "events")) + 2 + 1 // header, length, topic, identifier, properties
	r.publish(topic(sub, "events"), make([]byte, 2048-around), 1, 1)
	r.expect(packets.Puback)
	r.publish(topic(sub, "events"), make([]byte, 2048-around+1), 1, 2)
	if code := r.closed(); code != packets.ErrPacketTooLarge.Code {
		t.Errorf("the client was told %#x", code)
	}
}

// Ensure that limits that cannot be kept are refused.
func TestLimitsAreChecked(t *testing.T) {
	for name, l := range map[string]broker.Limits{
		"connections": {MaxConnections: -1}, "connects": {ConnectsPerMinute: -1}, "rate": {PublishRate: -1}, "bytes": {PublishBytes: 1}, "packet": {MaxPacket: 100},
		"large packet": {MaxPacket: 2 << 20}, "keep-alive": {MaxKeepAlive: time.Millisecond}, "session": {MaxSessionExpiry: 11 * 365 * 24 * time.Hour},
	} {
		if err := l.Check(); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (broker.Limits{}).Check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}
