// Package webhook is the door of pushes over HTTPS: it takes the items out of
// the mailbox of each subscription that has a webhook and posts them, one a
// request and in order, to the address the app gave (FDS 2.6.4.1).
//
// The app's side is under the same rules as a provider's Web API, so each
// request carries an access token of the receiver's authorization server that
// includes the subscription ID. What proves us there is a file, see [Dir].
//
// One worker serves one webhook; a target that is down or slow holds up no
// other. A delivery that fails is tried again until it succeeds or the right
// to it ends, so delivery is at least once: the header Keyholder-Message lets
// the receiver tell a repetition.
package webhook

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
)

// Config holds what the door is made of. Ledger, Mailbox and Dir are
// required.
type Config struct {
	Ledger  *ledger.Ledger
	Mailbox *mailbox.Mailbox
	// Dir is the data folder; see [Dir] for what is read there.
	Dir string
	// Seal has sealed the files that are secret; nil: they are plain.
	Seal *keyfile.Seal
	// RootCAs are the authorities that receivers are trusted by; nil means
	// those of the system. A webhook's ca.pem is added to them.
	RootCAs *x509.CertPool
	// AllowPrivate lets targets be on loopback, private and link-local
	// addresses. Without it they are refused when they are dialled.
	AllowPrivate bool
	TLS          keyholder.TLSProfile // empty: strict
	// Backoff says how long to wait after the given number of failed attempts
	// in a row, from 1. nil: from 1 s doubling to 5 min, with jitter.
	Backoff func(failed int) time.Duration
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: slog.Default
}

// Timeouts of one request.
const (
	connectWithin = 10 * time.Second
	answerWithin  = 30 * time.Second
	firstBackoff  = time.Second
	lastBackoff   = 5 * time.Minute
)

// lookAgain is how often the set of workers is compared with the ledger
// without an event, as a second lock.
const lookAgain = time.Minute

// Dir returns the folder of a webhook's files below the data folder: "secret"
// with our client secret, or "cert.pem" and "key.pem" with a client
// certificate, and optionally "ca.pem" with further authorities to trust. The
// files secret and key.pem must be readable by their owner only, and are sealed
// where Config has a seal.
func Dir(data string, id keyholder.WebhookID) string {
	return filepath.Join(data, "webhooks", string(id))
}

// Webhook is the door. Its methods are safe for concurrent use.
type Webhook struct {
	cfg  Config
	poke chan struct{} // holds a token when the ledger may know other webhooks

	mu      sync.Mutex // guards workers
	workers map[keyholder.WebhookID]*worker
}

// New returns the door. It follows the ledger from now on, and works while
// [Webhook.Run] runs.
func New(c Config) (*Webhook, error) {
	if c.Ledger == nil || c.Mailbox == nil || c.Dir == "" {
		return nil, errors.New("open the webhook door: a ledger, a mailbox and a data folder are needed")
	}
	if c.TLS == "" {
		c.TLS = keyholder.TLSStrict
	}
	if c.Backoff == nil {
		c.Backoff = backoff
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	d := &Webhook{cfg: c, poke: make(chan struct{}, 1), workers: map[keyholder.WebhookID]*worker{}}
	c.Ledger.Follow(func(e keyholder.Event) {
		if e.Kind == keyholder.EventWebhookAdded || e.Kind == keyholder.EventCut {
			select {
			case d.poke <- struct{}{}:
			default:
			}
		}
	})
	return d, nil
}

// Run delivers until ctx ends, and returns when all workers have stopped. It
// must not run twice at once.
func (d *Webhook) Run(ctx context.Context) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		d.reconcile(ctx)
		select {
		case <-d.poke:
		case <-tick.C:
		case <-ctx.Done():
			_, err := d.stop(context.Background(), func(*worker) bool { return true })
			return err
		}
	}
}

// reconcile starts a worker for each webhook in the ledger that has none,
// cancels those whose webhook has ended, and forgets those that have stopped.
func (d *Webhook) reconcile(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	live := map[keyholder.WebhookID]bool{}
	for _, h := range d.cfg.Ledger.ListWebhooks() {
		if !h.Ended.IsZero() || ctx.Err() != nil {
			continue
		}
		live[h.ID] = true
		if d.workers[h.ID] == nil {
			w := newWorker(d.cfg, h)
			d.workers[h.ID] = w
			go w.run(ctx)
		}
	}
	for id, w := range d.workers {
		switch {
		case live[id]:
		case w.stopped():
			delete(d.workers, id)
		default:
			w.cancel() // its plane, or the next look, forgets it
		}
	}
}

// stop cancels the workers that match, waits until they have stopped and
// returns their number.
func (d *Webhook) stop(ctx context.Context, match func(*worker) bool) (int, error) {
	d.mu.Lock()
	var all []*worker
	for _, w := range d.workers {
		if match(w) {
			w.cancel()
			all = append(all, w)
		}
	}
	d.mu.Unlock()
	for i, w := range all {
		select {
		case <-w.done:
		case <-ctx.Done():
			return i, fmt.Errorf("stop the webhook workers: %w", ctx.Err())
		}
		d.mu.Lock()
		delete(d.workers, w.hook.ID)
		d.mu.Unlock()
	}
	return len(all), nil
}

// End is the door's plane of a cut: it stops the workers of the ended
// webhooks, breaks off their requests and returns when they have stopped,
// with their number.
func (d *Webhook) End(ctx context.Context, c keyholder.Cut) (int, error) {
	ended := map[keyholder.WebhookID]bool{}
	for _, id := range c.Ended.Webhooks {
		ended[id] = true
	}
	subs := map[keyholder.SubscriptionID]bool{}
	for _, id := range c.Ended.Subscriptions {
		subs[id] = true
	}
	// The ledger's view knows of the cut already, and reconcile holds the lock
	// from looking there to starting, so no worker of an ended webhook can
	// start after this.
	return d.stop(ctx, func(w *worker) bool { return ended[w.hook.ID] || subs[w.hook.Subscription] })
}

// backoff doubles from 1 s to 5 min; jitter of up to a half keeps the workers
// of one receiver that was down from coming back all at once.
func backoff(failed int) time.Duration {
	d := lastBackoff
	if failed < 10 {
		d = min(lastBackoff, firstBackoff<<(max(failed, 1)-1))
	}
	return d/2 + rand.N(d/2+1)
}
