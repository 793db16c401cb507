// Package facility is the memory of FDS data for providers without a back end
// of their own: specifications, statuses, statistics, diagnostics, events,
// event specifications and spaces of each provider and owner, and the tags of
// each subscription.
//
// Of an item only what the FDS pages state is looked at: that it is an object
// with an ID and a "generic" object. Everything else is carried through: the
// bytes that were put are the bytes that are listed.
//
// The package decides no right. Its callers name the provider and the owner,
// and take them from the standing of a subscription or from an agreement.
package facility

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// defaultKeep is how many items of a history are kept without a setting.
const defaultKeep = 1_000_000

// Config holds what a Facility is made of.
type Config struct {
	Store  *store.Store
	Now    func() time.Time // nil: time.Now
	Random io.Reader        // nil: crypto/rand; for the IDs of tags
	// Keep bounds the histories (events and statistics) per provider, owner
	// and kind, in items; the oldest go first. It is kept to within an
	// eighth. 0 means 1,000,000.
	Keep int
}

// Facility is the open memory. Its methods are safe for concurrent use.
type Facility struct {
	store  *store.Store
	now    func() time.Time
	random io.Reader
	keep   int

	mu    sync.Mutex // guards grown
	grown map[shelf]int
}

// shelf names one provider's items of one kind for one owner.
type shelf struct {
	provider keyholder.ProviderID
	owner    keyholder.OwnerID
	kind     keyholder.Kind
}

// Open returns the memory kept in a store.
func Open(c Config) (*Facility, error) {
	if c.Store == nil {
		return nil, fmt.Errorf("open the facility: no store")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Keep <= 0 {
		c.Keep = defaultKeep
	}
	return &Facility{store: c.Store, now: c.Now, random: c.Random, keep: c.Keep, grown: map[shelf]int{}}, nil
}

// Put checks items and stores them in one durable transaction, all or none.
// It returns how many changed what is stored: an event that is there already,
// byte for byte, is not stored again. A bad item gives an
// [keyholder.Error] of code Invalid that names its index, counted from 0.
func (f *Facility) Put(ctx context.Context, provider keyholder.ProviderID, owner keyholder.OwnerID, kind keyholder.Kind, items []json.RawMessage) (int, error) {
	b, err := ParseBatch(kind, items)
	if err != nil {
		return 0, err
	}
	var fresh []json.RawMessage
	err = f.store.Write(ctx, func(tx *store.Tx) error {
		var err error
		fresh, err = f.PutTx(tx, provider, owner, b)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", kind, err)
	}
	return len(fresh), nil
}

// Of the latest kinds a new item takes the place of the old one; an event is
// never changed.
const (
	putLatest = `INSERT INTO items (provider, owner, kind, entity, key, body) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (provider, owner, kind, entity, key) DO UPDATE SET body = excluded.body`
	putOnce = `INSERT INTO items (provider, owner, kind, entity, key, body) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (provider, owner, kind, entity, key) DO NOTHING`
)

// PutTx stores a checked batch inside a caller's transaction and returns the
// items that are worth a push, in their order: all of them, except events
// that were there already, so that a provider may repeat a request whose
// answer was lost.
func (f *Facility) PutTx(tx *store.Tx, provider keyholder.ProviderID, owner keyholder.OwnerID, b Batch) ([]json.RawMessage, error) {
	query := putLatest
	if b.kind == keyholder.Events {
		query = putOnce
	}
	put, err := tx.Prepare(query)
	if err != nil {
		return nil, fmt.Errorf("store items: %w", err)
	}
	defer put.Close()
	fresh := make([]json.RawMessage, 0, len(b.items))
	for _, it := range b.items {
		res, err := put.Exec(string(provider), string(owner), string(b.kind), it.entity, it.key, []byte(it.body))
		if err != nil {
			return nil, fmt.Errorf("store an item: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return nil, fmt.Errorf("store an item: %w", err)
		}
		if n > 0 {
			fresh = append(fresh, it.body)
		}
	}
	if b.kind == keyholder.Events || b.kind == keyholder.Statistics {
		if err := f.trim(tx, shelf{provider, owner, b.kind}, len(fresh)); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// trim removes the oldest items beyond the bound. Counting a long history
// costs, so it is done when the history grew by an eighth of the bound, and
// once after a start.
func (f *Facility) trim(tx *store.Tx, s shelf, added int) error {
	f.mu.Lock()
	grown, counted := f.grown[s]
	grown += added
	due := !counted || grown > f.keep/8
	if due {
		grown = 0
	}
	f.grown[s] = grown
	f.mu.Unlock()
	if !due {
		return nil
	}
	_, err := tx.Exec(`DELETE FROM items WHERE provider = ?1 AND owner = ?2 AND kind = ?3 AND seq <=
		(SELECT seq FROM items WHERE provider = ?1 AND owner = ?2 AND kind = ?3 ORDER BY seq DESC LIMIT 1 OFFSET ?4)`,
		string(s.provider), string(s.owner), string(s.kind), f.keep)
	if err != nil {
		return fmt.Errorf("remove the oldest items: %w", err)
	}
	return nil
}
