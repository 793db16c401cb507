package conformance

import (
	"context"
	"fmt"
	"strings"
)

// mqttTopics are the probes of M6 and M8.
func mqttTopics() []probe {
	return []probe{
		positive("M6.own", "a consumer subscribes below its own subscription ID", probeOwnFilters),
		negative("M6.foreign", "every other filter is refused", probeForeignFilters),
		positive("M8.consumer", "a consumer subscribes and receives what the provider publishes", probeReceives),
		negative("M8.provider", "a provider's subscriptions are refused", probeProviderSubscribes),
	}
}

func probeOwnFilters(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return err
	}
	prefix := "fds/v2/" + a.subscription + "/"
	for _, f := range []string{prefix + "#", prefix + "+", prefix + "statuses"} {
		s, err := d.admit(ctx, a)
		if err != nil {
			return err
		}
		r, err := s.subscribe(ctx, d.patience, f)
		s.close()
		if err != nil {
			return err
		}
		if r.refused() {
			return wrong("grant every filter below fds/v2/<subscription_id>/", "consumer A subscribes to %s: %s", f, r.how)
		}
		n.saw("%s: %s", f, r.how)
	}
	return nil
}

// foreignFilters returns filters that are not below A's own ID. The names
// stand for the parts that would make them too long to read.
func (d *deployment) foreignFilters(a *consumer) []string {
	own := a.subscription
	filters := []string{
		"#", "+/#", "+/+/+/+", "fds/#", "fds/v2/#", "fds/v2/+/#", "fds/+/" + own + "/#", "+/+/" + own + "/#",
		"fds/v2/" + own, "fds/v2/" + own + "x/#", "fds/v2/" + own[:len(own)-1] + "+/#", "fds/v2//" + own + "/#", "/fds/v2/" + own + "/#",
		"fds/v1/" + own + "/#", "FDS/v2/" + own + "/#",
		"$SYS/#", "$SYS/broker/clients/#", "$share/check/#", "$share/check/fds/v2/+/#",
	}
	if upper := strings.ToUpper(own); upper != own {
		filters = append(filters, "fds/v2/"+upper+"/#")
	}
	stranger := strangerID()
	if d.b != nil {
		stranger = d.b.subscription
	}
	return append(filters, "fds/v2/"+stranger+"/#", "fds/v2/"+stranger+"/statuses", "$share/check/fds/v2/"+stranger+"/#")
}

// refuseFilters tries each filter by itself. Some brokers close the connection
// instead of refusing in the SUBACK, so it is opened again where needed.
func (d *deployment) refuseFilters(ctx context.Context, n *notebook, what, todo string, filters []string, open func() (*session, error)) error {
	var s *session
	defer func() { s.close() }()
	closed := 0
	for _, f := range filters {
		if s == nil {
			var err error
			if s, err = open(); err != nil {
				return err
			}
		}
		r, err := s.subscribe(ctx, d.patience, f)
		if err != nil {
			return err
		}
		if !r.refused() {
			return wrong(todo, "%s subscribes to %s: %s", what, clean(f), r.how)
		}
		if r.codes == nil {
			closed++
			s.close()
			s = nil
		}
	}
	n.saw("%s: %d filters refused", what, len(filters))
	if closed > 0 {
		n.note("the broker ends the connection instead of refusing a filter in the SUBACK (%d of %d times)", closed, len(filters))
	}
	return nil
}

func probeForeignFilters(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return control(err)
	}
	err = d.refuseFilters(ctx, n, "consumer A", "grant only filters that begin with fds/v2/<own subscription_id>/, and refuse the others in the SUBACK",
		d.foreignFilters(a), func() (*session, error) { return d.admit(ctx, a) })
	if err != nil {
		return err
	}
	// A share of one's own topics leaks nothing, but FDS gives each
	// subscription one connection, so there is nobody to share with.
	s, err := d.admit(ctx, a)
	if err != nil {
		return err
	}
	defer s.close()
	r, err := s.subscribe(ctx, d.patience, "$share/check/fds/v2/"+a.subscription+"/#")
	if err != nil {
		return err
	}
	if !r.refused() {
		n.note("a shared subscription ($share) to a consumer's own topics is granted: it leaks nothing, and it has no use with one connection for each subscription")
	}
	return nil
}

func probeReceives(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return err
	}
	p, err := d.admitProvider(ctx, "provider", d.provider)
	if err != nil {
		return err
	}
	defer p.close()
	s, err := d.admit(ctx, a)
	if err != nil {
		return err
	}
	defer s.close()
	if err := d.listen(ctx, s, a); err != nil {
		return err
	}
	n.saw("consumer A's subscription is granted")
	if err := d.deliver(ctx, p, s, a); err != nil {
		return err
	}
	n.saw("and delivers")
	return nil
}

// deliver publishes a message that must be accepted and must arrive.
func (d *deployment) deliver(ctx context.Context, p, s *session, c *consumer) error {
	payload := canary()
	r, err := p.publish(ctx, d.patience, d.topic(c.subscription), payload, false)
	if err != nil {
		return err
	}
	if r.refused() {
		return wrong("let the provider publish into the subscriptions it issued", "the provider publishes to consumer %s's topic: %s", c.name, r.how)
	}
	if !s.wait(ctx, d.patience, payload) {
		if ctx.Err() != nil {
			return fmt.Errorf("wait for a message: %w", ctx.Err())
		}
		return wrong("deliver accepted messages to the subscriber", "a message that the broker accepted (%s) did not reach consumer %s within %s", r.how, c.name, d.patience)
	}
	return nil
}

func probeProviderSubscribes(ctx context.Context, d *deployment, n *notebook) error {
	a, err := d.needBroker(ctx)
	if err != nil {
		return control(err)
	}
	p, err := d.admitProvider(ctx, "provider", d.provider)
	if err != nil {
		return control(err)
	}
	p.close()
	filters := []string{
		"fds/v2/" + a.subscription + "/#", d.topic(a.subscription), "fds/v2/" + d.provider.id + "/#", "fds/v2/+/#", "#", "$SYS/#",
		"$share/check/fds/v2/" + a.subscription + "/#",
	}
	return d.refuseFilters(ctx, n, "the provider", "make the provider's connection publish only", filters, func() (*session, error) {
		return d.admitProvider(ctx, "provider", d.provider)
	})
}
