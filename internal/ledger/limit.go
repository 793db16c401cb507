package ledger

import (
	"sync"
	"time"
)

// limitParties is from when on parties that did nothing in the last minute are
// forgotten.
const limitParties = 10_000

// Limit bounds how often each party does something in a minute, and counts
// what was beyond it. Its methods are safe for concurrent use.
type Limit struct {
	most int
	now  func() time.Time

	mu      sync.Mutex // guards parties
	parties map[string]*minute
}

// minute counts what one party did.
type minute struct {
	since   time.Time // its begin
	taken   int
	leftOut int // since the last one that was within the bound
}

// NewLimit returns a limit of most in a minute for each party.
func NewLimit(most int, now func() time.Time) *Limit {
	return &Limit{most: most, now: now, parties: map[string]*minute{}}
}

// Take counts one and says whether it is within the bound, and how many were
// left out before it.
func (l *Limit) Take(party string) (leftOut int, ok bool) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.parties[party]
	if m == nil {
		if len(l.parties) >= limitParties {
			l.forget(now)
		}
		m = &minute{since: now}
		l.parties[party] = m
	}
	if age := now.Sub(m.since); age > time.Minute || age < 0 {
		m.since, m.taken = now, 0
	}
	if m.taken >= l.most {
		m.leftOut++
		return 0, false
	}
	m.taken++
	leftOut, m.leftOut = m.leftOut, 0
	return leftOut, true
}

// LeaveOut counts one that was within the bound and could not be done.
func (l *Limit) LeaveOut(party string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.parties[party]; m != nil {
		m.leftOut++
	}
}

// forget drops the parties of which the last minute is over. The caller holds
// the lock.
func (l *Limit) forget(now time.Time) {
	for party, m := range l.parties {
		if now.Sub(m.since) > time.Minute {
			delete(l.parties, party)
		}
	}
}
