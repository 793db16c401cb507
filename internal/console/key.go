package console

import (
	"context"
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

func (c *Console) rotateKey(ctx context.Context, _ NewKey) (RotatedKey, error) {
	kid, from, err := c.keyring.Rotate(keyring.Lead)
	if err != nil {
		return RotatedKey{}, err
	}
	// The key is kept already: if the record fails, the caller hears of it and
	// the next try of the same says that a key waits.
	err = c.ledger.Record(ctx, keyholder.EventKeyRotated, ledger.Administrator, kid, map[string]string{"from": from.Format(time.RFC3339)})
	return RotatedKey{ID: kid, From: from}, err
}
