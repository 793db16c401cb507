package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxFile bounds a file that is read, in bytes: PEM files, secrets, receipts.
const maxFile = 8 << 20

// readFile reads a file that the command line names; - is standard input.
func readFile(env *environment, path string) ([]byte, error) {
	var r io.Reader = env.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, &usageError{"cannot read a file: " + err.Error(), ""}
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, &usageError{"cannot read a file: " + err.Error(), ""}
	}
	if len(b) > maxFile {
		return nil, &usageError{fmt.Sprintf("%s is larger than %d bytes", path, maxFile), ""}
	}
	return b, nil
}

// readSecret reads a secret out of a file, without the line end after it.
func readSecret(env *environment, path string) (string, error) {
	b, err := readFile(env, path)
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" {
		return "", &usageError{path + " is empty", ""}
	}
	return s, nil
}

// secretFile is a new file of mode 0600. It is opened before the secret is
// drawn, so that a secret is never drawn that cannot be kept.
type secretFile struct {
	f *os.File
}

// newSecretFile creates the file and refuses one that exists: what is in it
// may be in use. An empty path gives nil, for standard output.
func newSecretFile(path string) (*secretFile, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil, &usageError{path + " exists, and a secret is never overwritten", "name a new file, or remove the old one first"}
	case err != nil:
		return nil, &usageError{"cannot create a file: " + err.Error(), ""}
	}
	return &secretFile{f}, nil
}

// keep writes the secret and closes the file.
func (s *secretFile) keep(text string) error {
	_, err := io.WriteString(s.f, text)
	if err := errors.Join(err, s.f.Sync(), s.f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", s.f.Name(), err)
	}
	return nil
}

// drop removes the file again, because there is no secret to keep. It does
// nothing to a nil file.
func (s *secretFile) drop() {
	if s != nil {
		_ = s.f.Close()
		_ = os.Remove(s.f.Name())
	}
}

// writePublic writes a file that everybody may read, at once or not at all: a
// program may be reading the one before.
func writePublic(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".keyholder-*")
	if err != nil {
		return &usageError{"cannot create a file: " + err.Error(), ""}
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

// isTerminal says whether a person is looking at w.
func isTerminal(env *environment, w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || env.getenv("NO_COLOR") != "" || env.getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&fs.ModeCharDevice != 0
}
