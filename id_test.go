package keyholder_test

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/fds-keyholder/keyholder"
)

const goodID = "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"

// uuid4 is a second description of what ParseID accepts.
var uuid4 = regexp.MustCompile(`\A[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\z`)

// badIDs are the spellings that other parsers of UUIDs take, and attacks.
var badIDs = []string{
	"", "-", " ", strings.ToUpper(goodID), "6F1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30",
	"{" + goodID + "}", "urn:uuid:" + goodID, " " + goodID, goodID + " ", goodID + "\n", goodID + "\x00", "\ufeff" + goodID,
	strings.ReplaceAll(goodID, "-", ""), strings.ReplaceAll(goodID, "-", "_"), goodID[:35], goodID + "0",
	"6f1e9a52-3c1b-1f0e-9b7d-2a5c8d4e1f30", // version 1
	"6f1e9a52-3c1b-5f0e-9b7d-2a5c8d4e1f30", // version 5
	"6f1e9a52-3c1b-7f0e-9b7d-2a5c8d4e1f30", // version 7
	"6f1e9a52-3c1b-4f0e-7b7d-2a5c8d4e1f30", // variant NCS
	"6f1e9a52-3c1b-4f0e-cb7d-2a5c8d4e1f30", // variant Microsoft
	"6f1e9a52-3c1b-4f0e-eb7d-2a5c8d4e1f30", // variant reserved
	"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
	"6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f3g", "6f1e9a523-c1b-4f0e-9b7d-2a5c8d4e1f30", "6f1e9a5２-3c1b-4f0e-9b7d-2a5c8d4e1",
	"6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f3\xff", "------------------------------------", "+/+", "#",
}

// Ensure that ParseID takes canonical UUIDs of version 4 as they are and
// nothing else, and that its errors repeat nothing of the input (W7).
func TestParseID(t *testing.T) {
	for _, s := range []string{
		goodID, "00000000-0000-4000-8000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff", "6f1e9a52-3c1b-4f0e-8b7d-2a5c8d4e1f30",
		"6f1e9a52-3c1b-4f0e-ab7d-2a5c8d4e1f30",
	} {
		if id, err := keyholder.ParseID[keyholder.SubscriptionID](s); err != nil || string(id) != s {
			t.Errorf("%q: got %q, %v", s, id, err)
		}
	}
	for _, s := range badIDs {
		id, err := keyholder.ParseID[keyholder.SubscriptionID](s)
		if id != "" || keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%q: got %q, %v", s, id, err)
			continue
		}
		var e *keyholder.Error
		if !errors.As(err, &e) || e.Hint == "" || len(s) > 8 && strings.Contains(e.Detail, s) {
			t.Errorf("%q: detail %q, hint %q", s, e.Detail, e.Hint)
		}
	}
	// Every digit at every position, against the second description.
	for i := range len(goodID) {
		for _, c := range []byte("09afgAF-/.: 47b8\x00\x80") {
			s := goodID[:i] + string(rune(c)) + goodID[i+1:]
			if c == 0x80 {
				s = goodID[:i] + "\x80" + goodID[i+1:]
			}
			if _, err := keyholder.ParseID[string](s); (err == nil) != uuid4.MatchString(s) {
				t.Errorf("%q: %v", s, err)
			}
		}
	}
}

// Ensure that NewID sets version and variant, keeps the other 122 bits, draws
// afresh, and fails rather than make a weak ID of a short reader.
func TestNewID(t *testing.T) {
	for _, tt := range []struct {
		random []byte
		want   string
	}{
		{make([]byte, 16), "00000000-0000-4000-8000-000000000000"},
		{bytes.Repeat([]byte{0xff}, 16), "ffffffff-ffff-4fff-bfff-ffffffffffff"},
		{[]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, "00010203-0405-4607-8809-0a0b0c0d0e0f"},
	} {
		id, err := keyholder.NewID[keyholder.GrantID](bytes.NewReader(tt.random))
		if err != nil || string(id) != tt.want {
			t.Errorf("%x: got %q, %v", tt.random, id, err)
		}
	}
	if id, err := keyholder.NewID[string](iotest.OneByteReader(bytes.NewReader(make([]byte, 16)))); err != nil || id == "" {
		t.Errorf("a reader that gives one byte at a time: %v", err)
	}
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		random io.Reader
		want   error
	}{
		"empty":  {bytes.NewReader(nil), io.EOF},
		"short":  {bytes.NewReader(make([]byte, 15)), io.ErrUnexpectedEOF},
		"broken": {iotest.ErrReader(broken), broken},
	} {
		if id, err := keyholder.NewID[string](tt.random); id != "" || !errors.Is(err, tt.want) || keyholder.CodeOf(err) != "" {
			t.Errorf("%s: got %q, %v", name, id, err)
		}
	}

	const n = 100_000
	seen := make(map[string]bool, n)
	for range n {
		id, err := keyholder.NewID[string](nil)
		if err != nil {
			t.Fatal(err)
		}
		if seen[id] || !uuid4.MatchString(id) {
			t.Fatalf("got %q", id)
		}
		seen[id] = true
	}
}

// FuzzParseID compares ParseID with a regular expression.
func FuzzParseID(f *testing.F) {
	f.Add(goodID)
	for _, s := range badIDs {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := keyholder.ParseID[string](s)
		if want := uuid4.MatchString(s); (err == nil) != want || want && id != s || !want && id != "" {
			t.Errorf("%q: got %q, %v", s, id, err)
		}
		if err != nil && keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%q: code %q", s, keyholder.CodeOf(err))
		}
	})
}
