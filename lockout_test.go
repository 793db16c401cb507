package keyholder_test

import (
	"math"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that locks begin late, grow with each failure and are bounded.
func TestLockOut(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		0: 0, 1: 0, 4: 0, 5: 2 * time.Second, 6: 4 * time.Second, 13: 512 * time.Second,
		14: 15 * time.Minute, 15: 15 * time.Minute, 1000: 15 * time.Minute, math.MaxInt: 15 * time.Minute,
	} {
		if got := keyholder.LockOut(failures); got != want {
			t.Errorf("after %d failures: %v, want %v", failures, got, want)
		}
	}
	if keyholder.LockMemory < keyholder.LockOut(math.MaxInt) {
		t.Error("failures are forgotten before the longest lock has ended")
	}
}
