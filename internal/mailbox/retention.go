package mailbox

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// retainEvery is how often messages that are too old are looked for.
const retainEvery = time.Hour

// retention drops what is older than the mailbox keeps.
type retention struct {
	m      *Mailbox
	cancel context.CancelFunc
	done   chan struct{}
}

func (r *retention) start(m *Mailbox) {
	ctx, cancel := context.WithCancel(context.Background())
	r.m, r.cancel, r.done = m, cancel, make(chan struct{})
	go r.run(ctx)
}

func (r *retention) stop() {
	r.cancel()
	<-r.done
}

func (r *retention) run(ctx context.Context) {
	defer close(r.done)
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		if _, err := r.m.Expire(ctx); err != nil && ctx.Err() == nil {
			r.m.cfg.Log.Error("messages that are too old could not be dropped; it is tried again in an hour", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Expire drops the messages that are older than the mailbox keeps, whoever
// still waits for them, and returns their number. Every queue that lost some
// has a row on the audit trail and a line in the log. It runs by itself once
// an hour.
func (m *Mailbox) Expire(ctx context.Context) (int64, error) {
	before := m.ledger.Now().Add(-m.cfg.MaxAge).UnixMicro()
	queues, err := m.older(ctx, before)
	if err != nil {
		return 0, err
	}
	var all int64
	for _, sub := range queues {
		n, err := m.expire(ctx, sub, before)
		all += n
		if err != nil {
			return all, err
		}
		m.cfg.Log.Warn("messages nobody took were dropped because of their age", "subscription", sub, "messages", n, "older_than", m.cfg.MaxAge)
	}
	return all, nil
}

// older lists the queues whose first message is older than a moment, in Unix
// microseconds.
func (m *Mailbox) older(ctx context.Context, before int64) ([]keyholder.SubscriptionID, error) {
	rows, err := m.store.Read().QueryContext(ctx, `SELECT b.subscription FROM mailboxes b WHERE b.messages > 0 AND ? >
		(SELECT at FROM messages q WHERE q.subscription = b.subscription ORDER BY seq LIMIT 1)`, before)
	if err != nil {
		return nil, fmt.Errorf("look for old messages: %w", err)
	}
	defer rows.Close()
	var queues []keyholder.SubscriptionID
	for rows.Next() {
		var sub keyholder.SubscriptionID
		if err := rows.Scan(&sub); err != nil {
			return nil, fmt.Errorf("look for old messages: %w", err)
		}
		queues = append(queues, sub)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look for old messages: %w", err)
	}
	return queues, nil
}

// expire drops the old messages of one queue, a bounded number in each change,
// so that publishes waiting for the writer are not held up.
func (m *Mailbox) expire(ctx context.Context, sub keyholder.SubscriptionID, before int64) (int64, error) {
	var all int64
	for {
		var n int64 // of this change
		err := m.store.Write(ctx, func(tx *store.Tx) error {
			var last int64
			if err := tx.QueryRow(`SELECT coalesce(max(seq), 0) FROM
				(SELECT seq FROM messages WHERE subscription = ? AND at < ? ORDER BY seq LIMIT ?) AS old`, sub, before, trimMost).Scan(&last); err != nil {
				return err
			}
			if last == 0 {
				return nil
			}
			var err error
			if n, err = drop(tx, sub, last); err != nil {
				return err
			}
			return m.ledger.Append(tx, keyholder.EventMessagesExpired, ledger.System, string(sub), map[string]string{"messages": strconv.FormatInt(n, 10)})
		})
		if err != nil {
			return all, fmt.Errorf("drop old messages: %w", err)
		}
		if n == 0 {
			return all, nil
		}
		all += n
	}
}

// drop removes the messages of a queue up to a number, counts them out and
// returns how many they were.
func drop(tx *store.Tx, sub keyholder.SubscriptionID, through int64) (int64, error) {
	var d Depth
	if err := tx.QueryRow("SELECT count(*), coalesce(sum(octet_length(level) + octet_length(payload) + coalesce(octet_length(properties), 0)), 0) FROM messages WHERE subscription = ? AND seq <= ?",
		sub, through).Scan(&d.Messages, &d.Bytes); err != nil {
		return 0, fmt.Errorf("count messages: %w", err)
	}
	if _, err := tx.Exec("DELETE FROM messages WHERE subscription = ? AND seq <= ?", sub, through); err != nil {
		return 0, fmt.Errorf("delete messages: %w", err)
	}
	if _, err := tx.Exec("UPDATE mailboxes SET messages = messages - ?, bytes = bytes - ? WHERE subscription = ?", d.Messages, d.Bytes, sub); err != nil {
		return 0, fmt.Errorf("count messages out: %w", err)
	}
	return d.Messages, nil
}
