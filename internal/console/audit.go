package console

import (
	"context"
	"strconv"

	"github.com/fds-keyholder/keyholder"
)

// Bounds of one page of the audit trail, in rows.
const (
	defaultRows = 100
	maxRows     = 10_000
)

// AuditState is the answer of a verified audit trail.
type AuditState struct {
	Rows int64 `json:"rows"`
}

// audit answers the rows after a sequence number, in order.
func (c *Console) audit(ctx context.Context, q map[string]string) ([]keyholder.Event, error) {
	after, err := number(q, "after", 0, 0, 1<<62)
	if err != nil {
		return nil, err
	}
	limit, err := number(q, "limit", defaultRows, 1, maxRows)
	if err != nil {
		return nil, err
	}
	return c.ledger.Audit(ctx, after, int(limit))
}

// verifyAudit follows the hash chain. A broken trail is an error of code
// Conflict that names the row.
func (c *Console) verifyAudit(ctx context.Context) (AuditState, error) {
	rows, err := c.ledger.VerifyAudit(ctx)
	return AuditState{Rows: rows}, err
}

// number reads a whole number between two bounds.
func number(q map[string]string, name string, absent, least, most int64) (int64, error) {
	s, ok := q[name]
	if !ok {
		return absent, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		return 0, keyholder.Errorf(keyholder.Invalid, "%s is not a whole number from %d to %d", name, least, most)
	}
	return n, nil
}
