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

// Ensure that only a browser in which this very user has signed in lately is
// counted apart from strangers.
func TestKnownBrowser(t *testing.T) {
	user := keyholder.User{ID: theUser}
	disabled := keyholder.User{ID: theUser, Disabled: long}
	known := keyholder.KnownBrowser{User: theUser, Last: now.Add(-time.Hour)}
	for _, c := range []struct {
		name    string
		browser keyholder.KnownBrowser
		user    keyholder.User
		want    bool
	}{
		{"known", known, user, true},
		{"unknown", keyholder.KnownBrowser{}, user, false},
		{"known to another user", keyholder.KnownBrowser{User: "another", Last: known.Last}, user, false},
		{"known, to a disabled user", known, disabled, false},
		{"unknown login", known, keyholder.User{}, false},
		{"unknown login and browser", keyholder.KnownBrowser{}, keyholder.User{}, false},
		{"just not forgotten", keyholder.KnownBrowser{User: theUser, Last: now.Add(time.Microsecond - keyholder.BrowserMemory)}, user, true},
		{"forgotten", keyholder.KnownBrowser{User: theUser, Last: now.Add(-keyholder.BrowserMemory)}, user, false},
	} {
		if got := c.browser.CountsAlone(c.user, now); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
