package broker_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
)

// versions runs a test for MQTT 3.1.1 and 5.
func versions(t *testing.T, f func(t *testing.T, version byte)) {
	t.Helper()
	for name, version := range map[string]byte{"3.1.1": 4, "5": 5} {
		t.Run(name, func(t *testing.T) { f(t, version) })
	}
}

// Ensure that what a provider publishes reaches the consumer, in order, with
// QoS 1 and 0, and leaves the mailbox when it was acknowledged.
func TestDelivery(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		provider := w.provider("p")
		sub := w.subscription(provider, "a")
		consumer := w.join(sub, version)
		if codes := consumer.subscribe(1, topic(sub, "#")); !bytes.Equal(codes, []byte{1}) {
			t.Fatalf("SUBACK %v", codes)
		}
		publisher := w.join(provider, version)
		for i := 1; i <= 100; i++ {
			publisher.publish(topic(sub, "events"), body(i), byte(i%2), uint16(i%2*i))
		}
		for i := 1; i <= 100; i += 2 {
			if ack := publisher.expect(packets.Puback); ack.PacketID != uint16(i) || ack.ReasonCode != 0 {
				t.Fatalf("PUBACK %d with code %#x, want %d", ack.PacketID, ack.ReasonCode, i)
			}
		}
		for i := 1; i <= 100; i++ {
			msg := consumer.message()
			if msg.TopicName != topic(sub, "events") || !bytes.Equal(msg.Payload, body(i)) || msg.FixedHeader.Qos != 1 || msg.FixedHeader.Retain || msg.FixedHeader.Dup {
				t.Fatalf("message %d: %q on %s, header %+v", i, msg.Payload, msg.TopicName, msg.FixedHeader)
			}
			want := []packets.UserProperty{{Key: "Keyholder-Message", Val: fmt.Sprintf("%s/%d", sub.id, i)}}
			if version == 5 && fmt.Sprint(msg.Properties.User) != fmt.Sprint(want) {
				t.Fatalf("message %d: properties %v", i, msg.Properties.User)
			}
		}
		eventually(t, "the mailbox is empty", func() bool { return w.queued(sub) == 0 })
		if !w.log.contains("mqtt connected") || w.log.contains(`"n":`) || w.log.contains(`\"n\":`) {
			t.Error("the log lacks the connection or holds a payload")
		}
	})
}

// Ensure that two providers and their subscriptions never mix.
func TestIsolation(t *testing.T) {
	w := newWorld(t)
	type pair struct {
		provider, sub party
		publisher     *raw
		consumer      *raw
	}
	var pairs []pair
	for i := range 4 {
		provider := w.provider(fmt.Sprint("p", i))
		p := pair{provider: provider, sub: w.subscription(provider, fmt.Sprint("owner", i))}
		p.publisher, p.consumer = w.join(p.provider, 5), w.join(p.sub, 4+byte(i%2))
		p.consumer.subscribe(1, topic(p.sub, "#"))
		pairs = append(pairs, p)
	}
	for n := 1; n <= 20; n++ {
		for i, p := range pairs {
			p.publisher.publish(topic(p.sub, "statuses"), fmt.Appendf(nil, "%d to %d", n, i), 1, uint16(n))
		}
	}
	for i, p := range pairs {
		for n := 1; n <= 20; n++ {
			p.publisher.expect(packets.Puback)
			if msg := p.consumer.message(); string(msg.Payload) != fmt.Sprintf("%d to %d", n, i) {
				t.Fatalf("consumer %d got %q, want message %d", i, msg.Payload, n)
			}
		}
		p.consumer.silent(20 * time.Millisecond)
	}
}

// Ensure that a consumer of QoS 0 gets everything and that writing it moves
// the cursor.
func TestQoS0Consumer(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	consumer := w.join(sub, 5)
	consumer.subscribe(0, topic(sub, "events"))
	publisher := w.join(provider, 5)
	publisher.publish(topic(sub, "events"), body(1), 1, 1)
	if msg := consumer.message(); msg.FixedHeader.Qos != 0 || !bytes.Equal(msg.Payload, body(1)) {
		t.Errorf("got %q with QoS %d", msg.Payload, msg.FixedHeader.Qos)
	}
	eventually(t, "the mailbox is empty", func() bool { return w.queued(sub) == 0 })
}

// Ensure that filters select levels, that what none selects is passed over,
// that the highest QoS of the matching filters and all their identifiers
// apply, and that nothing moves without a filter.
func TestFilters(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	publisher, consumer := w.join(provider, 5), w.join(sub, 5)
	publish := func(level string, i int) {
		t.Helper()
		publisher.publish(topic(sub, level), body(i), 1, uint16(i))
		publisher.expect(packets.Puback)
	}
	publish("events", 1)
	consumer.silent(50 * time.Millisecond)
	consumer.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Properties: packets.Properties{SubscriptionIdentifier: []int{9}},
		Filters:    packets.Subscriptions{{Filter: topic(sub, "events"), Qos: 0, Identifier: 9}}})
	consumer.expect(packets.Suback)
	if msg := consumer.message(); !bytes.Equal(msg.Payload, body(1)) || fmt.Sprint(msg.Properties.SubscriptionIdentifier) != "[9]" {
		t.Fatalf("got %q with identifiers %v", msg.Payload, msg.Properties.SubscriptionIdentifier)
	}
	publish("statuses", 2) // selected by no filter
	publish("events", 3)
	if msg := consumer.message(); !bytes.Equal(msg.Payload, body(3)) {
		t.Fatalf("got %q, want the message that a filter selects", msg.Payload)
	}
	consumer.subscribe(1, topic(sub, "+"))
	publish("events", 4)
	if msg := consumer.message(); !bytes.Equal(msg.Payload, body(4)) || msg.FixedHeader.Qos != 1 {
		t.Fatalf("got %q with QoS %d, want the highest QoS", msg.Payload, msg.FixedHeader.Qos)
	}
	consumer.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 2,
		Filters: packets.Subscriptions{{Filter: topic(sub, "events")}, {Filter: topic(sub, "+")}}})
	if ack := consumer.expect(packets.Unsuback); !bytes.Equal(ack.ReasonCodes, []byte{0, 0}) {
		t.Fatalf("UNSUBACK %v", ack.ReasonCodes)
	}
	publish("events", 5)
	consumer.silent(50 * time.Millisecond)
	consumer.subscribe(1, topic(sub, "#"))
	if msg := consumer.message(); !bytes.Equal(msg.Payload, body(5)) {
		t.Fatalf("got %q, want the message that had waited", msg.Payload)
	}
}

// Ensure that a consent that covers some kinds keeps the others from being
// published.
func TestScope(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub := w.subscription(provider, "a", keyholder.Statuses)
	publisher := w.join(provider, 5)
	publisher.publish(topic(sub, "events"), body(1), 1, 1)
	if ack := publisher.expect(packets.Puback); ack.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("code %#x for a kind outside the consent", ack.ReasonCode)
	}
	publisher.publish(topic(sub, "statuses"), body(2), 1, 2)
	if ack := publisher.expect(packets.Puback); ack.ReasonCode != 0 {
		t.Errorf("code %#x for a kind within the consent", ack.ReasonCode)
	}
}

// Ensure that a second connection with the same certificate takes over and
// that the first is told; that one with another certificate of the client is
// refused and alarmed, and can connect when the first has ended.
func TestTakeover(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		provider := w.provider("p")
		sub := w.subscription(provider, "a")
		renewed := w.certify(keyholder.ForSubscription, sub.id)
		first := w.join(sub, version, persistent)
		first.subscribe(1, topic(sub, "#"))
		publisher := w.join(provider, version)
		for i := 1; i <= 3; i++ {
			publisher.publish(topic(sub, "events"), body(i), 1, uint16(i))
		}
		ids := map[string]uint16{}
		for range 3 {
			pk := first.expect(packets.Publish)
			ids[string(pk.Payload)] = pk.PacketID
		}
		first.puback(ids[string(body(2))]) // out of order: 1 is missing, so all come again but 2 is done
		first.alive()
		if _, ack, err := w.connect(renewed, version, persistent); err != nil || ack.ReasonCode == 0 {
			t.Fatalf("another certificate of a connected client: code %#x, err %v", ack.ReasonCode, err)
		}
		first.alive()
		eventually(t, "the alarm is on the audit trail", func() bool { return w.denied("what", "takeover") == 1 })
		if !w.log.contains("mqtt alarm") {
			t.Error("there is no alarm in the log")
		}
		for i, again := range []party{sub, sub, renewed} {
			if i == 2 {
				_ = first.conn.Close()
				eventually(t, "the first is gone", func() bool { return w.broker.Connected() == 1 })
			}
			second, ack, err := w.connect(again, version, persistent)
			if err != nil || ack.ReasonCode != 0 || !ack.SessionPresent {
				t.Fatalf("takeover: code %#x, session present %v, err %v", ack.ReasonCode, ack.SessionPresent, err)
			}
			if code := first.closed(); i < 2 && version == 5 && code != packets.ErrSessionTakenOver.Code {
				t.Errorf("the first connection was told %#x", code)
			}
			for i := 1; i <= 3; i++ {
				pk := second.expect(packets.Publish)
				if !bytes.Equal(pk.Payload, body(i)) {
					t.Fatalf("message %d after the takeover is %q", i, pk.Payload)
				}
				if i != 2 && (!pk.FixedHeader.Dup || pk.PacketID != ids[string(body(i))]) {
					t.Errorf("message %d is repeated with identifier %d and dup %v, want %d and true", i, pk.PacketID, pk.FixedHeader.Dup, ids[string(body(i))])
				}
				ids[string(pk.Payload)] = pk.PacketID
			}
			first = second
		}
	})
}

// Ensure that MQTT 5 clients are told what the broker does not do, that long
// keep-alives are cut, and that a session of this connection only leaves
// nothing behind.
func TestConnack(t *testing.T) {
	w := newWorld(t)
	sub := w.subscription(w.provider("p"), "a")
	_, ack, err := w.connect(sub, 5, keepAlive(65_535))
	if err != nil || ack.ReasonCode != 0 || ack.SessionPresent {
		t.Fatalf("code %#x, session present %v, err %v", ack.ReasonCode, ack.SessionPresent, err)
	}
	p := ack.Properties
	if !p.MaximumQosFlag || p.MaximumQos != 1 || !p.RetainAvailableFlag || p.RetainAvailable != 0 || !p.SharedSubAvailableFlag || p.SharedSubAvailable != 0 ||
		p.TopicAliasMaximum != 0 || p.ReceiveMaximum == 0 || p.MaximumPacketSize < 1<<20 || !p.ServerKeepAliveFlag || p.ServerKeepAlive != 1200 {
		t.Errorf("CONNACK properties: %+v", p)
	}
	if _, ack, err = w.connect(sub, 5, persistent); err != nil || ack.SessionPresent {
		t.Errorf("session present %v after a session that ended, err %v", ack.SessionPresent, err)
	}
}

// Ensure that the receive maximum of a consumer is kept.
func TestReceiveMaximum(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	consumer := w.join(sub, 5, receiveMaximum(2))
	consumer.subscribe(1, topic(sub, "#"))
	publisher := w.join(provider, 5)
	for i := 1; i <= 5; i++ {
		publisher.publish(topic(sub, "events"), body(i), 1, uint16(i))
	}
	one, two := consumer.expect(packets.Publish), consumer.expect(packets.Publish)
	consumer.silent(50 * time.Millisecond)
	consumer.puback(two.PacketID)
	three := consumer.expect(packets.Publish)
	consumer.silent(50 * time.Millisecond)
	consumer.puback(one.PacketID)
	consumer.puback(three.PacketID)
	consumer.message()
	if msg := consumer.message(); !bytes.Equal(msg.Payload, body(5)) {
		t.Errorf("the last message is %q", msg.Payload)
	}
	eventually(t, "the mailbox is empty", func() bool { return w.queued(sub) == 0 })
}

// Ensure that the paho client for MQTT 5 works against the broker.
func TestPaho(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan string, 200)
	consumer := w.paho(ctx, sub, func(p *paho.Publish) {
		got <- p.Topic + " " + string(p.Payload) + " " + p.Properties.User.Get("Keyholder-Message")
	})
	if _, err := consumer.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: topic(sub, "#"), QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	if ack, err := consumer.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "#", QoS: 1}}}); err == nil {
		t.Errorf("# was granted: %v", ack.Reasons)
	}
	publisher := w.paho(ctx, provider, func(*paho.Publish) {})
	for i := 1; i <= 100; i++ {
		if _, err := publisher.Publish(ctx, &paho.Publish{Topic: topic(sub, "events"), QoS: 1, Payload: body(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= 100; i++ {
		select {
		case msg := <-got:
			if want := fmt.Sprintf("%s %s %s/%d", topic(sub, "events"), body(i), sub.id, i); msg != want {
				t.Fatalf("got %q, want %q", msg, want)
			}
		case <-ctx.Done():
			t.Fatalf("message %d did not come", i)
		}
	}
	for _, c := range []*paho.Client{consumer, publisher} {
		if err := c.Disconnect(&paho.Disconnect{}); err != nil {
			t.Error(err)
		}
	}
}

func (w *world) paho(ctx context.Context, p party, receive func(*paho.Publish)) *paho.Client {
	w.t.Helper()
	conn, err := (&tls.Dialer{Config: w.tls(p.cert)}).DialContext(ctx, "tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
		func(r paho.PublishReceived) (bool, error) { receive(r.Packet); return true, nil }}})
	if ack, err := c.Connect(ctx, &paho.Connect{ClientID: p.id, CleanStart: true, KeepAlive: 30}); err != nil {
		w.t.Fatalf("connect: %+v, err %v", ack, err)
	}
	return c
}
