package keyring

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// Lead is how long a new key is published before it signs: longer than a
// verifier keeps a key set without asking again (guard: ten minutes).
const Lead = 15 * time.Minute

// Rotate makes a key, publishes it at once, and lets it sign after the lead.
// The keys before it stay published, because receipts they signed are
// verified for years. It returns the new key's name and the time from which
// it signs. Errors: Conflict while a new key waits for its turn, or if the
// ring is full.
func (r *Ring) Rotate(lead time.Duration) (kid string, from time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if last := r.turns[len(r.turns)-1]; last.from.After(now) {
		return "", time.Time{}, keyholder.Errorf(keyholder.Conflict, "a new key is published already and signs from %s", last.from.Format(time.RFC3339))
	}
	if len(r.keys) >= maxKeys {
		return "", time.Time{}, keyholder.Errorf(keyholder.Conflict, "the ring holds %d keys, which is the most", maxKeys).
			WithHint("move the file of the oldest key out of the data folder and restart, if nothing it signed is verified any more")
	}
	key, encoded, err := newKey()
	if err != nil {
		return "", time.Time{}, err
	}
	// The seconds are whole, as they stand in the file; never before the lead.
	from = now.Add(lead + time.Second).UTC().Truncate(time.Second)
	turns := append(r.turns[:len(r.turns):len(r.turns)], turn{key.KeyID, from})
	// First the key, then its turn: a crash between leaves a key that is
	// published and never signs.
	if err := keyfile.Add(filepath.Join(r.path, keyPrefix+key.KeyID+keySuffix), encoded); err != nil {
		return "", time.Time{}, fmt.Errorf("keep the new key: %w", err)
	}
	if err := keyfile.Replace(filepath.Join(r.path, signingFile), formatTurns(turns)); err != nil {
		return "", time.Time{}, fmt.Errorf("keep the new key's turn: %w", err)
	}
	r.keys, r.turns = append(r.keys, key), turns
	return key.KeyID, from, nil
}

// formatTurns is the inverse of parseTurns.
func formatTurns(turns []turn) []byte {
	var text strings.Builder
	for i, t := range turns {
		text.WriteString(t.kid)
		if i > 0 {
			text.WriteString(" " + t.from.Format(time.RFC3339))
		}
		text.WriteString("\n")
	}
	return []byte(text.String())
}
