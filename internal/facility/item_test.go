package facility_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/facility"
)

// Ensure that malformed items are refused with a reason, and that what FDS
// leaves open passes.
func TestParseBatch(t *testing.T) {
	deep := func(n int) string {
		return `{"device_id":"D","generic":{},"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	long := func(n int) string {
		return `{"device_id":"D","generic":{},"x":"` + strings.Repeat("x", n-len(`{"device_id":"D","generic":{},"x":""}`)) + `"}`
	}
	for _, c := range []struct {
		name, item string
		kind       keyholder.Kind
		want       string // part of the error; empty: fine
	}{
		{"minimal", `{"device_id":"D","generic":{}}`, keyholder.Statuses, ""},
		{"white space around", " \r\n\t{\"device_id\":\"D\",\"generic\":{}} \n", keyholder.Statuses, ""},
		{"escaped name", `{"devic\u0065_id":"D","generic":{}}`, keyholder.Statuses, ""},
		{"surrogate pair", `{"device_id":"D","generic":{},"x":"\ud83d\uDE00\\ud800\n"}`, keyholder.Statuses, ""},
		{"same name in other objects", `{"device_id":"D","generic":{"x":1},"a":[{"x":1},{"x":2}],"x":1}`, keyholder.Statuses, ""},
		{"huge number", `{"device_id":"D","generic":{},"x":-1e99999}`, keyholder.Statuses, ""},
		{"deep enough", deep(63), keyholder.Statuses, ""},
		{"long enough", long(facility.MaxItem), keyholder.Statuses, ""},
		{"ID of any characters", `{"device_id":"a, b/ü","generic":{}}`, keyholder.Statuses, ""},

		{"empty", ``, keyholder.Statuses, "not valid JSON"},
		{"no JSON", `{"device_id":"D",}`, keyholder.Statuses, "not valid JSON"},
		{"two values", `{"device_id":"D","generic":{}} {}`, keyholder.Statuses, "not valid JSON"},
		{"NaN", `{"device_id":"D","generic":{},"x":NaN}`, keyholder.Statuses, "not valid JSON"},
		{"array", `[{"device_id":"D","generic":{}}]`, keyholder.Statuses, "not a JSON object"},
		{"string", `"D"`, keyholder.Statuses, "not a JSON object"},
		{"null", `null`, keyholder.Statuses, "not a JSON object"},
		{"bad UTF-8", "{\"device_id\":\"D\",\"generic\":{},\"x\":\"\xff\"}", keyholder.Statuses, "not valid UTF-8"},
		{"overlong UTF-8", "{\"device_id\":\"\xc0\xaf\",\"generic\":{}}", keyholder.Statuses, "not valid UTF-8"},
		{"lone surrogate", `{"device_id":"D","generic":{},"x":"\ud800"}`, keyholder.Statuses, "surrogate"},
		{"lone low surrogate", `{"device_id":"D","generic":{},"x":"a\udC00"}`, keyholder.Statuses, "surrogate"},
		{"surrogate in a name", `{"device_id":"D","generic":{},"\ud800\u0041":1}`, keyholder.Statuses, "surrogate"},
		{"name twice", `{"device_id":"D","generic":{},"device_id":"E"}`, keyholder.Statuses, "stands twice"},
		{"name twice, escaped", `{"device_id":"D","generic":{},"d\u0065vice_id":"E"}`, keyholder.Statuses, "stands twice"},
		{"name twice, deep inside", `{"device_id":"D","generic":{},"x":[[{"y":{"z":1,"z":1}}]]}`, keyholder.Statuses, "stands twice"},
		{"too deep", deep(64), keyholder.Statuses, "nested deeper"},
		{"far too deep", deep(100_000), keyholder.Statuses, ""}, // want filled in below
		{"too long", long(facility.MaxItem + 1), keyholder.Statuses, "longer than 262144 bytes"},
		{"no ID", `{"generic":{}}`, keyholder.Statuses, `no member "device_id"`},
		{"number as ID", `{"device_id":7,"generic":{}}`, keyholder.Statuses, `"device_id" is not a string`},
		{"empty ID", `{"device_id":"","generic":{}}`, keyholder.Statuses, "the ID is empty"},
		{"long ID", `{"device_id":"` + strings.Repeat("D", 257) + `","generic":{}}`, keyholder.Statuses, "longer than 256"},
		{"control character in ID", `{"device_id":"D\u0000","generic":{}}`, keyholder.Statuses, "control character"},
		{"ID only in generic", `{"generic":{"device_id":"D"}}`, keyholder.Statuses, `no member "device_id"`},
		{"no generic", `{"device_id":"D"}`, keyholder.Statuses, `no member "generic"`},
		{"null generic", `{"device_id":"D","generic":null}`, keyholder.Statuses, `"generic" is not an object`},
		{"array generic", `{"device_id":"D","generic":[]}`, keyholder.Statuses, `"generic" is not an object`},
		{"specific no object", `{"device_id":"D","generic":{},"device_type_specific":5}`, keyholder.Statuses, `"device_type_specific" is not an object`},
		{"space specific no object", `{"space_id":"S","generic":{},"space_type_specific":[]}`, keyholder.Spaces, `"space_type_specific" is not an object`},
		{"space by device ID", `{"device_id":"D","generic":{}}`, keyholder.Spaces, `no member "space_id"`},
		{"event specification without code", `{"generic":{}}`, keyholder.EventSpecifications, `no member "message_code"`},
		{"event without code", `{"generic":{"device_id":"D"}}`, keyholder.Events, `no member "message_code"`},
		{"event without entity", `{"generic":{"message_code":"m"}}`, keyholder.Events, "neither a member"},
		{"event with a bad entity", `{"generic":{"message_code":"m","device_id":[]}}`, keyholder.Events, `"device_id" is not a string`},
		{"unknown kind", `{"device_id":"D","generic":{}}`, "nothing", "unknown kind"},
	} {
		if c.name == "far too deep" {
			c.want = "nested deeper"
			if !json.Valid([]byte(c.item)) {
				c.want = "not valid JSON" // beyond the bound of encoding/json itself
			}
		}
		_, err := facility.ParseBatch(c.kind, raws(c.item))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: refused: %v", c.name, err)
		case c.want != "" && err == nil:
			t.Errorf("%s: taken", c.name)
		case c.want != "" && (keyholder.CodeOf(err) != keyholder.Invalid || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

// Ensure that a batch is bounded in items and bytes.
func TestParseBatchIsBounded(t *testing.T) {
	many := make([]json.RawMessage, facility.MaxItems+1)
	for i := range many {
		many[i] = json.RawMessage(fmt.Sprintf(`{"device_id":"%d","generic":{}}`, i))
	}
	if b, err := facility.ParseBatch(keyholder.Statuses, many[:facility.MaxItems]); err != nil || b.Len() != facility.MaxItems || b.Kind() != keyholder.Statuses {
		t.Errorf("as many as allowed: %v", err)
	}
	if _, err := facility.ParseBatch(keyholder.Statuses, many); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("one too many: %v", err)
	}
	big := json.RawMessage(`{"device_id":"D","generic":{},"x":"` + strings.Repeat("x", 255<<10) + `"}`)
	heavy := make([]json.RawMessage, facility.MaxBatch/len(big)+1)
	for i := range heavy {
		heavy[i] = big
	}
	if _, err := facility.ParseBatch(keyholder.Statuses, heavy); keyholder.CodeOf(err) != keyholder.Invalid || !strings.Contains(err.Error(), "bytes together") {
		t.Errorf("too many bytes: %v", err)
	}
}

// Ensure that no input makes the parser panic, that what it takes is a JSON
// object without a repeated name, and that it changes no byte.
func FuzzParseBatch(f *testing.F) {
	for _, s := range []string{`{"device_id":"D","generic":{}}`, `{"generic":{"message_code":"m","device_id":"D"},"x":[1,-2.5e7,true,null,"\u00fc\\\""]}`,
		`{"device_id":"D","generic":{"date_time_start":"a","date_time_end":"b"}}`, `{"a":1,"\u0061":2}`, `{"x":"\ud83d\ude00"}`, `[`, "\xff", ``, ` {} `} {
		f.Add([]byte(s), uint8(2))
	}
	f.Fuzz(func(t *testing.T, src []byte, k uint8) {
		kinds := keyholder.Kinds()
		before := bytes.Clone(src)
		b, err := facility.ParseBatch(kinds[int(k)%len(kinds)], []json.RawMessage{src})
		if !bytes.Equal(before, src) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if keyholder.CodeOf(err) != keyholder.Invalid {
				t.Fatalf("not an error for the caller: %v", err)
			}
			return
		}
		var v map[string]any
		if err := json.Unmarshal(src, &v); err != nil || b.Len() != 1 {
			t.Fatalf("taken, but encoding/json says %v", err)
		}
		if _, ok := v["generic"].(map[string]any); !ok {
			t.Fatal("taken without a generic object")
		}
		if n := countNames(t, json.NewDecoder(bytes.NewReader(src))); n != countMembers(v) {
			t.Fatalf("%d names, %d members: a repeated name was taken", n, countMembers(v))
		}
	})
}

// countNames counts the member names in a text, repeated ones too.
func countNames(t *testing.T, d *json.Decoder) int {
	t.Helper()
	n := 0
	var inObject []bool
	name := false // the next token of the current object is a name
	for {
		tok, err := d.Token()
		if err != nil {
			return n
		}
		switch tok {
		case json.Delim('{'):
			inObject, name = append(inObject, true), true
			continue
		case json.Delim('['):
			inObject, name = append(inObject, false), false
			continue
		case json.Delim('}'), json.Delim(']'):
			inObject = inObject[:len(inObject)-1]
			name = len(inObject) > 0 && inObject[len(inObject)-1]
			continue
		}
		if len(inObject) == 0 || !inObject[len(inObject)-1] {
			continue
		}
		if name {
			n++
		}
		name = !name
	}
}

func countMembers(v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		for _, m := range v {
			n += 1 + countMembers(m)
		}
	case []any:
		for _, m := range v {
			n += countMembers(m)
		}
	}
	return n
}
