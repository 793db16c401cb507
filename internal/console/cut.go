package console

import (
	"context"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// NewCut asks to end a right everywhere.
type NewCut struct {
	Kind   string `json:"kind"` // subscription, consent, agreement, app, provider or cert
	ID     string `json:"id"`   // a UUID; for a cert its serial
	Reason string `json:"reason"`
}

func (c *Console) cut(ctx context.Context, q NewCut) (keyholder.Receipt, error) {
	t, err := keyholder.ParseTarget(q.Kind, q.ID)
	if err != nil {
		return keyholder.Receipt{}, err
	}
	return c.ledger.Cut(ctx, ledger.Administrator, t, q.Reason)
}

func (c *Console) listReceipts(ctx context.Context) ([]keyholder.Receipt, error) {
	return c.ledger.Receipts(ctx)
}

func (c *Console) receipt(ctx context.Context, id string) (keyholder.Receipt, error) {
	want, err := keyholder.ParseID[keyholder.ReceiptID](id)
	if err != nil {
		return keyholder.Receipt{}, err
	}
	return c.ledger.Receipt(ctx, want)
}
