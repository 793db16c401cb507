// Package mailbox is the memory of pushes: one durable ordered queue per
// subscription. Providers' publishes and ingested items go in; the MQTT door
// and the webhook worker take them out, each at its own pace.
//
// What is appended is on disk before Append returns; what a consumer has
// acknowledged is written a moment later and may be forgotten in a crash, so
// delivery is at least once. A queue is bounded in messages, bytes and age, and
// every message has a checksum: one that the disk has changed is taken out,
// with an alarm, and the rest goes on. The queue belongs to the subscription and ends
// with it: a cut removes it in the cut's own transaction.
package mailbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// MaxPayload bounds one message, in bytes.
const MaxPayload = 1 << 20

// MaxProperties bounds what is kept with a message beside its payload, in
// bytes.
const MaxProperties = 4 << 10

// MQTT and Webhook are the names of the consumers a mailbox can have.
const (
	MQTT    = "mqtt"
	Webhook = "webhook"
)

// Config says how much one mailbox may hold. The zero value is the default.
type Config struct {
	MaxMessages int64         // per subscription; 0: 100,000
	MaxBytes    int64         // payloads, properties and levels per subscription; 0: 256 MiB
	MaxAge      time.Duration // older messages are dropped, whoever waits for them; 0: 30 days
	AckEvery    time.Duration // how long acknowledgements are gathered before they are written; 0: 50 ms
	Log         *slog.Logger  // nil: slog.Default
}

// Message is one queued item.
type Message struct {
	Seq     int64  // counts within the subscription, from 1, without gaps, never reused
	Level   string // topic levels after the subscription ID
	Payload []byte // shared between consumers: not to be changed
	At      time.Time
	// Properties is what the publisher said about the message, in the form of
	// the door that took it; shared like Payload.
	Properties []byte
}

// Mailbox holds the queues of all subscriptions. Its methods are safe for
// concurrent use.
type Mailbox struct {
	store  *store.Store
	ledger *ledger.Ledger
	cfg    Config

	mu        sync.Mutex // guards the fields below
	consumers map[keyholder.SubscriptionID][]*Consumer
	closed    bool

	acks      acks
	retention retention
}

// Open returns the mailboxes kept in the store. Close must be called before
// the store is closed.
func Open(s *store.Store, l *ledger.Ledger, cfg Config) (*Mailbox, error) {
	if s == nil || l == nil {
		return nil, errors.New("open the mailbox: a store and a ledger are needed")
	}
	if cfg.MaxMessages < 0 || cfg.MaxBytes < 0 || cfg.MaxAge < 0 || cfg.AckEvery < 0 {
		return nil, keyholder.Errorf(keyholder.Invalid, "a bound of the mailbox is negative")
	}
	if cfg.MaxMessages == 0 {
		cfg.MaxMessages = 100_000
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 256 << 20
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = 30 * 24 * time.Hour
	}
	if cfg.AckEvery == 0 {
		cfg.AckEvery = 50 * time.Millisecond
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	m := &Mailbox{store: s, ledger: l, cfg: cfg, consumers: map[keyholder.SubscriptionID][]*Consumer{}}
	m.acks.start(m)
	m.retention.start(m)
	return m, nil
}

// Close ends all consumers and writes the acknowledgements gathered so far.
func (m *Mailbox) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	all := m.consumers
	m.consumers = map[keyholder.SubscriptionID][]*Consumer{}
	m.mu.Unlock()
	for _, list := range all {
		for _, c := range list {
			c.stop()
		}
	}
	m.retention.stop()
	return m.acks.stop()
}

// Append puts a message at the end of the subscription's queue and returns
// its number when it is on disk. The caller must not change payload
// afterwards. Errors: Invalid, Denied if the subscription does not hold,
// Unavailable if the queue is full or the disk refuses.
func (m *Mailbox) Append(ctx context.Context, sub keyholder.SubscriptionID, level string, payload []byte) (int64, error) {
	var seq int64
	err := m.store.Write(ctx, func(tx *store.Tx) error {
		var err error
		seq, err = m.AppendTx(tx, sub, level, payload, nil)
		return err
	})
	if err != nil {
		return 0, err
	}
	return seq, nil
}

// AppendTx is Append inside a transaction of the caller: the message is
// durable, and consumers are woken, when that transaction commits. A
// [keyholder.Error] means that nothing was changed and the caller may go on
// with others in the same transaction; after any other error it must not.
// properties, nil for none, are kept with the message as they are.
func (m *Mailbox) AppendTx(tx *store.Tx, sub keyholder.SubscriptionID, level string, payload, properties []byte) (int64, error) {
	if len(payload) > MaxPayload {
		return 0, keyholder.Errorf(keyholder.Invalid, "the message is larger than %d bytes", MaxPayload)
	}
	if len(properties) > MaxProperties {
		return 0, keyholder.Errorf(keyholder.Invalid, "the properties of the message are larger than %d bytes", MaxProperties)
	}
	if _, err := keyholder.ParseTopic(keyholder.Topic{Subscription: sub, Level: level}.String()); err != nil {
		return 0, err
	}
	now := m.ledger.Now()
	// Changes of rights commit alone, so the view is exact inside a change: a
	// cut that committed before is seen here.
	if err := m.ledger.Standing(sub).Holds(now).Err(); err != nil {
		return 0, err
	}
	seq, err := m.nextSeq(tx, sub, int64(len(level)+len(payload)+len(properties)))
	if err != nil {
		return 0, err
	}
	if payload == nil {
		payload = []byte{}
	}
	msg := Message{Seq: seq, Level: level, Payload: payload, At: now, Properties: properties}
	if _, err := tx.Exec("INSERT INTO messages (subscription, seq, level, payload, properties, at, sum) VALUES (?, ?, ?, ?, ?, ?, ?)",
		sub, seq, level, payload, properties, now.UnixMicro(), checksum(sub, msg)); err != nil {
		return 0, fmt.Errorf("append to the mailbox: %w", err)
	}
	tx.After(func() { m.offer(sub, msg) })
	return seq, nil
}

// nextSeq takes the next number of a queue and counts the message in, or
// changes nothing if the queue is full. The check of cut is a second lock.
func (m *Mailbox) nextSeq(tx *store.Tx, sub keyholder.SubscriptionID, size int64) (int64, error) {
	var seq int64
	err := tx.QueryRow(`UPDATE mailboxes SET next_seq = next_seq + 1, messages = messages + 1, bytes = bytes + ?1
		WHERE subscription = ?2 AND messages < ?3 AND bytes + ?1 <= ?4
		  AND EXISTS (SELECT 1 FROM subscriptions WHERE id = ?2 AND cut = 0)
		RETURNING next_seq - 1`, size, sub, m.cfg.MaxMessages, m.cfg.MaxBytes).Scan(&seq)
	if err == nil {
		return seq, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("append to the mailbox: %w", err)
	}
	var d Depth
	if err := tx.QueryRow("SELECT messages, bytes FROM mailboxes WHERE subscription = ?", sub).Scan(&d.Messages, &d.Bytes); err != nil {
		return 0, fmt.Errorf("append to the mailbox: %w", err)
	}
	return 0, keyholder.Errorf(keyholder.Unavailable, "the mailbox of the subscription is full: %d messages, %d bytes", d.Messages, d.Bytes).
		WithHint("let the app connect by MQTT or repair its webhook, or end the one it no longer uses: " +
			"a message is kept until every consumer of the subscription has acknowledged it")
}

// offer shows a committed message to the live consumers of its queue. It runs
// on the store's writer and never blocks.
func (m *Mailbox) offer(sub keyholder.SubscriptionID, msg Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.consumers[sub] {
		c.offer(msg)
	}
}

// End is the mailbox's plane of a cut. The queue itself went in the cut's
// transaction; here the consumers of the ended subscriptions forget what they
// had read ahead, and their Next returns Denied. It returns their number.
func (m *Mailbox) End(_ context.Context, c keyholder.Cut) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ended := 0
	for _, sub := range c.Ended.Subscriptions {
		for _, consumer := range m.consumers[sub] {
			consumer.forget()
			ended++
		}
	}
	return ended, nil
}

// Depth is how much is queued.
type Depth struct {
	Messages int64 `json:"messages"`
	Bytes    int64 `json:"bytes"`
}

// Depths returns what is queued for each subscription that has something
// queued.
func (m *Mailbox) Depths(ctx context.Context) (map[keyholder.SubscriptionID]Depth, error) {
	rows, err := m.store.Read().QueryContext(ctx, "SELECT subscription, messages, bytes FROM mailboxes WHERE messages > 0")
	if err != nil {
		return nil, fmt.Errorf("read the depth of the mailboxes: %w", err)
	}
	defer rows.Close()
	all := map[keyholder.SubscriptionID]Depth{}
	for rows.Next() {
		var sub keyholder.SubscriptionID
		var d Depth
		if err := rows.Scan(&sub, &d.Messages, &d.Bytes); err != nil {
			return nil, fmt.Errorf("read the depth of the mailboxes: %w", err)
		}
		all[sub] = d
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the depth of the mailboxes: %w", err)
	}
	return all, nil
}
