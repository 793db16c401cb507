package bench_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
)

// Ensure that with hundreds of sessions connected a cut ends the live session
// and the queue of its subscription within a second, as an administrator, the
// consumer and the database see it, and nobody else's.
// [BenchmarkCut] does the same with ten thousand.
func TestCutAmongSessions(t *testing.T) {
	f := newFleet(t, 1, 500)
	session, queue := f.cut(t, f.joinAll(t, false), 0)
	if session > time.Second || queue > time.Second {
		t.Errorf("the session had ended after %v, the queue after %v", session, queue)
	}
}

// BenchmarkCut reports how long after an administrator asks for a cut the live
// session has ended and the queue is gone, with 10,000 sessions connected.
// More than a second is a failure.
func BenchmarkCut(b *testing.B) {
	f := newFleet(b, 1, 10_000)
	wires := f.joinAll(b, false)
	var sessions, queues time.Duration
	next := 0
	b.Run("sessions=10000", func(b *testing.B) {
		sessions, queues = 0, 0
		for range b.N {
			session, queue := f.cut(b, wires, next)
			if session > time.Second || queue > time.Second {
				b.Errorf("the session had ended after %v, the queue after %v", session, queue)
			}
			sessions, queues = max(sessions, session), max(queues, queue)
			next++
		}
		b.ReportMetric(float64(sessions.Milliseconds()), "session_max_ms")
		b.ReportMetric(float64(queues.Milliseconds()), "queue_max_ms")
	})
}

// cut ends the subscription of one consumer, with a message in flight and one
// queued, and says how long after it was asked for the connection and the
// queue were gone.
func (f *fleet) cut(tb testing.TB, wires []*wire, victim int) (session, queue time.Duration) {
	tb.Helper()
	publisher, err := f.dial(tb.Context(), f.publishers[0], true)
	check(tb, err)
	defer publisher.leave()
	for range 2 {
		check(tb, publisher.publish(f.consumers[victim].prefix()+"statuses", []byte(status)))
		if pk, err := publisher.read(); err != nil || pk.FixedHeader.Type != packets.Puback {
			tb.Fatalf("PUBLISH was answered by type %d, %v", pk.FixedHeader.Type, err)
		}
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(f.dir, "keyholder.db")+"?mode=ro&_pragma=busy_timeout(5000)")
	check(tb, err)
	defer db.Close()
	queued := func() (n int) {
		check(tb, db.QueryRow("SELECT count(*) FROM messages WHERE subscription = ?", f.consumers[victim].id).Scan(&n))
		return n
	}
	if n := queued(); n != 2 {
		tb.Fatalf("%d messages are queued, want 2", n)
	}
	admin, err := console.Dial(f.dir)
	check(tb, err)
	defer admin.Close()

	begun := time.Now()
	gone := make(chan time.Duration, 1)
	go func() {
		for {
			if _, err := wires[victim].read(); err != nil {
				gone <- time.Since(begun)
				return
			}
		}
	}()
	answered := make(chan error, 1)
	go func() {
		_, err := admin.Cut(tb.Context(), console.NewCut{Kind: string(keyholder.CutSubscription), ID: f.consumers[victim].id, Reason: "measured"})
		answered <- err
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for queued() > 0 {
		if <-tick.C; time.Since(begun) > 30*time.Second {
			tb.Fatal("the queue did not end")
		}
	}
	queue = time.Since(begun)
	select {
	case session = <-gone:
	case <-time.After(30 * time.Second):
		tb.Fatal("the session did not end")
	}
	check(tb, <-answered)
	other := wires[len(wires)-1]
	check(tb, other.write(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}))
	if pk, err := other.read(); err != nil || pk.FixedHeader.Type != packets.Pingresp {
		tb.Fatalf("a bystander got type %d, %v", pk.FixedHeader.Type, err)
	}
	return session, queue
}
