package external_test

import (
	"crypto/tls"
	"fmt"
	"slices"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
)

// Why brokers differ from the rule.
var (
	laterWill = difference{"connected, but the will goes nowhere",
		"RabbitMQ, Mosquitto and NATS look at the topic of a will when they publish it, not at CONNECT"}
	rabbitOneOfTwo = difference{connected,
		"RabbitMQ says whom the certificate names, not which one it is; the ledger has another one of that name"}
	mosquittoUnrecorded = difference{connected,
		"Mosquitto asks nobody about a certificate; it knows the authority and the revocation list"}
	mosquittoRenames = difference{connected,
		"Mosquitto replaces the client ID, and the user name, by the certificate's name: everybody is who they are"}
	mosquittoNoRight = difference{connected,
		"Mosquitto knows the authority that signed it; there is no right in the files for it"}
	mosquittoGrants = difference{granted,
		"Mosquitto grants every filter and looks at the rights when it delivers: only the own messages come"}
	mosquittoEmpty = difference{granted + ", but nothing comes of it", mosquittoGrants.why}
	mosquittoDrops = difference{dropped,
		"Mosquitto acknowledges what it refuses, as MQTT 3.1.1 lets it"}
	natsDrops = difference{dropped,
		"NATS acknowledges what it refuses, as MQTT 3.1.1 lets it"}
	natsEmptyLevel = difference{granted + ", but nothing comes of it",
		"NATS gives rights to whole subtrees: an empty level below the own ID is a level like any other"}
)

// onMosquitto is the difference of Mosquitto alone, and both of both brokers.
func onMosquitto(d difference) map[string]difference { return map[string]difference{"mosquitto": d} }

// onNATS is the difference of NATS alone.
func onNATS(d difference) map[string]difference { return map[string]difference{"nats": d} }

// dropping is of the brokers that say yes to a publish and throw it away.
func dropping() map[string]difference {
	return map[string]difference{"mosquitto 3.1.1": mosquittoDrops, "nats": natsDrops}
}

// and adds the difference of NATS to others.
func and(differs map[string]difference, nats difference) map[string]difference {
	differs["nats"] = nats
	return differs
}

func both(rabbit, mosquitto difference) map[string]difference {
	return map[string]difference{"rabbitmq": rabbit, "mosquitto": mosquitto}
}

// matrix is the table of rules.
func matrix() []row {
	var rows []row
	for _, part := range [][]row{handshakeRows(), connectRows(), willRows(), takeoverRows(), subscribeRows(), grantRows(), publishRows(), cutRows()} {
		rows = append(rows, part...)
	}
	return rows
}

func handshakeRows() []row {
	none := func(t *target) party { return party{id: t.a.id} }
	version := func(v uint16) func(*attempt) string {
		return func(a *attempt) string {
			c := a.config(a.a)
			c.MinVersion, c.MaxVersion = v, v
			r, err := dial(a, a.addr, c, a.version)
			if err != nil {
				return refused
			}
			if code, err := r.connect(a.a.id); err != nil || code != 0 {
				return refused
			}
			return connected
		}
	}
	return []row{
		{name: "consumer", rule: keyholder.M2, try: connects(consumerA, idOf(consumerA)), want: connected},
		{name: "provider", rule: keyholder.M2, try: connects(provider, idOf(provider)), want: connected},
		{name: "no certificate", rule: keyholder.M2, try: connects(none, idOf(consumerA)), want: refused},
		{name: "certificate of a foreign authority", rule: keyholder.M2, try: connects(forged, idOf(consumerA)), want: refused},
		{name: "certificate of a server", rule: keyholder.M2, try: connects(asServer, idOf(consumerA)), want: refused},
		{name: "certificate not on record", rule: keyholder.M3, try: connects(unrecorded, idOf(consumerA)), want: refused,
			differs: both(rabbitOneOfTwo, mosquittoUnrecorded)},
		{name: "certificate of a cut subscription", rule: keyholder.M3, try: connects(gone, idOf(gone)), want: refused},
		{name: "TLS 1.1", rule: keyholder.M1, try: version(tls.VersionTLS11), want: refused},
		{name: "TLS 1.2", rule: keyholder.M1, try: version(tls.VersionTLS12), want: connected},
		{name: "TLS 1.3", rule: keyholder.M1, try: version(tls.VersionTLS13), want: refused},
	}
}

func connectRows() []row {
	asOther := func(name string) func(*packets.Packet) {
		return func(pk *packets.Packet) {
			pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte(name)
			pk.Connect.PasswordFlag, pk.Connect.Password = true, []byte("x")
		}
	}
	withName := func(p func(*target) party, id func(*target) string, name func(*target) string) func(*attempt) string {
		return func(a *attempt) string {
			r, outcome := a.dial(p(a.target), id(a.target), asOther(name(a.target)))
			if r != nil {
				r.leave()
			}
			return outcome
		}
	}
	return []row{
		{name: "client ID of another subscription", rule: keyholder.M5, try: connects(consumerA, idOf(consumerB)), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "client ID of a foreign subscription", rule: keyholder.M5, try: connects(consumerA, idOf(foreign)), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "client ID that does not exist", rule: keyholder.M5, try: connects(consumerA, idOf(unknown)), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "client ID of the provider", rule: keyholder.M5, try: connects(consumerA, idOf(provider)), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "provider with a subscription's client ID", rule: keyholder.M5, try: connects(provider, idOf(consumerA)), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "provider with another provider's client ID", rule: keyholder.M5, try: connects(provider, idOf(stranger)), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "client ID in upper case", rule: keyholder.M5, try: connects(consumerA, upper(consumerA)), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "no client ID", rule: keyholder.M5, try: connects(consumerA, text("")), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "client ID that is a prefix", rule: keyholder.M5, try: connects(consumerA, func(t *target) string { return t.a.id[:35] }), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "client ID with a space after it", rule: keyholder.M5, try: connects(consumerA, func(t *target) string { return t.a.id + " " }), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "free client ID", rule: keyholder.M5, try: connects(consumerA, text("dashboard")), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "persistent session under a foreign client ID", rule: keyholder.M5, try: connects(consumerA, idOf(consumerB), persistent), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "certificate of an app", rule: keyholder.M2, try: connects(app, idOf(app)), want: refused, differs: onMosquitto(mosquittoNoRight)},
		{name: "certificate of an app, ID of a subscription", rule: keyholder.M2, try: connects(app, idOf(consumerA)), want: refused, differs: onMosquitto(mosquittoNoRight)},
		{name: "user name and client ID of another subscription", rule: keyholder.M5, try: withName(consumerA, idOf(consumerB), idOf(consumerB)), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "user name of Keyholder", rule: keyholder.M2, try: withName(consumerA, text("keyholder"), text("keyholder")), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "user name of the provider", rule: keyholder.M5, try: withName(consumerA, idOf(provider), idOf(provider)), want: refused, differs: onMosquitto(mosquittoRenames)},
		{name: "protocol of MQTT 3.1", rule: keyholder.M5, try: oldProtocol, want: refused, differs: both(difference{connected, "RabbitMQ also speaks MQTT 3.1; the rights are the same"},
			difference{connected, "Mosquitto also speaks MQTT 3.1; the rights are the same"})},
	}
}

// oldProtocol connects with what came before MQTT 3.1.1.
func oldProtocol(a *attempt) string {
	r, err := dial(a, a.addr, a.config(a.a), 3)
	if err != nil {
		a.Fatal(err)
	}
	if code, err := r.connect(a.a.id, func(pk *packets.Packet) { pk.Connect.ProtocolName = []byte("MQIsdp") }); err != nil || code != 0 {
		return refused
	}
	r.leave()
	return connected
}

func willRows() []row {
	ownWill := difference{"connected, and the will is delivered", "RabbitMQ, Mosquitto and NATS publish the will of a provider into its own subscriptions like any publish of it"}
	return []row{
		{name: "will of a consumer to itself", rule: keyholder.M7, try: willOf(consumerA, below(consumerA, "fds/v2/ID/events"), consumerB), want: refused,
			differs: and(both(laterWill, laterWill), laterWill)},
		{name: "will of a consumer to another", rule: keyholder.M7, try: willOf(consumerA, below(consumerB, "fds/v2/ID/events"), consumerB), want: refused,
			differs: and(both(laterWill, laterWill), laterWill)},
		{name: "retained will of a consumer", rule: keyholder.M7, try: willOf(consumerA, below(consumerB, "fds/v2/ID/events"), consumerB, retainedWill), want: refused,
			differs: map[string]difference{"rabbitmq": laterWill, "nats": laterWill}},
		{name: "will of a provider into a foreign subscription", rule: keyholder.M7, try: willOf(provider, below(foreign, "fds/v2/ID/events"), foreign), want: refused,
			differs: and(both(laterWill, laterWill), laterWill)},
		{name: "will of a provider into its own subscription", rule: keyholder.M7, try: willOf(provider, below(consumerA, "fds/v2/ID/events"), consumerA), want: refused,
			differs: and(both(ownWill, ownWill), ownWill)},
	}
}

func takeoverRows() []row {
	return []row{
		{name: "same certificate again", rule: keyholder.M5, try: takeover(func(a *attempt) party { return a.a }), want: "the second takes over"},
		{name: "another certificate of the same client", rule: keyholder.M5, try: takeover(func(a *attempt) party { return a.certify(keyholder.ForSubscription, a.a.id) }), want: refused,
			differs: both(difference{"the second takes over", "RabbitMQ does not say which certificate has the client ID now"},
				difference{"the second takes over", "Mosquitto does not compare certificates"})},
		{name: "another subscription with the client ID", rule: keyholder.M5, try: takeover(func(a *attempt) party { return a.b }), want: refused, differs: onMosquitto(difference{"both are connected", mosquittoRenames.why})},
		{name: "a foreign subscription with the client ID", rule: keyholder.M5, try: takeover(func(a *attempt) party { return a.foreign }), want: refused, differs: onMosquitto(difference{"both are connected", mosquittoRenames.why})},
		{name: "the provider with the client ID", rule: keyholder.M5, try: takeover(func(a *attempt) party { return a.provider }), want: refused, differs: onMosquitto(difference{"both are connected", mosquittoRenames.why})},
		{name: "queue of an absent client", rule: keyholder.M5, try: absentQueue, want: "the queue is whole"},
	}
}

// absentQueue has a stranger try for the session of an absent consumer, by a
// persistent and by a clean connection, and then looks what is left of it.
func absentQueue(a *attempt) string {
	s := a.subscription()
	r := a.join(s, persistent)
	if _, err := r.subscribe(s.topic("#")); err != nil {
		a.Fatal(err)
	}
	r.leave()
	p := a.join(a.provider)
	defer p.leave()
	if code, err := p.publish(s.topic("events"), "waiting"); err != nil || code != 0 {
		a.Fatalf("publish: %#x, %v", code, err)
	}
	for _, change := range [][]func(*packets.Packet){{persistent}, nil} {
		if r, outcome := a.dial(a.b, s.id, change...); outcome != refused {
			r.leave() // it must not have been that client
		}
	}
	r = a.join(s, persistent)
	defer r.leave()
	if _, err := r.subscribe(s.topic("#")); err != nil { // needed by brokers that resume at SUBSCRIBE
		a.Fatal(err)
	}
	if m, err := r.message(answerLimit); err != nil || m != "waiting" {
		return fmt.Sprintf("the queue holds %q, %v", m, err)
	}
	return "the queue is whole"
}

func subscribeRows() []row {
	own := func(pattern string) func(*target) string { return below(consumerA, pattern) }
	var rows []row
	wide := []int{0, 2, 3, 4, 5, 6, 7, 8, 9, 10} // those that select the own events
	for i, filter := range []func(*target) string{
		text("#"), text("+"), text("+/#"), text("fds/#"), text("fds/v2/#"), text("fds/v2/+/#"), text("fds/v2/+/events"),
		own("fds/+/ID/#"), own("+/v2/ID/events"), own("$share/g/fds/v2/ID/#"), text("$share/g/#"), text("$SYS/#"), text("$SYS/broker/clients/connected"),
		below(consumerB, "fds/v2/ID/#"), below(consumerB, "fds/v2/ID/events"), below(foreign, "fds/v2/ID/#"), below(foreign, "fds/v2/ID/+"),
		below(unknown, "fds/v2/ID/#"), below(gone, "fds/v2/ID/#"), below(provider, "fds/v2/ID/#"),
		func(t *target) string { return "fds/v2/" + upper(consumerA)(t) + "/#" },
		own("fds/v2/ID"), own("fds/v2/ID/"), own("fds/v1/ID/#"), own("/fds/v2/ID/#"), own("fds/v2/ID/a//b"), own("fds/v2/IDx/#"),
	} {
		seen := mosquittoEmpty
		if slices.Contains(wide, i) {
			seen = mosquittoGrants
		}
		name := filter(&target{fabric: &fabric{a: party{id: "own"}, b: party{id: "other"}, foreign: party{id: "foreign"}, gone: party{id: "cut"}, unknown: party{id: "unknown"}, provider: party{id: "provider"}}})
		differs := onMosquitto(seen)
		switch name {
		case "fds/v2/own":
			and(differs, difference{granted + ", but nothing comes of it", "NATS grants the filter # only to who may also subscribe to the level above it, on which nobody may publish"})
		case "fds/v2/own/", "fds/v2/own/a//b":
			and(differs, natsEmptyLevel)
		}
		rows = append(rows, row{name: "filter " + name, rule: keyholder.M6, try: subscribes(consumerA, filter), want: refused, differs: differs})
	}
	return append(rows,
		row{name: "provider, its subscription", rule: keyholder.M8, try: subscribes(provider, own("fds/v2/ID/#")), want: refused, differs: onMosquitto(mosquittoEmpty)},
		row{name: "provider, all", rule: keyholder.M8, try: subscribes(provider, text("#")), want: refused, differs: onMosquitto(mosquittoEmpty)},
		row{name: "provider, its own ID", rule: keyholder.M8, try: subscribes(provider, below(provider, "fds/v2/ID/#")), want: refused, differs: onMosquitto(mosquittoEmpty)})
}

func grantRows() []row {
	own := func(pattern string) func(*target) string { return below(consumerA, pattern) }
	return []row{
		{name: "own filter #", rule: keyholder.M6, try: subscribes(consumerA, own("fds/v2/ID/#")), want: granted},
		{name: "own filter +", rule: keyholder.M6, try: subscribes(consumerA, own("fds/v2/ID/+")), want: granted},
		{name: "own filter events", rule: keyholder.M6, try: subscribes(consumerA, own("fds/v2/ID/events")), want: granted},
		{name: "own filter events/#", rule: keyholder.M6, try: subscribes(consumerA, own("fds/v2/ID/events/#")), want: granted},
		{name: "own and foreign in one SUBSCRIBE", rule: keyholder.M6, try: func(a *attempt) string {
			r := a.join(a.a)
			defer r.leave()
			codes, err := r.subscribe(a.a.topic("#"), a.b.topic("#"))
			switch {
			case err != nil:
				return refused
			case len(codes) == 2 && codes[0] < 0x80 && codes[1] >= 0x80:
				return "one by one"
			}
			return fmt.Sprintf("%x", codes)
		}, want: "one by one", differs: both(difference{refused, "RabbitMQ closes the connection at the first filter that is refused"}, difference{"0101", mosquittoGrants.why})},
		{name: "everybody gets the own messages only", rule: keyholder.M4, try: isolation, want: "isolated"},
	}
}

// isolation has three consumers listen while everything is published.
func isolation(a *attempt) string {
	consumers := map[string]*raw{}
	for _, p := range []party{a.a, a.b, a.foreign} {
		r := a.join(p)
		defer r.leave()
		if codes, err := r.subscribe(p.topic("#")); err != nil || codes[0] >= 0x80 {
			a.Fatal(codes, err)
		}
		consumers[p.id] = r
	}
	a.publishEverywhere(nil, party{})
	for id, r := range consumers {
		if m, err := r.message(answerLimit); err != nil || m != id {
			return fmt.Sprintf("%s got %q, %v", id, m, err)
		}
		if err := r.alive(); err != nil {
			return err.Error()
		}
	}
	return "isolated"
}

func publishRows() []row {
	toA, toForeign := below(consumerA, "fds/v2/ID/events"), below(foreign, "fds/v2/ID/events")
	return []row{
		{name: "provider", rule: keyholder.M7, try: publishes(provider, toA, consumerA), want: delivered},
		{name: "provider, QoS 0", rule: keyholder.M7, try: publishes(provider, toA, consumerA, qos(0)), want: delivered},
		{name: "provider, several levels", rule: keyholder.M7, try: publishes(provider, below(consumerA, "fds/v2/ID/events/x/y"), consumerA), want: delivered},
		{name: "provider, foreign subscription", rule: keyholder.M7, try: publishes(provider, toForeign, foreign), want: refused, differs: dropping()},
		{name: "provider, unknown subscription", rule: keyholder.M7, try: publishes(provider, below(unknown, "fds/v2/ID/events"), consumerA), want: refused, differs: dropping()},
		{name: "provider, cut subscription", rule: keyholder.M7, try: publishes(provider, below(gone, "fds/v2/ID/events"), consumerA), want: refused, differs: dropping()},
		{name: "another provider", rule: keyholder.M7, try: publishes(stranger, toA, consumerA), want: refused, differs: dropping()},
		{name: "consumer to itself", rule: keyholder.M7, try: publishes(consumerB, below(consumerB, "fds/v2/ID/events"), consumerA), want: refused, differs: dropping()},
		{name: "consumer to another", rule: keyholder.M7, try: publishes(consumerB, toA, consumerA), want: refused, differs: dropping()},
		{name: "consumer to another, QoS 0", rule: keyholder.M7, try: publishes(consumerB, toA, consumerA, qos(0)), want: dropped,
			differs: map[string]difference{"rabbitmq": {refused, "RabbitMQ closes the connection; our broker stays silent, as MQTT allows for QoS 0"}}},
		{name: "retained", rule: keyholder.M7, try: publishes(provider, toA, consumerA, retained), want: refused,
			differs: map[string]difference{"rabbitmq": {delivered, "RabbitMQ says nothing of the flag; the message is delivered and, by the configuration, not retained"},
				"nats": {delivered, "NATS says nothing of the flag; the message is delivered, and there is no room to retain it"}}},
		{name: "nothing is retained", rule: keyholder.M7, try: nothingRetained, want: "nothing"},
		{name: "retained by a consumer", rule: keyholder.M7, try: publishes(consumerB, toA, consumerA, retained), want: refused, differs: onNATS(natsDrops)},
		{name: "QoS 2", rule: keyholder.M7, try: publishes(provider, toA, consumerA, qos(2)), want: refused,
			differs: both(difference{"refused, and yet delivered", "RabbitMQ takes QoS 2 as QoS 1 and answers with PUBACK, which a client of QoS 2 does not expect"},
				difference{dropped, "Mosquitto speaks QoS 2 and waits for PUBREL, which does not come here; the rights are the same"})},
		{name: "to $SYS", rule: keyholder.M7, try: publishes(provider, text("$SYS/broker/x"), consumerA), want: refused, differs: dropping()},
		{name: "above the subscription", rule: keyholder.M7, try: publishes(provider, below(consumerA, "fds/v2/ID"), consumerA), want: refused, differs: dropping()},
		{name: "outside of fds/v2", rule: keyholder.M7, try: publishes(provider, below(consumerA, "fds/v1/ID/events"), consumerA), want: refused, differs: dropping()},
		{name: "to $share", rule: keyholder.M7, try: publishes(provider, below(consumerA, "$share/g/fds/v2/ID/events"), consumerA), want: refused, differs: dropping()},
		{name: "topic alias", rule: keyholder.M7, try: publishes(provider, toA, consumerA, func(pk *packets.Packet) { alias(pk.TopicName)(pk) }), want: refused, differs: onMosquitto(difference{delivered, "Mosquitto takes topic aliases, and looks at the topic that one stands for"}), only5: true},
		{name: "topic alias of a foreign subscription", rule: keyholder.M7, try: publishes(provider, toForeign, foreign, func(pk *packets.Packet) { alias(pk.TopicName)(pk) }), want: refused, only5: true},
		{name: "topic alias that was never set", rule: keyholder.M7, try: publishes(provider, toA, consumerA, alias("")), want: refused, only5: true},
		{name: "kind that the consent does not cover", rule: keyholder.W5, try: uncovered, want: refused, differs: dropping()},
		{name: "provider and consumer by paho.golang", rule: keyholder.M7, try: pahoTalk, want: delivered, only5: true},
		{name: "foreign, cut and unknown look alike", rule: keyholder.M7, try: sameAnswers, want: "the same answer"},
	}
}

// nothingRetained publishes with the retain flag and subscribes afterwards.
func nothingRetained(a *attempt) string {
	p := a.join(a.provider)
	_, _ = p.publish(a.a.topic("events"), "retained", retained)
	_ = p.conn.Close()
	r := a.join(a.a)
	defer r.leave()
	if _, err := r.subscribe(a.a.topic("#")); err != nil {
		a.Fatal(err)
	}
	if err := r.alive(); err != nil {
		a.Fatal(err)
	}
	if len(r.inbox) > 0 {
		return fmt.Sprintf("%q", r.inbox)
	}
	return "nothing"
}

// uncovered publishes an event into a subscription whose consent covers
// statuses only.
func uncovered(a *attempt) string {
	s := a.subscription(keyholder.Statuses)
	p := a.join(a.provider)
	defer p.leave()
	if code, err := p.publish(s.topic("statuses"), "x"); err != nil || code >= 0x80 {
		a.Errorf("statuses: %#x, %v", code, err)
	}
	if code, err := p.publish(s.topic("events"), "x"); err != nil || code >= 0x80 {
		return refused
	}
	return dropped
}

func cutRows() []row {
	return []row{
		{name: "cut of a subscription ends its connection", rule: keyholder.M3, try: cutEnds(keyholder.CutSubscription), want: ended},
		{name: "cut of the only certificate ends its connection", rule: keyholder.M3, try: cutEnds(keyholder.CutCertificate), want: ended},
		{name: "cut of a provider ends its connection", rule: keyholder.M3, try: cutProvider, want: ended},
		{name: "a revoked certificate beside one in force", rule: keyholder.M3, try: oneOfTwo, want: refused},
		{name: "publish into what was cut, on a connection from before", rule: keyholder.M7, try: publishAfterCut, want: refused,
			differs: map[string]difference{"mosquitto 3.1.1": mosquittoDrops,
				"rabbitmq": {dropped, "RabbitMQ remembers a yes for the 12 latest topics of a connection; the queue is gone, so it is delivered to nobody"}}},
		{name: "queue of what was cut", rule: keyholder.M3, try: cutQueue, want: "nothing is left"},
	}
}

// cutEnds connects a consumer, cuts, and says how it went for its connection
// and for the next one.
func cutEnds(kind keyholder.TargetKind) func(*attempt) string {
	return func(a *attempt) string {
		s := a.subscription()
		r := a.join(s, persistent)
		if _, err := r.subscribe(s.topic("#")); err != nil {
			a.Fatal(err)
		}
		id := s.id
		if kind == keyholder.CutCertificate {
			id = s.serial()
		}
		return a.cutAndLook(kind, id, s, r)
	}
}

func cutProvider(a *attempt) string {
	p := a.addProvider()
	a.settled()
	return a.cutAndLook(keyholder.CutProvider, p.id, p, a.join(p))
}

func (a *attempt) cutAndLook(kind keyholder.TargetKind, id string, p party, r *raw) string {
	at := time.Now()
	receipt := a.Cut(kind, id)
	if !r.ended(time.Second - time.Since(at)) {
		return "the connection is still there"
	}
	if n, failed := planes(receipt); n != a.counts || failed != "" {
		return fmt.Sprintf("the receipt says: %d ended, %q", n, failed)
	}
	a.settled()
	if _, outcome := a.dial(p, p.id); outcome != refused {
		return "the client comes back"
	}
	return ended
}

// oneOfTwo revokes one of two certificates of a client.
func oneOfTwo(a *attempt) string {
	s := a.subscription()
	second := a.certify(keyholder.ForSubscription, s.id)
	a.Cut(keyholder.CutCertificate, s.serial())
	a.join(second).leave()
	outcome := connected
	// A list of revoked certificates is a second old at most, and then the
	// broker has to fetch it.
	for end := time.Now().Add(5 * time.Second); outcome == connected && time.Now().Before(end); {
		a.settled()
		var r *raw
		if r, outcome = a.dial(s, s.id); r != nil {
			r.leave()
		}
	}
	return outcome
}

func publishAfterCut(a *attempt) string {
	s := a.subscription()
	p := a.join(a.provider)
	defer p.leave()
	if code, err := p.publish(s.topic("events"), "before"); err != nil || code >= 0x80 {
		a.Fatalf("publish: %#x, %v", code, err)
	}
	a.Cut(keyholder.CutSubscription, s.id)
	if code, err := p.publish(s.topic("events"), "after"); err != nil || code >= 0x80 {
		return refused
	}
	return dropped
}

// cutQueue lets a message wait for an absent consumer, cuts, and asks the
// target what it still has.
func cutQueue(a *attempt) string {
	s := a.subscription()
	r := a.join(s, persistent)
	if _, err := r.subscribe(s.topic("#")); err != nil {
		a.Fatal(err)
	}
	r.leave()
	p := a.join(a.provider)
	defer p.leave()
	if code, err := p.publish(s.topic("events"), "waiting"); err != nil || code != 0 {
		a.Fatalf("publish: %#x, %v", code, err)
	}
	receipt := a.Cut(keyholder.CutSubscription, s.id)
	if _, failed := planes(receipt); failed != "" {
		return failed
	}
	return a.left(s.id, receipt)
}
