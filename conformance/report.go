package conformance

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Verdict is the answer for one requirement.
type Verdict string

const (
	// Holds means that probes of both kinds passed and none failed or broke
	// down.
	Holds Verdict = "holds"
	// Fails means that a probe failed.
	Fails Verdict = "fails"
	// Unproven means that nothing failed, but a kind has no pass, or a probe
	// broke down.
	Unproven Verdict = "unproven"
)

// Report is the result of a [Run]. Its JSON member names are stable.
type Report struct {
	Format       int                 `json:"keyholder_check"` // version of this form: 1
	Target       ReportTarget        `json:"target"`
	Started      time.Time           `json:"started"`
	Took         time.Duration       `json:"took_ns"`
	Holds        bool                `json:"holds"` // every requirement in the report holds
	Requirements []RequirementReport `json:"requirements"`
}

// ReportTarget names what was checked.
type ReportTarget struct {
	Name   string `json:"name,omitempty"`
	Issuer string `json:"issuer,omitempty"`
	API    string `json:"api,omitempty"`
	MQTT   string `json:"mqtt,omitempty"`
}

// RequirementReport is the verdict on one requirement with its evidence.
type RequirementReport struct {
	Requirement
	Verdict  Verdict  `json:"verdict"`
	Positive Count    `json:"positive"`
	Negative Count    `json:"negative"`
	Probes   []Result `json:"probes"`
}

// Count says how probes of one kind ended.
type Count struct {
	Passed  int `json:"pass"`
	Failed  int `json:"fail"`
	Skipped int `json:"skipped"`
	Broken  int `json:"error"`
}

func (c *Count) add(s Status) {
	switch s {
	case Passed:
		c.Passed++
	case Failed:
		c.Failed++
	case Skipped:
		c.Skipped++
	default:
		c.Broken++
	}
}

func verdict(p, n Count) Verdict {
	switch {
	case p.Failed+n.Failed > 0:
		return Fails
	case p.Broken+n.Broken > 0, p.Passed == 0, n.Passed == 0:
		return Unproven
	}
	return Holds
}

// summarize makes the report of the requirements that the selected probes
// concern.
func summarize(t Target, began time.Time, took time.Duration, selected []probe, results []Result) Report {
	report := Report{
		Format:  1,
		Target:  ReportTarget{Name: clean(t.Name), Issuer: t.Issuer, API: t.API, MQTT: t.MQTT},
		Started: began.UTC(), Took: took, Holds: len(selected) > 0,
	}
	for _, r := range Requirements() {
		line := RequirementReport{Requirement: r, Probes: []Result{}}
		chosen := false
		for _, p := range selected {
			chosen = chosen || p.Requirement == r.ID
		}
		if !chosen {
			continue
		}
		for _, result := range results {
			if result.Requirement != r.ID {
				continue
			}
			line.Probes = append(line.Probes, result)
			if result.Kind == Positive {
				line.Positive.add(result.Status)
			} else {
				line.Negative.add(result.Status)
			}
		}
		line.Verdict = verdict(line.Positive, line.Negative)
		report.Holds = report.Holds && line.Verdict == Holds
		report.Requirements = append(report.Requirements, line)
	}
	return report
}

// ANSI colours of the table.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	faint  = "\x1b[2m"
	reset  = "\x1b[0m"
)

// WriteTable writes the report for people: a line for each requirement, and
// below it, where it does not hold, what was seen and what to do. color adds
// ANSI colours. It returns the first error of w.
func (r Report) WriteTable(w io.Writer, color bool) error {
	paint := func(code, s string) string {
		if !color {
			return s
		}
		return code + s + reset
	}
	var b strings.Builder
	held := 0
	for _, q := range r.Requirements {
		code, word := yellow, string(q.Verdict)
		switch q.Verdict {
		case Holds:
			code = green
			held++
		case Fails:
			code, word = red, "FAILS"
		}
		skipped := q.Positive.Skipped + q.Negative.Skipped
		fmt.Fprintf(&b, "%-2s  %s  %2d of %-2d  %s", q.ID, paint(code, fmt.Sprintf("%-8s", word)),
			q.Positive.Passed+q.Negative.Passed, len(q.Probes)-skipped, q.Text)
		if skipped > 0 {
			fmt.Fprintf(&b, " (%d not tried)", skipped)
		}
		b.WriteByte('\n')
		if q.Verdict == Holds {
			continue
		}
		for _, p := range q.Probes {
			if p.Status == Passed {
				continue
			}
			fmt.Fprintf(&b, "      %-7s %s: %s\n", p.Status, p.ID, p.Title)
			fmt.Fprintf(&b, "              seen: %s\n", p.Seen)
			if p.Todo != "" {
				fmt.Fprintf(&b, "              do:   %s\n", p.Todo)
			}
		}
		if q.Verdict == Unproven && len(q.Probes) > 0 && q.Positive.Broken+q.Negative.Broken == 0 {
			fmt.Fprintf(&b, "              do:   complete the target file; a requirement holds only by a passed probe of each kind\n")
		}
	}
	var notes []string
	for _, q := range r.Requirements {
		for _, p := range q.Probes {
			for _, n := range p.Notes {
				notes = append(notes, fmt.Sprintf("  %-2s  %s", q.ID, n))
			}
		}
	}
	if len(notes) > 0 {
		fmt.Fprintf(&b, "Notes\n%s\n", paint(faint, strings.Join(notes, "\n")))
	}
	code := green
	if !r.Holds {
		code = red
	}
	fmt.Fprintf(&b, "%s in %s\n", paint(code, fmt.Sprintf("%d of %d requirements hold", held, len(r.Requirements))), r.Took.Round(time.Millisecond))
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}
