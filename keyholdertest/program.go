package keyholdertest

import (
	"os"
	"os/exec"
	"testing"
)

// RequireProgram returns the path of an external program that a test needs.
// Without it the test is skipped and says so; where KEYHOLDER_TEST_ALL is
// set, as in continuous integration, the test fails instead, so that nothing
// is skipped unseen.
func RequireProgram(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("KEYHOLDER_TEST_ALL") != "" {
		t.Fatalf("%s is not installed, and KEYHOLDER_TEST_ALL forbids to skip", name)
	}
	t.Skipf("SKIPPED: %s is not installed", name)
	return ""
}
