package facility

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/fds-keyholder/keyholder"
)

// Bounds of what is taken in one call.
const (
	// MaxItem bounds one item, in bytes.
	MaxItem = 256 << 10
	// MaxItems bounds the items of a batch.
	MaxItems = 10_000
	// MaxBatch bounds the items of a batch together, in bytes.
	MaxBatch = 16 << 20
	// MaxID bounds the ID of a device or space and a message code, in bytes.
	MaxID = 256
)

// item is one checked FDS item.
type item struct {
	entity string // device, space or message code that "ids" selects by
	key    string // tells items of the same entity apart; empty: only the latest counts
	body   json.RawMessage
}

// Batch is a list of checked items of one kind, ready for
// [Facility.PutTx]. It is made by [ParseBatch].
type Batch struct {
	kind  keyholder.Kind
	items []item
}

// Kind returns the kind of the items.
func (b Batch) Kind() keyholder.Kind { return b.kind }

// Len returns the number of items.
func (b Batch) Len() int { return len(b.items) }

// ParseBatch checks items of a kind. The batch holds on to their bytes, which
// must not be changed afterwards. The error, of code Invalid, names the first
// bad item by its index, counted from 0.
func ParseBatch(kind keyholder.Kind, items []json.RawMessage) (Batch, error) {
	if _, err := keyholder.ParseKind(string(kind)); err != nil {
		return Batch{}, err
	}
	if len(items) > MaxItems {
		return Batch{}, keyholder.Errorf(keyholder.Invalid, "%d items where %d are allowed", len(items), MaxItems).
			WithHint("send them in several requests")
	}
	b := Batch{kind: kind, items: make([]item, 0, len(items))}
	size := 0
	for i, raw := range items {
		if size += len(raw); size > MaxBatch {
			return Batch{}, keyholder.Errorf(keyholder.Invalid, "more than %d bytes together", MaxBatch).
				WithHint("send them in several requests")
		}
		it, err := parseItem(kind, raw)
		if err != nil {
			return Batch{}, atIndex(i, err)
		}
		b.items = append(b.items, it)
	}
	return b, nil
}

// atIndex says in the error's detail which item it is about.
func atIndex(i int, err error) error {
	var e *keyholder.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("item %d: %w", i, err)
	}
	c := *e
	c.Detail = fmt.Sprintf("item %d: %s", i, e.Detail)
	return &c
}

// parseItem checks one item by the root structure that FDS gives all items:
// an ID, a "generic" object, an optional specific object. The names of an
// event's ID and of most properties are not public, so nothing rests on them.
func parseItem(kind keyholder.Kind, raw []byte) (item, error) {
	if len(raw) > MaxItem {
		return item{}, keyholder.Errorf(keyholder.Invalid, "longer than %d bytes", MaxItem)
	}
	body := bytes.Trim(raw, jsonSpace)
	members, err := parseObject(body)
	if err != nil {
		return item{}, err
	}
	generic, err := object(members, "generic", true)
	if err != nil {
		return item{}, err
	}
	for _, name := range []string{"device_type_specific", "space_type_specific"} {
		if _, err := object(members, name, false); err != nil {
			return item{}, err
		}
	}
	it := item{body: body}
	switch kind {
	case keyholder.Spaces:
		it.entity, err = id("space_id", members)
	case keyholder.EventSpecifications:
		it.entity, err = id("message_code", members)
	case keyholder.Events:
		it.key = contentKey(body)
		it.entity, err = concerned(members, generic)
	case keyholder.Statistics:
		it.key = periodKey(generic, body)
		it.entity, err = id("device_id", members)
	default:
		it.entity, err = id("device_id", members)
	}
	if err != nil {
		return item{}, err
	}
	return it, nil
}

// object returns the members of the object that stands under a name.
func object(in map[string]json.RawMessage, name string, needed bool) (map[string]json.RawMessage, error) {
	raw, there := in[name]
	if !there && !needed {
		return nil, nil
	}
	if !there {
		return nil, keyholder.Errorf(keyholder.Invalid, "no member %q", name)
	}
	if raw[0] != '{' {
		return nil, keyholder.Errorf(keyholder.Invalid, "member %q is not an object", name)
	}
	return parseObject(raw)
}

// id returns the identifier that stands under a name in the first of the
// objects that has it.
func id(name string, in ...map[string]json.RawMessage) (string, error) {
	for _, members := range in {
		raw, there := members[name]
		if !there {
			continue
		}
		var s string
		if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
			return "", keyholder.Errorf(keyholder.Invalid, "member %q is not a string", name)
		}
		if err := CheckID(s); err != nil {
			return "", keyholder.Errorf(keyholder.Invalid, "member %q: %s", name, err)
		}
		return s, nil
	}
	return "", keyholder.Errorf(keyholder.Invalid, "no member %q", name)
}

// CheckID returns an error of code Invalid if s can not be the ID of a device
// or space or a message code: FDS calls them unique series of characters,
// here bounded to [MaxID] bytes without control characters.
func CheckID(s string) error {
	switch {
	case s == "":
		return keyholder.Errorf(keyholder.Invalid, "the ID is empty")
	case len(s) > MaxID:
		return keyholder.Errorf(keyholder.Invalid, "the ID is longer than %d bytes", MaxID)
	case !utf8.ValidString(s):
		return keyholder.Errorf(keyholder.Invalid, "the ID is not valid UTF-8")
	}
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return keyholder.Errorf(keyholder.Invalid, "the ID holds a control character")
		}
	}
	return nil
}

// concerned returns the device or space that an event is about. The event
// must also have a message code. Both are looked for in the generic object
// and beside it.
func concerned(members, generic map[string]json.RawMessage) (string, error) {
	if _, err := id("message_code", generic, members); err != nil {
		return "", err
	}
	for _, name := range []string{"device_id", "space_id"} {
		_, inside := generic[name]
		_, beside := members[name]
		if inside || beside {
			return id(name, generic, members)
		}
	}
	return "", keyholder.Errorf(keyholder.Invalid, "neither a member %q nor a member %q", "device_id", "space_id")
}

// contentKey makes items the same that are byte for byte the same.
func contentKey(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// periodKey makes statistics of one device the same that are of one period;
// where the period does not stand under its usual names, those that are byte
// for byte the same.
func periodKey(generic map[string]json.RawMessage, body []byte) string {
	start, err1 := id("date_time_start", generic)
	end, err2 := id("date_time_end", generic)
	if err1 != nil || err2 != nil {
		return contentKey(body)
	}
	return "period:" + start + "/" + end
}
