package mailbox_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// Ensure that what holds of mailboxes on SQLite holds on PostgreSQL.
func TestOnPostgres(t *testing.T) { storetest.RunOnPostgres(t, "^Test") }

// bench is a mailbox on a real ledger and database, and what it needs to be
// reopened.
type bench struct {
	*mailbox.Mailbox
	t      testing.TB
	at     storetest.Database
	cfg    mailbox.Config
	store  *store.Store
	ledger *ledger.Ledger
	now    func() time.Time // nil: time.Now
}

func open(t testing.TB, cfg mailbox.Config) *bench {
	t.Helper()
	b := &bench{t: t, at: storetest.New(t), cfg: cfg}
	b.open()
	t.Cleanup(b.close)
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.store, err = b.at.Open(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	b.cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	if b.ledger, err = ledger.Open(context.Background(), ledger.Config{Store: b.store, Now: b.now, Log: b.cfg.Log,
		Sign: func(p []byte) (string, error) { return fmt.Sprintf("signed-%x", sha256.Sum256(p)), nil }}); err != nil {
		b.t.Fatal(err)
	}
	if b.Mailbox, err = mailbox.Open(b.store, b.ledger, b.cfg); err != nil {
		b.t.Fatal(err)
	}
	b.ledger.AddPlane("mailbox", b.End)
}

func (b *bench) close() {
	if err := b.Mailbox.Close(); err != nil {
		b.t.Error(err)
	}
	b.ledger.Close()
	if err := b.store.Close(); err != nil {
		b.t.Error(err)
	}
}

func (b *bench) reopen() {
	b.t.Helper()
	b.close()
	b.open()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// subscribe makes a subscription of a fresh owner.
func (b *bench) subscribe(key string) keyholder.SubscriptionID {
	b.t.Helper()
	ctx := context.Background()
	provider := must(b.ledger.AddProvider(ctx, ledger.Administrator, "Provider of "+key))
	owner := must(b.ledger.AddOwner(ctx, ledger.Administrator, key, key))
	app := must(b.ledger.AddApp(ctx, ledger.Administrator, keyholder.App{Name: "App of " + key, Authentication: keyholder.AuthSecret,
		Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}))
	agreement := must(b.ledger.AddAgreement(ctx, ledger.Administrator, keyholder.Agreement{Provider: provider.ID, Owner: owner.ID, Purpose: "test"}))
	return must(b.ledger.GiveConsent(ctx, ledger.Administrator, keyholder.Consent{Agreement: agreement.ID, App: app.ID}, "")).ID
}

func (b *bench) append(sub keyholder.SubscriptionID, from, to int) {
	b.t.Helper()
	for i := from; i <= to; i++ {
		seq, err := b.Append(context.Background(), sub, "events", payload(i))
		if err != nil || seq != int64(i) {
			b.t.Fatalf("append %d: got number %d, err %v", i, seq, err)
		}
	}
}

func payload(i int) []byte { return fmt.Appendf(nil, `{"n":%d}`, i) }

// expect reads messages from to through and checks number and content.
func expect(t testing.TB, c *mailbox.Consumer, from, to int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for i := from; i <= to; i++ {
		msg, err := c.Next(ctx)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if msg.Seq != int64(i) || msg.Level != "events" || !bytes.Equal(msg.Payload, payload(i)) || msg.At.IsZero() {
			t.Fatalf("message %d: got %d %q %q", i, msg.Seq, msg.Level, msg.Payload)
		}
	}
}

// expectNothing checks that no message comes, given time to come.
func expectNothing(t testing.TB, c *mailbox.Consumer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if msg, err := c.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got message %d, err %v; want none", msg.Seq, err)
	}
}

func ack(t testing.TB, c *mailbox.Consumer, seqs ...int64) {
	t.Helper()
	for _, seq := range seqs {
		if err := c.Ack(context.Background(), seq); err != nil {
			t.Fatal(err)
		}
	}
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

func (b *bench) depth(sub keyholder.SubscriptionID) mailbox.Depth {
	b.t.Helper()
	return must(b.Depths(context.Background()))[sub]
}

// stored counts the rows really in the file.
func (b *bench) stored(table string, sub keyholder.SubscriptionID) int {
	b.t.Helper()
	var n int
	if err := b.store.Read().QueryRow("SELECT count(*) FROM "+table+" WHERE subscription = ?", sub).Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// Ensure that messages come out in the order they went in, whether they were
// there before the consumer, or arrive while it waits.
func TestOrder(t *testing.T) {
	b := open(t, mailbox.Config{})
	sub := b.subscribe("a")
	b.append(sub, 1, 200) // more than one batch
	c := b.Consumer(sub, mailbox.MQTT)
	defer c.Close()
	expect(t, c, 1, 200)
	expectNothing(t, c)
	done := make(chan struct{})
	go func() { defer close(done); expect(t, c, 201, 500) }()
	b.append(sub, 201, 500)
	<-done
}

// Ensure that what is acknowledged is deleted, that numbers are not used
// again afterwards, and that the counters agree with the rows.
func TestAckDeletes(t *testing.T) {
	b := open(t, mailbox.Config{AckEvery: time.Millisecond})
	sub := b.subscribe("a")
	b.append(sub, 1, 10)
	c := b.Consumer(sub, mailbox.MQTT)
	expect(t, c, 1, 10)
	ack(t, c, 2, 3, 10) // 1 is missing: nothing moves
	c.Close()
	b.reopen()
	if got := b.stored("messages", sub); got != 10 {
		t.Errorf("%d messages are left, want all 10: the first was never acknowledged", got)
	}
	c = b.Consumer(sub, mailbox.MQTT)
	expect(t, c, 1, 10)
	for seq := int64(10); seq > 0; seq-- {
		ack(t, c, seq)
	}
	eventually(t, "the queue is empty", func() bool { return b.stored("messages", sub) == 0 })
	c.Close()
	b.reopen()
	if got := b.depth(sub); got != (mailbox.Depth{}) {
		t.Errorf("the depth of an empty queue is %+v", got)
	}
	b.append(sub, 11, 12)
	c = b.Consumer(sub, mailbox.MQTT)
	defer c.Close()
	expect(t, c, 11, 12)
	if got, want := b.depth(sub), (mailbox.Depth{Messages: 2, Bytes: int64(2 * (len("events") + len(payload(11))))}); got != want {
		t.Errorf("depth is %+v, want %+v", got, want)
	}
}

// Ensure that a consumer that is opened after another of its name sees the
// acknowledgements of that one at once, and that Rewind repeats the rest.
func TestHandOver(t *testing.T) {
	b := open(t, mailbox.Config{AckEvery: time.Hour})
	sub := b.subscribe("a")
	b.append(sub, 1, 6)
	c := b.Consumer(sub, mailbox.MQTT)
	expect(t, c, 1, 5)
	ack(t, c, 1, 2, 5, 99)
	c.Rewind()
	expect(t, c, 3, 4)
	c.Close()
	if _, err := c.Next(t.Context()); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("next after close: %v, want unavailable", err)
	}
	again := b.Consumer(sub, mailbox.MQTT)
	defer again.Close()
	expect(t, again, 3, 6)
}

// Ensure that a message stays until both consumers have it, and that the
// webhook consumer counts exactly while there is a webhook.
func TestTwoConsumers(t *testing.T) {
	b := open(t, mailbox.Config{AckEvery: time.Millisecond})
	sub := b.subscribe("a")
	certify(t, b, sub)
	if _, err := b.ledger.AddWebhook(t.Context(), ledger.Administrator, ledger.Webhook{Subscription: sub, URL: "https://app.example/push",
		Issuer: "https://auth.app.example", Client: "us"}); err != nil {
		t.Fatal(err)
	}
	b.append(sub, 1, 5)
	mqtt, webhook := b.Consumer(sub, mailbox.MQTT), b.Consumer(sub, mailbox.Webhook)
	defer mqtt.Close()
	defer webhook.Close()
	expect(t, mqtt, 1, 5)
	ack(t, mqtt, 1, 2, 3, 4, 5)
	eventually(t, "the cursor is written", func() bool { return b.stored("cursors", sub) == 1 })
	if got := b.stored("messages", sub); got != 5 {
		t.Fatalf("%d messages are left, want 5: the webhook has none yet", got)
	}
	expect(t, webhook, 1, 5)
	ack(t, webhook, 1, 2, 3)
	eventually(t, "what both have is deleted", func() bool { return b.stored("messages", sub) == 2 })
	ack(t, webhook, 4, 5)
	eventually(t, "the queue is empty", func() bool { return b.stored("messages", sub) == 0 })
}

// Ensure that an app that receives by webhook only does not fill a queue that
// nobody will ever drain by MQTT.
func TestWebhookOnly(t *testing.T) {
	b := open(t, mailbox.Config{AckEvery: time.Millisecond})
	sub := b.subscribe("a")
	if _, err := b.ledger.AddWebhook(t.Context(), ledger.Administrator, ledger.Webhook{Subscription: sub, URL: "https://app.example/push",
		Issuer: "https://auth.app.example", Client: "us"}); err != nil {
		t.Fatal(err)
	}
	b.append(sub, 1, 5)
	c := b.Consumer(sub, mailbox.Webhook)
	defer c.Close()
	expect(t, c, 1, 5)
	ack(t, c, 1, 2, 3, 4, 5)
	eventually(t, "the queue is empty", func() bool { return b.stored("messages", sub) == 0 })
}

func certify(t testing.TB, b *bench, sub keyholder.SubscriptionID) {
	t.Helper()
	c := keyholder.Certificate{Serial: "1f", Thumbprint: sha256.Sum256([]byte(sub)), Use: keyholder.ForSubscription, Subject: string(sub),
		NotBefore: b.ledger.Now().Add(-time.Minute), NotAfter: b.ledger.Now().Add(time.Hour)}
	if err := b.ledger.AddCertificate(context.Background(), ledger.Administrator, c, "PEM"); err != nil {
		t.Fatal(err)
	}
}

// Ensure that many appenders and readers lose nothing, and that each queue
// keeps the order in which its appends were answered.
func TestConcurrency(t *testing.T) {
	const subs, appends = 8, 60
	b := open(t, mailbox.Config{AckEvery: time.Millisecond})
	var wg sync.WaitGroup
	for i := range subs {
		sub := b.subscribe(fmt.Sprintf("owner-%d", i))
		wg.Go(func() { b.append(sub, 1, appends) })
		wg.Go(func() {
			c := b.Consumer(sub, mailbox.MQTT)
			defer c.Close()
			expect(t, c, 1, appends)
			for seq := int64(appends); seq > 0; seq-- {
				ack(t, c, seq)
			}
		})
	}
	wg.Wait()
	eventually(t, "all queues are empty", func() bool { return len(must(b.Depths(t.Context()))) == 0 })
}

// Ensure that a cut takes the queue, the cursors and the sessions, wakes a
// waiting consumer with Denied, and that nothing can be appended afterwards.
func TestCutRemovesEverything(t *testing.T) {
	b := open(t, mailbox.Config{AckEvery: time.Millisecond})
	sub, other := b.subscribe("a"), b.subscribe("b")
	b.append(other, 1, 3)
	b.append(sub, 1, 3)
	if err := b.store.Write(t.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec("INSERT INTO mqtt_sessions (subscription, lifetime) VALUES (?, 60)", sub); err != nil {
			return err
		}
		_, err := tx.Exec("INSERT INTO mqtt_filters (subscription, filter, qos) VALUES (?, 'f', 1)", sub)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c := b.Consumer(sub, mailbox.MQTT)
	defer c.Close()
	expect(t, c, 1, 3)
	ack(t, c, 1)
	eventually(t, "the cursor is written", func() bool { return b.stored("cursors", sub) == 1 })
	waiting := make(chan error, 1)
	go func() { _, err := c.Next(context.Background()); waiting <- err }()
	receipt := must(b.ledger.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(sub)}, "test"))
	if receipt.Ended.Messages != 2 {
		t.Errorf("the receipt says %d messages, want 2", receipt.Ended.Messages)
	}
	select {
	case err := <-waiting:
		if keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("the waiting consumer got %v, want denied", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the waiting consumer was not woken")
	}
	ack(t, c, 2, 3) // too late: must not bring a row back
	if _, err := b.Append(t.Context(), sub, "events", payload(4)); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("append after the cut: %v, want denied", err)
	}
	b.reopen()
	for _, table := range []string{"messages", "cursors", "mqtt_sessions", "mqtt_filters"} {
		if got := b.stored(table, sub); got != 0 {
			t.Errorf("%d rows are left in %s", got, table)
		}
	}
	if got := b.depth(sub); got != (mailbox.Depth{}) {
		t.Errorf("the depth after the cut is %+v", got)
	}
	if got := b.stored("messages", other); got != 3 {
		t.Errorf("the other subscription has %d messages, want 3", got)
	}
}

// Ensure that an append racing with a cut is either in the receipt or
// refused, never left behind.
func TestAppendRacesCut(t *testing.T) {
	b := open(t, mailbox.Config{})
	for i := range 10 {
		sub := b.subscribe(fmt.Sprintf("owner-%d", i))
		var wg sync.WaitGroup
		stop := make(chan struct{})
		appended := 0
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := b.Append(context.Background(), sub, "events", payload(1)); err == nil {
					appended++
				} else if keyholder.CodeOf(err) != keyholder.Denied {
					t.Error(err)
					return
				}
			}
		})
		eventually(t, "something is queued", func() bool { return b.stored("messages", sub) > 0 })
		receipt := must(b.ledger.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(sub)}, "test"))
		close(stop)
		wg.Wait()
		if receipt.Ended.Messages != appended || b.stored("messages", sub) != 0 {
			t.Errorf("%d appended, %d in the receipt, %d left behind", appended, receipt.Ended.Messages, b.stored("messages", sub))
		}
	}
}

// Ensure that a full queue refuses with a hint, changes nothing, and takes
// messages again when there is room.
func TestFull(t *testing.T) {
	for name, cfg := range map[string]mailbox.Config{
		"messages": {MaxMessages: 3, AckEvery: time.Millisecond},
		"bytes":    {MaxBytes: int64(3 * (len("events") + len(payload(1)))), AckEvery: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, cfg)
			sub := b.subscribe("a")
			b.append(sub, 1, 3)
			_, err := b.Append(t.Context(), sub, "events", payload(4))
			var e *keyholder.Error
			if !errors.As(err, &e) || e.Code != keyholder.Unavailable || e.Hint == "" {
				t.Fatalf("append to a full queue: %v, want unavailable with a hint", err)
			}
			c := b.Consumer(sub, mailbox.MQTT)
			defer c.Close()
			expect(t, c, 1, 3)
			ack(t, c, 1)
			eventually(t, "there is room", func() bool { return b.stored("messages", sub) == 2 })
			b.append(sub, 4, 4)
			expect(t, c, 4, 4)
		})
	}
}

// Ensure that a refusal inside a shared transaction changes nothing and lets
// the others pass.
func TestAppendTx(t *testing.T) {
	b := open(t, mailbox.Config{MaxMessages: 1})
	one, two := b.subscribe("a"), b.subscribe("b")
	b.append(one, 1, 1)
	c := b.Consumer(two, mailbox.MQTT)
	defer c.Close()
	err := b.store.Write(t.Context(), func(tx *store.Tx) error {
		if _, err := b.AppendTx(tx, one, "events", payload(2), nil); keyholder.CodeOf(err) != keyholder.Unavailable {
			t.Errorf("full queue: %v", err)
		}
		_, err := b.AppendTx(tx, two, "events", payload(1), nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, c, 1, 1)
	boom := errors.New("boom")
	if err := b.store.Write(t.Context(), func(tx *store.Tx) error {
		_, _ = b.AppendTx(tx, two, "events", payload(2), nil)
		return boom
	}); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	expectNothing(t, c)
	if got := b.depth(one); got.Messages != 1 {
		t.Errorf("the full queue counts %d messages", got.Messages)
	}
}

// Ensure that malformed appends are refused with a clear code.
func TestBadAppend(t *testing.T) {
	b := open(t, mailbox.Config{})
	sub := b.subscribe("a")
	for name, tt := range map[string]struct {
		sub     keyholder.SubscriptionID
		level   string
		payload []byte
		code    keyholder.Code
	}{
		"unknown subscription": {"00000000-0000-4000-8000-000000000000", "events", nil, keyholder.Denied},
		"not an ID":            {"x", "events", nil, keyholder.Invalid},
		"no level":             {sub, "", nil, keyholder.Invalid},
		"wildcard":             {sub, "#", nil, keyholder.Invalid},
		"empty level":          {sub, "a//b", nil, keyholder.Invalid},
		"oversize":             {sub, "events", make([]byte, mailbox.MaxPayload+1), keyholder.Invalid},
	} {
		if _, err := b.Append(t.Context(), tt.sub, tt.level, tt.payload); keyholder.CodeOf(err) != tt.code {
			t.Errorf("%s: got %v, want code %s", name, err, tt.code)
		}
	}
	if seq, err := b.Append(t.Context(), sub, "events", make([]byte, mailbox.MaxPayload)); err != nil || seq != 1 {
		t.Errorf("the largest payload: number %d, err %v", seq, err)
	}
	if seq, err := b.Append(t.Context(), sub, "events", nil); err != nil || seq != 2 {
		t.Errorf("an empty payload: number %d, err %v", seq, err)
	}
}
