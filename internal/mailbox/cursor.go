package mailbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// acksPerWrite bounds how many cursors one change moves, so that publishes
// waiting for the writer are not held up by many consumers' progress.
const acksPerWrite = 32

// trimMost bounds how many messages of one queue one change deletes.
const trimMost = 2048

// acks gathers how far consumers have come and writes it now and then.
type acks struct {
	m    *Mailbox
	kick chan struct{} // holds a token when something waits
	quit chan struct{}
	done chan struct{}

	mu      sync.Mutex
	waiting map[cursor]int64 // not yet written
	writing map[cursor]int64 // being written
}

// cursor names the consumer of a queue.
type cursor struct {
	sub  keyholder.SubscriptionID
	name string
}

func (a *acks) start(m *Mailbox) {
	a.m = m
	a.kick, a.quit, a.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	a.waiting, a.writing = map[cursor]int64{}, map[cursor]int64{}
	go a.run()
}

// stop writes what waits and ends the goroutine.
func (a *acks) stop() error {
	close(a.quit)
	<-a.done
	return a.write()
}

// add notes that everything up to seq is acknowledged.
func (a *acks) add(sub keyholder.SubscriptionID, name string, seq int64) {
	a.mu.Lock()
	k := cursor{sub, name}
	a.waiting[k] = max(a.waiting[k], seq)
	a.mu.Unlock()
	a.again()
}

// pending returns the furthest acknowledgement not known to be written, or 0.
func (a *acks) pending(sub keyholder.SubscriptionID, name string) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := cursor{sub, name}
	return max(a.waiting[k], a.writing[k])
}

func (a *acks) run() {
	defer close(a.done)
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case <-a.kick:
		case <-a.quit:
			return
		}
		pause := a.m.cfg.AckEvery
		if err := a.write(); err != nil {
			a.m.cfg.Log.Error("acknowledgements of messages could not be written; they are kept and tried again", "error", err)
			a.again()
			pause = time.Second
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-a.quit:
			return
		}
	}
}

// again makes the goroutine look once more.
func (a *acks) again() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// write moves all waiting cursors. What fails waits again.
func (a *acks) write() error {
	for {
		part := a.takePart()
		if len(part) == 0 {
			return nil
		}
		err := a.m.store.Write(context.Background(), func(tx *store.Tx) error {
			for k, seq := range part {
				if err := a.m.move(tx, k, seq); err != nil {
					return err
				}
			}
			return nil
		})
		a.returnPart(part, err)
		if err != nil {
			return err
		}
	}
}

func (a *acks) takePart() map[cursor]int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	part := map[cursor]int64{}
	for k, seq := range a.waiting {
		part[k] = seq
		a.writing[k] = seq
		delete(a.waiting, k)
		if len(part) == acksPerWrite {
			break
		}
	}
	return part
}

func (a *acks) returnPart(part map[cursor]int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, seq := range part {
		if err != nil {
			a.waiting[k] = max(a.waiting[k], seq)
		}
		delete(a.writing, k)
	}
}

// move writes one cursor and deletes what every consumer has acknowledged. A
// cut that came first leaves nothing to move.
func (m *Mailbox) move(tx *store.Tx, k cursor, seq int64) error {
	if _, err := tx.Exec(`INSERT INTO cursors (subscription, consumer, acked)
		SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM subscriptions WHERE id = ?1 AND cut = 0)
		ON CONFLICT (subscription, consumer) DO UPDATE SET acked = excluded.acked WHERE excluded.acked > cursors.acked`, k.sub, k.name, seq); err != nil {
		return fmt.Errorf("write the cursor of a mailbox: %w", err)
	}
	return m.trim(tx, k.sub)
}

// trim deletes what no consumer needs. The MQTT consumer always exists,
// except where the app receives by webhook and has no certificate to connect
// with: its queue would only fill. The webhook consumer exists while the
// subscription has a webhook, also before it has acknowledged anything.
func (m *Mailbox) trim(tx *store.Tx, sub keyholder.SubscriptionID) error {
	var mqtt, webhook, first int64
	var hasWebhook, hasCertificate bool
	if err := tx.QueryRow(`SELECT
		coalesce((SELECT acked FROM cursors WHERE subscription = ?1 AND consumer = ?2), 0),
		coalesce((SELECT acked FROM cursors WHERE subscription = ?1 AND consumer = ?3), 0),
		coalesce((SELECT min(seq) FROM messages WHERE subscription = ?1), 0),
		EXISTS (SELECT 1 FROM webhooks WHERE subscription = ?1 AND ended = 0),
		EXISTS (SELECT 1 FROM certificates WHERE subject = ?1 AND use = ?4 AND revoked = 0)`,
		sub, MQTT, Webhook, keyholder.ForSubscription).Scan(&mqtt, &webhook, &first, &hasWebhook, &hasCertificate); err != nil {
		return fmt.Errorf("trim a mailbox: %w", err)
	}
	through := mqtt
	switch {
	case hasWebhook && hasCertificate:
		through = min(mqtt, webhook)
	case hasWebhook:
		through = webhook
	}
	if first == 0 || through < first {
		return nil
	}
	if through >= first+trimMost {
		through = first + trimMost - 1
		tx.After(func() { m.acks.add(sub, MQTT, 0) }) // comes back here without moving anything
	}
	if _, err := drop(tx, sub, through); err != nil {
		return fmt.Errorf("trim a mailbox: %w", err)
	}
	return nil
}
