package facility

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

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
	query := `SELECT seq, body FROM items WHERE provider = ? AND owner = ? AND kind = ? AND seq > ? ORDER BY seq LIMIT ?`
	extra := []any{}
	if ids != nil {
		list, err := json.Marshal(ids)
		if err != nil {
			return fmt.Errorf("list %s: %w", kind, err)
		}
		// The hint keeps SQLite on the index by entity: walking a whole
		// history in order to find a few devices would cost far more.
		query = `SELECT seq, body FROM items INDEXED BY items_by_entity
			WHERE provider = ? AND owner = ? AND kind = ? AND seq > ? AND entity IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?`
		extra = append(extra, string(list))
	}
	after := int64(0)
	for {
		args := append([]any{string(provider), string(owner), string(kind), after}, extra...)
		page, last, more, err := f.page(ctx, query, append(args, pageItems))
		if err != nil {
			return fmt.Errorf("list %s: %w", kind, err)
		}
		for _, body := range page {
			if err := do(body); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		after = last
	}
}

// page reads up to a page of items, the seq of its last one, and whether
// there may be more.
func (f *Facility) page(ctx context.Context, query string, args []any) ([]json.RawMessage, int64, bool, error) {
	rows, err := f.store.Read().QueryContext(ctx, query, args...)
	if err != nil {
		return nil, 0, false, err
	}
	defer rows.Close()
	var page []json.RawMessage
	var last int64
	size := 0
	for rows.Next() {
		var body []byte
		if err := rows.Scan(&last, &body); err != nil {
			return nil, 0, false, err
		}
		page = append(page, body)
		if size += len(body); size >= pageBytes {
			return page, last, true, rows.Err()
		}
	}
	return page, last, len(page) == pageItems, rows.Err()
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
