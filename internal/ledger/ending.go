package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// endings is what ended so recently that an access token resting on it could
// be unexpired: a list in the order of the ends, and an index of it. Its
// owner guards it.
type endings struct {
	byKey   map[string]time.Time
	list    []keyholder.Ending
	keys    []keyholder.Ending // the signing keys among them: never forgotten
	first   int64              // position of list[0]; positions count all endings since the start
	changed chan struct{}      // closed and replaced when something is added
}

func newEndings() endings {
	return endings{byKey: map[string]time.Time{}, changed: make(chan struct{})}
}

// add appends endings and forgets those before the time before.
func (e *endings) add(added []keyholder.Ending, before time.Time) {
	n := 0
	for ; n < len(e.list) && e.list[n].At.Before(before); n++ {
		key := e.list[n].Key()
		if e.list[n].Kind != keyholder.EndedKey && e.byKey[key].Equal(e.list[n].At) {
			delete(e.byKey, key)
		}
	}
	e.list = slices.Delete(e.list, 0, n)
	e.first += int64(n)
	if len(added) == 0 {
		return
	}
	for _, a := range added {
		e.byKey[a.Key()] = a.At
		if a.Kind == keyholder.EndedKey {
			e.keys = append(e.keys, a)
		}
	}
	e.list = append(e.list, added...)
	close(e.changed)
	e.changed = make(chan struct{})
}

// after returns up to limit endings from a position on, and the position
// after them. From the beginning, and for a reader who is so far behind that
// some were forgotten, all keys come first.
func (e *endings) after(position int64, limit int) ([]keyholder.Ending, int64) {
	from := min(max(position-e.first, 0), int64(len(e.list)))
	list := e.list[from:]
	list = list[:min(limit, len(list))]
	next := e.first + from + int64(len(list))
	if position <= 0 || position < e.first {
		return slices.Concat(e.keys, list), next
	}
	return slices.Clone(list), next
}

// TokenEnded says whether something that an access token rests on has ended,
// so that the token is refused before it expires. It is exact from the moment
// in which the end is durable, also after a restart.
func (l *Ledger) TokenEnded(t keyholder.Token) bool {
	l.view.mu.RLock()
	defer l.view.mu.RUnlock()
	for _, key := range t.RestsOn() {
		if _, ended := l.view.endings.byKey[key]; ended {
			return true
		}
	}
	return false
}

// GrantEnded says whether a grant has ended so recently that one of its
// access tokens could still be unexpired.
func (l *Ledger) GrantEnded(id keyholder.GrantID) bool {
	return !get(&l.view, l.view.endings.byKey, string(id)).IsZero()
}

// Endings returns, in order, up to limit of the endings from a position on
// that an unexpired access token could rest on, the position to go on from,
// and a channel that is closed when there is more. Position 0 is the
// beginning, where all ended keys come before the limit counts; positions are
// good until the ledger is closed, and no ending that still matters is ever
// passed over.
func (l *Ledger) Endings(position int64, limit int) (list []keyholder.Ending, next int64, more <-chan struct{}) {
	l.view.mu.RLock()
	defer l.view.mu.RUnlock()
	list, next = l.view.endings.after(position, limit)
	return list, next, l.view.endings.changed
}

// EndKey records that a signing key was retired before its time: every token
// it signed is refused from then on, for ever. To take the key out of use is
// the keyring's part. Ending an ended key does nothing.
func (l *Ledger) EndKey(ctx context.Context, actor, kid, reason string) error {
	return l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		at := l.Now()
		result, err := tx.Exec("INSERT INTO ended_keys (kid, ended) VALUES (?, ?) ON CONFLICT DO NOTHING", kid, micros(at))
		if err != nil {
			return fmt.Errorf("end a key: %w", err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err
		}
		tx.After(func() {
			l.view.set(func() { l.addEndings(at, endingsOf(keyholder.EndedKey, []string{kid}, at)) })
		})
		return l.Append(tx, keyholder.EventKeyEnded, actor, kid, detail{"reason": reason})
	})
}

// addEndings remembers endings. The caller holds the lock of the view.
func (l *Ledger) addEndings(now time.Time, added []keyholder.Ending) {
	l.view.endings.add(added, now.Add(-l.endedMemory()))
}

// endGrantsView brings the view up to date with the end of grants.
func (l *Ledger) endGrantsView(ids []keyholder.GrantID, at time.Time) {
	l.view.set(func() { l.addEndings(at, endingsOf(keyholder.EndedGrant, ids, at)) })
}

// endedMemory is how long an ending is remembered: the lifetime of a token
// and as much again for clocks that disagree.
func (l *Ledger) endedMemory() time.Duration { return 2 * l.tokenLifetime }

func endingsOf[T ~string](kind keyholder.EndingKind, ids []T, at time.Time) []keyholder.Ending {
	var out []keyholder.Ending
	for _, id := range ids {
		out = append(out, keyholder.Ending{Kind: kind, ID: string(id), At: at})
	}
	return out
}

// endingsOf lists what a cut ended as endings. The caller holds the lock.
func (v *view) endingsOf(e keyholder.Ended, at time.Time) []keyholder.Ending {
	out := slices.Concat(
		endingsOf(keyholder.EndedClient, e.Apps, at), endingsOf(keyholder.EndedClient, e.Providers, at),
		endingsOf(keyholder.EndedSubscription, e.Subscriptions, at), endingsOf(keyholder.EndedGrant, e.Grants, at))
	for thumbprint, c := range v.certificates {
		if slices.Contains(e.Certificates, c.Serial) {
			out = append(out, keyholder.CertificateEnding(thumbprint, at))
		}
	}
	return out
}

// loadEndings finds again what was remembered before a restart: the ends that
// are not too old. The parties, subscriptions and certificates are loaded.
func (l *Ledger) loadEndings(ctx context.Context) error {
	before := l.Now().Add(-l.endedMemory())
	var out []keyholder.Ending
	note := func(kind keyholder.EndingKind, id string, at time.Time) {
		if at.After(before) {
			out = append(out, keyholder.Ending{Kind: kind, ID: id, At: at})
		}
	}
	for id, p := range l.view.providers {
		note(keyholder.EndedClient, string(id), p.Cut)
	}
	for id, a := range l.view.apps {
		note(keyholder.EndedClient, string(id), a.Cut)
	}
	for id, s := range l.view.subscriptions {
		note(keyholder.EndedSubscription, string(id), s.Cut)
	}
	for thumbprint, c := range l.view.certificates {
		if c.Revoked.After(before) {
			out = append(out, keyholder.CertificateEnding(thumbprint, c.Revoked))
		}
	}
	if err := l.each(ctx, "SELECT id, ended FROM grants WHERE ended > ?", func(scan scanner) error {
		var id string
		var ended int64
		err := scan(&id, &ended)
		note(keyholder.EndedGrant, id, fromMicros(ended))
		return err
	}, micros(before)); err != nil {
		return err
	}
	if err := l.each(ctx, "SELECT kid, ended FROM ended_keys", func(scan scanner) error {
		var kid string
		var ended int64
		err := scan(&kid, &ended)
		out = append(out, keyholder.Ending{Kind: keyholder.EndedKey, ID: kid, At: fromMicros(ended)})
		return err
	}); err != nil {
		return err
	}
	slices.SortFunc(out, func(a, b keyholder.Ending) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
	l.view.endings.add(out, before)
	return nil
}
