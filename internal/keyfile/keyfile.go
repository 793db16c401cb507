// Package keyfile reads and writes the files that hold keys: bounded, for
// their owner only, and durable before they have their name.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fds-keyholder/keyholder"
)

// maxFile bounds a file, in bytes. A key or a chain of certificates takes a
// few KiB.
const maxFile = 64 << 10

// Permissions of files: of one that only its owner may use, and of one that
// everybody may read.
const (
	Private fs.FileMode = 0o600
	Public  fs.FileMode = 0o644
)

// ReadPrivate reads a file that only its owner may use. Errors: Denied if
// others may, Invalid if it is no regular file or too long; one that is not
// there has fs.ErrNotExist in its chain.
func ReadPrivate(path string) ([]byte, error) { return read(path, 0o077) }

// Read is ReadPrivate for a file that others may read.
func Read(path string) ([]byte, error) { return read(path, 0) }

// read reads a bounded file, but not one with a forbidden permission bit. The
// mode is asked of the open file, so that it cannot be exchanged in between.
func read(path string, forbidden fs.FileMode) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open a key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open a key file: %w", err)
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular() || info.Size() > maxFile:
		return nil, keyholder.Errorf(keyholder.Invalid, "%s is not a regular file of at most %d bytes", path, maxFile)
	case mode.Perm()&forbidden != 0:
		return nil, keyholder.Errorf(keyholder.Denied, "others than its owner may use the key file %s (mode %04o)", path, mode.Perm()).
			WithHint("chmod 600 %s; if others may have read it, replace what it holds", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// File is one file of a new folder.
type File struct {
	Name string
	Data []byte
	Mode fs.FileMode
}

// WriteFolder writes files into a new folder (mode 0700) beside the target,
// makes them durable and only then gives the folder its name: a crash leaves
// either nothing of that name or all of it. A target that exists is not
// touched and gives an error with fs.ErrExist in its chain; of two that run
// at once one wins.
func WriteFolder(target string, files []File) error {
	if _, err := os.Lstat(target); err == nil {
		return fmt.Errorf("make the folder %s: %w", target, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for the folder %s: %w", target, err)
	}
	parent := filepath.Dir(target)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	temp, err := os.MkdirTemp(parent, "."+filepath.Base(target)+"-*") // mode 0700
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(temp) // it has another name by then if all went well
	for _, f := range files {
		if err := write(filepath.Join(temp, f.Name), f.Data, f.Mode); err != nil {
			return err
		}
	}
	if err := syncFolder(temp); err != nil {
		return err
	}
	if err := os.Rename(temp, target); err != nil {
		return fmt.Errorf("name the folder %s: %w", target, err)
	}
	return syncFolder(parent)
}

// Add writes a new private file and makes it and its name durable. One that
// exists is not touched and gives an error with fs.ErrExist in its chain.
func Add(path string, data []byte) error {
	if err := write(path, data, Private); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// Replace gives a private file new content: after a crash it holds the old or
// the new, whole.
func Replace(path string, data []byte) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what a crash left: %w", err)
	}
	if err := write(temp, data, Private); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return syncFolder(filepath.Dir(path))
}

// write writes a new file and makes its content durable.
func write(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("make a file: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open a folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("make the folder %s durable: %w", path, err)
	}
	return nil
}
