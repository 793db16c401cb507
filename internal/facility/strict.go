package facility

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"github.com/fds-keyholder/keyholder"
)

// maxDepth bounds the nesting of an item. The deepest known FDS object, a
// floor with its chain of spaces, needs five levels.
const maxDepth = 64

// jsonSpace is the white space of RFC 8259.
const jsonSpace = " \t\r\n"

// parseObject checks that src is exactly one JSON object as RFC 8259 and the
// stricter RFC 7493 (I-JSON) define it, with no member name twice at any
// level, no lone surrogate and no deeper nesting than maxDepth, and returns
// its members, values being parts of src. Two readers of such an object can
// not see different things in it. Errors are of code Invalid.
func parseObject(src []byte) (map[string]json.RawMessage, error) {
	switch {
	case !utf8.Valid(src):
		return nil, keyholder.Errorf(keyholder.Invalid, "not valid UTF-8")
	case !json.Valid(src):
		return nil, keyholder.Errorf(keyholder.Invalid, "not valid JSON")
	}
	w := walk{src: src}
	w.space()
	if src[w.pos] != '{' {
		return nil, keyholder.Errorf(keyholder.Invalid, "not a JSON object")
	}
	members := map[string]json.RawMessage{}
	if err := w.object(1, members); err != nil {
		return nil, err
	}
	return members, nil
}

// walk goes through JSON text whose grammar is known to be valid.
type walk struct {
	src []byte
	pos int
}

func (w *walk) space() {
	for w.pos < len(w.src) && bytes.IndexByte([]byte(jsonSpace), w.src[w.pos]) >= 0 {
		w.pos++
	}
}

// value walks over one value that begins at the position.
func (w *walk) value(depth int) error {
	switch w.src[w.pos] {
	case '{':
		return w.object(depth+1, map[string]json.RawMessage{})
	case '[':
		return w.array(depth + 1)
	case '"':
		_, err := w.text()
		return err
	}
	for w.pos < len(w.src) && bytes.IndexByte([]byte(",]}"+jsonSpace), w.src[w.pos]) < 0 {
		w.pos++
	}
	return nil
}

func (w *walk) object(depth int, members map[string]json.RawMessage) error {
	if depth > maxDepth {
		return tooDeep()
	}
	w.pos++ // {
	for {
		w.space()
		if w.src[w.pos] == '}' {
			w.pos++
			return nil
		}
		if w.src[w.pos] == ',' {
			w.pos++
			continue
		}
		name, err := w.text()
		if err != nil {
			return err
		}
		if _, twice := members[name]; twice {
			return keyholder.Errorf(keyholder.Invalid, "a member name stands twice in one object")
		}
		w.space()
		w.pos++ // :
		w.space()
		from := w.pos
		if err := w.value(depth); err != nil {
			return err
		}
		members[name] = w.src[from:w.pos:w.pos]
	}
}

func (w *walk) array(depth int) error {
	if depth > maxDepth {
		return tooDeep()
	}
	w.pos++ // [
	for {
		w.space()
		switch w.src[w.pos] {
		case ']':
			w.pos++
			return nil
		case ',':
			w.pos++
			continue
		}
		if err := w.value(depth); err != nil {
			return err
		}
	}
}

func tooDeep() error {
	return keyholder.Errorf(keyholder.Invalid, "nested deeper than %d levels", maxDepth)
}

// text walks over a string and returns what it means.
func (w *walk) text() (string, error) {
	from := w.pos
	w.pos++ // "
	escaped := false
	for w.src[w.pos] != '"' {
		if w.src[w.pos] == '\\' {
			escaped = true
			w.pos++
		}
		w.pos++
	}
	w.pos++
	quoted := w.src[from:w.pos]
	if !escaped {
		return string(quoted[1 : len(quoted)-1]), nil
	}
	if loneSurrogate(quoted) {
		return "", keyholder.Errorf(keyholder.Invalid, "a string holds half of a surrogate pair")
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return "", keyholder.Errorf(keyholder.Invalid, "not valid JSON")
	}
	return s, nil
}

// loneSurrogate says whether a quoted string, valid JSON, has a \u escape of
// a surrogate that is not half of a pair.
func loneSurrogate(q []byte) bool {
	unit := func(i int) int { // the \u escape at i, or -1
		if i+6 > len(q) || q[i] != '\\' || q[i+1] != 'u' {
			return -1
		}
		n := 0
		for _, c := range q[i+2 : i+6] {
			n <<= 4
			switch {
			case c <= '9':
				n |= int(c - '0')
			default:
				n |= int(c|0x20-'a') + 10
			}
		}
		return n
	}
	for i := 0; i < len(q); i++ {
		if q[i] != '\\' {
			continue
		}
		u := unit(i)
		switch {
		case u < 0:
			i++ // a two-character escape
			continue
		case u >= 0xdc00 && u <= 0xdfff:
			return true
		case u >= 0xd800 && u <= 0xdbff:
			if low := unit(i + 6); low < 0xdc00 || low > 0xdfff {
				return true
			}
			i += 6
		}
		i += 5
	}
	return false
}
