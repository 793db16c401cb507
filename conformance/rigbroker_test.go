package conformance_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	keyholder "github.com/fds-keyholder/keyholder"
)

// demandCertificates sets what the broker's listener does with client
// certificates.
func (r *rig) demandCertificates(c *tls.Config) {
	c.ClientAuth = tls.RequireAndVerifyClientCert
	switch {
	case r.has("broker: no certificate needed"):
		c.ClientAuth = tls.VerifyClientCertIfGiven
	case r.has("broker: any certificate"):
		c.ClientAuth = tls.RequireAnyClientCert
	case r.has("broker: trusts the CA's name"):
		c.ClientAuth = tls.RequireAnyClientCert
		c.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
			leaf, err := x509.ParseCertificate(raw[0])
			if err != nil {
				return err
			}
			if string(leaf.RawIssuer) != string(r.ca.certificate.RawSubject) {
				return errors.New("another issuer")
			}
			return nil
		}
	case r.has("broker: any chain end"):
		c.ClientAuth = tls.RequireAnyClientCert
		c.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
			last, err := x509.ParseCertificate(raw[len(raw)-1])
			if err != nil {
				return err
			}
			return last.CheckSignatureFrom(r.ca.certificate)
		}
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if leaf := peer(&cs); leaf != nil && string(leaf.Raw) == r.revokedKey && !r.has("broker: no revocation check") {
			return errors.New("revoked")
		}
		return nil
	}
}

// broker starts the MQTT broker and returns its address.
func (r *rig) broker() string {
	r.t.Helper()
	s := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	l := r.listen("broker")
	if err := s.AddHook(&gate{r: r, s: s}, nil); err != nil {
		r.t.Fatal(err)
	}
	if err := s.AddListener(listeners.NewNet("broker", l)); err != nil {
		r.t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		r.t.Fatal(err)
	}
	// Not by Close: it can wait for ever on a client that leaves meanwhile (it
	// takes a read lock within a read lock).
	r.t.Cleanup(func() {
		s.Listeners.CloseAll(func(string) {
			for _, c := range s.Clients.GetAll() {
				c.Stop(packets.ErrServerShuttingDown)
			}
		})
	})
	return l.Addr().String()
}

// gate is the one hook of the rig's broker.
type gate struct {
	mqtt.HookBase
	r *rig
	s *mqtt.Server
}

func (g *gate) ID() string { return "gate" }

func (g *gate) Provides(b byte) bool {
	return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck || b == mqtt.OnPublish || b == mqtt.OnConnect
}

// subject is the name in the certificate of a client.
func (g *gate) subject(cl *mqtt.Client) string {
	switch c := cl.Net.Conn.(type) {
	case *tls.Conn:
		state := c.ConnectionState()
		if leaf := peer(&state); leaf != nil {
			return leaf.Subject.CommonName
		}
	case *sniffed:
		if t, ok := c.inner.(*tls.Conn); ok {
			state := t.ConnectionState()
			if leaf := peer(&state); leaf != nil {
				return leaf.Subject.CommonName
			}
		}
	}
	return ""
}

func (g *gate) isConsumer(s string) bool { return s == g.r.subA || s == g.r.subB }
func (g *gate) isProvider(s string) bool { return s == g.r.provider || s == g.r.provider2 }

// OnConnect is where the takeover fault disturbs the victim before the
// identity is checked.
func (g *gate) OnConnect(cl *mqtt.Client, _ packets.Packet) error {
	if old, ok := g.s.Clients.Get(cl.ID); ok && g.r.has("broker: takeover before identity") {
		g.s.DisconnectClient(old, packets.ErrSessionTakenOver)
	}
	return nil
}

func (g *gate) OnConnectAuthenticate(cl *mqtt.Client, p packets.Packet) bool {
	subject := g.subject(cl)
	if subject == "" && (g.r.has("broker: no certificate needed") || g.r.has("broker: plain text")) {
		subject = cl.ID
	}
	switch {
	case g.r.has("broker: refuses everybody"), g.r.has("broker: refuses B") && subject == g.r.subB:
		return false
	case g.r.has("broker: refuses providers") && g.isProvider(subject):
		return false
	case p.Connect.WillFlag && !g.r.has("broker: wills"):
		return false
	case g.r.has("broker: any client ID"):
		return true
	case g.r.has("broker: ignores case of client IDs"):
		return strings.EqualFold(cl.ID, subject)
	case g.r.has("broker: plain text") && cl.ID == subject:
		return true
	}
	return cl.ID == subject && (g.isConsumer(subject) || g.isProvider(subject))
}

func (g *gate) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	subject := g.subject(cl)
	if write {
		t, err := keyholder.ParseTopic(topic)
		known := err == nil && g.isConsumer(string(t.Subscription)) || g.r.has("ids of version 1")
		switch {
		case g.r.has("broker: nobody publishes"):
			return false
		case g.isConsumer(subject):
			return g.r.has("broker: consumers publish") || g.r.has("broker: wills") && cl.Properties.Will.Flag != 0
		case subject == g.r.provider2:
			return g.r.has("broker: any provider")
		}
		return known
	}
	switch {
	case g.r.has("broker: nobody subscribes"):
		return false
	case g.r.has("broker: every filter"):
		return true
	case g.isProvider(subject):
		return g.r.has("broker: providers subscribe")
	case g.r.has("broker: filter contains the ID"):
		return strings.Contains(topic, subject)
	case g.r.has("broker: bare parent") && topic == "fds/v2/"+subject:
		return true
	case g.r.has("broker: no wildcards") && strings.ContainsAny(topic, "+#"):
		return false
	}
	return strings.HasPrefix(topic, "fds/v2/"+subject+"/")
}

// OnPublish holds the faults of delivery.
func (g *gate) OnPublish(cl *mqtt.Client, p packets.Packet) (packets.Packet, error) {
	if g.r.has("broker: loses messages") {
		return p, packets.CodeSuccessIgnore
	}
	if g.r.has("broker: crosses messages") && strings.Contains(p.TopicName, g.r.subB) && g.isProvider(g.subject(cl)) {
		if a, ok := g.s.Clients.Get(g.r.subA); ok {
			crossed := p.Copy(false)
			crossed.FixedHeader.Qos = 0
			a.WritePacket(crossed)
		}
	}
	return p, nil
}
