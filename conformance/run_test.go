package conformance_test

import (
	"bytes"
	"testing"

	"github.com/fds-keyholder/keyholder/conformance"
)

func table(t *testing.T, r conformance.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteTable(&b, false); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Ensure that a deployment without faults keeps all sixteen requirements, and
// that no probe is skipped where the target is complete.
func TestGoodDeployment(t *testing.T) {
	t.Parallel()
	report := newRig(t).check()
	if !report.Holds || len(report.Requirements) != 16 {
		t.Fatalf("not all hold:\n%s", table(t, report))
	}
	t.Logf("\n%s", table(t, report))
	for _, q := range report.Requirements {
		for _, p := range q.Probes {
			t.Logf("%s: %s", p.ID, p.Seen)
			if p.Status != conformance.Passed {
				t.Errorf("%s: %s: %s", p.ID, p.Status, p.Seen)
			}
			if p.Seen == "" {
				t.Errorf("%s passed without evidence", p.ID)
			}
		}
	}
}
