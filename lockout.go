package keyholder

import "time"

// Bounds of a lock-out. A person who mistypes is not kept waiting; one who
// guesses has four tries an hour; and a lock always ends by itself, so that
// nobody can keep another out by failing in their name for longer than they
// go on failing.
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
