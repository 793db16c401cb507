package guard

import (
	"context"
	"crypto"
	"io"
	"net/http"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// FetchKeysAt is FetchKeys with a clock.
func FetchKeysAt(issuer string, client *http.Client, now func() time.Time) func(context.Context, string) (crypto.PublicKey, error) {
	return newKeySource(issuer, client, now).key
}

// Cached returns how many tokens a guard remembers.
func (g *Guard) Cached() int {
	n := 0
	for i := range g.cache.parts {
		p := &g.cache.parts[i]
		p.mu.Lock()
		n += len(p.entries)
		p.mu.Unlock()
	}
	return n
}

// ParseKeySet reads a key set.
var ParseKeySet = parseKeySet

// ReadEvents reads a feed; an event without an ending is a beat.
func ReadEvents(r io.Reader, emit func(id string, e *keyholder.Ending)) error {
	return readEvents(r, func(e feedEvent) { emit(e.id, e.ending) })
}

// The limits of the memory of used proofs.
const (
	MaxReplays    = maxReplays
	MaxKeyReplays = maxKeyReplays
)

// NewReplays returns the use of a memory of used proofs.
func NewReplays(now time.Time) func(DPoP, time.Time) error { return newReplays(now).use }
