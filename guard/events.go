package guard

import (
	"bufio"
	"bytes"
	"io"
	"strings"

	"github.com/fds-keyholder/keyholder"
	"github.com/go-jose/go-jose/v4/json"
)

// maxEventLine bounds a line of the feed of endings, in bytes.
const maxEventLine = 4 << 10

// feedEvent is one event of the feed: an ending, or, if it has none, a beat.
type feedEvent struct {
	id     string
	ending *keyholder.Ending
}

// readEvents reads a feed of Server-Sent Events (WHATWG HTML 9.2) and gives
// those that matter here to emit, until the feed ends or something in it is
// wrong. It never returns nil. Events of other types are passed over.
func readEvents(r io.Reader, emit func(feedEvent)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, maxEventLine), maxEventLine)
	var kind, id, data string
	for lines.Scan() {
		name, value, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		text := strings.TrimPrefix(string(value), " ")
		switch string(name) {
		case "event":
			kind = text
		case "id":
			id = text
		case "data":
			if data != "" {
				return invalid("an event of the feed has more than one line of data", nil)
			}
			data = text
		case "": // a comment, or the end of an event
			if len(lines.Bytes()) > 0 {
				continue
			}
			if err := emitEvent(kind, id, data, emit); err != nil {
				return err
			}
			kind, data = "", ""
		}
	}
	if err := lines.Err(); err != nil {
		return unavailable("the feed broke off", err)
	}
	return unavailable("the feed ended", nil)
}

func emitEvent(kind, id, data string, emit func(feedEvent)) error {
	switch kind {
	case "beat":
		emit(feedEvent{id: id})
	case "ending":
		var e keyholder.Ending
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Key() == "" {
			return invalid("an ending in the feed is malformed", err)
		}
		emit(feedEvent{id: id, ending: &e})
	}
	return nil
}
