package ledger

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// signReceipt signs a receipt and stores it.
func (l *Ledger) signReceipt(ctx context.Context, r keyholder.Receipt) (keyholder.Receipt, error) {
	r.Signed = ""
	body, err := json.Marshal(r)
	if err != nil {
		return r, fmt.Errorf("write the receipt: %w", err)
	}
	if r.Signed, err = l.sign(body); err != nil {
		return r, fmt.Errorf("sign the receipt: %w", err)
	}
	stored, err := json.Marshal(r)
	if err != nil {
		return r, fmt.Errorf("write the receipt: %w", err)
	}
	return r, l.store.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		_, err := tx.Exec("UPDATE receipts SET body = ?, signed = ? WHERE id = ?", string(stored), r.Signed, r.Receipt)
		return err
	})
}

// finishReceipts signs the receipts of cuts whose process died before it
// could: the cut itself was committed, and no live session outlives a
// process.
func (l *Ledger) finishReceipts(ctx context.Context) error {
	var open []keyholder.Receipt
	if err := l.each(ctx, "SELECT body FROM receipts WHERE signed = ''", func(scan scanner) error {
		r, err := scanReceipt(scan)
		open = append(open, r)
		return err
	}); err != nil {
		return err
	}
	for _, r := range open {
		r.Planes = []keyholder.PlaneReport{{Plane: "restart", Took: l.Now().Sub(r.At)}}
		if _, err := l.signReceipt(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// Receipt returns the receipt of a cut. Errors: NotFound.
func (l *Ledger) Receipt(ctx context.Context, id keyholder.ReceiptID) (keyholder.Receipt, error) {
	var r keyholder.Receipt
	err := l.each(ctx, "SELECT body FROM receipts WHERE id = ?", func(scan scanner) error {
		var err error
		r, err = scanReceipt(scan)
		return err
	}, id)
	if err == nil && r.Receipt == "" {
		return r, keyholder.Errorf(keyholder.NotFound, "no receipt of that ID")
	}
	return r, err
}

// Receipts returns all receipts, oldest first.
func (l *Ledger) Receipts(ctx context.Context) ([]keyholder.Receipt, error) {
	receipts := []keyholder.Receipt{}
	err := l.each(ctx, "SELECT body FROM receipts ORDER BY at, id", func(scan scanner) error {
		r, err := scanReceipt(scan)
		receipts = append(receipts, r)
		return err
	})
	return receipts, err
}

func scanReceipt(scan scanner) (keyholder.Receipt, error) {
	var body string
	if err := scan(&body); err != nil {
		return keyholder.Receipt{}, err
	}
	var r keyholder.Receipt
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		return r, fmt.Errorf("read a receipt: %w", err)
	}
	return r, nil
}
