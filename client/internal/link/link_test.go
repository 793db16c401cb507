package link_test

import (
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder/client/internal/link"
)

// Ensure that the waits after takeovers are between half a bound and the
// bound, which doubles up to 32 times the first, and begins anew only after a
// connection that lasted.
func TestRivalry(t *testing.T) {
	r := link.Rivalry{First: time.Second}
	for i, bound := range []time.Duration{1, 2, 4, 8, 16, 32, 32} {
		bound *= time.Second
		held := time.Duration(0)
		if i == 6 {
			held = 64 * time.Second // as long as who it takes turns with may have waited
		}
		if got := r.Wait(held); got < bound/2 || got > bound {
			t.Errorf("wait %d is %v, want between %v and %v", i, got, bound/2, bound)
		}
	}
	if got := r.Wait(65 * time.Second); got > time.Second {
		t.Errorf("after a connection that lasted the wait is %v, want at most 1 s", got)
	}
}

// Ensure that waits are within bounds that double, at any number of tries.
func TestJitter(t *testing.T) {
	for try, bound := range map[int]time.Duration{1: 1, 2: 2, 3: 4, 7: 60, 1000: 60} {
		for range 100 {
			if got := link.Jitter(time.Second, time.Minute, try); got <= 0 || got > bound*time.Second+1 {
				t.Errorf("try %d: %v, want at most %v", try, got, bound*time.Second)
			}
		}
	}
}
