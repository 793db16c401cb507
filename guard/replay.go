package guard

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

const (
	// maxReplays bounds the proofs that are remembered, each for the 70
	// seconds in which it could be used again: about 3,700 requests a second,
	// in about 32 MiB. maxKeyReplays is the share of one key, so that no app
	// takes the memory of all others.
	maxReplays    = 1 << 18
	maxKeyReplays = 1 << 16
)

// replays remembers which DPoP proofs were used. It forgets none before it is
// too old to be taken: when it is full, further proofs are refused.
type replays struct {
	since time.Time // it knows nothing of what was used before

	mu    sync.Mutex // guards everything below
	seen  map[hash]bool
	keys  map[keyholder.KeyThumbprint]int // how many of each key
	order []usedProof                     // the oldest first, from head on
	head  int
}

type usedProof struct {
	sum   hash
	key   keyholder.KeyThumbprint
	until time.Time
}

// newReplays returns a memory that begins at the time now. Times in a proof
// are whole seconds as a rule.
func newReplays(now time.Time) *replays {
	return &replays{since: now.Truncate(time.Second), seen: map[hash]bool{}, keys: map[keyholder.KeyThumbprint]int{}}
}

// use takes a proof that is good at the time now, once.
func (r *replays) use(p DPoP, now time.Time) error {
	if p.IssuedAt.Before(r.since) {
		return refuseProof("it was made before this server began, which therefore cannot know whether it was used")
	}
	sum := hash(sha256.Sum256(append(p.Key[:], p.ID...)))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(now)
	switch {
	case r.seen[sum]:
		return refuseProof("it was used before (jti)")
	case len(r.seen) >= maxReplays, r.keys[p.Key] >= maxKeyReplays:
		return unavailable("more requests with DPoP proofs come in than can be remembered", nil)
	}
	r.seen[sum] = true
	r.keys[p.Key]++
	r.order = append(r.order, usedProof{sum, p.Key, now.Add(proofAge + proofLeeway)})
	return nil
}

// forget drops what is too old to be taken again. The caller holds mu.
func (r *replays) forget(now time.Time) {
	for r.head < len(r.order) && !now.Before(r.order[r.head].until) {
		old := r.order[r.head]
		delete(r.seen, old.sum)
		if r.keys[old.key]--; r.keys[old.key] == 0 {
			delete(r.keys, old.key)
		}
		r.head++
	}
	if r.head > len(r.order)/2 {
		r.order = append(r.order[:0], r.order[r.head:]...)
		r.head = 0
	}
}
