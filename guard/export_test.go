package guard

import (
	"context"
	"crypto"
	"net/http"
	"time"
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
