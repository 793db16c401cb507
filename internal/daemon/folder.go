package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// Names inside a data folder.
const (
	databaseName = "keyholder.db"
	pkiName      = "pki"
	lockName     = "lock"
)

// Init creates a data folder (mode 0700): the certificate authority, the
// signing keys, the database and the commented configuration. It refuses a
// folder that holds one of them already, so that no key is ever overwritten.
// Errors: Conflict.
func Init(dir string, now time.Time) error {
	return initFolder(dir, now, DefaultConfig, func() error {
		db, err := store.Open(context.Background(), filepath.Join(dir, databaseName))
		if err != nil {
			return err
		}
		return db.Close()
	})
}

// InitPostgres is Init with the database that a file's DSN leads to, which
// must be empty. Errors: also Invalid and Unavailable.
func InitPostgres(ctx context.Context, dir, dsnFile string, now time.Time) error {
	dsnFile, err := filepath.Abs(dsnFile)
	if err != nil {
		return fmt.Errorf("find the file of the DSN: %w", err)
	}
	dsn, err := readDSN(dsnFile)
	if err != nil {
		return err
	}
	config := bytes.Replace(DefaultConfig, []byte("\ndatabase: {}\n"), fmt.Appendf(nil, "\ndatabase:\n  postgres:\n    dsn_file: %q\n", dsnFile), 1)
	return initFolder(dir, now, config, func() error { return store.InitPostgres(ctx, dsn) })
}

func initFolder(dir string, now time.Time, config []byte, database func() error) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create the data folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the data folder: %w", err)
	}
	if len(entries) > 0 {
		return keyholder.Errorf(keyholder.Conflict, "the folder %s is not empty", dir).
			WithHint("give a new folder, or start the one that is there with `keyholder serve -data %s`", dir)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("protect the data folder: %w", err)
	}
	if err := database(); err != nil { // first, because it is what may fail
		return err
	}
	if err := pki.Init(dir, now, nil); err != nil {
		return err
	}
	if err := keyring.Init(dir); err != nil {
		return err
	}
	// Last, because serve takes its presence for a complete folder.
	if err := os.WriteFile(filepath.Join(dir, ConfigName), config, 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

// lock keeps a second server out of a data folder. The lock ends with the
// process, also when it is killed.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, keyholder.Errorf(keyholder.Conflict, "another keyholder serves %s", dir).
			WithHint("stop it first, or use another data folder")
	}
	return f, nil
}

// checkFolder refuses a folder that others may read: it holds the CA's keys.
func checkFolder(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return keyholder.Errorf(keyholder.Invalid, "there is no data folder %s", dir).
			WithHint("create it with `keyholder init -data %s`", dir)
	}
	if err != nil {
		return fmt.Errorf("read the data folder: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return keyholder.Errorf(keyholder.Invalid, "others may read the data folder %s", dir).WithHint("chmod 700 %s", dir)
	}
	return nil
}
