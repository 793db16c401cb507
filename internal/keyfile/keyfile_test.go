package keyfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// Ensure that a private file is read only while it is its owner's alone, and
// that anything but a bounded regular file is refused.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Repeat([]byte("k"), size), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name            string
		path            string
		public, private keyholder.Code // "" means it is read
	}{
		{"owner's", file("a", 10, 0o600), "", ""},
		{"read-only", file("b", 10, 0o400), "", ""},
		{"group may read", file("c", 10, 0o640), "", keyholder.Denied},
		{"others may read", file("d", 10, 0o604), "", keyholder.Denied},
		{"others may write", file("e", 10, 0o602), "", keyholder.Denied},
		{"too long", file("f", 64<<10+1, 0o600), keyholder.Invalid, keyholder.Invalid},
		{"folder", dir, keyholder.Invalid, keyholder.Invalid},
	} {
		_, err := keyfile.Read(tt.path)
		if keyholder.CodeOf(err) != tt.public || (err == nil) != (tt.public == "") {
			t.Errorf("%s: Read: %v, want %q", tt.name, err, tt.public)
		}
		_, err = keyfile.ReadPrivate(tt.path)
		if keyholder.CodeOf(err) != tt.private || (err == nil) != (tt.private == "") {
			t.Errorf("%s: ReadPrivate: %v, want %q", tt.name, err, tt.private)
		}
	}
	if _, err := keyfile.ReadPrivate(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// Ensure that of many writers of one folder exactly one wins, whole, and that
// no other folder is left behind.
func TestWriteFolderOnce(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "data")
	target := filepath.Join(parent, "keys")
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() {
			content := []byte{byte('a' + i)}
			errs[i] = keyfile.WriteFolder(target, []keyfile.File{{Name: "one", Data: content, Mode: keyfile.Private}, {Name: "two", Data: content, Mode: keyfile.Public}})
		})
	}
	wg.Wait()
	winners := 0
	for _, err := range errs {
		if err == nil {
			winners++
		} else if !errors.Is(err, fs.ErrExist) {
			t.Errorf("a loser got %v", err)
		}
	}
	one, err1 := keyfile.ReadPrivate(filepath.Join(target, "one"))
	two, err2 := keyfile.Read(filepath.Join(target, "two"))
	if winners != 1 || err1 != nil || err2 != nil || !bytes.Equal(one, two) {
		t.Errorf("%d winners; files %q %v, %q %v", winners, one, err1, two, err2)
	}
	entries, err := os.ReadDir(parent)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

// Ensure that a sealing key is read where systemd puts a credential, whose
// group is root's and may read it, and nowhere where others may.
func TestSealOfSystemd(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can make a file of root's group")
	}
	folder := t.TempDir()
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := keyfile.MakeSeal(path, folder); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		mode fs.FileMode
		gid  int
		want keyholder.Code
	}{{0o440, 0, ""}, {0o400, 0, ""}, {0o440, 1, keyholder.Denied}, {0o400, 1, ""}, {0o444, 0, keyholder.Denied}, {0o460, 0, keyholder.Denied}} {
		if err := errors.Join(os.Chown(path, 0, tt.gid), os.Chmod(path, tt.mode)); err != nil {
			t.Fatal(err)
		}
		if _, err := keyfile.OpenSeal(path, folder); keyholder.CodeOf(err) != tt.want || (err == nil) != (tt.want == "") {
			t.Errorf("mode %04o, group %d: %v, want %q", tt.mode, tt.gid, err, tt.want)
		}
	}
}
