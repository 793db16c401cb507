package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	keyholder "github.com/fds-keyholder/keyholder"
)

// Kind says what a probe shows.
type Kind string

const (
	// Positive probes show that what must work does.
	Positive Kind = "positive"
	// Negative probes show that what must be refused is refused.
	Negative Kind = "negative"
)

// Probe is one black-box check of one requirement.
type Probe struct {
	ID          string                `json:"id"` // stable, "<requirement>.<name>"
	Requirement keyholder.Requirement `json:"requirement"`
	Kind        Kind                  `json:"kind"`
	Title       string                `json:"title"` // what a pass means
}

// Probes returns every probe in the order in which [Run] runs them. The slice
// is the caller's own.
func Probes() []Probe {
	var list []Probe
	for _, p := range registry() {
		list = append(list, p.Probe)
	}
	return list
}

// probe is a Probe with its code. run returns nil for a pass, a *finding for
// a fail, a *missing for a skip, and any other error if nothing could be
// found out.
type probe struct {
	Probe
	run func(ctx context.Context, d *deployment, n *notebook) error
}

// registry lists all probes; the files web_*.go, mqtt_*.go and webhook.go hold
// them by requirement.
func registry() []probe {
	var all []probe
	for _, part := range [][]probe{webTransport(), webServer(), webAccess(), webSubscription(), webhook(),
		mqttTransport(), mqttIdentity(), mqttTopics(), mqttPublish()} {
		all = append(all, part...)
	}
	// By requirement, in the order of FDS; within one, as written.
	var sorted []probe
	for _, r := range Requirements() {
		for _, p := range all {
			if p.Requirement == r.ID {
				sorted = append(sorted, p)
			}
		}
	}
	return sorted
}

func positive(id, title string, run func(context.Context, *deployment, *notebook) error) probe {
	return newProbe(id, title, Positive, run)
}

func negative(id, title string, run func(context.Context, *deployment, *notebook) error) probe {
	return newProbe(id, title, Negative, run)
}

func newProbe(id, title string, kind Kind, run func(context.Context, *deployment, *notebook) error) probe {
	requirement, _, _ := strings.Cut(id, ".")
	return probe{Probe{ID: id, Requirement: keyholder.Requirement(requirement), Kind: kind, Title: title}, run}
}

// notebook takes down what a probe sees.
type notebook struct {
	seen  []string
	notes []string
}

// saw adds to the one line of evidence.
func (n *notebook) saw(format string, args ...any) {
	n.seen = append(n.seen, fmt.Sprintf(format, args...))
}

// note adds a remark that does not change the result.
func (n *notebook) note(format string, args ...any) {
	n.notes = append(n.notes, fmt.Sprintf(format, args...))
}

// finding is the deployment's fault: the probe fails.
type finding struct{ seen, todo string }

func (f *finding) Error() string { return f.seen }

// wrong returns a finding: what was seen, and what to do about it.
func wrong(todo, format string, args ...any) error {
	return &finding{seen: fmt.Sprintf(format, args...), todo: todo}
}

// missing is something that the target lacks: the probe is skipped.
type missing struct{ what string }

func (m *missing) Error() string { return m.what }

func lacks(format string, args ...any) error { return &missing{fmt.Sprintf(format, args...)} }

// Status is how a probe ended.
type Status string

const (
	// Passed means that the deployment did what the probe's title says.
	Passed Status = "pass"
	// Failed means that it did not.
	Failed Status = "fail"
	// Skipped means that the target lacks what the probe needs.
	Skipped Status = "skipped"
	// Broken means that nothing could be found out.
	Broken Status = "error"
)

// Result is the outcome of one probe.
type Result struct {
	Probe
	Status Status        `json:"status"`
	Seen   string        `json:"seen,omitempty"`  // what the deployment did, or what went wrong
	Todo   string        `json:"todo,omitempty"`  // what to do about it
	Notes  []string      `json:"notes,omitempty"` // remarks that change nothing
	Took   time.Duration `json:"took_ns"`
}

// judge runs a probe within its time and turns what it returns into a result.
func (d *deployment) judge(ctx context.Context, p probe, timeout time.Duration) Result {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	n := &notebook{}
	started := time.Now() // monotonic: only a duration is taken
	err := protect(func() error { return p.run(ctx, d, n) })
	r := Result{Probe: p.Probe, Status: Passed, Seen: strings.Join(n.seen, "; "), Notes: n.notes, Took: time.Since(started)}
	var found *finding
	var lacking *missing
	switch {
	case errors.As(err, &lacking):
		r.Status, r.Seen = Skipped, "the target file lacks "+lacking.what
	case errors.As(err, &found):
		r.Status, r.Seen, r.Todo = Failed, found.seen, found.todo
	case err != nil && ctx.Err() != nil:
		r.Status, r.Seen = Broken, fmt.Sprintf("no result within %s: %v", timeout, err)
		r.Todo = "see whether the address answers at all; a slow deployment needs a longer timeout"
	case err != nil:
		r.Status, r.Seen = Broken, err.Error()
		r.Todo = "nothing was found out: see that the target file is right and the deployment is up"
	}
	r.Seen, r.Todo = d.safe(r.Seen), d.safe(r.Todo)
	for i := range r.Notes {
		r.Notes[i] = d.safe(r.Notes[i])
	}
	return r
}

// protect turns a panic, which a hostile answer could only cause through a
// fault in a parser, into an error of that one probe.
func protect(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the answer could not be handled: %v", p)
		}
	}()
	return run()
}

// clean makes text from outside fit to be shown: short, and without control
// characters that could steer a terminal.
func clean(s string) string { return cleanTo(s, 300) }

// cleanTo is clean with a length of one's own, in bytes.
func cleanTo(s string, most int) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= most {
			b.WriteString("...")
			break
		}
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			b.WriteByte(' ')
		case r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfffd || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff || r >= 0x200b && r <= 0x200f:
			b.WriteByte('?')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// control turns the failure of a request that must work into an error of the
// negative probe that rests on it: the refusals prove nothing then.
func control(err error) error {
	var f *finding
	if errors.As(err, &f) {
		return fmt.Errorf("what must work does not, so a refusal proves nothing: %s", f.seen)
	}
	return err
}
