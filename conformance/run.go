package conformance

import (
	"context"
	"slices"
	"strings"
	"time"

	keyholder "github.com/fds-keyholder/keyholder"
)

// DefaultTimeout bounds each probe unless [Options] say otherwise.
const DefaultTimeout = 10 * time.Second

// Options say how to run. The zero value runs everything.
type Options struct {
	// Only selects requirements ("M6") and probes ("M6.foreign").
	Only []string
	// Timeout bounds each probe; [DefaultTimeout] if zero.
	Timeout time.Duration
	// Progress, if set, is called with each result as it comes, from the
	// goroutine that called [Run].
	Progress func(Result)
	// Now is the clock for dates in reports, tokens and certificates;
	// time.Now if nil.
	Now func() time.Time
}

// Run checks a deployment, one probe after the other. It returns a
// [keyholder.Error] of code Invalid if the target or Only is not usable, and
// ctx.Err() with the report so far if ctx ends; that the deployment fails is
// no error but stands in the report.
func Run(ctx context.Context, t Target, o Options) (Report, error) {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	selected, err := selection(o.Only)
	if err != nil {
		return Report{}, err
	}
	if err := t.validate(); err != nil {
		return Report{}, err
	}
	d, err := open(t, o)
	if err != nil {
		return Report{}, err
	}
	defer d.close()

	began := o.Now()
	var results []Result
	for _, p := range selected {
		if ctx.Err() != nil {
			break
		}
		r := d.judge(ctx, p, o.Timeout)
		results = append(results, r)
		if o.Progress != nil {
			o.Progress(r)
		}
	}
	return summarize(t, began, o.Now().Sub(began), selected, results), ctx.Err()
}

// selection returns the probes that Only names, or all.
func selection(only []string) ([]probe, error) {
	all := registry()
	if len(only) == 0 {
		return all, nil
	}
	var chosen []probe
	for _, p := range all {
		if slices.ContainsFunc(only, func(o string) bool {
			return strings.EqualFold(o, p.ID) || strings.EqualFold(o, string(p.Requirement))
		}) {
			chosen = append(chosen, p)
		}
	}
	for _, o := range only {
		if !slices.ContainsFunc(chosen, func(p probe) bool {
			return strings.EqualFold(o, p.ID) || strings.EqualFold(o, string(p.Requirement))
		}) {
			e := keyholder.Errorf(keyholder.Invalid, "there is no requirement or probe %q", clean(o))
			var known []string
			for _, p := range all {
				known = append(known, strings.ToLower(p.ID))
			}
			if near := keyholder.Nearest(o, known); near != "" {
				return nil, e.WithHint("did you mean %s?", near)
			}
			return nil, e.WithHint("requirements are W1 to W8 and M1 to M8; probes are those that a report names")
		}
	}
	return chosen, nil
}
