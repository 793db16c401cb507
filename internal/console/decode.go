package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/fds-keyholder/keyholder"
)

// maxBody bounds a request, in bytes. The largest is a certificate signing
// request or the credentials of a webhook: a few KiB.
const maxBody = 1 << 20

// maxDepth bounds the nesting of a request. The deepest has a list in it.
const maxDepth = 8

// readBody reads a JSON request into the struct that into points to.
func readBody(w http.ResponseWriter, r *http.Request, into any) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return keyholder.Errorf(keyholder.Invalid, "the request is not of the type application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return keyholder.Errorf(keyholder.Invalid, "the request is larger than %d bytes", maxBody)
	case err != nil:
		return &keyholder.Error{Code: keyholder.Invalid, Detail: "the request could not be read to its end", Err: err}
	}
	return decode(body, into)
}

// decode reads exactly one JSON object into the struct that into points to.
// Unknown and repeated fields are errors. Every error is a [keyholder.Error]
// of code Invalid that repeats no value of the input.
func decode(body []byte, into any) error {
	if !utf8.Valid(body) {
		return keyholder.Errorf(keyholder.Invalid, "the request is not valid UTF-8")
	}
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return keyholder.Errorf(keyholder.Invalid, "the request is not a JSON object")
	}
	if err := repeated(json.NewDecoder(bytes.NewReader(body)), 0); err != nil {
		return explain(err, into)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return explain(err, into)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return keyholder.Errorf(keyholder.Invalid, "something follows the JSON object")
	}
	return nil
}

// repeated walks over one value and refuses an object that names a field
// twice. Case is ignored, because encoding/json ignores it.
func repeated(d *json.Decoder, depth int) error {
	if depth > maxDepth {
		return keyholder.Errorf(keyholder.Invalid, "the request is nested deeper than %d levels", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return err
			}
			key := strings.ToLower(fmt.Sprint(name))
			if seen[key] {
				return keyholder.Errorf(keyholder.Invalid, "the field %.40q stands more than once", name)
			}
			seen[key] = true
			if err := repeated(d, depth+1); err != nil {
				return err
			}
		}
	case json.Delim('['):
		for d.More() {
			if err := repeated(d, depth+1); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err = d.Token() // the closing delimiter
	return err
}

// explain turns an error of encoding/json into one for the caller.
func explain(err error, into any) error {
	var own *keyholder.Error
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &wrongType):
		return keyholder.Errorf(keyholder.Invalid, "the field %.40q must be %s", wrongType.Field, inWords(wrongType.Type))
	case errors.As(err, &syntax):
		return keyholder.Errorf(keyholder.Invalid, "the request is not valid JSON at byte %d", syntax.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return keyholder.Errorf(keyholder.Invalid, "the JSON object ends too early")
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return keyholder.Errorf(keyholder.Invalid, "there is no field %.40s", name).WithHint("known here: %s", strings.Join(fields(reflect.TypeOf(into).Elem()), ", "))
	}
	return &keyholder.Error{Code: keyholder.Invalid, Detail: "a field has a value that cannot be read", Hint: "times are written as 2027-01-31T00:00:00Z", Err: err}
}

// inWords names a Go type for people who write JSON.
func inWords(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list of strings"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	}
	return "an object"
}

// fields lists the JSON names of a request's fields.
func fields(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}
