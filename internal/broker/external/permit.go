package external

import (
	"crypto/tls"

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
