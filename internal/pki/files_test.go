package pki_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// Ensure that keys belong to their owner alone, that nothing is left over and
// that a second Init changes nothing.
func TestInitFiles(t *testing.T) {
	_, dir := open(t, start)
	want := map[string]fs.FileMode{"root.key": 0o600, "root.pem": 0o644, "issuing.key": 0o600, "issuing.pem": 0o644}
	before := snapshot(t, dir)
	for name, mode := range want {
		info, err := os.Stat(filepath.Join(dir, "pki", name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), mode)
		}
	}
	if len(before) != len(want) {
		t.Errorf("files: %v", before)
	}
	if info, err := os.Stat(filepath.Join(dir, "pki")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v", info.Mode(), err)
	}
	for _, name := range []string{"root.key", "issuing.key"} {
		if !bytes.HasPrefix(before[name], []byte("-----BEGIN PRIVATE KEY-----\n")) {
			t.Errorf("%s is not PKCS #8 in PEM", name)
		}
	}
	if err := pki.Init(dir, start, nil); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("second Init: %v", err)
	}
	for name, data := range snapshot(t, dir) {
		if !bytes.Equal(data, before[name]) {
			t.Errorf("%s was changed", name)
		}
	}
}

// snapshot returns the files below dir by their name, hidden ones included.
func snapshot(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		out[d.Name()], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Ensure that of many Inits at once exactly one wins, and that what is there
// afterwards opens.
func TestInitAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = pki.Init(dir, start, nil) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case keyholder.CodeOf(err) != keyholder.Conflict:
			t.Errorf("a loser got %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d won", won)
	}
	if _, err := pki.Open(dir); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// Ensure that a folder that is not complete, as no Init of ours leaves it, is
// neither overwritten nor opened.
func TestInitRespectsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := pki.Init(dir, start, nil); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("Init: %v", err)
	}
	if _, err := pki.Open(dir); err == nil {
		t.Error("an empty folder was opened")
	}
	if _, err := pki.Open(t.TempDir()); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("no folder: %v", err)
	}
}

// Ensure that Open refuses keys that others may use and files that do not fit
// together, does without the root key, and opens again once all is well.
func TestOpenChecksFiles(t *testing.T) {
	_, dir := open(t, start)
	_, other := open(t, start)
	good, foreign := snapshot(t, dir), snapshot(t, other)
	at := func(name string) string { return filepath.Join(dir, "pki", name) }
	write := func(name string, data []byte) func() {
		return func() {
			if err := os.WriteFile(at(name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	chmod := func(name string, mode fs.FileMode) func() {
		return func() {
			if err := os.Chmod(at(name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func() {
		return func() {
			if err := os.Remove(at(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	const opens = keyholder.Code("opens")
	const internal = keyholder.Code("") // an error of the file system
	for _, tt := range []struct {
		name   string
		damage func()
		want   keyholder.Code
	}{
		{"nothing", func() {}, opens},
		{"root key moved away", remove("root.key"), opens},
		{"issuing key for the group", chmod("issuing.key", 0o640), keyholder.Denied},
		{"issuing key for others", chmod("issuing.key", 0o604), keyholder.Denied},
		{"issuing key writable for the group", chmod("issuing.key", 0o620), keyholder.Denied},
		{"issuing key executable for others", chmod("issuing.key", 0o601), keyholder.Denied},
		{"root key for the group", chmod("root.key", 0o640), keyholder.Denied},
		{"issuing key missing", remove("issuing.key"), internal},
		{"issuing certificate missing", remove("issuing.pem"), internal},
		{"root certificate missing", remove("root.pem"), internal},
		{"issuing key of another authority", write("issuing.key", foreign["issuing.key"]), keyholder.Invalid},
		{"root key as issuing key", write("issuing.key", good["root.key"]), keyholder.Invalid},
		{"issuing certificate of another authority", write("issuing.pem", foreign["issuing.pem"]), keyholder.Invalid},
		{"root of another authority", write("root.pem", foreign["root.pem"]), keyholder.Invalid},
		{"issuing certificate as root", write("root.pem", good["issuing.pem"]), keyholder.Invalid},
		{"two certificates", write("root.pem", append(bytes.Clone(good["root.pem"]), foreign["root.pem"]...)), keyholder.Invalid},
		{"no certificate", write("root.pem", []byte("nonsense")), keyholder.Invalid},
		{"no key", write("issuing.key", []byte("nonsense")), keyholder.Invalid},
		{"certificate under another type", write("root.pem", bytes.ReplaceAll(good["root.pem"], []byte("CERTIFICATE"), []byte("X"))), keyholder.Invalid},
		{"oversize", write("issuing.pem", append(bytes.Clone(good["issuing.pem"]), bytes.Repeat([]byte("\n"), 64<<10)...)), keyholder.Invalid},
		{"folder in place of a file", func() {
			remove("issuing.pem")()
			if err := os.Mkdir(at("issuing.pem"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, keyholder.Invalid},
	} {
		for name, data := range good {
			write(name, data)()
			chmod(name, 0o600)()
		}
		tt.damage()
		_, err := pki.Open(dir)
		if (tt.want == opens) != (err == nil) || err != nil && keyholder.CodeOf(err) != tt.want {
			t.Errorf("%s: got %v (code %q)", tt.name, err, keyholder.CodeOf(err))
		}
		if tt.want == keyholder.Denied && !strings.Contains(err.Error(), ".key") {
			t.Errorf("%s: the error does not name the file: %v", tt.name, err)
		}
	}
}
