package keyholder

import "time"

// Bounds of a lock-out. A person who mistypes is not kept waiting; one who
// guesses has four tries an hour; and a lock always ends by itself. Those who
// go on failing in another's name do not keep them out of the browsers that
// they use (see [KnownBrowser]).
const (
	freeFailures = 5
	firstLock    = 2 * time.Second
	longestLock  = 15 * time.Minute

	// LockMemory is how long after the last failure all of them are forgotten.
	LockMemory = time.Hour
)

// LockOut returns for how long a sign-in is locked after so many failures in
// a row: not at all before the fifth, then for two seconds, doubled by each
// further one up to fifteen minutes.
func LockOut(failures int) time.Duration {
	over := failures - freeFailures
	if over < 0 {
		return 0
	}
	return min(firstLock<<min(over, 16), longestLock)
}

// BrowserMemory is for how long a browser is known after a sign-in.
const BrowserMemory = 180 * 24 * time.Hour

// KnownBrowser is a browser in which a user has signed in; the zero value is
// any other.
type KnownBrowser struct {
	User UserID
	Last time.Time // sign-in
}

// CountsAlone says whether failures in this browser at the login of u count
// for themselves. Otherwise they count together with those of all strangers,
// who lock each other and nobody else (OWASP: device cookies). A login that
// nobody has, the zero user, is known to no browser.
func (k KnownBrowser) CountsAlone(u User, now time.Time) bool {
	return k.User != "" && k.User == u.ID && u.Disabled.IsZero() && now.Before(k.Last.Add(BrowserMemory))
}
