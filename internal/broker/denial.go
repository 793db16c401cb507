package broker

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// denials logs refusals and records those of known clients in the audit
// trail. Both are bounded for each client, so that nobody can fill the disk or
// drown the others; what is left out is counted in the next one.
type denials struct {
	b     *Broker
	queue chan denial
	done  chan struct{}

	limit *ledger.Limit

	mu      sync.Mutex // guards stopped and, with it, the sends to queue
	stopped bool
}

// denial is one audit row.
type denial struct {
	actor, subject string
	detail         map[string]string
}

func newDenials(b *Broker) *denials {
	d := &denials{b: b, queue: make(chan denial, 256), done: make(chan struct{}), limit: ledger.NewLimit(b.cfg.DenialsPerMinute, b.cfg.Now)}
	go d.record()
	return d
}

// record writes audit rows beside the connections, which must not wait.
func (d *denials) record() {
	defer close(d.done)
	for r := range d.queue {
		if err := d.b.cfg.Ledger.Record(context.Background(), keyholder.EventDenied, r.actor, r.subject, r.detail); err != nil {
			d.b.cfg.Log.Error("a refusal could not be recorded", "error", err)
		}
	}
}

func (d *denials) stop() {
	d.mu.Lock()
	stopped := d.stopped
	d.stopped = true
	d.mu.Unlock()
	if !stopped {
		close(d.queue)
	}
	<-d.done
}

// deny logs a refusal and puts it on the audit trail. subject is the ID it
// concerns.
func (d *denials) deny(c *connection, what, subject string, v keyholder.Verdict, more ...any) {
	left, ok := d.limit.Take(c.subject)
	if !ok {
		return
	}
	d.b.cfg.Log.Warn("mqtt refused", c.attrs(append(more, "what", what, "requirement", string(v.Requirement), "reason", v.Reason, "left_out", left)...)...)
	detail := map[string]string{"door": "mqtt", "what": what, "requirement": string(v.Requirement), "reason": v.Reason, "certificate": c.serial}
	if left > 0 {
		detail["left_out"] = strconv.Itoa(left)
	}
	d.push(denial{actor: c.subject, subject: subject, detail: detail})
}

// push queues an audit row, or counts it as left out if the disk is too slow.
func (d *denials) push(r denial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return
	}
	select {
	case d.queue <- r:
	default:
		d.limit.LeaveOut(r.actor)
	}
}

// connect reports a refused CONNECT. The client ID comes from a stranger and
// is shown only if it is an ID.
func (d *denials) connect(c *connection, clientID string, v keyholder.Verdict) {
	c.refused = true
	asked := "not an ID"
	if id, err := keyholder.ParseID[string](clientID); err == nil {
		asked = id
	}
	d.deny(c, "connect", c.subject, v, "asked_as", asked)
}

// takeover reports a CONNECT under a client ID that the connection of another
// certificate has. Both certificates are of one client, so one of them may be
// a stolen copy: this is an alarm and not the noise of a public port.
func (d *denials) takeover(c, holder *connection, v keyholder.Verdict) {
	c.refused = true
	d.b.cfg.Log.Error("mqtt alarm: two certificates of one client are in use at the same time", c.attrs("holder_certificate", holder.serial,
		"holder_remote", holder.raw.RemoteAddr().String(), "hint", "if this is no renewal, cut the certificate that is not the client's")...)
	d.deny(c, "takeover", c.subject, v, "holder_certificate", holder.serial)
}

// filter reports a refused filter of a SUBSCRIBE.
func (d *denials) filter(c *connection, v keyholder.Verdict) { d.deny(c, "subscribe", c.subject, v) }

// packet reports a packet that ends the connection.
func (d *denials) packet(c *connection, why string) {
	d.deny(c, "packet", c.subject, keyholder.Verdict{Requirement: keyholder.M7, Reason: why})
}

// publish reports a publish that was not stored: refused, or not possible.
func (d *denials) publish(c *connection, t keyholder.Topic, err error) {
	subject := string(t.Subscription)
	if subject == "" {
		subject = c.subject
	}
	var r *refusal
	switch {
	case errors.As(err, &r):
		d.deny(c, "publish", subject, r.verdict)
	case keyholder.CodeOf(err) == keyholder.Denied, keyholder.CodeOf(err) == keyholder.Invalid:
		d.deny(c, "publish", subject, keyholder.Verdict{Requirement: keyholder.M7, Reason: err.Error()})
	default:
		if left, ok := d.limit.Take(c.subject); ok {
			d.b.cfg.Log.Error("a publish could not be stored", c.attrs("subscription", subject, "error", err, "cause", errors.Unwrap(err), "left_out", left)...)
		}
	}
}

// handshake reports a TLS handshake that failed. Only a certificate that the
// ledger knows is worth an audit row.
func (d *denials) handshake(raw net.Conn, err error) {
	var r *refusal
	if !errors.As(err, &r) || r.subject == "" {
		d.stranger(raw, err.Error())
		return
	}
	left, ok := d.limit.Take(r.subject)
	if !ok {
		return
	}
	d.b.cfg.Log.Warn("mqtt refused", "client", r.subject, "certificate", r.serial, "remote", raw.RemoteAddr().String(), "what", "handshake",
		"requirement", string(r.verdict.Requirement), "reason", r.verdict.Reason, "left_out", left)
	d.push(denial{actor: r.subject, subject: r.subject, detail: map[string]string{"door": "mqtt", "what": "handshake",
		"requirement": string(r.verdict.Requirement), "reason": r.verdict.Reason, "certificate": r.serial}})
}

// stranger reports a connection of somebody unknown, in the log only. All
// strangers together have the bound of one client.
func (d *denials) stranger(raw net.Conn, why string) {
	if left, ok := d.limit.Take(ledger.System); ok {
		d.b.cfg.Log.Info("mqtt refused", "remote", raw.RemoteAddr().String(), "what", "handshake", "reason", why, "left_out", left)
	}
}

// unconnected reports the end of a connection that never was a session and
// has not been reported as refused.
func (d *denials) unconnected(c *connection, why string) {
	if c.refused {
		return
	}
	if left, ok := d.limit.Take(c.subject); ok {
		d.b.cfg.Log.Info("mqtt refused", c.attrs("what", "connect", "reason", why, "left_out", left)...)
	}
}
