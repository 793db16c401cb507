package guard

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// shards is how many parts the cache has, each with its own mutex.
const shards = 16

// hash is the SHA-256 hash of a whole token; a token itself is never kept.
type hash = [sha256.Size]byte

// hashOf hashes a token; one of the usual length without allocation.
func hashOf(raw string) hash {
	var buf [1 << 10]byte
	if len(raw) > len(buf) {
		return sha256.Sum256([]byte(raw))
	}
	return sha256.Sum256(buf[:copy(buf[:], raw)])
}

// cache remembers verified tokens, mostly until they expire, the least recently used
// ones being given up first.
type cache struct {
	parts [shards]part
}

// part is one part of the cache. The entries form a ring through root: the
// one after root was used last.
type part struct {
	mu      sync.Mutex // guards all fields
	limit   int
	entries map[hash]*entry
	root    entry
}

type entry struct {
	hash       hash
	token      keyholder.Token
	until      time.Time // when it must be verified anew
	prev, next *entry
}

// newCache returns a cache for about size tokens; with size below 1 it keeps
// none.
func newCache(size int) *cache {
	c := &cache{}
	limit := (max(size, 0) + shards - 1) / shards
	for i := range c.parts {
		p := &c.parts[i]
		p.limit = limit
		p.entries = make(map[hash]*entry)
		p.root.prev, p.root.next = &p.root, &p.root
	}
	return c
}

// get returns a token that may be taken as verified at the time now.
func (c *cache) get(h hash, now time.Time) (keyholder.Token, bool) {
	p := &c.parts[h[0]%shards]
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.entries[h]
	if !ok {
		return keyholder.Token{}, false
	}
	if !now.Before(e.until) {
		p.remove(e)
		return keyholder.Token{}, false
	}
	e.unlink()
	p.pushFront(e)
	return e.token, true
}

// put remembers a verified token until a time.
func (c *cache) put(h hash, t keyholder.Token, until time.Time) {
	p := &c.parts[h[0]%shards]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit == 0 {
		return
	}
	if e, ok := p.entries[h]; ok {
		p.remove(e)
	}
	for len(p.entries) >= p.limit {
		p.remove(p.root.prev)
	}
	e := &entry{hash: h, token: t, until: until}
	p.entries[h] = e
	p.pushFront(e)
}

// drop forgets every token that match selects and returns how many.
func (c *cache) drop(match func(keyholder.Token) bool) int {
	n := 0
	for i := range c.parts {
		p := &c.parts[i]
		p.mu.Lock()
		for _, e := range p.entries {
			if match(e.token) {
				p.remove(e)
				n++
			}
		}
		p.mu.Unlock()
	}
	return n
}

func (p *part) remove(e *entry) {
	e.unlink()
	delete(p.entries, e.hash)
}

func (p *part) pushFront(e *entry) {
	e.prev, e.next = &p.root, p.root.next
	e.prev.next, e.next.prev = e, e
}

func (e *entry) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
}

// maxThumbprints bounds how many certificates' thumbprints are remembered.
const maxThumbprints = 4096

// thumbprints remembers the thumbprint of the certificate of each connection.
// The parsed certificate is the key: it is made once per connection and never
// changed, and while it is in the map its address cannot be used again.
type thumbprints struct {
	mu    sync.RWMutex
	known map[*x509.Certificate]keyholder.Thumbprint
}

func (t *thumbprints) of(c *x509.Certificate) keyholder.Thumbprint {
	t.mu.RLock()
	sum, ok := t.known[c]
	t.mu.RUnlock()
	if ok {
		return sum
	}
	sum = sha256.Sum256(c.Raw)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || len(t.known) >= maxThumbprints {
		t.known = make(map[*x509.Certificate]keyholder.Thumbprint)
	}
	t.known[c] = sum
	return sum
}
