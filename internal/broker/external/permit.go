package external

import (
	"crypto/tls"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// claim is who a broker says is asking: the name in the certificate that it
// verified, and the client ID.
type claim struct {
	subject  string
	clientID string
}

// peer returns what the ledger knows of a client: by its certificate in force,
// or by any if none is. The broker has verified the certificate and checked
// the revocation list, but does not say which one it was.
func (d *Door) peer(subject string) ledger.Peer {
	var any ledger.Peer
	for _, p := range d.ledger.PeersOf(subject) {
		if p.Permit(d.now()).Allowed {
			return p
		}
		any = p
	}
	return any
}

// connect decides whether a client may be connected. The configuration that
// we generate leaves only TLS 1.2, and a broker tells neither the version nor
// who holds the client ID.
func (d *Door) connect(c claim) (ledger.Peer, keyholder.Verdict) {
	p := d.peer(c.subject)
	return p, keyholder.PermitConnect(keyholder.Connection{TLSVersion: tls.VersionTLS12, Certificate: p.Certificate, Standing: p.Standing,
		Provider: p.Provider, ClientID: c.clientID}, d.now())
}

// publish decides whether a client may publish to a topic.
func (d *Door) publish(c claim, topic string) keyholder.Verdict {
	p, v := d.connect(c)
	if !v.Allowed {
		return v
	}
	t, err := keyholder.ParseTopic(topic)
	if err != nil {
		return keyholder.Verdict{Requirement: keyholder.M7, Reason: err.Error()}
	}
	return keyholder.PermitPublish(p.Certificate, t, d.ledger.Standing(t.Subscription), d.now())
}

// subscribe decides whether a client may subscribe to a filter.
func (d *Door) subscribe(c claim, filter string) keyholder.Verdict {
	p, v := d.connect(c)
	if !v.Allowed {
		return v
	}
	f, err := keyholder.ParseFilter(filter)
	if err != nil {
		return keyholder.Verdict{Requirement: keyholder.M6, Reason: err.Error()}
	}
	return keyholder.PermitSubscribe(p.Certificate, f, d.ledger.Standing(f.Subscription), d.now())
}

// rights are what a client may do, as data for brokers that do not ask for each
// filter and publish.
type rights struct {
	reads, writes []keyholder.Filter
}

// everyLevel is every topic below an ID, and not the bare ID.
const everyLevel = "+/#"

// rights asks the Permit functions for all that the holder of a certificate may
// do: a consumer reads below its own ID, a provider writes into those of subs
// that it issued, by kind where the consent has a scope.
func (d *Door) rights(c keyholder.Certificate, subs []keyholder.Subscription, now time.Time) rights {
	var r rights
	if c.Use == keyholder.ForSubscription {
		own := keyholder.Filter{Subscription: keyholder.SubscriptionID(c.Subject), Pattern: everyLevel}
		if keyholder.PermitSubscribe(c, own, d.ledger.Standing(own.Subscription), now).Allowed {
			r.reads = append(r.reads, own)
		}
	}
	for _, sub := range subs {
		if string(sub.Provider) != c.Subject {
			continue
		}
		standing := d.ledger.Standing(sub.ID)
		permits := func(level string) bool {
			return keyholder.PermitPublish(c, keyholder.Topic{Subscription: sub.ID, Level: level}, standing, now).Allowed
		}
		if permits("any") { // a level that names no kind is within a consent to everything only
			r.writes = append(r.writes, keyholder.Filter{Subscription: sub.ID, Pattern: everyLevel})
			continue
		}
		for _, k := range keyholder.Kinds() {
			if permits(string(k)) {
				r.writes = append(r.writes, keyholder.Filter{Subscription: sub.ID, Pattern: string(k) + "/#"})
			}
		}
	}
	return r
}
