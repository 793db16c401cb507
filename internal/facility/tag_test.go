package facility_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/facility"
)

func tags(t *testing.T, f *facility.Facility, sub keyholder.SubscriptionID, ids ...facility.TagID) []string {
	t.Helper()
	got, err := f.Tags(t.Context(), sub, ids)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, g := range got {
		if !json.Valid(g) {
			t.Errorf("not JSON: %s", g)
		}
		out = append(out, string(g))
	}
	return out
}

// Ensure that a tag is created with an ID of ours, listed, put on entities and
// deleted, and that another subscription can do none of it.
func TestTags(t *testing.T) {
	f := open(t, 0)
	id, whole, err := f.CreateTag(t.Context(), subA, json.RawMessage(` { "generic": {"name":"night shift"}, "x": 1.0 } `))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyholder.ParseID[facility.TagID](string(id)); err != nil {
		t.Errorf("ID %q: %v", id, err)
	}
	want := fmt.Sprintf(`{"tag_id":"%s","entities":[], "generic": {"name":"night shift"}, "x": 1.0 }`, id)
	same(t, "created", []string{string(whole)}, want)
	same(t, "listed", tags(t, f, subA), want)

	if err := f.SetEntities(t.Context(), subA, id, []string{"D1", `S"1`}); err != nil {
		t.Fatal(err)
	}
	want = fmt.Sprintf(`{"tag_id":"%s","entities":["D1","S\"1"], "generic": {"name":"night shift"}, "x": 1.0 }`, id)
	same(t, "with entities", tags(t, f, subA, id), want)

	random := facility.TagID("00000000-0000-4000-8000-000000000000")
	same(t, "unknown", tags(t, f, subA, random))
	same(t, "foreign", tags(t, f, subB, id))
	for _, c := range []struct {
		sub keyholder.SubscriptionID
		id  facility.TagID
	}{{subB, id}, {subA, random}} {
		if err := f.DeleteTag(t.Context(), c.sub, c.id); keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("delete %v: %v", c, err)
		}
		if err := f.SetEntities(t.Context(), c.sub, c.id, nil); keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("set entities %v: %v", c, err)
		}
	}
	same(t, "untouched", tags(t, f, subA), want)

	if err := f.DeleteTag(t.Context(), subA, id); err != nil {
		t.Fatal(err)
	}
	same(t, "deleted", tags(t, f, subA))
}

// Ensure that malformed tags and entities are refused and change nothing.
func TestBadTags(t *testing.T) {
	f := open(t, 0)
	for _, body := range []string{``, `[]`, `{}`, `{"generic":1}`, `{"generic":{},"tag_id":"x"}`, `{"generic":{},"entities":[]}`,
		`{"generic":{},"generic":{}}`, `{"generic":{},"x":"` + strings.Repeat("x", facility.MaxTag) + `"}`} {
		if _, _, err := f.CreateTag(t.Context(), subA, json.RawMessage(body)); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%.40s: %v", body, err)
		}
	}
	same(t, "tags", tags(t, f, subA))
	id, _, err := f.CreateTag(t.Context(), subA, json.RawMessage(`{"generic":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, entities := range [][]string{{""}, {"a", "a"}, {"\n"}, {strings.Repeat("x", 257)}, make([]string, facility.MaxEntities+1)} {
		if err := f.SetEntities(t.Context(), subA, id, entities); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%.3q: %v", entities, err)
		}
	}
}

// Ensure that a subscription has a bounded number of tags, and another its own.
func TestTagsAreBounded(t *testing.T) {
	f := open(t, 0)
	body := json.RawMessage(`{"generic":{}}`)
	for range facility.MaxTags {
		if _, _, err := f.CreateTag(t.Context(), subA, body); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := f.CreateTag(t.Context(), subA, body); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("one too many: %v", err)
	}
	if _, _, err := f.CreateTag(t.Context(), subB, body); err != nil {
		t.Errorf("the other subscription: %v", err)
	}
}
