package broker_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// Ensure that nobody passes the TLS handshake without a certificate of this
// authority that the ledger knows and that is in force, and that only TLS 1.2
// is spoken.
func TestHandshakeRefuses(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	foreignDir := t.TempDir()
	if err := pki.Init(foreignDir, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	foreign := must(pki.Open(foreignDir))
	revoked := w.certify(keyholder.ForSubscription, sub.id)
	must(w.ledger.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutCertificate, ID: revoked.rec.Serial}, "test"))
	server := must(w.authority.ServerCertificate([]string{"127.0.0.1"}, time.Now()))
	for name, cfg := range map[string]*tls.Config{
		"no certificate":               w.tls(),
		"certificate of a foreign CA":  w.tls(sign(foreign, keyholder.ForSubscription, sub.id).cert),
		"signed but not on record":     w.tls(sign(w.authority, keyholder.ForSubscription, sub.id).cert),
		"revoked":                      w.tls(revoked.cert),
		"server certificate as client": w.tls(server),
	} {
		if r, err := w.dial(cfg, 5); err == nil {
			t.Errorf("%s: connected to %v", name, r.conn.RemoteAddr())
		}
	}
	for name, version := range map[string]uint16{"TLS 1.1": tls.VersionTLS11, "TLS 1.3": tls.VersionTLS13} {
		cfg := w.tls(sub.cert)
		cfg.MinVersion, cfg.MaxVersion = version, version
		if _, err := w.dial(cfg, 5); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
	w.join(sub, 5).alive()
	eventually(t, "the revoked certificate is on the audit trail", func() bool { return w.denied("what", "handshake") == 1 })
	if n := w.broker.Connected(); n != 1 {
		t.Errorf("%d connections are open, want 1", n)
	}
}

// Ensure that CONNECT is refused with an answer of the protocol for every
// client ID but the certificate's own, and for wills.
func TestConnectRefuses(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		provider := w.provider("p")
		sub, other := w.subscription(provider, "a"), w.subscription(provider, "b")
		app := must(w.ledger.AddApp(t.Context(), ledger.Administrator, keyholder.App{Name: "app", Authentication: keyholder.AuthCertificate,
			Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}))
		appCert := w.certify(keyholder.ForApp, string(app.ID))
		for name, tt := range map[string]struct {
			party   party
			options []option
		}{
			"foreign client ID":              {sub, []option{clientID(other.id)}},
			"provider ID":                    {sub, []option{clientID(provider.id)}},
			"subscription ID of a provider":  {provider, []option{clientID(sub.id)}},
			"upper case":                     {sub, []option{clientID(strings.ToUpper(sub.id))}},
			"no client ID":                   {sub, []option{clientID("")}},
			"prefix":                         {sub, []option{clientID(sub.id[:35])}},
			"suffix":                         {sub, []option{clientID(sub.id + " ")}},
			"free name":                      {sub, []option{clientID("dashboard")}},
			"will":                           {sub, []option{will}},
			"will of a provider":             {provider, []option{will}},
			"retained will":                  {provider, []option{will, func(pk *packets.Packet) { pk.Connect.WillRetain = true }}},
			"will of QoS 2":                  {provider, []option{will, func(pk *packets.Packet) { pk.Connect.WillQos = 2 }}},
			"certificate of an app":          {appCert, nil},
			"app with a subscription's ID":   {appCert, []option{clientID(sub.id)}},
			"old protocol version":           {sub, []option{func(pk *packets.Packet) { pk.Connect.ProtocolName, pk.ProtocolVersion = []byte("MQIsdp"), 3 }}},
			"persistent session, foreign ID": {sub, []option{persistent, clientID(other.id)}},
		} {
			r, ack, err := w.connect(tt.party, version, tt.options...)
			if name == "old protocol version" && version == 5 {
				continue // the raw client writes its own version
			}
			if err != nil || ack.ReasonCode == 0 || ack.SessionPresent {
				t.Errorf("%s: CONNACK %#x, session present %v, err %v; want a refusal", name, ack.ReasonCode, ack.SessionPresent, err)
				continue
			}
			if version == 4 && ack.ReasonCode > 5 {
				t.Errorf("%s: CONNACK %#x is no MQTT 3.1.1 code", name, ack.ReasonCode)
			}
			r.closed()
		}
		if w.log.contains("dashboard") {
			t.Error("a client ID that is not an ID is in the log")
		}
		eventually(t, "the refusals are on the audit trail", func() bool {
			return w.denied("requirement", string(keyholder.M5)) >= 5 && w.denied("requirement", string(keyholder.M7)) >= 1
		})
	})
}

// Ensure that a stranger with the right client ID and the wrong certificate
// does not disturb the one it belongs to.
func TestWrongTakeover(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		provider := w.provider("p")
		victim, attacker := w.subscription(provider, "a"), w.subscription(provider, "b")
		consumer := w.join(victim, version, persistent)
		consumer.subscribe(1, topic(victim, "#"))
		for range 3 {
			if _, ack, err := w.connect(attacker, version, clientID(victim.id)); err != nil || ack.ReasonCode == 0 {
				t.Fatalf("CONNACK %#x, err %v", ack.ReasonCode, err)
			}
			if _, ack, err := w.connect(provider, version, clientID(victim.id)); err != nil || ack.ReasonCode == 0 {
				t.Fatalf("CONNACK %#x, err %v", ack.ReasonCode, err)
			}
		}
		publisher := w.join(provider, version)
		publisher.publish(topic(victim, "events"), body(1), 1, 1)
		if msg := consumer.message(); !bytes.Equal(msg.Payload, body(1)) {
			t.Errorf("the victim got %q", msg.Payload)
		}
		consumer.alive()
	})
}

// Ensure that SUBACK refuses every filter that is not below the consumer's
// own ID, one by one, and that nothing comes of them.
func TestSubscribeRefuses(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		provider := w.provider("p")
		sub, other := w.subscription(provider, "a"), w.subscription(provider, "b")
		filters := []string{"#", "+", "+/#", "fds/#", "fds/v2/#", "fds/v2/+/#", "fds/v2/+/events", "fds/+/" + sub.id + "/#", "+/v2/" + sub.id + "/events",
			"$share/g/" + topic(sub, "#"), "$SYS/#", "$SYS/broker/clients/connected", topic(other, "#"), topic(other, "events"), topic(party{id: strings.ToUpper(sub.id)}, "#"),
			"fds/v2/" + sub.id, "fds/v2/" + sub.id + "/", "fds/v1/" + sub.id + "/#", "/" + topic(sub, "#"), topic(sub, "a//b"), topic(sub, "a#"), topic(sub, "#/a"),
			"fds/v2/" + sub.id + "x/#", topic(sub, "") + strings.Repeat("x", 2000)}
		consumer := w.join(sub, version, persistent)
		codes := consumer.subscribe(1, append(filters, topic(sub, "#"), topic(sub, "+/x"), topic(sub, "events"))...)
		for i, f := range filters {
			if codes[i] < 0x80 || version == 4 && codes[i] != 0x80 {
				t.Errorf("%q: code %#x, want a refusal", f, codes[i])
			}
		}
		if got := codes[len(filters):]; !bytes.Equal(got, []byte{1, 1, 1}) {
			t.Errorf("the own filters got %v", got)
		}
		asProvider := w.join(provider, version)
		for _, f := range []string{topic(sub, "#"), topic(provider, "#"), "#"} {
			if codes := asProvider.subscribe(1, f); codes[0] < 0x80 {
				t.Errorf("the provider was granted %q", f)
			}
		}
		asProvider.publish(topic(other, "events"), body(1), 1, 1)
		asProvider.expect(packets.Puback)
		consumer.silent(30 * time.Millisecond)
		eventually(t, "the refusals are on the audit trail", func() bool {
			return w.denied("requirement", string(keyholder.M6)) > 0 && w.denied("requirement", string(keyholder.M8)) > 0
		})
	})
}

// Ensure that a provider learns nothing from publishing into a subscription
// that is foreign, was cut or does not exist: the answers are equal byte by
// byte, and nothing is queued.
func TestPublishRefuses(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		provider, stranger := w.provider("p"), w.provider("q")
		sub, gone := w.subscription(provider, "a"), w.subscription(stranger, "b")
		must(w.ledger.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: gone.id}, "test"))
		unknown := party{id: "00000000-0000-4000-8000-000000000000"}
		var answers []string
		for _, target := range []party{sub, unknown, gone} {
			r := w.join(stranger, version)
			r.publish(topic(target, "events"), body(1), 1, 77)
			frame, err := r.frame(10 * time.Second)
			answers = append(answers, fmt.Sprintf("%x %v", frame, err))
			if version == 5 {
				r.alive()
			}
		}
		for _, a := range answers {
			if a != answers[0] {
				t.Errorf("the answers differ: %q", answers)
			}
		}
		if want := "EOF"; version == 4 && !strings.Contains(answers[0], want) {
			t.Errorf("the MQTT 3.1.1 answer is %q, want the end of the connection", answers[0])
		}
		if w.queued(sub) != 0 {
			t.Error("something was queued")
		}
	})
}

// Ensure that consumers publish nothing, not even to themselves.
func TestConsumerPublishRefuses(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		sub := w.subscription(w.provider("p"), "a")
		consumer := w.join(sub, version)
		consumer.subscribe(1, topic(sub, "#"))
		consumer.publish(topic(sub, "events"), body(1), 0, 0)
		consumer.alive()
		consumer.publish(topic(sub, "events"), body(1), 1, 9)
		if version == 5 {
			if ack := consumer.expect(packets.Puback); ack.ReasonCode != packets.ErrNotAuthorized.Code || ack.PacketID != 9 {
				t.Errorf("PUBACK %d with %#x", ack.PacketID, ack.ReasonCode)
			}
			consumer.silent(30 * time.Millisecond)
		} else {
			consumer.closed()
		}
		if w.queued(sub) != 0 {
			t.Error("something was queued")
		}
		eventually(t, "both are on the audit trail", func() bool { return w.denied("what", "publish") == 2 })
	})
}

// Ensure that packets this broker never accepts end the connection, with a
// reason for MQTT 5, and change nothing.
func TestPacketsRefused(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		provider := w.provider("p")
		sub := w.subscription(provider, "a")
		header := func(qos byte, retain bool) packets.FixedHeader {
			return packets.FixedHeader{Type: packets.Publish, Qos: qos, Retain: retain}
		}
		own := topic(sub, "events")
		for name, tt := range map[string]struct {
			send func(r *raw)
			code packets.Code // of MQTT 5; 0: the connection just ends
			v5   bool
		}{
			"QoS 2": {send: func(r *raw) {
				r.send(packets.Packet{FixedHeader: header(2, false), TopicName: own, Payload: body(1), PacketID: 1})
			}, code: packets.ErrQosNotSupported},
			"retained": {send: func(r *raw) {
				r.send(packets.Packet{FixedHeader: header(1, true), TopicName: own, Payload: body(1), PacketID: 1})
			}, code: packets.ErrRetainNotSupported},
			"retained, QoS 0": {send: func(r *raw) {
				r.send(packets.Packet{FixedHeader: header(0, true), TopicName: own, Payload: body(1)})
			}, code: packets.ErrRetainNotSupported},
			"$SYS": {send: func(r *raw) { r.publish("$SYS/broker/x", body(1), 1, 1) }, code: packets.ErrTopicNameInvalid},
			"wildcard topic": {send: func(r *raw) { r.publish(topic(sub, "+"), body(1), 1, 1) },
				code: packets.ErrProtocolViolationSurplusWildcard},
			"topic alias": {send: func(r *raw) {
				r.send(packets.Packet{FixedHeader: header(1, false), TopicName: own, Payload: body(1), PacketID: 1,
					Properties: packets.Properties{TopicAlias: 1, TopicAliasFlag: true}})
			}, code: packets.ErrTopicAliasInvalid, v5: true},
			"alias without a topic": {send: func(r *raw) {
				r.send(packets.Packet{FixedHeader: header(1, false), Payload: body(1), PacketID: 1,
					Properties: packets.Properties{TopicAlias: 1, TopicAliasFlag: true}})
			}, code: packets.ErrTopicAliasInvalid, v5: true},
			"oversize":       {send: func(r *raw) { r.publish(own, make([]byte, 1<<20+9<<10), 1, 1) }, code: packets.ErrPacketTooLarge},
			"second CONNECT": {send: func(r *raw) { r.write(connectFrame(provider.id)) }, code: packets.ErrProtocolViolationSecondConnect},
			"PUBREL": {send: func(r *raw) {
				r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 1})
			}, code: packets.ErrProtocolViolation},
			"SUBSCRIBE cut short": {send: func(r *raw) { r.write(append([]byte{0x82, 6, 0, 1, 0}, 0, 1, 'a')) }},
			"garbage":             {send: func(r *raw) { r.write([]byte{0x07, 0xff, 0xff, 0xff, 0xff, 0x7f}) }, code: packets.ErrMalformedFlags},
		} {
			if tt.v5 && version != 5 {
				continue
			}
			r := w.join(provider, version)
			tt.send(r)
			if code := r.closed(); version == 5 && code != tt.code.Code {
				t.Errorf("%s: DISCONNECT %#x, want %#x", name, code, tt.code.Code)
			}
		}
		if w.queued(sub) != 0 {
			t.Error("something was queued")
		}
		consumer := w.join(sub, version)
		consumer.subscribe(1, topic(sub, "#"))
		consumer.silent(30 * time.Millisecond)
		consumer.alive()
		if version == 5 && !w.log.contains("not understood by the protocol engine") {
			t.Error("no packet made the protocol engine panic; this test should have one that does")
		}
	})
}

// connectFrame is a CONNECT of MQTT 3.1.1.
func connectFrame(id string) []byte {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: 4,
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), Clean: true, Keepalive: 60, ClientIdentifier: id}}
	var buf bytes.Buffer
	if err := pk.ConnectEncode(&buf); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// Ensure that the largest payload passes and that an MQTT 5 publisher is told
// when a mailbox is full, while for 3.1.1 the connection ends and what comes
// after the refused publish is not stored before it.
func TestFullMailbox(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t, func(w *world) { w.box.MaxMessages = 2 })
		provider := w.provider("p")
		sub, other := w.subscription(provider, "a"), w.subscription(provider, "b")
		publisher := w.join(provider, version)
		publisher.publish(topic(sub, "events"), make([]byte, 1<<20), 1, 1)
		publisher.publish(topic(sub, "events"), body(2), 1, 2)
		for range 2 {
			if ack := publisher.expect(packets.Puback); ack.ReasonCode != 0 {
				t.Fatalf("PUBACK %#x", ack.ReasonCode)
			}
		}
		var burst bytes.Buffer
		for i, target := range []party{sub, other} {
			pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, ProtocolVersion: version, TopicName: topic(target, "events"), PacketID: uint16(3 + i)}
			if err := pk.PublishEncode(&burst); err != nil {
				t.Fatal(err)
			}
		}
		publisher.write(burst.Bytes())
		if version == 5 {
			if ack := publisher.expect(packets.Puback); ack.ReasonCode != packets.ErrQuotaExceeded.Code || !strings.Contains(ack.Properties.ReasonString, "full") {
				t.Errorf("PUBACK %#x, %q", ack.ReasonCode, ack.Properties.ReasonString)
			}
			if ack := publisher.expect(packets.Puback); ack.ReasonCode != 0 {
				t.Errorf("the other mailbox: PUBACK %#x", ack.ReasonCode)
			}
			return
		}
		publisher.closed()
		if n := w.queued(sub); n != 2 {
			t.Errorf("%d messages are queued", n)
		}
	})
}

// Ensure that refusals are bounded for each client and counted.
func TestDenialsAreBounded(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.DenialsPerMinute = 5 })
	sub := w.subscription(w.provider("p"), "a")
	consumer := w.join(sub, 5)
	for range 50 {
		consumer.subscribe(1, "#")
	}
	eventually(t, "five refusals are recorded", func() bool { return w.denied("what", "subscribe") == 5 })
	consumer.subscribe(1, "#")
	if n := w.denied("what", "subscribe"); n != 5 {
		t.Errorf("%d refusals are recorded", n)
	}
}
