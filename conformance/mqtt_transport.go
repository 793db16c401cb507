package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
)

// mqttTransport are the probes of M1.
func mqttTransport() []probe {
	return []probe{
		positive("M1.tls12", "the broker speaks TLS 1.2 and proves its name", func(ctx context.Context, d *deployment, n *notebook) error {
			s, err := d.mqttSurface()
			if err != nil {
				return err
			}
			return d.requireTLS12(ctx, n, s)
		}),
		negative("M1.weak", "the broker refuses TLS 1.0, TLS 1.1 and weak suites", func(ctx context.Context, d *deployment, n *notebook) error {
			s, err := d.mqttSurface()
			if err != nil {
				return err
			}
			return d.refuseOldTLS(ctx, n, s)
		}),
		negative("M1.plain", "the broker does not answer MQTT without TLS", probePlainMQTT),
	}
}

func probePlainMQTT(ctx context.Context, d *deployment, n *notebook) error {
	s, err := d.mqttSurface()
	if err != nil {
		return err
	}
	if err := d.aliveTLS(ctx, s); err != nil {
		return err
	}
	addresses := []string{s.address}
	if host, port, err := net.SplitHostPort(s.address); err == nil && port == "8883" {
		addresses = append(addresses, net.JoinHostPort(host, "1883"))
	}
	for i, address := range addresses {
		answered, err := d.greetPlain(ctx, address)
		if err != nil && i > 0 {
			n.saw("nobody listens at %s", address)
			break
		}
		if err != nil {
			return err
		}
		if answered {
			return wrong("close the listener without TLS", "an MQTT CONNECT without TLS to %s is answered with a CONNACK", address)
		}
		n.saw("CONNECT without TLS to %s: no CONNACK", address)
	}
	return nil
}

// greetPlain says whether an address answers MQTT without TLS.
func (d *deployment) greetPlain(ctx context.Context, address string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	conn, err := dial(ctx, address)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if err := write(conn, newConnect(strangerID())); err != nil {
		return false, nil
	}
	// A CONNACK of either version is an answer.
	_, err = readConnack(bufio.NewReader(conn))
	return err == nil || errors.Is(err, errMQTT3), nil
}

// needBroker returns consumer A, after showing once that its own certificate
// and client ID are accepted.
func (d *deployment) needBroker(ctx context.Context) (*consumer, error) {
	if d.target.MQTT == "" {
		return nil, lacks("mqtt, the broker's address")
	}
	if d.a == nil || d.a.mqtt == nil {
		return nil, lacks("consumer_a.mqtt, a certificate for the broker")
	}
	if d.broker {
		return d.a, nil
	}
	s, err := d.admit(ctx, d.a)
	if err != nil {
		return nil, err
	}
	s.close()
	d.broker = true
	return d.a, nil
}

// admit connects a consumer as itself, which must work.
func (d *deployment) admit(ctx context.Context, c *consumer) (*session, error) {
	a, err := d.connect(ctx, c.mqtt, c.subscription, nil)
	if err != nil {
		return nil, err
	}
	if a.session == nil {
		return nil, wrong("let the certificate of a consumer connect with its subscription ID as client ID",
			"consumer %s with its own certificate and client ID: %s", c.name, a.how)
	}
	return a.session, nil
}

// admitB connects consumer B as itself.
func (d *deployment) admitB(ctx context.Context) (*session, error) {
	if d.b == nil || d.b.mqtt == nil {
		return nil, lacks("consumer_b.mqtt, a second consumer's certificate for the broker")
	}
	return d.admit(ctx, d.b)
}

// admitProvider connects a provider as itself.
func (d *deployment) admitProvider(ctx context.Context, name string, p *publisher) (*session, error) {
	if p == nil {
		return nil, lacks("%s, a publisher's ID and certificate", name)
	}
	a, err := d.connect(ctx, p.mqtt, p.id, nil)
	if err != nil {
		return nil, err
	}
	if a.session == nil {
		return nil, wrong("let the certificate of a provider connect with its own client ID", "%s with its own certificate and client ID: %s", name, a.how)
	}
	return a.session, nil
}

// topic is where test messages of a subscription are published.
func (d *deployment) topic(subscription string) string {
	level := d.target.CheckLevel
	if level == "" {
		level = "check"
	}
	return fmt.Sprintf("fds/v2/%s/%s", subscription, level)
}

// listen subscribes a consumer to everything of its own, which must work.
func (d *deployment) listen(ctx context.Context, s *session, c *consumer) error {
	filter := "fds/v2/" + c.subscription + "/#"
	r, err := s.subscribe(ctx, d.patience, filter)
	if err != nil {
		return err
	}
	if r.refused() {
		return wrong("let a consumer subscribe to everything below its own subscription ID", "consumer %s subscribes to %s: %s", c.name, filter, r.how)
	}
	return nil
}
