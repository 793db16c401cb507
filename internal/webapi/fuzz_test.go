package webapi_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/webapi"
)

// Ensure that no query makes the parser panic, that what it takes is the one
// known parameter, and that its errors are the caller's and repeat nothing.
func FuzzParseIDs(f *testing.F) {
	for _, s := range []string{"", "ids=a", "ids=a,b", "ids=a%2Cb", "ids=a&ids=b", "ids", "ids=%ff", "x=1", "ids=a;b", "ids=%00", "%69ds=a", "%69ds=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		ids, err := webapi.ParseIDs(query)
		if err != nil {
			if keyholder.CodeOf(err) != keyholder.Invalid {
				t.Fatalf("not an error for the caller: %v", err)
			}
			return
		}
		if ids != nil && len(ids) == 0 || len(ids) > 1000 {
			t.Fatalf("%d IDs", len(ids))
		}
		for _, id := range ids {
			if id == "" || len(id) > 256 || strings.ContainsAny(id, ",\x00\n") {
				t.Fatalf("ID %q", id)
			}
		}
		values, err := url.ParseQuery(query)
		if err != nil || ids != nil && (len(values) != 1 || len(values["ids"]) != 1) {
			t.Fatalf("%q gave %q", query, ids)
		}
	})
}

// Ensure that splitting a body loses, adds and changes nothing but white space
// between the items.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"", "{}", "[{},1,[2],\"a\\n\"]", "{}\n{}\r\n\n[1]", "[1,]", "[", "[[[[", "[1 2]", " [1] x"} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, src []byte, lines bool) {
		items, err := webapi.Split(bytes.Clone(src), lines)
		if err != nil {
			if keyholder.CodeOf(err) != keyholder.Invalid {
				t.Fatalf("not an error for the caller: %v", err)
			}
			return
		}
		if lines {
			joined := bytes.Join(asBytes(items), nil)
			if !bytes.Equal(bytes.Join(bytes.Fields(joined), nil), bytes.Join(bytes.Fields(src), nil)) {
				t.Fatalf("%q became %q", src, joined)
			}
			return
		}
		if !bytes.HasPrefix(bytes.Trim(src, " \t\r\n"), []byte("[")) {
			return
		}
		var want []json.RawMessage
		if err := json.Unmarshal(src, &want); err != nil {
			t.Fatalf("taken, but encoding/json says %v", err)
		}
		if !bytes.Equal(bytes.Join(asBytes(items), []byte{0}), bytes.Join(asBytes(want), []byte{0})) {
			t.Fatalf("%q became %q", src, items)
		}
	})
}

func asBytes(items []json.RawMessage) [][]byte {
	out := [][]byte{}
	for _, i := range items {
		out = append(out, i)
	}
	return out
}
