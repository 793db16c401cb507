package keyring

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// Lead is how long a new key is published before it signs: longer than a
// verifier keeps a key set without asking again (guard: ten minutes).
const Lead = 15 * time.Minute

// keep is how long a key that does not sign any more stays published: many
// times the life of a token (five minutes).
const keep = time.Hour

// Change is what happened to a key, for the audit trail.
type Change struct {
	Kind keyholder.EventKind // EventKeyRotated: a new key; EventKeyRetired: an old one signs and verifies no tokens any more
	KID  string
	From time.Time // from when a new key signs
}

// Rotate makes a key, publishes it at once, and lets it sign after the lead.
// It returns the new key's name and the time from which it signs. Errors:
// Conflict while a new key waits for its turn, or if the ring is full.
func (r *Ring) Rotate(lead time.Duration) (kid string, from time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.Now()
	if last := r.turns[len(r.turns)-1]; last.from.After(now) {
		return "", time.Time{}, keyholder.Errorf(keyholder.Conflict, "a new key is published already and signs from %s", last.from.Format(time.RFC3339))
	}
	if len(r.keys) >= maxKeys {
		return "", time.Time{}, keyholder.Errorf(keyholder.Conflict, "the ring holds %d keys, which is the most", maxKeys).
			WithHint("keys that do not sign any more leave it an hour later")
	}
	// The seconds are whole, as they stand in the file; never before the lead.
	from = now.Add(lead + time.Second).UTC().Truncate(time.Second)
	kid, err = r.add(from)
	return kid, from, err
}

// add makes a key that signs from a moment on. The caller holds the lock.
// First the key is kept, then its turn: a crash between leaves a key that is
// published and never signs, until Tend takes it away.
func (r *Ring) add(from time.Time) (kid string, err error) {
	k, encoded, err := r.cfg.makeKey(r.token)
	if err != nil {
		return "", err
	}
	path := r.file(k.public.KeyID, keySuffix)
	if err := keyfile.Add(path, r.cfg.Seal.Close(path, encoded)); err != nil {
		return "", fmt.Errorf("keep the new key: %w", err)
	}
	turns := append(slices.Clone(r.turns), turn{k.public.KeyID, from})
	if err := r.keepTurns(turns); err != nil {
		return "", err
	}
	r.keys, r.turns = append(slices.Clone(r.keys), k), turns
	return k.public.KeyID, nil
}

func (r *Ring) keepTurns(turns []turn) error {
	if err := keyfile.Replace(filepath.Join(r.path, signingFile), formatTurns(turns)); err != nil {
		return fmt.Errorf("keep whose turn it is to sign: %w", err)
	}
	return nil
}

// Holds says whether a key of that name is or was in the ring.
func (r *Ring) Holds(kid string) bool {
	return slices.ContainsFunc(r.History(), func(h HistoricalKey) bool { return h.Key.KeyID == kid })
}

// Retire takes a key that others may have out of use at once: it neither
// signs nor is it published, its private part is removed, and its public part
// stays in the history as compromised. If it was to sign, the key that waits
// for its turn signs now, or a new one, which is in the changes. Retiring a
// retired key again changes nothing. Errors: NotFound.
func (r *Ring) Retire(kid string) ([]Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.Now()
	if i := r.retiredIndex(kid); i >= 0 {
		h := r.retired[i]
		if h.Compromised {
			return nil, nil
		}
		h.Retired, h.Compromised = now.UTC().Truncate(time.Second), true
		if err := r.keepRetired(h); err != nil {
			return nil, err
		}
		r.retired = slices.Clone(r.retired)
		r.retired[i] = h
		return nil, nil
	}
	if !slices.ContainsFunc(r.keys, func(k key) bool { return k.public.KeyID == kid }) {
		return nil, keyholder.Errorf(keyholder.NotFound, "there is no signing key %s", kid).WithHint("`keyholder key list` names them")
	}
	signed := r.turns[active(r.turns, now)].kid == kid
	made, err := r.succeed(kid, now, signed)
	if err != nil {
		return nil, err
	}
	if err := r.retire(kid, now, true); err != nil {
		return made, err
	}
	return made, r.discard()
}

// succeed sees to it that another key signs now, if the one to retire does.
// The caller holds the lock.
func (r *Ring) succeed(kid string, now time.Time, signed bool) ([]Change, error) {
	if !signed {
		return nil, nil
	}
	at := active(r.turns, now)
	from := now.UTC().Truncate(time.Second)
	if before := r.turns[at].from; from.Before(before) { // the clock was set back
		from = before
	}
	if at == len(r.turns)-1 {
		made, err := r.add(from)
		return []Change{{keyholder.EventKeyRotated, made, from}}, err
	}
	turns := slices.Clone(r.turns)
	turns[at+1].from = from
	if err := r.keepTurns(turns); err != nil {
		return nil, err
	}
	r.turns = turns
	return nil, nil
}

// retire moves a key that does not sign into the history. The file of the
// retired key is what counts after a crash. The caller holds the lock.
func (r *Ring) retire(kid string, now time.Time, compromised bool) error {
	i := slices.IndexFunc(r.keys, func(k key) bool { return k.public.KeyID == kid })
	h := HistoricalKey{Key: r.keys[i].public, Retired: now.UTC().Truncate(time.Second), Compromised: compromised}
	if err := r.keepRetired(h); err != nil {
		return err
	}
	r.retired = append(slices.Clone(r.retired), h)
	r.keys = slices.Delete(slices.Clone(r.keys), i, i+1)
	r.turns = slices.DeleteFunc(slices.Clone(r.turns), func(t turn) bool { return t.kid == kid })
	return r.keepTurns(r.turns)
}

// discard destroys the private parts of retired keys: those just retired, and
// those that a crash, or an HSM that did not answer, left over. The file goes
// last, because it names the key in the HSM. The caller holds the lock.
func (r *Ring) discard() error {
	entries, err := os.ReadDir(r.path)
	if err != nil {
		return fmt.Errorf("list the signing keys: %w", err)
	}
	var errs []error
	for kid := range named(entries, keySuffix) {
		if r.retiredIndex(kid) >= 0 {
			errs = append(errs, r.destroy(kid))
		}
	}
	return errors.Join(errs...)
}

func (r *Ring) destroy(kid string) error {
	if r.token != nil {
		block, err := r.readKey(kid)
		if err != nil {
			return err
		}
		if err := r.token.destroy(block.Headers[labelHeader]); err != nil {
			return fmt.Errorf("destroy the retired key %s in the HSM: %w", kid, err)
		}
	}
	if err := os.Remove(r.file(kid, keySuffix)); err != nil {
		return fmt.Errorf("remove the retired key: %w", err)
	}
	return nil
}

func (r *Ring) keepRetired(h HistoricalKey) error {
	text, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("write the retired key: %w", err)
	}
	if err := keyfile.Replace(r.file(h.Key.KeyID, retiredSuffix), append(text, '\n')); err != nil {
		return fmt.Errorf("keep the retired key: %w", err)
	}
	return nil
}

// Tend keeps the ring in order, and is called every minute or so: keys that
// have not signed for an hour are retired, and if every is not 0 and the last
// key's turn began that long ago, the next one is made. A clock that was set
// back neither keeps a key from its turn for longer than the lead nor stops
// rotation; one that was set forward makes one rotation due, not many. It
// returns what it did, also when it could not do the rest.
func (r *Ring) Tend(every time.Duration) ([]Change, error) {
	done, last, err := r.tidy()
	if err == nil && every > 0 && r.cfg.Now().Sub(last) >= every {
		var c Change
		if c.KID, c.From, err = r.Rotate(Lead); err == nil {
			c.Kind = keyholder.EventKeyRotated
			done = append(done, c)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return done, errors.Join(err, r.discard())
}

// tidy is Tend without rotation. It returns also when the last turn begins.
func (r *Ring) tidy() (done []Change, last time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.Now()
	if err := r.followClock(now); err != nil {
		return nil, time.Time{}, err
	}
	at := active(r.turns, now)
	over := func(kid string) bool {
		i := slices.IndexFunc(r.turns, func(t turn) bool { return t.kid == kid })
		return i < 0 || i < at && now.Sub(r.turns[i+1].from) >= keep
	}
	for _, k := range slices.DeleteFunc(slices.Clone(r.keys), func(k key) bool { return !over(k.public.KeyID) }) {
		if err := r.retire(k.public.KeyID, now, false); err != nil {
			return done, time.Time{}, err
		}
		done = append(done, Change{Kind: keyholder.EventKeyRetired, KID: k.public.KeyID})
	}
	return done, r.turns[len(r.turns)-1].from, nil
}

// followClock draws in turns that lie further ahead than any can that was
// made by this clock. The caller holds the lock.
func (r *Ring) followClock(now time.Time) error {
	turns := slices.Clone(r.turns)
	for i := range turns {
		latest := now.Add(Lead + time.Second)
		if i == 0 {
			latest = now
		}
		if turns[i].from.After(latest) {
			turns[i].from = latest.UTC().Truncate(time.Second)
		}
	}
	if slices.Equal(turns, r.turns) {
		return nil
	}
	if err := r.keepTurns(turns); err != nil {
		return err
	}
	r.turns = turns
	return nil
}
