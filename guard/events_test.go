package guard_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// readFeed reads a feed and returns the IDs of its events, each with what
// ended, and the error.
func readFeed(feed string) (events []string, err error) {
	err = guard.ReadEvents(strings.NewReader(feed), func(id string, e *keyholder.Ending) {
		if e != nil {
			id += " " + string(e.Kind) + " " + e.ID
		}
		events = append(events, id)
	})
	return events, err
}

// Ensure that a feed is read as the standard says, and that one that is not
// sound is not read on.
func TestReadEvents(t *testing.T) {
	const grant = "event: ending\nid: e.1\ndata: {\"kind\":\"grant\",\"id\":\"a\"}\n\n"
	for name, tt := range map[string]struct {
		feed string
		want []string
		code keyholder.Code
	}{
		"nothing":             {"", nil, keyholder.Unavailable},
		"ending and beat":     {grant + "event: beat\nid: e.1\ndata: {}\n\n", []string{"e.1 grant a", "e.1"}, keyholder.Unavailable},
		"carriage returns":    {strings.ReplaceAll(grant, "\n", "\r\n"), []string{"e.1 grant a"}, keyholder.Unavailable},
		"no space":            {"event:beat\nid:e.2\n\n", []string{"e.2"}, keyholder.Unavailable},
		"the ID stays":        {grant + "event: beat\n\n", []string{"e.1 grant a", "e.1"}, keyholder.Unavailable},
		"comments":            {": hello\n\n:\n\nevent: beat\n: x\n\n", []string{""}, keyholder.Unavailable},
		"unknown event":       {"event: news\ndata: x\n\ndata: y\n\nretry: 10\n\nevent: beat\n\n", []string{""}, keyholder.Unavailable},
		"unknown kind":        {strings.Replace(grant, "grant", "moon", 1), []string{"e.1 moon a"}, keyholder.Unavailable},
		"unfinished event":    {strings.TrimSuffix(grant, "\n"), nil, keyholder.Unavailable},
		"no ID of what ended": {"event: ending\ndata: {\"kind\":\"grant\"}\n\n" + grant, nil, keyholder.Invalid},
		"no JSON":             {"event: ending\ndata: x\n\n" + grant, nil, keyholder.Invalid},
		"no data":             {"event: ending\n\n" + grant, nil, keyholder.Invalid},
		"two lines of data":   {"event: ending\ndata: {\ndata: }\n\n" + grant, nil, keyholder.Invalid},
		"a very long line":    {"event: beat\n\ndata: " + strings.Repeat("x", 5000) + "\n\n" + grant, []string{""}, keyholder.Unavailable},
	} {
		got, err := readFeed(tt.feed)
		if d := cmp.Diff(tt.want, got); d != "" || keyholder.CodeOf(err) != tt.code {
			t.Errorf("%s: error %v; (-want +got):\n%s", name, err, d)
		}
	}
}

// Ensure that no feed breaks the reader, and that whatever it takes for an
// ending has an ID.
func FuzzReadEvents(f *testing.F) {
	f.Add("event: ending\nid: e.1\ndata: {\"kind\":\"certificate\",\"id\":\"a\"}\n\nevent: beat\n\n")
	f.Add(":\r\n\r\ndata\ndata: \n\n")
	f.Fuzz(func(t *testing.T, feed string) {
		err := guard.ReadEvents(strings.NewReader(feed), func(_ string, e *keyholder.Ending) {
			if e != nil && (e.ID == "" || e.Key() == "") {
				t.Error("an ending of nothing")
			}
		})
		if err == nil {
			t.Error("the end of a feed is no error")
		}
	})
}
