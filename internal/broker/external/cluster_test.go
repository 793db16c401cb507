package external_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// runCluster runs what a cluster keeps as one: a cut ends connections and queues
// on whatever node they are, a stranger takes over nothing across nodes, what
// waits for an absent consumer survives the loss of the first node, and a cut
// goes on by the nodes that are left.
func runCluster(t *testing.T, on func(*testing.T, int) *attempt, nodes int, lose func()) {
	f := on(t, 0).fabric
	for i := range nodes {
		t.Run(fmt.Sprintf("cut on node %d", i), func(t *testing.T) {
			if got := cutEnds(keyholder.CutSubscription)(on(t, i)); got != ended {
				t.Error(got)
			}
			if got := cutQueue(on(t, i)); got != "nothing is left" {
				t.Error(got)
			}
		})
	}
	t.Run("takeover across nodes", func(t *testing.T) {
		first := on(t, 0).join(f.a)
		if _, outcome := on(t, 1).dial(f.b, f.a.id); outcome != refused {
			t.Error("a stranger is connected")
		}
		if err := first.alive(); err != nil {
			t.Errorf("the stranger disturbs: %v", err)
		}
		second := on(t, 1).join(f.a)
		if !first.ended(5 * time.Second) {
			t.Error("both are connected")
		}
		second.leave()
	})
	t.Run("isolation across nodes", func(t *testing.T) {
		consumer := on(t, 0).join(f.b)
		defer consumer.leave()
		if codes, err := consumer.subscribe(f.b.topic("#")); err != nil || codes[0] >= 0x80 {
			t.Fatal(codes, err)
		}
		on(t, 1).publishEverywhere(nil, party{})
		if m, err := consumer.message(answerLimit); err != nil || m != f.b.id {
			t.Errorf("%q, %v", m, err)
		}
		if err := consumer.alive(); err != nil || len(consumer.inbox) > 0 {
			t.Errorf("%q, %v", consumer.inbox, err)
		}
	})
	t.Run("loss of a node", func(t *testing.T) { loseNode(t, on, lose) })
}

// loseNode loses the first node, on which a consumer's queue was made.
func loseNode(t *testing.T, on func(*testing.T, int) *attempt, lose func()) {
	a := on(t, 0)
	kept, cut := a.addSubscription(a.provider), a.addSubscription(a.provider)
	for _, s := range []party{kept, cut} {
		r := a.join(s, persistent)
		if codes, err := r.subscribe(s.topic("#")); err != nil || codes[0] >= 0x80 {
			t.Fatal(codes, err)
		}
		r.leave()
		p := on(t, 2).join(a.provider)
		if code, err := p.publish(s.topic("events"), "waiting"); err != nil || code != 0 {
			t.Fatalf("publish: %#x, %v", code, err)
		}
		p.leave()
	}
	lose()
	if _, failed := planes(a.Cut(keyholder.CutSubscription, cut.id)); failed != "" {
		t.Logf("the receipt says: %s", failed) // the other nodes may not know yet that it is gone
	}
	eventually(t, "the cut is carried by the other nodes", time.Minute, func() bool { return a.left(cut.id, keyholder.Receipt{}) == "nothing is left" })
	b := on(t, 1)
	var r *raw
	eventually(t, "the consumer is let in by another node", time.Minute, func() bool {
		var outcome string
		r, outcome = b.dial(kept, kept.id, persistent)
		return outcome == connected
	})
	defer r.leave()
	if _, err := r.subscribe(kept.topic("#")); err != nil {
		t.Fatal(err)
	}
	if m, err := r.message(answerLimit); err != nil || m != "waiting" {
		t.Errorf("the queue holds %q, %v", m, err)
	}
}
