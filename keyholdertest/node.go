package keyholdertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// NodePackage copies files, among them package.json and package-lock.json,
// into a folder of the test, installs the packages they name there, and
// returns the path of node and the folder. Without node and npm the test is
// skipped as by [RequireProgram].
func NodePackage(t testing.TB, files ...string) (node, dir string) {
	t.Helper()
	node, npm := RequireProgram(t, "node"), RequireProgram(t, "npm")
	dir = t.TempDir()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ci := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	ci.Dir = dir
	if out, err := ci.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return node, dir
}
