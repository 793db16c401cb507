package external

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// denials logs refusals and puts those of known clients on the audit trail,
// within a bound for each client; what is left out is counted in the next one.
type denials struct {
	door  *Door
	queue chan denial

	mu      sync.Mutex // guards buckets
	buckets map[string]*bucket
}

// denial is one audit row.
type denial struct {
	actor  string
	detail map[string]string
}

// bucket counts what a client was refused in a minute.
type bucket struct {
	since       time.Time
	taken, left int
}

// Bounds: refusals recorded for each client in a minute, and clients counted.
const (
	denialsPerMinute = 20
	maxBuckets       = 10_000
)

// deny notes a refusal. The answer to the broker does not wait for it, so that
// its time says nothing.
func (d *denials) deny(b *Broker, what string, c claim, v keyholder.Verdict) {
	actor := c.subject
	if len(d.door.ledger.PeersOf(c.subject)) == 0 {
		actor = ledger.System // all strangers share one bound, and are not on the trail
	}
	left, ok := d.admit(actor)
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

func (d *denials) admit(client string) (left int, ok bool) {
	now := d.door.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.buckets[client]
	if k == nil {
		if len(d.buckets) >= maxBuckets {
			clear(d.buckets)
		}
		k = &bucket{since: now}
		d.buckets[client] = k
	}
	if now.Sub(k.since) > time.Minute {
		k.since, k.taken = now, 0
	}
	if k.taken >= denialsPerMinute {
		k.left++
		return 0, false
	}
	k.taken++
	left, k.left = k.left, 0
	return left, true
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
