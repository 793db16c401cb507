package facility

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// TagID names a tag. It is a UUID version 4.
type TagID string

// Bounds of tags.
const (
	// MaxTags bounds the tags of a subscription.
	MaxTags = 1000
	// MaxTag bounds the object an app sends, in bytes.
	MaxTag = 16 << 10
	// MaxEntities bounds the entities of a tag.
	MaxEntities = 1000
)

// Members of a tag that are this package's: the FDS pages say that a tag has
// an ID and related entities, the names are by analogy with device_id and
// with the path tag/<ID>/entities.
const (
	tagIDName    = "tag_id"
	entitiesName = "entities"
)

// CreateTag stores a tag for a subscription and returns its ID, which is drawn
// here, and the whole tag: the object as sent plus "tag_id" and "entities". It
// returns an [keyholder.Error] of code Invalid if the object has no "generic"
// object or brings those two members itself, and Conflict if the subscription
// has [MaxTags] tags.
func (f *Facility) CreateTag(ctx context.Context, sub keyholder.SubscriptionID, body json.RawMessage) (TagID, json.RawMessage, error) {
	body, err := parseTag(body)
	if err != nil {
		return "", nil, err
	}
	id, err := keyholder.NewID[TagID](f.random)
	if err != nil {
		return "", nil, err
	}
	err = f.store.Write(ctx, func(tx *store.Tx) error {
		var n int
		if err := tx.QueryRow(`SELECT count(*) FROM tags WHERE subscription = ?`, string(sub)).Scan(&n); err != nil {
			return fmt.Errorf("count the tags: %w", err)
		}
		if n >= MaxTags {
			return keyholder.Errorf(keyholder.Conflict, "the subscription has %d tags already", n).WithHint("delete one first")
		}
		_, err := tx.Exec(`INSERT INTO tags (subscription, id, body, created) VALUES (?, ?, ?, ?)`,
			string(sub), string(id), []byte(body), f.now().UnixMicro())
		if err != nil {
			return fmt.Errorf("store a tag: %w", err)
		}
		return nil
	})
	if err != nil {
		return "", nil, err
	}
	return id, wholeTag(id, body, []byte("[]")), nil
}

func parseTag(raw []byte) (json.RawMessage, error) {
	if len(raw) > MaxTag {
		return nil, keyholder.Errorf(keyholder.Invalid, "longer than %d bytes", MaxTag)
	}
	body := bytes.Trim(raw, jsonSpace)
	members, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	if _, err := object(members, "generic", true); err != nil {
		return nil, err
	}
	for _, name := range []string{tagIDName, entitiesName} {
		if _, there := members[name]; there {
			return nil, keyholder.Errorf(keyholder.Invalid, "member %q is set by the server", name)
		}
	}
	return body, nil
}

// Tags returns the tags of a subscription in the order of their creation; ids
// selects, nil selects all. The IDs of another subscription's tags select
// nothing.
func (f *Facility) Tags(ctx context.Context, sub keyholder.SubscriptionID, ids []TagID) ([]json.RawMessage, error) {
	wanted := map[TagID]bool{}
	for _, id := range ids {
		wanted[id] = true
	}
	rows, err := f.store.Read().QueryContext(ctx, `SELECT id, body, entities FROM tags WHERE subscription = ? ORDER BY seq`, string(sub))
	if err != nil {
		return nil, fmt.Errorf("list tags: %w", err)
	}
	defer rows.Close()
	tags := []json.RawMessage{}
	for rows.Next() {
		var id, entities string
		var body []byte
		if err := rows.Scan(&id, &body, &entities); err != nil {
			return nil, fmt.Errorf("list tags: %w", err)
		}
		if ids == nil || wanted[TagID(id)] {
			tags = append(tags, wholeTag(TagID(id), body, []byte(entities)))
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list tags: %w", err)
	}
	return tags, nil
}

// DeleteTag removes a tag of a subscription. If the subscription has no such
// tag it returns an [keyholder.Error] of code Denied, whether or not another
// has it.
func (f *Facility) DeleteTag(ctx context.Context, sub keyholder.SubscriptionID, id TagID) error {
	return f.changeTag(ctx, `DELETE FROM tags WHERE subscription = ? AND id = ?`, string(sub), string(id))
}

// SetEntities sets the devices and spaces a tag is on, in place of those
// before. Whether they exist is not looked at: the answer would tell a
// stranger. It returns an [keyholder.Error] of code Invalid for more than
// [MaxEntities], a repeated or malformed ID, and Denied if the subscription
// has no such tag.
func (f *Facility) SetEntities(ctx context.Context, sub keyholder.SubscriptionID, id TagID, entities []string) error {
	if len(entities) > MaxEntities {
		return keyholder.Errorf(keyholder.Invalid, "%d entities where %d are allowed", len(entities), MaxEntities)
	}
	seen := map[string]bool{}
	for i, e := range entities {
		if err := CheckID(e); err != nil {
			return atIndex(i, err)
		}
		if seen[e] {
			return atIndex(i, keyholder.Errorf(keyholder.Invalid, "the ID stands twice"))
		}
		seen[e] = true
	}
	if entities == nil {
		entities = []string{}
	}
	list, err := json.Marshal(entities)
	if err != nil {
		return fmt.Errorf("set the entities of a tag: %w", err)
	}
	return f.changeTag(ctx, `UPDATE tags SET entities = ?3 WHERE subscription = ?1 AND id = ?2`, string(sub), string(id), string(list))
}

// changeTag runs a statement that must concern exactly one tag.
func (f *Facility) changeTag(ctx context.Context, query string, args ...any) error {
	return f.store.Write(ctx, func(tx *store.Tx) error {
		res, err := tx.Exec(query, args...)
		if err != nil {
			return fmt.Errorf("change a tag: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return fmt.Errorf("change a tag: %w", err)
		}
		if n == 0 {
			return keyholder.Errorf(keyholder.Denied, "the subscription has no such tag")
		}
		return nil
	})
}

// wholeTag puts the members of this package before those the app sent, whose
// bytes it keeps. body has at least the member "generic".
func wholeTag(id TagID, body, entities []byte) json.RawMessage {
	out := make([]byte, 0, len(body)+len(entities)+80)
	out = fmt.Appendf(out, `{"%s":"%s","%s":%s,`, tagIDName, id, entitiesName, entities)
	return append(out, body[1:]...)
}
