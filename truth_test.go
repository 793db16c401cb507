package keyholder_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
)

// axis is one thing that a decision depends on, with every state that the
// tests know of it.
type axis struct {
	name   string
	states []string
}

// combination is one state for every axis.
type combination struct {
	axes  []axis
	index []int
}

// at returns the state of an axis.
func (c combination) at(name string) string {
	for i, a := range c.axes {
		if a.name == name {
			return a.states[c.index[i]]
		}
	}
	panic("no axis " + name)
}

func (c combination) String() string {
	var b strings.Builder
	for i, a := range c.axes {
		fmt.Fprintf(&b, " %s=%s", a.name, a.states[c.index[i]])
	}
	return strings.TrimSpace(b.String())
}

// truth is the truth table of one decision, written from the requirements and
// not from the code: the rows say all that is allowed, everything else must
// be refused. A row is written "use=provider dates=good|last"; an axis that it
// does not name may have any state.
type truth struct {
	axes    []axis
	allowed []string
	decide  func(c combination) keyholder.Verdict
}

// fault is a change to a combination that is allowed, and the requirement
// that the answer must then rest on.
type fault struct {
	change string
	want   keyholder.Requirement
}

// check asks for every combination there is.
func (tt truth) check(t *testing.T) {
	t.Helper()
	rows := make([][]uint64, len(tt.allowed)) // a bit for every state
	for i, row := range tt.allowed {
		rows[i] = tt.parse(t, row)
	}
	c := combination{axes: tt.axes, index: make([]int, len(tt.axes))}
	total, allowed, wrong := 0, 0, 0
	for more := true; more; more = c.next() {
		want := slices.ContainsFunc(rows, func(row []uint64) bool {
			for i, states := range row {
				if states&(1<<c.index[i]) == 0 {
					return false
				}
			}
			return true
		})
		total++
		if want {
			allowed++
		}
		v := tt.decide(c)
		problem := ""
		switch {
		case v.Allowed != want:
			problem = fmt.Sprintf("allowed is %v, want %v (%s: %s)", v.Allowed, want, v.Requirement, v.Reason)
		case v.Requirement == "":
			problem = "the verdict rests on no requirement"
		case v.Allowed != (v.Reason == ""):
			problem = fmt.Sprintf("allowed is %v with the reason %q", v.Allowed, v.Reason)
		}
		if problem != "" {
			if wrong++; wrong <= 20 {
				t.Errorf("%s: %s", c, problem)
			}
		}
	}
	if wrong > 20 {
		t.Errorf("... and %d more", wrong-20)
	}
	if allowed == 0 || allowed == total {
		t.Errorf("the table allows %d of %d combinations, so it tests nothing", allowed, total)
	}
	t.Logf("%d combinations, %d allowed", total, allowed)
}

// requirements asks what the verdict rests on, in a combination that names
// every axis and in the changes to it.
func (tt truth) requirements(t *testing.T, base string, want keyholder.Requirement, faults ...fault) {
	t.Helper()
	if v := tt.decide(tt.pick(t, base)); !v.Allowed || v.Requirement != want {
		t.Errorf("%s: got %+v, want a yes resting on %s", base, v, want)
	}
	for _, f := range faults {
		if v := tt.decide(tt.pick(t, base, f.change)); v.Allowed || v.Requirement != f.want {
			t.Errorf("%s: got %+v, want a no resting on %s", f.change, v, f.want)
		}
	}
}

// next steps to the next combination and says whether there is one.
func (c combination) next() bool {
	for i := range c.index {
		if c.index[i]++; c.index[i] < len(c.axes[i].states) {
			return true
		}
		c.index[i] = 0
	}
	return false
}

// parse turns a row into the set of states it allows on every axis.
func (tt truth) parse(t *testing.T, row string) []uint64 {
	t.Helper()
	out := make([]uint64, len(tt.axes))
	for i, a := range tt.axes {
		out[i] = 1<<len(a.states) - 1
	}
	for field := range strings.FieldsSeq(row) {
		name, states, _ := strings.Cut(field, "=")
		i := slices.IndexFunc(tt.axes, func(a axis) bool { return a.name == name })
		if i < 0 {
			t.Fatalf("row %q: no axis %q", row, name)
		}
		out[i] = 0
		for state := range strings.SplitSeq(states, "|") {
			j := slices.Index(tt.axes[i].states, state)
			if j < 0 {
				t.Fatalf("row %q: axis %q has no state %q", row, name, state)
			}
			out[i] |= 1 << j
		}
	}
	return out
}

// pick returns the combination that the rows name, later rows overriding.
func (tt truth) pick(t *testing.T, rows ...string) combination {
	t.Helper()
	c := combination{axes: tt.axes, index: make([]int, len(tt.axes))}
	for i := range c.index {
		c.index[i] = -1
	}
	for _, row := range rows {
		for field := range strings.FieldsSeq(row) {
			name, state, _ := strings.Cut(field, "=")
			i := slices.IndexFunc(tt.axes, func(a axis) bool { return a.name == name })
			if i < 0 || !slices.Contains(tt.axes[i].states, state) {
				t.Fatalf("no state %q", field)
			}
			c.index[i] = slices.Index(tt.axes[i].states, state)
		}
	}
	for i, j := range c.index {
		if j < 0 {
			t.Fatalf("%q names no state of %s", rows, tt.axes[i].name)
		}
	}
	return c
}
