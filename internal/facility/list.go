package facility

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fds-keyholder/keyholder"
)

// A list is read in pages, so that a slow reader of a long answer holds
// neither a database connection nor the whole answer in memory.
const (
	pageItems = 500
	pageBytes = 1 << 20
)

// List returns the items of a kind that a provider has for an owner, in the
// order in which their entities first arrived; ids selects by device or space
// ID or message code, nil selects all. IDs that nothing is known of, or only
// of another owner, select nothing.
func (f *Facility) List(ctx context.Context, provider keyholder.ProviderID, owner keyholder.OwnerID, kind keyholder.Kind, ids []string) ([]json.RawMessage, error) {
	items := []json.RawMessage{}
	err := f.Each(ctx, provider, owner, kind, ids, func(body json.RawMessage) error {
		items = append(items, body)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return items, nil
}

// Each calls do with every item that [Facility.List] returns, in the same
// order, reading as it goes; an error of do stops it and is returned as it is.
// An item replaced meanwhile is seen once, old or new.
func (f *Facility) Each(ctx context.Context, provider keyholder.ProviderID, owner keyholder.OwnerID, kind keyholder.Kind, ids []string, do func(json.RawMessage) error) error {
	s := shelf{provider, owner, kind}
	if ids == nil {
		return f.eachAll(ctx, s, do)
	}
	return f.eachOf(ctx, s, ids, do)
}

func (f *Facility) eachAll(ctx context.Context, s shelf, do func(json.RawMessage) error) error {
	for after := int64(0); ; {
		page, last, _, err := f.page(ctx, `SELECT seq, body FROM items WHERE provider = ? AND owner = ? AND kind = ? AND seq > ? ORDER BY seq LIMIT ?`,
			string(s.provider), string(s.owner), string(s.kind), after, pageItems)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, body := range page {
			if err := do(body); err != nil {
				return err
			}
		}
		after = last
	}
}

// eachOf finds the items' numbers first: to sort what the IDs select anew for
// each page would cost the square of its length.
func (f *Facility) eachOf(ctx context.Context, s shelf, ids []string, do func(json.RawMessage) error) error {
	seqs, err := f.seqsOf(ctx, s, ids)
	if err != nil {
		return err
	}
	for len(seqs) > 0 {
		some := seqs[:min(len(seqs), pageItems)]
		page, last, whole, err := f.page(ctx, `SELECT seq, body FROM items WHERE provider = ? AND owner = ? AND kind = ? AND seq IN `+placeholders(some)+` ORDER BY seq`,
			arguments(s, some)...)
		if err != nil {
			return err
		}
		for _, body := range page {
			if err := do(body); err != nil {
				return err
			}
		}
		read := len(some)
		if !whole {
			at, _ := slices.BinarySearch(some, last)
			read = at + 1
		}
		seqs = seqs[read:]
	}
	return nil
}

// seqsOf returns the numbers of the items that the IDs select, in order.
func (f *Facility) seqsOf(ctx context.Context, s shelf, ids []string) ([]int64, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	// The plus keeps the databases on the index by entity: walking a whole
	// history in order to find a few devices would cost far more.
	rows, err := f.store.Read().QueryContext(ctx, `SELECT seq FROM items WHERE provider = ? AND owner = ? AND kind = ? AND entity IN `+placeholders(ids)+` ORDER BY +seq`,
		arguments(s, ids)...)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.kind, err)
	}
	defer rows.Close()
	var seqs []int64
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return nil, fmt.Errorf("list %s: %w", s.kind, err)
		}
		seqs = append(seqs, seq)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list %s: %w", s.kind, err)
	}
	return seqs, nil
}

// placeholders is a list of as many placeholders as there are values.
func placeholders[T any](values []T) string {
	return "(?" + strings.Repeat(", ?", len(values)-1) + ")"
}

// arguments are those of a query for values on a shelf.
func arguments[T any](s shelf, values []T) []any {
	args := []any{s.provider, s.owner, s.kind}
	for _, v := range values {
		args = append(args, v)
	}
	return args
}

// page reads items up to the bound of bytes, and says the number of the last
// one and whether it read all that the query gives.
func (f *Facility) page(ctx context.Context, query string, args ...any) ([]json.RawMessage, int64, bool, error) {
	rows, err := f.store.Read().QueryContext(ctx, query, args...)
	if err != nil {
		return nil, 0, false, fmt.Errorf("list items: %w", err)
	}
	defer rows.Close()
	var page []json.RawMessage
	var last int64
	whole := false
	for size := 0; size < pageBytes; {
		if !rows.Next() {
			whole = true
			break
		}
		var body []byte
		if err := rows.Scan(&last, &body); err != nil {
			return nil, 0, false, fmt.Errorf("list items: %w", err)
		}
		page = append(page, body)
		size += len(body)
	}
	if err := rows.Err(); err != nil {
		return nil, 0, false, fmt.Errorf("list items: %w", err)
	}
	return page, last, whole, nil
}

// Undefined says whether FDS version 2 leaves the endpoint of a kind
// undefined for what the ids name: true if every one of them is a device of
// the owner whose type has no such objects. Types stand in the devices'
// specifications. Without ids, or with an unknown one among them, it is false.
func (f *Facility) Undefined(ctx context.Context, provider keyholder.ProviderID, owner keyholder.OwnerID, kind keyholder.Kind, ids []string) (bool, error) {
	if len(ids) == 0 || !mayBeUndefined(kind) {
		return false, nil
	}
	for _, id := range ids {
		var body []byte
		err := f.store.Read().QueryRowContext(ctx,
			`SELECT body FROM items WHERE provider = ? AND owner = ? AND kind = ? AND entity = ? AND key = ''`,
			string(provider), string(owner), string(keyholder.Specifications), id).Scan(&body)
		if errors.Is(err, sql.ErrNoRows) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look up a device type: %w", err)
		}
		var spec struct {
			Generic struct {
				DeviceType any `json:"device_type"`
			} `json:"generic"`
		}
		if err := json.Unmarshal(body, &spec); err != nil {
			return false, fmt.Errorf("look up a device type: %w", err)
		}
		if t, _ := spec.Generic.DeviceType.(string); Defined(kind, t) {
			return false, nil
		}
	}
	return true, nil
}

// Defined says whether FDS version 2 defines objects of a kind for a device
// type. It knows the two gaps that the FDS pages state: a dispenser has no
// statistics, a people counter no diagnostics.
func Defined(kind keyholder.Kind, deviceType string) bool {
	switch kind {
	case keyholder.Statistics:
		return deviceType != "dispenser"
	case keyholder.Diagnostics:
		return deviceType != "people_counter"
	}
	return true
}

func mayBeUndefined(kind keyholder.Kind) bool {
	return kind == keyholder.Statistics || kind == keyholder.Diagnostics
}
