package ledger

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Limits of the audit of refusals, per party: this many at once, and one more
// each interval. Anybody can be refused any number of times, and must not be
// able to fill the disk with it; what is left out is counted in the next row.
const (
	denialBurst    = 60
	denialInterval = 2 * time.Second
	denialParties  = 10_000
)

// Denials writes the refusals of a door to the audit trail, within limits. It
// is safe for concurrent use.
type Denials struct {
	ledger *Ledger
	log    *slog.Logger

	mu      sync.Mutex // guards parties
	parties map[string]*denialCount
}

type denialCount struct {
	left    float64
	at      time.Time
	leftOut int
}

// NewDenials returns the limits of one door; nil log means slog.Default.
func NewDenials(l *Ledger, log *slog.Logger) *Denials {
	if log == nil {
		log = slog.Default()
	}
	return &Denials{ledger: l, log: log, parties: map[string]*denialCount{}}
}

// Record notes a refusal of a party: the ID of who proved to be it, or whose
// name a stranger used; all whom nobody knows share the limit of "". It takes
// detail over.
func (d *Denials) Record(ctx context.Context, kind keyholder.EventKind, actor, party string, detail map[string]string) {
	missed, ok := d.Allow(party)
	if !ok {
		return
	}
	if missed > 0 {
		detail["left_out"] = strconv.Itoa(missed)
	}
	if err := d.ledger.Record(context.WithoutCancel(ctx), kind, actor, party, detail); err != nil {
		d.log.ErrorContext(ctx, "a refusal could not be audited", "error", err)
	}
}

// Allow says whether a party's refusal is to be written, and how many were
// left out before it.
func (d *Denials) Allow(party string) (missed int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.ledger.Now()
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
