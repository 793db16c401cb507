package broker

import (
	"sync"
	"time"
)

// rate bounds how often each client connects, so that one that reconnects in
// a loop takes no handshakes from the others.
type rate struct {
	most int // in a minute
	now  func() time.Time

	mu    sync.Mutex // guards the fields below
	since time.Time  // begin of the minute that is counted
	taken map[string]int
}

// take counts a connection of a client and says whether it is within the
// bound.
func (r *rate) take(client string) bool {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if age := now.Sub(r.since); age > time.Minute || age < 0 {
		r.since, r.taken = now, map[string]int{}
	}
	r.taken[client]++
	return r.taken[client] <= r.most
}
