package conformance

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
)

// mqttIdentity are the probes of M2, M3 and M5.
func mqttIdentity() []probe {
	return []probe{
		positive("M2.right", "consumers and provider connect with their X.509 certificates", probeRightCertificates),
		negative("M2.none", "nobody connects without a certificate", probeNoCertificate),
		negative("M2.self", "nobody connects with a self-signed certificate", probeSelfSigned),
		positive("M3.chain", "the clients' certificates come from the broker manager's CA", probeChain),
		negative("M3.foreign", "a certificate of another CA with the same names is refused", probeForeignCA),
		negative("M3.leaf", "a client's certificate cannot issue another", probeLeafIssuer),
		negative("M3.revoked", "a revoked certificate is refused", probeRevoked),
		positive("M5.own", "a consumer connects with its subscription ID as client ID", probeOwnClientID),
		negative("M5.other", "any other client ID is refused", probeOtherClientIDs),
		negative("M5.victim", "trying another consumer's client ID does not disturb its session", probeVictim),
	}
}

func probeRightCertificates(ctx context.Context, d *deployment, n *notebook) error {
	if _, err := d.needBroker(ctx); err != nil {
		return err
	}
	n.saw("consumer A is accepted")
	p, err := d.admitProvider(ctx, "provider", d.provider)
	if err != nil {
		return err
	}
	p.close()
	n.saw("the provider is accepted")
	return nil
}

// refuseConnect tries a connection that must be refused.
func (d *deployment) refuseConnect(ctx context.Context, n *notebook, what, todo string, certificate *tls.Certificate, clientID string) error {
	a, err := d.connect(ctx, certificate, clientID, nil)
	if err != nil {
		return err
	}
	if a.session != nil {
		a.session.close()
		if a.assigned != "" {
			return wrong(todo, "%s: accepted, with the assigned client ID %q", what, clean(a.assigned))
		}
		return wrong(todo, "%s: accepted", what)
	}
	n.saw("%s: %s", what, a.how)
	return nil
}

func probeNoCertificate(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return control(err)
	}
	return d.refuseConnect(ctx, n, "no certificate", "demand a client certificate in the TLS handshake", nil, a.subscription)
}

func probeSelfSigned(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return control(err)
	}
	forged, err := forgeCertificates(a.mqtt.Leaf, d.now())
	if err != nil {
		return err
	}
	return d.refuseConnect(ctx, n, forged[0].name, "verify the chain of client certificates", forged[0].certificate, a.subscription)
}

func probeChain(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return err
	}
	certificates := map[string]*tls.Certificate{"consumer A": a.mqtt}
	if d.b != nil && d.b.mqtt != nil {
		certificates["consumer B"] = d.b.mqtt
	}
	if d.provider != nil {
		certificates["provider"] = d.provider.mqtt
	}
	for _, name := range []string{"consumer A", "consumer B", "provider"} {
		c := certificates[name]
		if c == nil {
			continue
		}
		chain, err := d.chain(c)
		if err != nil {
			return wrong("issue the certificate from the broker manager's CA, or name that CA as client_ca in the target",
				"the chain of the certificate of %s does not lead to the CA in the target: %v", name, err)
		}
		n.saw("%s: %s", name, chain)
	}
	return nil
}

func probeForeignCA(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return control(err)
	}
	forged, err := forgeCertificates(a.mqtt.Leaf, d.now())
	if err != nil {
		return err
	}
	return d.refuseConnect(ctx, n, forged[1].name, "trust only the broker manager's own CA, by key and not by name", forged[1].certificate, a.subscription)
}

func probeLeafIssuer(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return control(err)
	}
	if d.b == nil || d.b.mqtt == nil {
		return lacks("consumer_b.mqtt, a second consumer's certificate for the broker")
	}
	forged, err := issue(d.b.mqtt.Leaf, d.now(), a.mqtt)
	if err != nil {
		return err
	}
	return d.refuseConnect(ctx, n, "consumer B's names, issued by consumer A's certificate", "issue client certificates that are no CA, and check it in every chain",
		forged, d.b.subscription)
}

func probeRevoked(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return control(err)
	}
	if d.revoked == nil {
		return lacks("revoked_certificate, a revoked MQTT certificate of consumer A")
	}
	return d.refuseConnect(ctx, n, "a revoked certificate", "check revocation in every handshake, resumed ones included", d.revoked, a.subscription)
}

func probeOwnClientID(ctx context.Context, d *deployment, n *notebook) error {
	if _, err := d.needBroker(ctx); err != nil {
		return err
	}
	n.saw("consumer A is accepted with its subscription ID")
	b, err := d.admitB(ctx)
	if err != nil {
		return err
	}
	b.close()
	n.saw("consumer B with its own")
	return nil
}

const todoClientID = "compare the client ID with the subscription ID of the certificate, byte by byte, before any session takeover"

func probeOtherClientIDs(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return control(err)
	}
	others := []struct{ what, id string }{
		{"an empty client ID", ""},
		{"a random UUID", strangerID()},
		{"its ID and a letter", a.subscription + "x"},
		{"a word", "keyholder-check"},
	}
	if upper := strings.ToUpper(a.subscription); upper != a.subscription {
		others = append(others, struct{ what, id string }{"its ID in upper case", upper})
	}
	if d.b != nil {
		others = append(others, struct{ what, id string }{"consumer B's ID", d.b.subscription})
	}
	if d.provider != nil {
		others = append(others, struct{ what, id string }{"the provider's ID", d.provider.id})
	}
	for _, o := range others {
		if err := d.refuseConnect(ctx, n, o.what, todoClientID, a.mqtt, o.id); err != nil {
			return err
		}
	}
	return nil
}

func probeVictim(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return control(err)
	}
	b, err := d.admitB(ctx)
	if err != nil {
		return control(err)
	}
	defer b.close()
	if err := d.listen(ctx, b, d.b); err != nil {
		return control(err)
	}
	thief, err := d.connect(ctx, a.mqtt, d.b.subscription, nil)
	if err != nil {
		return err
	}
	if thief.session != nil {
		defer thief.session.close()
	}
	r, err := b.alive(ctx, d.patience)
	if err != nil {
		return err
	}
	if r.refused() || r.codes == nil {
		return wrong(todoClientID, "consumer B's session ended when consumer A tried B's client ID (%s): %s", thief.how, r.how)
	}
	if thief.session != nil {
		return wrong(todoClientID, "consumer A is accepted with consumer B's client ID")
	}
	n.saw("consumer A with B's client ID: %s; B's session answers", thief.how)
	return nil
}

// probeMQTTForm is W7's: at the broker's door the ID must be canonical too.
func probeMQTTForm(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return control(err)
	}
	forms := misspelt(a.subscription)
	names := make([]string, 0, len(forms))
	for name := range forms {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := d.refuseConnect(ctx, n, fmt.Sprintf("client ID as %s", name), todoClientID, a.mqtt, forms[name]); err != nil {
			return err
		}
	}
	return nil
}
