package ledger_test

import (
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Ensure that a limit holds for each party by itself and for each minute, says
// what was left out, and is not stuck when the clock is set back.
func TestLimit(t *testing.T) {
	now := time.Date(2026, 3, 2, 5, 8, 46, 0, time.UTC)
	l := ledger.NewLimit(2, func() time.Time { return now })
	take := func(party string, wantOK bool, wantLeftOut int) {
		t.Helper()
		if leftOut, ok := l.Take(party); ok != wantOK || leftOut != wantLeftOut {
			t.Errorf("%s: %v, %d left out; want %v, %d", party, ok, leftOut, wantOK, wantLeftOut)
		}
	}
	take("a", true, 0)
	take("a", true, 0)
	take("a", false, 0)
	take("a", false, 0)
	take("b", true, 0)
	now = now.Add(time.Minute)
	take("a", false, 0) // the minute includes its end
	now = now.Add(time.Second)
	take("a", true, 3)
	l.LeaveOut("a")
	l.LeaveOut("nobody")
	take("a", true, 1)
	take("a", false, 0)
	now = now.Add(-time.Hour)
	take("a", true, 1)
}
