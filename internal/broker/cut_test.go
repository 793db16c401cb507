package broker_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Ensure that a cut, at each level, ends the live session within a second,
// takes the queue, refuses the next connection in the handshake, and touches
// nobody else.
func TestCutEndsSessions(t *testing.T) {
	for _, kind := range []keyholder.TargetKind{keyholder.CutSubscription, keyholder.CutConsent, keyholder.CutAgreement, keyholder.CutApp, keyholder.CutCertificate, keyholder.CutProvider} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t)
			provider, otherProvider := w.provider("p"), w.provider("q")
			sub, other := w.subscription(provider, "a"), w.subscription(otherProvider, "b")
			consumer, bystander := w.join(sub, 5, persistent), w.join(other, 4)
			consumer.subscribe(1, topic(sub, "#"))
			publisher := w.join(provider, 5)
			publisher.publish(topic(sub, "events"), body(1), 1, 1)
			publisher.expect(packets.Puback)
			consumer.expect(packets.Publish) // not acknowledged: it stays queued
			standing := w.ledger.Standing(sub.sub())
			id := map[keyholder.TargetKind]string{keyholder.CutSubscription: sub.id, keyholder.CutConsent: string(standing.Consent.ID),
				keyholder.CutAgreement: string(standing.Agreement.ID), keyholder.CutApp: string(standing.App.ID),
				keyholder.CutCertificate: sub.rec.Serial, keyholder.CutProvider: provider.id}[kind]
			receipt := must(w.ledger.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: kind, ID: id}, "test"))
			began := time.Now()
			if code := consumer.closed(); code != packets.ErrAdministrativeAction.Code {
				t.Errorf("the consumer was told %#x", code)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("the session ended after %v", took)
			}
			ended := 1
			if kind == keyholder.CutProvider {
				publisher.closed()
				ended = 2
			} else {
				publisher.alive()
			}
			for _, plane := range receipt.Planes {
				if plane.Plane == "broker" && (plane.Ended != ended || plane.Failed != "") {
					t.Errorf("the broker reports %+v, want %d ended", plane, ended)
				}
			}
			bystander.alive()
			if _, err := w.dial(w.tls(sub.cert), 5); err == nil {
				t.Error("the handshake succeeded after the cut")
			}
			want := int64(0)
			if kind == keyholder.CutCertificate {
				want = 1 // the subscription still holds
			}
			if n := w.queued(sub); n != want {
				t.Errorf("%d messages are queued, want %d", n, want)
			}
		})
	}
}

// Ensure that a TLS session from before a cut cannot be resumed after it. The
// control shows that it could before.
func TestResumptionIsChecked(t *testing.T) {
	w := newWorld(t)
	sub := w.subscription(w.provider("p"), "a")
	cfg := w.tls(sub.cert)
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for _, resumed := range []bool{false, true} {
		r, err := w.dial(cfg, 5)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.conn.(*tls.Conn).ConnectionState().DidResume; got != resumed {
			t.Fatalf("resumed: %v, want %v", got, resumed)
		}
	}
	must(w.ledger.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: sub.id}, "test"))
	if _, err := w.dial(cfg, 5); err == nil {
		t.Error("the session was resumed after the cut")
	}
}

// Ensure that a right that ends by itself ends the session: nothing tells the
// broker, it must look.
func TestExpiryEndsSession(t *testing.T) {
	var offset atomic.Int64
	w := newWorld(t, func(w *world) {
		w.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	})
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	consumer := w.join(sub, 5)
	consumer.alive()
	offset.Store(int64(2 * time.Hour)) // the certificates are valid for one
	if code := consumer.closed(); code != packets.ErrNotAuthorized.Code {
		t.Errorf("the consumer was told %#x", code)
	}
	if _, err := w.dial(w.tls(sub.cert), 5); err == nil {
		t.Error("the handshake succeeded with an expired certificate")
	}
}

// Ensure that a consumer that does not read, and so blocks the connection it
// has, delays neither its own takeover nor its cut nor anybody else.
func TestSlowConsumer(t *testing.T) {
	w := newWorld(t)
	provider := w.provider("p")
	slow, fast := w.subscription(provider, "a"), w.subscription(provider, "b")
	stuck := w.join(slow, 5, persistent)
	stuck.subscribe(1, topic(slow, "#")) // and reads no more
	quick := w.join(fast, 5)
	quick.subscribe(1, topic(fast, "#"))
	publisher := w.join(provider, 5)
	big := bytes.Repeat([]byte("x"), 1<<19)
	id := uint16(0)
	for i := range 40 { // 20 MB: far more than the sockets hold
		id++
		publisher.publish(topic(slow, "events"), big, 1, id)
		publisher.expect(packets.Puback)
		id++
		began := time.Now()
		publisher.publish(topic(fast, "events"), body(i), 1, id)
		publisher.expect(packets.Puback)
		if msg := quick.message(); !bytes.Equal(msg.Payload, body(i)) {
			t.Fatalf("got %q", msg.Payload)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("message %d took %v", i, took)
		}
	}
	began := time.Now()
	second := w.join(slow, 5, persistent)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the takeover took %v", took)
	}
	second.message()
	// It stops reading as well; now the cut must not wait for it.
	eventually(t, "the second connection is stuck", func() bool { return w.queued(slow) == 39 })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	receipt := must(w.ledger.Cut(ctx, ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: slow.id}, "test"))
	for _, plane := range receipt.Planes {
		if plane.Failed != "" || plane.Took > time.Second {
			t.Errorf("plane %+v", plane)
		}
	}
	eventually(t, "the connection is gone", func() bool { return w.broker.Connected() == 2 })
	quick.alive()
}
