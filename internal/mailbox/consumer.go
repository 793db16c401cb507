package mailbox

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// batchMessages and batchBytes bound what a consumer reads ahead.
const (
	batchMessages = 64
	batchBytes    = 1 << 20
)

// Consumer reads one queue in order, from the first message that its name has
// not acknowledged. Messages handed out may be acknowledged in any order; the
// cursor moves over those before which nothing is missing. Its methods are
// safe for concurrent use, but only one consumer of a name should be open for
// a subscription at a time: two would both get every message.
type Consumer struct {
	m    *Mailbox
	sub  keyholder.SubscriptionID
	name string
	wake chan struct{} // holds a token when there may be something new; nil if tell is set
	tell func()        // is called instead

	mu     sync.Mutex // guards the fields below
	loaded bool       // the cursor was read from the store
	acked  int64      // every message up to this one is acknowledged
	read   int64      // last message taken into buffer
	buffer []Message  // read and not handed out
	bytes  int        // payload bytes in buffer
	flight []handed   // handed out and not contiguously acknowledged, in order
	tail   bool       // the store holds nothing after read
	missed bool       // a message was offered that did not follow read
	closed bool
}

// handed is a message that was handed out.
type handed struct {
	seq  int64
	done bool
}

// Consumer opens a reader of the subscription's queue under one of the names
// [MQTT] and [Webhook]. It must be closed when it is no longer read.
func (m *Mailbox) Consumer(sub keyholder.SubscriptionID, name string) *Consumer {
	return m.open(&Consumer{m: m, sub: sub, name: name, wake: make(chan struct{}, 1)})
}

// Watch is [Mailbox.Consumer] for a reader that does not wait in Next: tell is
// called whenever Take may have something new. It must not block, nor call the
// consumer. A reader that is idle then costs no goroutine.
func (m *Mailbox) Watch(sub keyholder.SubscriptionID, name string, tell func()) *Consumer {
	return m.open(&Consumer{m: m, sub: sub, name: name, tell: tell})
}

func (m *Mailbox) open(c *Consumer) *Consumer {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		c.closed = true
		return c
	}
	m.consumers[c.sub] = append(m.consumers[c.sub], c)
	return c
}

// Close ends the consumer; a waiting Next returns. What was handed out and
// not acknowledged will be handed out again to the next consumer of the name.
func (c *Consumer) Close() {
	c.m.mu.Lock()
	list := slices.DeleteFunc(c.m.consumers[c.sub], func(o *Consumer) bool { return o == c })
	if len(list) == 0 {
		delete(c.m.consumers, c.sub)
	} else {
		c.m.consumers[c.sub] = list
	}
	c.m.mu.Unlock()
	c.stop()
}

func (c *Consumer) stop() {
	c.mu.Lock()
	c.closed = true
	c.buffer, c.flight = nil, nil
	c.mu.Unlock()
	c.rouse()
}

// Next returns the next message, waiting for one if there is none. Messages
// are handed out once each, until [Consumer.Rewind]. Errors: the context's;
// Denied when the subscription no longer holds; Unavailable after Close.
func (c *Consumer) Next(ctx context.Context) (Message, error) {
	for {
		msg, found, err := c.Take(ctx)
		if err != nil || found {
			return msg, err
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return Message{}, ctx.Err()
		}
	}
}

// Take is Next without waiting; found is false if there is no message now.
func (c *Consumer) Take(ctx context.Context) (msg Message, found bool, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return Message{}, false, err
		}
		if err := c.m.ledger.Standing(c.sub).Holds(c.m.ledger.Now()).Err(); err != nil {
			return Message{}, false, err
		}
		msg, found, fill, err := c.take()
		if err != nil || !fill {
			return msg, found, err
		}
		if err := c.fill(ctx); err != nil {
			return Message{}, false, err
		}
	}
}

// take hands out the first buffered message. If there is none it says
// whether the store must be read.
func (c *Consumer) take() (msg Message, found, fill bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return Message{}, false, false, errClosed
	}
	if len(c.buffer) == 0 {
		return Message{}, false, !c.tail, nil
	}
	msg = c.buffer[0]
	c.buffer[0] = Message{}
	c.buffer = c.buffer[1:]
	c.bytes -= len(msg.Payload)
	c.flight = append(c.flight, handed{seq: msg.Seq})
	return msg, true, false, nil
}

var errClosed = keyholder.Errorf(keyholder.Unavailable, "the mailbox is closed")

// fill reads the next batch from the store.
func (c *Consumer) fill(ctx context.Context) error {
	if err := c.load(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	after := c.read
	c.missed = false
	c.mu.Unlock()
	read, complete, err := c.m.batch(ctx, c.sub, after)
	if err != nil {
		return err
	}
	batch, err := c.m.intact(ctx, c.sub, read)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.read < after {
		return nil // rewound meanwhile
	}
	for _, msg := range batch {
		if msg.Seq > c.read { // else it was offered meanwhile
			c.push(msg)
		}
	}
	c.tail = complete && !c.missed
	return nil
}

// load reads the cursor once. Acknowledgements that are not written yet count.
func (c *Consumer) load(ctx context.Context) error {
	c.mu.Lock()
	loaded := c.loaded
	c.mu.Unlock()
	if loaded {
		return nil
	}
	acked := c.m.acks.pending(c.sub, c.name) // before the store: it may be written in between
	var stored int64
	err := c.m.store.Read().QueryRowContext(ctx, "SELECT acked FROM cursors WHERE subscription = ? AND consumer = ?", c.sub, c.name).Scan(&stored)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read the cursor of a mailbox: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded {
		c.loaded = true
		c.acked = max(acked, stored)
		c.read = c.acked
	}
	return nil
}

// batch reads messages after a number, and says whether those were all.
func (m *Mailbox) batch(ctx context.Context, sub keyholder.SubscriptionID, after int64) ([]stored, bool, error) {
	rows, err := m.store.Read().QueryContext(ctx,
		"SELECT seq, level, payload, properties, at, sum FROM messages WHERE subscription = ? AND seq > ? ORDER BY seq LIMIT ?", sub, after, batchMessages)
	if err != nil {
		return nil, false, fmt.Errorf("read a mailbox: %w", err)
	}
	defer rows.Close()
	var batch []stored
	size := 0
	for size < batchBytes && rows.Next() {
		var msg stored
		var at int64
		if err := rows.Scan(&msg.Seq, &msg.Level, &msg.Payload, &msg.Properties, &at, &msg.sum); err != nil {
			return nil, false, fmt.Errorf("read a mailbox: %w", err)
		}
		msg.At = time.UnixMicro(at).UTC()
		size += len(msg.Payload)
		batch = append(batch, msg)
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("read a mailbox: %w", err)
	}
	return batch, size < batchBytes && len(batch) < batchMessages, nil
}

// push puts a message at the end of the buffer. The caller holds the lock.
func (c *Consumer) push(msg Message) {
	c.buffer = append(c.buffer, msg)
	c.bytes += len(msg.Payload)
	c.read = msg.Seq
}

// offer takes a message just committed if it follows what was read, so that a
// consumer that keeps up never reads the store; otherwise it only notes that
// there is more.
func (c *Consumer) offer(msg Message) {
	c.mu.Lock()
	switch {
	case c.closed || msg.Seq <= c.read:
	case c.loaded && msg.Seq == c.read+1 && len(c.buffer) < batchMessages && c.bytes < batchBytes:
		c.push(msg)
	default:
		c.missed, c.tail = true, false
	}
	c.mu.Unlock()
	c.rouse()
}

func (c *Consumer) rouse() {
	if c.tell != nil {
		c.tell()
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Ack says that the message of that number is done with. It never blocks: the
// cursor is written with others' a moment later, and a crash before that
// brings the message again. A number that is not handed out is ignored.
func (c *Consumer) Ack(_ context.Context, seq int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, found := slices.BinarySearchFunc(c.flight, seq, func(h handed, seq int64) int { return cmp.Compare(h.seq, seq) })
	if !found {
		return nil
	}
	c.flight[i].done = true
	before := c.acked
	for len(c.flight) > 0 && c.flight[0].done {
		c.acked = c.flight[0].seq
		c.flight = c.flight[1:]
	}
	if c.acked > before {
		c.m.acks.add(c.sub, c.name, c.acked)
	}
	return nil
}

// Rewind hands out everything that is not acknowledged once more.
func (c *Consumer) Rewind() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rewind()
}

func (c *Consumer) rewind() {
	c.buffer, c.flight, c.bytes = nil, nil, 0
	c.read = c.acked
	c.tail = false
	c.rouse()
}

// forget drops what was read ahead.
func (c *Consumer) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rewind()
}
