package mailbox_test

import (
	"context"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// recorded counts the rows of a kind on the audit trail that concern a
// subscription.
func (b *bench) recorded(kind keyholder.EventKind, sub keyholder.SubscriptionID) int {
	b.t.Helper()
	n := 0
	for _, e := range must(b.ledger.Audit(context.Background(), 0, 100_000)) {
		if e.Kind == kind && e.Subject == string(sub) {
			n++
		}
	}
	return n
}

// Ensure that messages are dropped when they are older than the mailbox keeps,
// more than one change takes included; that younger ones, other queues and the
// numbers stay; and that the counts and the audit trail say so.
func TestExpire(t *testing.T) {
	clock := time.Now()
	b := &bench{t: t, at: storetest.New(t), cfg: mailbox.Config{MaxAge: 24 * time.Hour}, now: func() time.Time { return clock }}
	b.open()
	defer b.close()
	old, young := b.subscribe("old"), b.subscribe("young")
	const many = 2500 // a change drops 2048
	b.append(old, 1, many)
	clock = clock.Add(23 * time.Hour)
	b.append(old, many+1, many+3)
	b.append(young, 1, 2)
	if n, err := b.Expire(t.Context()); n != 0 || err != nil {
		t.Fatalf("after 23 hours %d were dropped, err %v", n, err)
	}
	clock = clock.Add(2 * time.Hour)
	if n, err := b.Expire(t.Context()); n != many || err != nil {
		t.Fatalf("after 25 hours %d were dropped, err %v", n, err)
	}
	if d := b.depth(old); d.Messages != 3 || b.stored("messages", old) != 3 {
		t.Errorf("the queue counts %d messages and holds %d", d.Messages, b.stored("messages", old))
	}
	if b.depth(young).Messages != 2 || b.recorded(keyholder.EventMessagesExpired, young) != 0 {
		t.Error("the other queue lost something")
	}
	if b.recorded(keyholder.EventMessagesExpired, old) != 2 {
		t.Errorf("%d rows are on the audit trail, want one for each change", b.recorded(keyholder.EventMessagesExpired, old))
	}
	c := b.Consumer(old, mailbox.MQTT)
	expect(t, c, many+1, many+3)
	ack(t, c, many+1, many+2, many+3)
	c.Close()
	eventually(t, "the queue is empty", func() bool { return b.stored("messages", old) == 0 })
	if d := b.depth(old); d != (mailbox.Depth{}) {
		t.Errorf("an empty queue counts %+v", d)
	}
	b.append(old, many+4, many+4)
}

// Ensure that a consumer that waited for what has expired goes on with what
// comes.
func TestExpireUnderConsumer(t *testing.T) {
	clock := time.Now()
	b := &bench{t: t, at: storetest.New(t), cfg: mailbox.Config{MaxAge: time.Hour}, now: func() time.Time { return clock }}
	b.open()
	defer b.close()
	sub := b.subscribe("a")
	b.append(sub, 1, 3)
	c := b.Consumer(sub, mailbox.MQTT)
	expect(t, c, 1, 1)
	clock = clock.Add(2 * time.Hour)
	if n, err := b.Expire(t.Context()); n != 3 || err != nil {
		t.Fatalf("%d were dropped, err %v", n, err)
	}
	expect(t, c, 2, 3) // read ahead, and still good
	b.append(sub, 4, 5)
	expect(t, c, 4, 5)
	ack(t, c, 1, 2, 3, 4, 5)
	eventually(t, "the queue is empty", func() bool { return b.stored("messages", sub) == 0 })
	if d := b.depth(sub); d != (mailbox.Depth{}) {
		t.Errorf("an empty queue counts %+v", d)
	}
	// A cut takes what is left, and nothing is left to expire.
	b.append(sub, 6, 6)
	must(b.ledger.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(sub)}, "test"))
	clock = clock.Add(2 * time.Hour)
	if n, err := b.Expire(t.Context()); n != 0 || err != nil {
		t.Fatalf("after the cut %d were dropped, err %v", n, err)
	}
}
