package webapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/facility"
)

// Media types that are taken.
const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
)

// readWithin is how long a client may take to send a body.
const readWithin = 60 * time.Second

// body is the content of a request.
type body struct {
	bytes     []byte
	mediaType string
}

// readBody reads a body of one of the given media types. The error, of code
// Invalid, is marked with the answer it gets: 415 or 413.
func readBody(w *response, r *http.Request, limit int64, types ...string) (body, error) {
	mediaType, err := checkType(r.Header, types)
	if err != nil {
		return body{}, &answered{http.StatusUnsupportedMediaType, unsupportedType, err}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readWithin))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return body{}, &answered{http.StatusRequestEntityTooLarge, bodyTooLarge,
			keyholder.Errorf(keyholder.Invalid, "the body is longer than %d bytes", limit)}
	case err != nil:
		e := keyholder.Errorf(keyholder.Invalid, "the body did not arrive whole")
		e.Err = err
		return body{}, e
	}
	return body{b, mediaType}, nil
}

// checkType returns the media type of a request if it is one of those given
// and not encoded in any way.
func checkType(h http.Header, types []string) (string, error) {
	hint := "send Content-Type: " + strings.Join(types, " or ")
	values := h.Values("Content-Type")
	if len(values) != 1 {
		return "", keyholder.Errorf(keyholder.Invalid, "there is not exactly one Content-Type header").WithHint("%s", hint)
	}
	mediaType, params, err := mime.ParseMediaType(values[0])
	if err != nil || !slices.Contains(types, mediaType) {
		return "", keyholder.Errorf(keyholder.Invalid, "the content type is not supported").WithHint("%s", hint)
	}
	for name, value := range params {
		if name != "charset" || !strings.EqualFold(value, "utf-8") {
			return "", keyholder.Errorf(keyholder.Invalid, "the content type has a parameter that is not supported").WithHint("%s", hint)
		}
	}
	if e := h.Values("Content-Encoding"); len(e) > 0 {
		return "", keyholder.Errorf(keyholder.Invalid, "no content encoding is supported").WithHint("send the body as it is")
	}
	return mediaType, nil
}

// items splits a body into its items: one JSON object, a JSON array, or
// NDJSON. Each item is a copy, so that none keeps the whole body in memory.
// What the items hold is not looked at here.
func (b body) items() ([]json.RawMessage, error) {
	split := splitJSON
	if b.mediaType == typeNDJSON {
		split = splitLines
	}
	items, err := split(b.bytes)
	if err == nil && len(items) == 0 {
		err = keyholder.Errorf(keyholder.Invalid, "the body holds no item")
	}
	return items, err
}

func tooMany() error {
	return keyholder.Errorf(keyholder.Invalid, "more than %d items", facility.MaxItems).WithHint("send them in several requests")
}

// splitLines splits NDJSON: one item a line. Lines of white space are passed
// over.
func splitLines(src []byte) ([]json.RawMessage, error) {
	var items []json.RawMessage
	for line := range bytes.Lines(src) {
		line = bytes.Trim(line, " \t\r\n")
		if len(line) == 0 {
			continue
		}
		if len(items) == facility.MaxItems {
			return nil, tooMany()
		}
		items = append(items, bytes.Clone(line))
	}
	return items, nil
}

// splitJSON splits a JSON array, or returns anything else as one item.
func splitJSON(src []byte) ([]json.RawMessage, error) {
	src = bytes.Trim(src, " \t\r\n")
	if len(src) == 0 {
		return nil, nil
	}
	if src[0] != '[' {
		return []json.RawMessage{bytes.Clone(src)}, nil
	}
	if !json.Valid(src) {
		return nil, keyholder.Errorf(keyholder.Invalid, "the body is not valid JSON")
	}
	d := json.NewDecoder(bytes.NewReader(src))
	if _, err := d.Token(); err != nil {
		return nil, keyholder.Errorf(keyholder.Invalid, "the body is not valid JSON")
	}
	var items []json.RawMessage
	for d.More() {
		if len(items) == facility.MaxItems {
			return nil, tooMany()
		}
		var item json.RawMessage
		if err := d.Decode(&item); err != nil {
			return nil, keyholder.Errorf(keyholder.Invalid, "the body is not valid JSON")
		}
		items = append(items, item)
	}
	return items, nil
}

// writeJSON answers with a JSON text.
func writeJSON(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", typeJSON)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) //nolint:errcheck // the client is gone; there is nobody to tell
}
