package authserver

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Limits of the audit of refusals, per party: this many at once, and one more
// each interval. Anybody can be refused any number of times, and must not be
// able to fill the disk with it; what is left out is counted in the next row.
const (
	denialBurst    = 60
	denialInterval = 2 * time.Second
	denialParties  = 10_000
)

// denials writes refusals to the audit trail, within limits.
type denials struct {
	ledger *ledger.Ledger
	log    *slog.Logger
	now    func() time.Time

	mu      sync.Mutex // guards parties
	parties map[string]*denialCount
}

type denialCount struct {
	left    float64
	at      time.Time
	leftOut int
}

func newDenials(l *ledger.Ledger, log *slog.Logger, now func() time.Time) *denials {
	return &denials{ledger: l, log: log, now: now, parties: map[string]*denialCount{}}
}

// record notes a refusal. The party is the authenticated client, or the one
// the request names if the ledger knows it; all others share one limit.
func (d *denials) record(ctx context.Context, ex *exchange, kind keyholder.EventKind, code, reason string) {
	if ex.fault != nil {
		return // nothing was refused, and the ledger may be what does not answer
	}
	actor, subject := ledger.System, ex.client
	if ex.client != "" {
		actor = ex.client
	} else if id := ex.form.Get("client_id"); d.known(id) {
		subject = id
	}
	missed, ok := d.allow(subject)
	if !ok {
		return
	}
	detail := map[string]string{"endpoint": string(ex.endpoint), "error": code, "reason": reason}
	if ex.grant.ID != "" {
		detail["grant"] = string(ex.grant.ID)
	}
	if missed > 0 {
		detail["left_out"] = strconv.Itoa(missed)
	}
	if err := d.ledger.Record(context.WithoutCancel(ctx), kind, actor, subject, detail); err != nil {
		d.log.ErrorContext(ctx, "a refusal could not be audited", "error", err)
	}
}

func (d *denials) known(id string) bool {
	return d.ledger.App(keyholder.AppID(id)).ID != "" || d.ledger.Provider(keyholder.ProviderID(id)).ID != "" ||
		d.ledger.ResourceServer(keyholder.ResourceServerID(id)).ID != ""
}

// allow says whether a party's refusal is written, and how many were left
// out before it.
func (d *denials) allow(party string) (missed int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	c := d.parties[party]
	if c == nil {
		if len(d.parties) >= denialParties {
			clear(d.parties)
		}
		c = &denialCount{left: denialBurst, at: now}
		d.parties[party] = c
	}
	c.left = min(denialBurst, c.left+float64(now.Sub(c.at))/float64(denialInterval))
	c.at = now
	if c.left < 1 {
		c.leftOut++
		return 0, false
	}
	c.left--
	missed, c.leftOut = c.leftOut, 0
	return missed, true
}
