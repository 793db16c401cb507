package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// NewKey asks for a new signing key. It has no members.
type NewKey struct{}

// RotatedKey is a new signing key: published now, signing from a moment on.
type RotatedKey struct {
	ID   string    `json:"kid"`
	From time.Time `json:"from"`
}

// KeyRetirement takes a signing key out of use at once, because others may
// have it.
type KeyRetirement struct {
	ID     string `json:"kid"`
	Reason string `json:"reason"`
}

// RetiredKey says which key signs after another was retired.
type RetiredKey struct {
	ID    string `json:"kid"`
	Signs string `json:"signs"` // kid
}

// retireKey first ends what the key signed and then takes it out of the ring.
// If it stops in between nothing that the key signs is good any more; it is
// finished by the same request again, or by the next start.
func (c *Console) retireKey(ctx context.Context, q KeyRetirement) (RetiredKey, error) {
	if strings.TrimSpace(q.Reason) == "" {
		return RetiredKey{}, keyholder.Errorf(keyholder.Invalid, "a reason is needed")
	}
	if !c.keyring.Holds(q.ID) {
		return RetiredKey{}, keyholder.Errorf(keyholder.NotFound, "there is no such signing key").WithHint("`keyholder key list` names them")
	}
	if err := c.ledger.EndKey(ctx, ledger.Administrator, q.ID, q.Reason); err != nil {
		return RetiredKey{}, err
	}
	changes, err := c.keyring.Retire(q.ID)
	for _, change := range changes {
		err = errors.Join(err, c.recordKey(ctx, change.KID, change.From))
	}
	signs, _ := c.keyring.Signer()
	return RetiredKey{ID: q.ID, Signs: signs}, err
}

// keys answers every public key there ever was, as a key set (RFC 7517).
func (c *Console) keys(context.Context) (json.RawMessage, error) {
	b, err := json.Marshal(map[string]any{"keys": c.keyring.History()})
	if err != nil {
		return nil, fmt.Errorf("write the public keys: %w", err)
	}
	return b, nil
}

func (c *Console) rotateKey(ctx context.Context, _ NewKey) (RotatedKey, error) {
	kid, from, err := c.keyring.Rotate(keyring.Lead)
	if err != nil {
		return RotatedKey{}, err
	}
	// The key is kept already: if the record fails, the caller hears of it and
	// the next try of the same says that a key waits.
	return RotatedKey{ID: kid, From: from}, c.recordKey(ctx, kid, from)
}

// recordKey records that there is a new key, and from when it signs.
func (c *Console) recordKey(ctx context.Context, kid string, from time.Time) error {
	return c.ledger.Record(ctx, keyholder.EventKeyRotated, ledger.Administrator, kid, map[string]string{"from": from.Format(time.RFC3339)})
}
