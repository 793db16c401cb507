package conformance

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// mqttPublish are the probes of M4 and M7.
func mqttPublish() []probe {
	return []probe{
		positive("M4.two", "two owners' connections work side by side, each with its own messages", probeTwoConnections),
		negative("M4.mixed", "one connection does not carry a second owner's messages", probeMixedConnection),
		positive("M7.provider", "the provider publishes, and the message is accepted and delivered", probeProviderPublishes),
		negative("M7.consumer", "a consumer's publish is refused and reaches nobody", probeConsumerPublishes),
		negative("M7.unacknowledged", "a consumer's publish without acknowledgement reaches nobody", probeConsumerQoS0),
		negative("M7.retained", "a consumer's retained message is refused and not kept", probeConsumerRetains),
		negative("M7.will", "a consumer's last will is refused or reaches nobody", probeConsumerWill),
		negative("M7.provider2", "another provider cannot publish into the subscription", probeOtherProvider),
	}
}

// stage is consumer A and B, each subscribed to its own, and the provider.
type stage struct {
	a, b, provider *session
}

func (s *stage) close() {
	s.a.close()
	s.b.close()
	s.provider.close()
}

// set opens a stage; everything in it must work. B is left out if needB is
// false and the target has none.
func (d *deployment) set(ctx context.Context, needB bool) (*stage, error) {
	if _, err := d.needBroker(ctx); err != nil {
		return nil, err
	}
	s := &stage{}
	err := func() error {
		var err error
		if s.provider, err = d.admitProvider(ctx, "provider", d.provider); err != nil {
			return err
		}
		if s.a, err = d.admit(ctx, d.a); err != nil {
			return err
		}
		if err = d.listen(ctx, s.a, d.a); err != nil {
			return err
		}
		if !needB && (d.b == nil || d.b.mqtt == nil) {
			return nil
		}
		if s.b, err = d.admitB(ctx); err != nil {
			return err
		}
		return d.listen(ctx, s.b, d.b)
	}()
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// again connects consumer A of a stage anew.
func (d *deployment) again(ctx context.Context, s *stage) error {
	s.a.close()
	var err error
	if s.a, err = d.admit(ctx, d.a); err != nil {
		return control(err)
	}
	return control(d.listen(ctx, s.a, d.a))
}

// settle waits until what was sent before must have arrived: a message of the
// provider to each consumer has come through, and then a quiet while.
func (d *deployment) settle(ctx context.Context, s *stage) error {
	if err := d.deliver(ctx, s.provider, s.a, d.a); err != nil {
		return control(err)
	}
	if s.b != nil {
		if err := d.deliver(ctx, s.provider, s.b, d.b); err != nil {
			return control(err)
		}
	}
	timer := time.NewTimer(d.quiet)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for stray messages: %w", ctx.Err())
	}
}

// reached says whom of the stage a payload has reached.
func (s *stage) reached(payload string) string {
	var who []string
	if s.a != nil && s.a.has(payload) {
		who = append(who, "consumer A")
	}
	if s.b != nil && s.b.has(payload) {
		who = append(who, "consumer B")
	}
	return strings.Join(who, " and ")
}

// strays returns the messages of a session that are not below the prefix.
func strays(s *session, subscription string) int {
	crossed := 0
	for _, m := range s.messages() {
		if !strings.HasPrefix(m.topic, "fds/v2/"+subscription+"/") {
			crossed++
		}
	}
	return crossed
}

func probeTwoConnections(ctx context.Context, d *deployment, n *notebook) error {
	s, err := d.set(ctx, true)
	if err != nil {
		return err
	}
	defer s.close()
	for range 3 { // in turn, so that each pair of neighbours is mixed
		if err := d.deliver(ctx, s.provider, s.a, d.a); err != nil {
			return err
		}
		if err := d.deliver(ctx, s.provider, s.b, d.b); err != nil {
			return err
		}
	}
	if err := d.settle(ctx, s); err != nil {
		return err
	}
	if crossed := strays(s.a, d.a.subscription) + strays(s.b, d.b.subscription); crossed > 0 {
		return wrong("route by the subscription ID in the topic", "%d messages reached the connection of the wrong owner", crossed)
	}
	n.saw("two connections at once, 3 messages each, 0 crossed")
	return nil
}

func probeMixedConnection(ctx context.Context, d *deployment, n *notebook) error {
	s, err := d.set(ctx, true)
	if err != nil {
		return control(err)
	}
	defer s.close()
	const todo = "let a connection subscribe to its own subscription ID only, however the filters are put together"
	r, err := s.a.subscribe(ctx, d.patience, "fds/v2/"+d.a.subscription+"/#", "fds/v2/"+d.b.subscription+"/#")
	if err != nil {
		return err
	}
	if len(r.codes) == 2 && r.codes[1] < 0x80 {
		return wrong(todo, "one connection subscribes to the topics of both owners: %s", r.how)
	}
	n.saw("filters of both owners in one packet: %s", r.how)
	if r.codes == nil { // the broker ended the connection: nothing can come
		return nil
	}
	payload := canary()
	if _, err := s.provider.publish(ctx, d.patience, d.topic(d.b.subscription), payload, false); err != nil {
		return err
	}
	if err := d.settle(ctx, s); err != nil {
		return err
	}
	if !s.b.has(payload) {
		return fmt.Errorf("the message to consumer B did not reach it, so nothing was shown")
	}
	if s.a.has(payload) || strays(s.a, d.a.subscription) > 0 {
		return wrong(todo, "consumer A's connection receives consumer B's message")
	}
	n.saw("a message to B reaches B alone")
	return nil
}

func probeProviderPublishes(ctx context.Context, d *deployment, n *notebook) error {
	s, err := d.set(ctx, false)
	if err != nil {
		return err
	}
	defer s.close()
	if err := d.deliver(ctx, s.provider, s.a, d.a); err != nil {
		return err
	}
	n.saw("the provider's message is acknowledged and reaches consumer A")
	return nil
}

const todoPublish = "make consumers' connections subscribe only: refuse PUBLISH, retained messages and last wills"

func probeConsumerPublishes(ctx context.Context, d *deployment, n *notebook) error {
	if err := d.refusePublish(ctx, n, "its own topic", d.a); err != nil || d.b == nil {
		return err
	}
	return d.refusePublish(ctx, n, "consumer B's topic", d.b)
}

// refusePublish lets consumer A publish at QoS 1 to a consumer's topic.
func (d *deployment) refusePublish(ctx context.Context, n *notebook, what string, to *consumer) error {
	s, err := d.set(ctx, false)
	if err != nil {
		return control(err)
	}
	defer s.close()
	payload := canary()
	r, err := s.a.publish(ctx, d.patience, d.topic(to.subscription), payload, false)
	if err != nil {
		return err
	}
	if !r.refused() {
		return wrong(todoPublish, "consumer A publishes to %s: %s", what, r.how)
	}
	if r.codes == nil { // closed: look with a new connection
		if err := d.again(ctx, s); err != nil {
			return err
		}
	}
	if err := d.settle(ctx, s); err != nil {
		return err
	}
	if who := s.reached(payload); who != "" {
		return wrong(todoPublish, "consumer A's refused publish to %s (%s) reaches %s", what, r.how, who)
	}
	n.saw("consumer A publishes to %s: %s, reaches nobody", what, r.how)
	return nil
}

func probeConsumerQoS0(ctx context.Context, d *deployment, n *notebook) error {
	s, err := d.set(ctx, false)
	if err != nil {
		return control(err)
	}
	defer s.close()
	to := []string{d.a.subscription}
	if s.b != nil {
		to = append(to, d.b.subscription)
	}
	payload := canary()
	for _, subscription := range to {
		p := &packets.Publish{Topic: d.topic(subscription), Payload: []byte(payload), Properties: &packets.Properties{}}
		if err := write(s.a.conn, p); err != nil {
			break // thrown out after the first
		}
	}
	// The ping is answered after what was sent before it was dealt with.
	alive, err := s.a.alive(ctx, d.patience)
	if err != nil {
		return err
	}
	if alive.codes == nil {
		if err := d.again(ctx, s); err != nil {
			return err
		}
	}
	if err := d.settle(ctx, s); err != nil {
		return err
	}
	if who := s.reached(payload); who != "" {
		return wrong(todoPublish, "consumer A's publish at QoS 0 reaches %s", who)
	}
	n.saw("consumer A's publish at QoS 0 reaches nobody (then: %s)", alive.how)
	return nil
}

func probeConsumerRetains(ctx context.Context, d *deployment, n *notebook) error {
	s, err := d.set(ctx, false)
	if err != nil {
		return control(err)
	}
	defer s.close()
	payload := canary()
	topic := d.topic(d.a.subscription)
	r, err := s.a.publish(ctx, d.patience, topic, payload, true)
	if err != nil {
		return err
	}
	if !r.refused() {
		// Leave nothing behind: an empty retained message deletes it.
		if _, err := s.a.publish(ctx, d.patience, topic, "", true); err != nil {
			return err
		}
		return wrong(todoPublish, "consumer A publishes a retained message: %s", r.how)
	}
	if err := d.again(ctx, s); err != nil {
		return err
	}
	if err := d.settle(ctx, s); err != nil {
		return err
	}
	if who := s.reached(payload); who != "" {
		return wrong(todoPublish, "consumer A's refused retained message (%s) reaches %s", r.how, who)
	}
	n.saw("a retained message: %s, not kept", r.how)
	return nil
}

func probeConsumerWill(ctx context.Context, d *deployment, n *notebook) error {
	s, err := d.set(ctx, true)
	if err != nil {
		return control(err)
	}
	defer s.close()
	s.a.close() // the next connection has its client ID
	payload, accepted := canary(), false
	for _, to := range []*consumer{d.b, d.a} {
		a, err := d.connect(ctx, d.a.mqtt, d.a.subscription, func(c *packets.Connect) {
			c.WillFlag, c.WillQOS, c.WillTopic, c.WillMessage = true, 1, d.topic(to.subscription), []byte(payload)
		})
		if err != nil {
			return err
		}
		if a.session != nil {
			a.session.conn.Close() // without a DISCONNECT: the will is due
			<-a.session.ended
			n.saw("a will to consumer %s's topic: accepted at CONNECT", to.name)
			accepted = true
		} else {
			n.saw("a will to consumer %s's topic: %s", to.name, a.how)
		}
	}
	if err := d.again(ctx, s); err != nil {
		return err
	}
	if err := d.settle(ctx, s); err != nil {
		return err
	}
	if who := s.reached(payload); who != "" {
		return wrong(todoPublish, "consumer A's last will reaches %s", who)
	}
	n.saw("it reaches nobody")
	if accepted {
		n.note("a consumer's last will is taken at CONNECT and dropped later: refusing it at CONNECT tells the consumer so")
	}
	return nil
}

func probeOtherProvider(ctx context.Context, d *deployment, n *notebook) error {
	s, err := d.set(ctx, false)
	if err != nil {
		return control(err)
	}
	defer s.close()
	other, err := d.admitProvider(ctx, "provider2", d.provider2)
	if err != nil {
		return control(err)
	}
	defer other.close()
	const todo = "let a provider publish only into the subscriptions it issued itself"
	payload := canary()
	r, err := other.publish(ctx, d.patience, d.topic(d.a.subscription), payload, false)
	if err != nil {
		return err
	}
	if !r.refused() {
		return wrong(todo, "another provider publishes to consumer A's topic: %s", r.how)
	}
	if err := d.settle(ctx, s); err != nil {
		return err
	}
	if who := s.reached(payload); who != "" {
		return wrong(todo, "another provider's refused publish (%s) reaches %s", r.how, who)
	}
	n.saw("another provider publishes to consumer A's topic: %s, reaches nobody", r.how)
	return nil
}
