package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"

	keyholder "github.com/fds-keyholder/keyholder"
)

// decode reads one JSON object into the struct that into points to. It is
// stricter than encoding/json: unknown and repeated keys, keys in another
// case, null and anything after the object are errors, each with its line.
func decode(data []byte, into any) error {
	if len(data) > maxTargetFile {
		return keyholder.Errorf(keyholder.Invalid, "the target is larger than %d bytes", maxTargetFile)
	}
	data = blankComments(data)
	r := &strictReader{data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	r.dec.UseNumber()
	if err := r.value(reflect.ValueOf(into).Elem(), ""); err != nil {
		return err
	}
	if _, err := r.dec.Token(); !errors.Is(err, io.EOF) {
		return r.errorf("there is something after the object")
	}
	return nil
}

// blankComments empties lines that begin with //, keeping the line numbers. A
// JSON string cannot span lines, so no such line is inside one.
func blankComments(data []byte) []byte {
	lines := bytes.SplitAfter(data, []byte("\n"))
	for i, line := range lines {
		if bytes.HasPrefix(bytes.TrimLeft(line, " \t\r"), []byte("//")) {
			lines[i] = line[len(bytes.TrimRight(line, "\n")):]
		}
	}
	return bytes.Join(lines, nil)
}

type strictReader struct {
	data []byte
	dec  *json.Decoder
}

func (r *strictReader) errorf(format string, args ...any) *keyholder.Error {
	line := 1 + bytes.Count(r.data[:min(int(r.dec.InputOffset()), len(r.data))], []byte("\n"))
	return keyholder.Errorf(keyholder.Invalid, "target, line %d: "+format, append([]any{line}, args...)...)
}

func (r *strictReader) token() (json.Token, error) {
	t, err := r.dec.Token()
	switch {
	case errors.Is(err, io.EOF):
		return nil, r.errorf("the object ends too early")
	case err != nil:
		return nil, r.errorf("not JSON: %s", clean(err.Error()))
	}
	return t, nil
}

// value reads one value into v. path names it in errors.
func (r *strictReader) value(v reflect.Value, path string) error {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	t, err := r.token()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case reflect.Struct:
		if t != json.Delim('{') {
			return r.errorf("%s must be an object", named(path))
		}
		return r.object(path, func(key string) (reflect.Value, func(), error) {
			for i := range v.NumField() {
				if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); name == key {
					return v.Field(i), func() {}, nil
				}
			}
			return reflect.Value{}, nil, r.unknown(v.Type(), key, path)
		})
	case reflect.Map:
		if t != json.Delim('{') {
			return r.errorf("%s must be an object", named(path))
		}
		v.Set(reflect.MakeMap(v.Type()))
		return r.object(path, func(key string) (reflect.Value, func(), error) {
			element := reflect.New(v.Type().Elem()).Elem()
			return element, func() { v.SetMapIndex(reflect.ValueOf(key), element) }, nil
		})
	case reflect.Slice:
		if t != json.Delim('[') {
			return r.errorf("%s must be a list", named(path))
		}
		for r.dec.More() {
			element := reflect.New(v.Type().Elem()).Elem()
			if err := r.value(element, path); err != nil {
				return err
			}
			v.Set(reflect.Append(v, element))
		}
		_, err := r.token()
		return err
	default:
		s, ok := t.(string)
		if !ok {
			return r.errorf("%s must be a string", named(path))
		}
		v.SetString(s)
		return nil
	}
}

// object reads members up to the closing brace. place returns where the value
// of a key goes, and what to do when it is there.
func (r *strictReader) object(path string, place func(key string) (reflect.Value, func(), error)) error {
	seen := map[string]bool{}
	for r.dec.More() {
		t, err := r.token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return r.errorf("not JSON: a key must be a string")
		}
		if seen[key] {
			return r.errorf("key %q is repeated", clean(key))
		}
		seen[key] = true
		v, done, err := place(key)
		if err != nil {
			return err
		}
		if err := r.value(v, strings.TrimPrefix(path+"."+key, ".")); err != nil {
			return err
		}
		done()
	}
	_, err := r.token()
	return err
}

func (r *strictReader) unknown(t reflect.Type, key, path string) error {
	var known []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		known = append(known, name)
	}
	where := ""
	if path != "" {
		where = " in " + path
	}
	e := r.errorf("unknown key %q%s", clean(key), where)
	if near := keyholder.Nearest(key, known); near != "" {
		return e.WithHint("did you mean %q?", near)
	}
	slices.Sort(known)
	return e.WithHint("known here: %s", strings.Join(known, ", "))
}

func named(path string) string {
	if path == "" {
		return "the target"
	}
	return clean(path)
}
