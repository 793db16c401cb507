package external

import (
	"context"
	"strconv"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// denials logs refusals and puts those of known clients on the audit trail,
// within a bound for each client; what is left out is counted in the next one.
type denials struct {
	door  *Door
	queue chan denial
	limit *ledger.Limit
}

// denial is one audit row.
type denial struct {
	actor  string
	detail map[string]string
}

// denialsPerMinute bounds the refusals recorded for each client.
const denialsPerMinute = 20

// deny notes a refusal. The answer to the broker does not wait for it, so that
// its time says nothing.
func (d *denials) deny(b *Broker, what string, c claim, v keyholder.Verdict) {
	actor := c.subject
	if len(d.door.ledger.PeersOf(c.subject)) == 0 {
		actor = ledger.System // all strangers share one bound, and are not on the trail
	}
	left, ok := d.limit.Take(actor)
	if !ok {
		return
	}
	d.door.log.Warn("external broker: refused", "broker", b.name, "client", actor, "what", what, "requirement", string(v.Requirement), "reason", v.Reason, "left_out", left)
	if actor == ledger.System {
		return
	}
	detail := map[string]string{"door": "mqtt", "broker": b.name, "what": what, "requirement": string(v.Requirement), "reason": v.Reason}
	if left > 0 {
		detail["left_out"] = strconv.Itoa(left)
	}
	select {
	case d.queue <- denial{actor, detail}:
	default: // the disk is too slow: it is in the log
	}
}

// record writes audit rows until ctx ends.
func (d *denials) record(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-d.queue:
			if err := d.door.ledger.Record(context.WithoutCancel(ctx), keyholder.EventDenied, r.actor, r.actor, r.detail); err != nil {
				d.door.log.Error("a refusal could not be recorded", "error", err)
			}
		}
	}
}
