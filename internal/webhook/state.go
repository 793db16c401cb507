package webhook

import (
	"context"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// State is how the deliveries to one webhook go. It holds no address and no
// word of the receiver's.
type State struct {
	Webhook      keyholder.WebhookID      `json:"webhook"`
	Subscription keyholder.SubscriptionID `json:"subscription"`
	Delivered    int64                    `json:"delivered"`             // since this process started
	LastSuccess  time.Time                `json:"last_success,omitzero"` // zero: none since this process started
	Failing      string                   `json:"failing,omitempty"`     // why the last attempt failed; empty: it did not
	Attempts     int                      `json:"attempts"`              // failed in a row for the item whose turn it is
	NextAttempt  time.Time                `json:"next_attempt,omitzero"` // while failing
	Backlog      int64                    `json:"backlog"`               // messages queued for the subscription
}

// States returns the state of every webhook that is served, in no order.
func (d *Webhook) States(ctx context.Context) ([]State, error) {
	depths, err := d.cfg.Mailbox.Depths(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]State, 0, len(d.workers))
	for id, w := range d.workers {
		if w.stop.Err() != nil {
			continue // it has ended
		}
		s := w.state.get()
		s.Webhook, s.Subscription, s.Backlog = id, w.hook.Subscription, depths[w.hook.Subscription].Messages
		out = append(out, s)
	}
	return out, nil
}

// state is a State that one worker writes.
type state struct {
	mu sync.Mutex
	s  State
}

func (s *state) get() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s
}

func (s *state) delivered(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Delivered++
	s.s.LastSuccess, s.s.Failing, s.s.Attempts, s.s.NextAttempt = at, "", 0, time.Time{}
}

func (s *state) failed(why string, attempts int, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Failing, s.s.Attempts, s.s.NextAttempt = why, attempts, next
}

// passed says that the item whose turn it was is not delivered and gone.
func (s *state) passed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Failing, s.s.Attempts, s.s.NextAttempt = "", 0, time.Time{}
}
