package main

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

//go:embed sample/*.ndjson
var sampleFiles embed.FS

// sample is the facility the demo plays with.
type sample struct {
	items map[string]map[keyholder.Kind][]json.RawMessage // by owner key; event specifications under ""
	feed  []feedItem
	owner map[string]string // device ID to owner key
}

// feedItem is one line of three days of pushes.
type feedItem struct {
	owner string
	kind  keyholder.Kind
	item  json.RawMessage
}

func loadSample() (*sample, error) {
	s := &sample{items: map[string]map[keyholder.Kind][]json.RawMessage{}, owner: map[string]string{}}
	for _, kind := range []keyholder.Kind{keyholder.Specifications, keyholder.Diagnostics, keyholder.Spaces, keyholder.EventSpecifications} {
		lines, err := sampleLines(string(kind))
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			owner, item, err := splitOwner(line)
			if err != nil {
				return nil, err
			}
			if s.items[owner] == nil {
				s.items[owner] = map[keyholder.Kind][]json.RawMessage{}
			}
			s.items[owner][kind] = append(s.items[owner][kind], item)
			if kind == keyholder.Specifications {
				s.owner[deviceOf(item)] = owner
			}
		}
	}
	lines, err := sampleLines("feed")
	if err != nil {
		return nil, err
	}
	kinds := map[string]keyholder.Kind{"status": keyholder.Statuses, "statistic": keyholder.Statistics, "event": keyholder.Events}
	for _, line := range lines {
		var f struct {
			Owner, Kind string
			Item        json.RawMessage
		}
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, fmt.Errorf("sample feed: %w", err)
		}
		s.feed = append(s.feed, feedItem{owner: f.Owner, kind: kinds[f.Kind], item: f.Item})
	}
	return s, nil
}

func sampleLines(name string) ([][]byte, error) {
	text, err := sampleFiles.ReadFile("sample/" + name + ".ndjson")
	if err != nil {
		return nil, fmt.Errorf("sample facility: %w", err)
	}
	return bytes.Split(bytes.TrimSpace(text), []byte("\n")), nil
}

// splitOwner takes the owner's key, which is not part of the FDS item, out of
// a line of the sample.
func splitOwner(line []byte) (string, json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(line, &members); err != nil {
		return "", nil, fmt.Errorf("sample facility: %w", err)
	}
	var owner string
	if raw, ok := members["owner"]; ok {
		if err := json.Unmarshal(raw, &owner); err != nil {
			return "", nil, fmt.Errorf("sample facility: %w", err)
		}
		delete(members, "owner")
	}
	item, err := json.Marshal(members)
	return owner, item, err
}

// lastStatuses returns the newest status of each device of an owner, in the
// order of the feed.
func (s *sample) lastStatuses(owner string) []json.RawMessage {
	last := map[string]int{}
	for i, f := range s.feed {
		if f.owner == owner && f.kind == keyholder.Statuses {
			last[deviceOf(f.item)] = i
		}
	}
	var out []json.RawMessage
	for i, f := range s.feed {
		if j, ok := last[deviceOf(f.item)]; ok && j == i {
			out = append(out, f.item)
		}
	}
	return out
}

// tally compares what was sent to a subscription with what arrived. It is
// safe for concurrent use.
type tally struct {
	mu       sync.Mutex
	sent     [][32]byte
	received [][32]byte
	keys     map[string]bool // of messages seen, because a push may come twice
	repeated int
	crossed  int // items of another owner
	changed  chan struct{}
}

func (t *tally) send(items ...json.RawMessage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range items {
		t.sent = append(t.sent, sha256.Sum256(i))
	}
}

func (t *tally) receive(key string, payload []byte, foreign bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.keys == nil {
		t.keys = map[string]bool{}
	}
	if t.keys[key] {
		t.repeated++
		return
	}
	t.keys[key] = true
	if foreign {
		t.crossed++
	}
	t.received = append(t.received, sha256.Sum256(payload))
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// wait returns when as many items have arrived as were sent, or when none has
// for the given time.
func (t *tally) wait(patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		t.mu.Lock()
		if len(t.received) >= len(t.sent) {
			t.mu.Unlock()
			return
		}
		if t.changed == nil {
			t.changed = make(chan struct{})
		}
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-changed:
			timer.Reset(patience)
		case <-timer.C:
			return
		}
	}
}

// quiet says whether nothing arrives for the given time.
func (t *tally) quiet(watch time.Duration) bool {
	t.mu.Lock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	changed := t.changed
	t.mu.Unlock()
	select {
	case <-changed:
		return false
	case <-time.After(watch):
		return true
	}
}

// result says whether everything arrived once and in order, and in words what
// was seen.
func (t *tally) result() (bool, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ordered := len(t.sent) == len(t.received)
	for i := range min(len(t.sent), len(t.received)) {
		ordered = ordered && t.sent[i] == t.received[i]
	}
	seen := fmt.Sprintf("sent %d = received %d, in order, crossed %d", len(t.sent), len(t.received), t.crossed)
	if !ordered {
		seen = fmt.Sprintf("sent %d, received %d, order or content differs, crossed %d", len(t.sent), len(t.received), t.crossed)
	}
	if t.repeated > 0 {
		seen += fmt.Sprintf(" (%d came twice and were recognised)", t.repeated)
	}
	return ordered && t.crossed == 0 && len(t.sent) > 0, seen
}

func (t *tally) counts() (sent, received int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sent), len(t.received)
}
