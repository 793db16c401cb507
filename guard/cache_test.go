package guard_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// Ensure that the cache stays within its size, keeps what is used and verifies
// again what it gave up.
func TestCacheBounded(t *testing.T) {
	i := newIssuer(t)
	for _, size := range []int{-1, 32, 160} {
		cfg := i.config()
		cfg.CacheSize = size
		g, err := guard.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		first := i.valid(t)
		for n := range 400 {
			raw := i.token(t, i.header(), i.claims().with(object{"jti": fmt.Sprint(n)}))
			for _, r := range []string{raw, first} {
				if _, err := g.Verify(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n, limit := g.Cached(), max(size, 0); n > limit || n < limit/2 {
			t.Errorf("cache of %d holds %d tokens", size, n)
		}
	}
}

// Ensure that one guard serves many goroutines while cuts come in, and that
// after a cut no token of it passes.
func TestConcurrentUse(t *testing.T) {
	i := newIssuer(t)
	g := i.guard(t)
	raws := []string{i.valid(t)}
	for n := range 8 {
		raws = append(raws, i.token(t, i.header(), i.claims().with(object{"subscription_id": otherSub, "grant_id": fmt.Sprint(n)})))
	}
	cut := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range 500 {
				raw := raws[n%len(raws)]
				over := false
				select {
				case <-cut:
					over = true
				default:
				}
				_, err := g.Verify(t.Context(), raw)
				if mine := raw == raws[0]; mine && over && err == nil {
					t.Error("a token passed after the cut")
				} else if !mine && err != nil {
					t.Errorf("another subscription's token: %v", err)
				}
			}
		})
	}
	wg.Go(func() {
		g.End(keyholder.Cut{Ended: keyholder.Ended{Subscriptions: []keyholder.SubscriptionID{testSub}}})
		close(cut)
	})
	wg.Wait()
}

// Ensure that what a cut ended is remembered as long as a token could live,
// and not for ever.
func TestEndingsForgotten(t *testing.T) {
	i := newIssuer(t)
	cfg := i.config()
	cfg.MaxLifetime = 10 * time.Minute
	g, err := guard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.End(keyholder.Cut{Ended: keyholder.Ended{Subscriptions: []keyholder.SubscriptionID{testSub}}})
	last := i.token(t, i.header(), i.claims().with(object{"exp": i.now.Unix() + 600}))
	i.now = i.now.Add(10*time.Minute - time.Second)
	g.End(keyholder.Cut{Ended: keyholder.Ended{Subscriptions: []keyholder.SubscriptionID{otherSub}}})
	if _, err := g.Verify(t.Context(), last); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("before the last token expires: error %v, want a denial", err)
	}
	i.now = i.now.Add(time.Minute)
	g.End(keyholder.Cut{Ended: keyholder.Ended{Subscriptions: []keyholder.SubscriptionID{otherSub}}})
	if _, err := g.Verify(t.Context(), i.valid(t)); err != nil {
		t.Errorf("long after: %v", err)
	}
}

// A cache hit must cost little: it is paid on every request.
func BenchmarkVerifyCached(b *testing.B) {
	i := newIssuer(b)
	g := i.guard(b)
	sum := make([]byte, 32)
	sum[0] = 1
	raw := i.token(b, i.header(), i.claims().with(object{"cnf": object{"x5t#S256": encode(sum)}}))
	proof := keyholder.Proof{Certificate: keyholder.Thumbprint(sum)}
	b.ReportAllocs()
	for b.Loop() {
		t, err := g.Verify(b.Context(), raw)
		if err != nil {
			b.Fatal(err)
		}
		if v := keyholder.PermitToken(t, proof, i.now); !v.Allowed {
			b.Fatal(v.Reason)
		}
	}
}

func BenchmarkVerifyUncached(b *testing.B) {
	i := newIssuer(b)
	cfg := i.config()
	cfg.CacheSize = -1
	g, err := guard.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	raw := i.valid(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Verify(b.Context(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

// Ensure that a cache hit allocates at most twice.
func TestVerifyCachedAllocations(t *testing.T) {
	i := newIssuer(t)
	g := i.guard(t)
	raw := i.valid(t)
	ctx := t.Context()
	if n := testing.AllocsPerRun(200, func() {
		if _, err := g.Verify(ctx, raw); err != nil {
			t.Fatal(err)
		}
	}); n > 2 {
		t.Errorf("%v allocations, want at most 2", n)
	}
}
