package webhook

import (
	"context"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
)

// worker delivers to one webhook. Its fields are used by its own goroutine
// only, except state, cancel, stop and done.
type worker struct {
	cfg    Config
	hook   ledger.Webhook
	state  state
	sender *sender
	cancel context.CancelFunc
	stop   context.Context // ends when cancel is called
	done   chan struct{}   // closed when the goroutine has ended
}

func newWorker(c Config, h ledger.Webhook) *worker {
	w := &worker{cfg: c, hook: h, sender: newSender(c, h), done: make(chan struct{})}
	w.stop, w.cancel = context.WithCancel(context.Background())
	return w
}

// stopped says whether the worker's goroutine has ended.
func (w *worker) stopped() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// run takes the messages of the subscription in order and delivers each until
// the receiver has it.
func (w *worker) run(ctx context.Context) {
	defer close(w.done)
	defer w.cancel()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.stop, cancel)()
	queue := w.cfg.Mailbox.Consumer(w.hook.Subscription, mailbox.Webhook)
	defer queue.Close()
	defer w.sender.close()
	for failed := 0; ctx.Err() == nil; {
		m, err := queue.Next(ctx)
		if err != nil {
			// No right now: it may come back with a renewed consent. Or the
			// store can not be read.
			failed++
			if !w.pause(ctx, failed, classOf(err), 0) {
				return
			}
			continue
		}
		failed = 0
		if !w.deliver(ctx, m) {
			return
		}
		if err := queue.Ack(ctx, m.Seq); err != nil {
			w.cfg.Log.Warn("webhook: acknowledge", "webhook", string(w.hook.ID), "error", err.Error())
		}
	}
}

// permit asks for the right to send a message now.
func (w *worker) permit(m mailbox.Message) error {
	return keyholder.PermitDeliver(w.cfg.Ledger.Standing(w.hook.Subscription), m.Level, w.cfg.Now()).Err()
}

// deliver tries until the receiver has the message, and says whether the
// message is done with.
func (w *worker) deliver(ctx context.Context, m mailbox.Message) bool {
	for failed := 0; ctx.Err() == nil; {
		err := w.permit(m)
		if err != nil && w.cfg.Ledger.Standing(w.hook.Subscription).Holds(w.cfg.Now()).Allowed {
			// The consent was narrowed: this item may never leave, those
			// after it may.
			w.state.passed()
			return true
		}
		if err == nil {
			err = w.sender.send(ctx, m, w.permit)
		}
		if err == nil {
			if failed > 0 {
				w.cfg.Log.Info("webhook: delivered again", "webhook", string(w.hook.ID), "failed", failed)
			}
			w.state.delivered(w.cfg.Now())
			return true
		}
		failed++
		if !w.pause(ctx, failed, classOf(err), retryAfter(err)) {
			return false
		}
	}
	return false
}

// pause waits before the next attempt, at least as long as the receiver asked
// for within bounds, and says whether to go on.
func (w *worker) pause(ctx context.Context, failed int, why string, atLeast time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	wait := max(w.cfg.Backoff(failed), min(atLeast, lastBackoff))
	if before := w.state.get(); before.Failing != why {
		w.cfg.Log.Warn("webhook: not delivered", "webhook", string(w.hook.ID), "subscription", string(w.hook.Subscription), "reason", why)
	}
	w.state.failed(why, failed, w.cfg.Now().Add(wait))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
