package external_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
)

// target is a broker that the rule matrix is run against.
type target struct {
	name   string // a key of row.differs
	addr   string // of its MQTT listener
	mqtt5  bool
	counts int // connections that a receipt says were closed when one was
	*fabric
	settle func()                                      // brings what Keyholder publishes as files to the broker; may be nil
	left   func(id string, r keyholder.Receipt) string // says what a cut left of a client at the broker
}

// The outcomes of a row.
const (
	connected = "connected"
	refused   = "refused" // CONNACK or SUBACK or PUBACK with an error, or the end of the connection
	granted   = "granted"
	delivered = "acknowledged and delivered"
	dropped   = "acknowledged and delivered to nobody"
	ended     = "ended within a second"
)

// row is one rule: what is tried, and what becomes of it at our own broker,
// which is what the rule demands. differs names the brokers where something
// else happens, and why; a version of MQTT may follow the name.
type row struct {
	name    string
	rule    keyholder.Requirement
	try     func(*attempt) string
	want    string
	only5   bool // there is nothing like it in MQTT 3.1.1
	differs map[string]difference
}

type difference struct{ outcome, why string }

// attempt is one try of one row.
type attempt struct {
	*testing.T
	*target
	version byte
}

// config is the TLS configuration of a client with a party's certificate.
func (a *attempt) config(p party) *tls.Config { return a.TLS(p.cert) }

// dial connects under a client ID with the certificate of p. The outcome is
// refused if TLS or CONNECT is.
func (a *attempt) dial(p party, id string, change ...func(*packets.Packet)) (*raw, string) {
	r, err := dial(a, a.addr, a.config(p), a.version)
	if err != nil {
		return nil, refused
	}
	if code, err := r.connect(id, change...); err != nil || code != 0 {
		return nil, refused
	}
	return r, connected
}

// settled waits until the broker has what Keyholder publishes.
func (b *target) settled() {
	if b.settle != nil {
		b.settle()
	}
}

// subscription adds a subscription of the provider.
func (a *attempt) subscription(scope ...keyholder.Kind) party {
	a.Helper()
	s := a.addSubscription(a.provider, scope...)
	a.settled()
	return s
}

// join is dial that must succeed, under the own ID.
func (a *attempt) join(p party, change ...func(*packets.Packet)) *raw {
	a.Helper()
	r, outcome := a.dial(p, p.id, change...)
	if outcome != connected {
		a.Fatalf("the connection of %s was refused", p.id)
	}
	return r
}

func persistent(pk *packets.Packet) {
	pk.Connect.Clean = false
	pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
}

func retained(pk *packets.Packet) { pk.FixedHeader.Retain = true }

func qos(n byte) func(*packets.Packet) {
	return func(pk *packets.Packet) { pk.FixedHeader.Qos = n }
}

func alias(topic string) func(*packets.Packet) {
	return func(pk *packets.Packet) {
		pk.TopicName, pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = topic, 1, true
	}
}

func will(topic string, change ...func(*packets.Packet)) func(*packets.Packet) {
	return func(pk *packets.Packet) {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload, pk.Connect.WillQos = true, topic, []byte("will"), 1
		for _, f := range change {
			f(pk)
		}
	}
}

func retainedWill(pk *packets.Packet) { pk.Connect.WillRetain = true }

// connects tries to connect as p under an ID.
func connects(p func(*target) party, id func(*target) string, change ...func(*packets.Packet)) func(*attempt) string {
	return func(a *attempt) string {
		r, outcome := a.dial(p(a.target), id(a.target), change...)
		if r != nil {
			r.leave()
		}
		return outcome
	}
}

// subscribes tries one filter as p. A granted filter must not bring anything
// that is not p's own.
func subscribes(p func(*target) party, filter func(*target) string) func(*attempt) string {
	return func(a *attempt) string {
		r := a.join(p(a.target))
		defer r.leave()
		codes, err := r.subscribe(filter(a.target))
		outcome := granted
		if err != nil {
			return refused // the connection ended
		}
		if codes[0] >= 0x80 {
			outcome = refused
		}
		a.publishEverywhere(r, p(a.target))
		if err := r.alive(); err != nil {
			return refused
		}
		for _, m := range r.inbox {
			if m != p(a.target).id {
				a.Errorf("a message for %s came", m)
			}
		}
		if outcome == granted && len(r.inbox) == 0 {
			return granted + ", but nothing comes of it"
		}
		return outcome
	}
}

// publishEverywhere has both providers publish into all their subscriptions,
// each message naming the one it is for. with is the connection of a party that
// is connected already, nil if none of the providers is.
func (a *attempt) publishEverywhere(with *raw, p party) {
	a.Helper()
	for _, to := range []struct {
		by   party
		subs []party
	}{{a.provider, []party{a.a, a.b}}, {a.stranger, []party{a.foreign}}} {
		r := with
		if to.by.id != p.id {
			r = a.join(to.by)
			defer r.leave()
		}
		for _, s := range to.subs {
			if code, err := r.publish(s.topic("events"), s.id); err != nil || code >= 0x80 {
				a.Fatalf("the provider's own publish: code %#x, err %v", code, err)
			}
		}
	}
}

// publishes tries to publish as p. What is acknowledged is delivered or not to
// the consumer that watches.
func publishes(p func(*target) party, topic func(*target) string, watch func(*target) party, change ...func(*packets.Packet)) func(*attempt) string {
	return func(a *attempt) string {
		consumer := a.join(watch(a.target))
		defer consumer.leave()
		if codes, err := consumer.subscribe(watch(a.target).topic("#")); err != nil || codes[0] >= 0x80 {
			a.Fatalf("the consumer's own subscription: %v, %v", codes, err)
		}
		r := a.join(p(a.target))
		defer r.leave()
		payload := fmt.Sprintf("%s %d", a.Name(), time.Now().UnixNano())
		code, err := r.publish(topic(a.target), payload, change...)
		outcome := dropped
		if err != nil || code >= 0x80 {
			outcome = refused
		}
		// What the provider publishes now comes after it.
		after := a.join(issuer(watch)(a.target))
		defer after.leave()
		if code, err := after.publish(watch(a.target).topic("events"), "after"); err != nil || code >= 0x80 {
			a.Fatalf("the provider's own publish: code %#x, err %v", code, err)
		}
		for {
			m, err := consumer.message(answerLimit)
			switch {
			case err != nil:
				a.Fatalf("the consumer: %v", err)
			case m == "after":
				return outcome
			case m == payload && outcome == refused:
				outcome = "refused, and yet delivered"
			case m == payload:
				outcome = delivered
			}
		}
	}
}

// willOf tries to connect with a will, goes away without a word, and says
// whether the will was delivered.
func willOf(p func(*target) party, topic func(*target) string, watch func(*target) party, change ...func(*packets.Packet)) func(*attempt) string {
	return func(a *attempt) string {
		consumer := a.join(watch(a.target))
		defer consumer.leave()
		if _, err := consumer.subscribe(watch(a.target).topic("#")); err != nil {
			a.Fatal(err)
		}
		r, outcome := a.dial(p(a.target), p(a.target).id, will(topic(a.target), change...))
		if outcome == refused {
			return refused
		}
		_ = r.conn.Close()
		if m, err := consumer.message(time.Second); err == nil {
			if m != "will" {
				a.Errorf("%q came", m)
			}
			return "connected, and the will is delivered"
		}
		return "connected, but the will goes nowhere"
	}
}

// The parties of a row.
func consumerA(t *target) party  { return t.a }
func consumerB(t *target) party  { return t.b }
func foreign(t *target) party    { return t.foreign }
func provider(t *target) party   { return t.provider }
func stranger(t *target) party   { return t.stranger }
func gone(t *target) party       { return t.gone }
func app(t *target) party        { return t.app }
func unknown(t *target) party    { return t.unknown }
func unrecorded(t *target) party { return t.unrecorded() }
func forged(t *target) party     { return t.forged() }
func asServer(t *target) party   { return t.asServer() }

// issuer is the provider of a subscription among the parties.
func issuer(sub func(*target) party) func(*target) party {
	return func(t *target) party {
		if sub(t).id == t.foreign.id {
			return t.stranger
		}
		return t.provider
	}
}

func idOf(p func(*target) party) func(*target) string {
	return func(t *target) string { return p(t).id }
}

func text(s string) func(*target) string { return func(*target) string { return s } }

// below is a topic or filter in which ID stands for that of p.
func below(p func(*target) party, pattern string) func(*target) string {
	return func(t *target) string { return strings.ReplaceAll(pattern, "ID", p(t).id) }
}

func upper(p func(*target) party) func(*target) string {
	return func(t *target) string { return strings.ToUpper(p(t).id) }
}

// mqtt names the versions of the protocol.
var mqtt = map[byte]string{4: "3.1.1", 5: "5"}

// run runs the matrix against a broker.
func run(t *testing.T, broker *target) {
	if n := len(matrix()); n < 60 {
		t.Fatalf("the matrix has only %d rows", n)
	}
	rows := 0
	for _, r := range matrix() {
		for _, version := range []byte{4, 5} {
			name := fmt.Sprintf("%s/%s/MQTT %s", r.rule, r.name, mqtt[version])
			if r.only5 && version == 4 {
				continue // there is nothing to try
			}
			if rows++; rows%10 == 1 {
				broker.fabric = populate(t, broker.Server) // nobody connects so often that it is refused for it
				broker.settled()
			}
			t.Run(name, func(t *testing.T) {
				a := &attempt{T: t, target: broker, version: version}
				if version == 5 && !broker.mqtt5 {
					// The whole version is refused, for this row as for any other.
					if _, outcome := a.dial(broker.a, broker.a.id); outcome != refused {
						t.Errorf("MQTT 5 is not spoken, and yet: %s", outcome)
					}
					return
				}
				want, why := r.want, "the rule"
				for _, key := range []string{broker.name, broker.name + " " + mqtt[version]} {
					if d, ok := r.differs[key]; ok {
						want, why = d.outcome, d.why
					}
				}
				if got := r.try(a); got != want {
					t.Errorf("%s, want %s (%s)", got, want, why)
				}
			})
		}
	}
}

// sameAnswers publishes into a foreign, a cut and an unknown subscription and
// compares the answers byte by byte.
func sameAnswers(a *attempt) string {
	var answers [][]byte
	for _, to := range []party{a.foreign, a.gone, a.unknown} {
		r := a.join(a.provider)
		if err := r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, TopicName: to.topic("events"), Payload: []byte("x"), PacketID: 77}); err != nil {
			a.Fatal(err)
		}
		frame, _ := r.frame(answerLimit)
		answers = append(answers, frame)
		_ = r.conn.Close()
	}
	if slices.ContainsFunc(answers, func(b []byte) bool { return !bytes.Equal(b, answers[0]) }) {
		return fmt.Sprintf("the answers differ: %x", answers)
	}
	return "the same answer"
}

// takeover connects a with its certificate and then again with another one,
// and says who is left.
func takeover(second func(*attempt) party) func(*attempt) string {
	return func(a *attempt) string {
		first := a.join(a.a)
		defer first.leave()
		p := second(a)
		r, outcome := a.dial(p, a.a.id)
		if r != nil {
			defer r.leave()
		}
		if outcome == refused {
			if err := first.alive(); err != nil {
				return "refused, but the first one is disturbed"
			}
			return refused
		}
		if !first.ended(time.Second) {
			return "both are connected"
		}
		return "the second takes over"
	}
}
