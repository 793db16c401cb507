package broker_test

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
)

// say publishes with properties, with QoS 1, and returns the code of PUBACK.
func (r *raw) say(topic string, id uint16, p packets.Properties) byte {
	r.t.Helper()
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, TopicName: topic, Payload: body(int(id)), PacketID: id, Properties: p,
		Mods: packets.Mods{AllowResponseInfo: true}})
	return r.expect(packets.Puback).ReasonCode
}

// Ensure that what a provider says about a message reaches an MQTT 5 consumer
// unaltered and in order, also over a restart, and does not disturb one of
// MQTT 3.1.1.
func TestDeliveryOfProperties(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	said := packets.Properties{PayloadFormatFlag: true, PayloadFormat: 1, ContentType: "application/json", CorrelationData: []byte{0, 1, 255},
		User: []packets.UserProperty{{Key: "b", Val: "1"}, {Key: "a", Val: "ü"}, {Key: "b", Val: "2"}}}
	publisher := w.join(provider, 5)
	for id := range uint16(3) {
		if code := publisher.say(topic(sub, "events"), id+1, said); code != 0 {
			t.Fatalf("PUBACK %#x", code)
		}
	}
	check := func(consumer *raw, number string) {
		t.Helper()
		got, want := consumer.message().Properties, said.Copy(false)
		want.User = append(want.User, packets.UserProperty{Key: "Keyholder-Message", Val: sub.id + "/" + number})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("said (-), received (+):\n%s", diff)
		}
	}
	withoutReasons := func(pk *packets.Packet) { pk.Properties.RequestProblemInfoFlag = true } // MQTT 5 section 3.1.2.11.7: not of PUBLISH
	consumer := w.join(sub, 5, receiveMaximum(1), withoutReasons)
	consumer.subscribe(1, topic(sub, "#"))
	check(consumer, "1")
	check(consumer, "2")
	eventually(t, "two are acknowledged", func() bool { return w.queued(sub) == 1 })
	w.reopen()
	consumer = w.join(sub, 5)
	consumer.subscribe(1, topic(sub, "#"))
	check(consumer, "3")
	if code := w.join(provider, 5).say(topic(sub, "events"), 4, said); code != 0 {
		t.Fatalf("PUBACK %#x", code)
	}
	check(consumer, "4")
	_ = consumer.conn.Close()
	old := w.join(sub, 4)
	old.subscribe(1, topic(sub, "#"))
	if code := w.join(provider, 5).say(topic(sub, "events"), 5, said); code != 0 {
		t.Fatalf("PUBACK %#x", code)
	}
	if msg := old.message(); !bytes.Equal(msg.Payload, body(5)) {
		t.Errorf("MQTT 3.1.1 got %q", msg.Payload)
	}
}

// Ensure that a message does not leave after what its publisher gave it to
// live, and that what is left of it is told.
func TestDeliveryWithinExpiry(t *testing.T) {
	var offset atomic.Int64
	w := newWorld(t, func(w *world) {
		w.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	})
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	publisher := w.join(provider, 5)
	for id, seconds := range []uint32{100, 1000, 0} {
		if code := publisher.say(topic(sub, "events"), uint16(id+1), packets.Properties{MessageExpiryInterval: seconds}); code != 0 {
			t.Fatalf("PUBACK %#x", code)
		}
	}
	offset.Store(int64(400 * time.Second))
	consumer := w.join(sub, 5)
	consumer.subscribe(1, topic(sub, "#"))
	if msg := consumer.message(); !bytes.Equal(msg.Payload, body(2)) || msg.Properties.MessageExpiryInterval > 600 || msg.Properties.MessageExpiryInterval < 500 {
		t.Errorf("got %q with %d seconds left", msg.Payload, msg.Properties.MessageExpiryInterval)
	}
	if msg := consumer.message(); !bytes.Equal(msg.Payload, body(3)) || msg.Properties.MessageExpiryInterval != 0 {
		t.Errorf("got %q with %d seconds left", msg.Payload, msg.Properties.MessageExpiryInterval)
	}
	eventually(t, "the queue is empty", func() bool { return w.queued(sub) == 0 })
}

// Ensure that a response topic, a property that passes for the broker's own and
// more than there is room for are refused, whoever's the topic is, and that
// the connection goes on.
func TestPublishRefusesProperties(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub, foreign := w.subscription(provider, "a"), w.subscription(w.provider("q"), "b")
	publisher := w.join(provider, 5)
	for name, p := range map[string]packets.Properties{
		"response topic":         {ResponseTopic: topic(sub, "answers")},
		"foreign response topic": {ResponseTopic: topic(foreign, "answers")},
		"passes for ours":        {User: []packets.UserProperty{{Key: "Keyholder-Message", Val: sub.id + "/1"}}},
		"too large":              {CorrelationData: make([]byte, 4<<10)},
	} {
		for _, to := range []party{sub, foreign} {
			if code := publisher.say(topic(to, "events"), 1, p); code != packets.ErrImplementationSpecificError.Code {
				t.Errorf("%s: PUBACK %#x", name, code)
			}
		}
	}
	if code := publisher.say(topic(sub, "events"), 1, packets.Properties{ContentType: strings.Repeat("x", 4000)}); code != 0 {
		t.Errorf("PUBACK %#x", code)
	}
	if n := w.queued(sub); n != 1 {
		t.Errorf("%d messages are queued, want 1", n)
	}
}
