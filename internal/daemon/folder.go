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
	"github.com/fds-keyholder/keyholder/internal/keyfile"
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
	return InitWith(context.Background(), dir, InitOptions{}, now)
}

// InitPostgres is Init with the database that a file's DSN leads to, which
// must be empty. Errors: also Invalid and Unavailable.
func InitPostgres(ctx context.Context, dir, dsnFile string, now time.Time) error {
	return InitWith(ctx, dir, InitOptions{DSNFile: dsnFile}, now)
}

// InitOptions says where the parts of a deployment are that are not in its
// data folder.
type InitOptions struct {
	DSNFile  string // of a PostgreSQL database; empty: a SQLite file in the folder
	SealFile string // with the key that seals private keys, made if it is not there; empty: they are plain

	HSM keyring.HSM // makes and keeps the signing keys; zero: they are in the folder
}

// InitWith is Init with options.
func InitWith(ctx context.Context, dir string, o InitOptions, now time.Time) error {
	config := DefaultConfig
	database := func() error {
		db, err := store.Open(ctx, filepath.Join(dir, databaseName))
		if err != nil {
			return err
		}
		return db.Close()
	}
	if o.DSNFile != "" {
		dsnFile, err := filepath.Abs(o.DSNFile)
		if err != nil {
			return fmt.Errorf("find the file of the DSN: %w", err)
		}
		dsn, err := readDSN(dsnFile)
		if err != nil {
			return err
		}
		config = bytes.Replace(config, []byte("\ndatabase: {}\n"), fmt.Appendf(nil, "\ndatabase:\n  postgres:\n    dsn_file: %q\n", dsnFile), 1)
		database = func() error { return store.InitPostgres(ctx, dsn) }
	}
	var seal *keyfile.Seal
	if o.SealFile != "" {
		sealFile, err := filepath.Abs(o.SealFile)
		if err != nil {
			return fmt.Errorf("find the sealing key: %w", err)
		}
		if err := keyfile.MakeSeal(sealFile, dir); err != nil {
			return err
		}
		if seal, err = keyfile.OpenSeal(sealFile, dir); err != nil {
			return err
		}
		config = bytes.Replace(config, []byte("seal_file: \"\""), fmt.Appendf(nil, "seal_file: %q", sealFile), 1)
	}
	if o.HSM != (keyring.HSM{}) {
		pinFile, err := filepath.Abs(o.HSM.PINFile)
		if err != nil {
			return fmt.Errorf("find the PIN of the HSM: %w", err)
		}
		if o.HSM.PINFile != "" {
			o.HSM.PINFile = pinFile
		}
		if err := o.HSM.Reach(); err != nil { // before anything is made
			return err
		}
		config = bytes.Replace(config, []byte("    module: \"\"\n    token: \"\"\n    pin_file: \"\"\n"),
			fmt.Appendf(nil, "    module: %q\n    token: %q\n    pin_file: %q\n", o.HSM.Module, o.HSM.Token, o.HSM.PINFile), 1)
	}
	return initFolder(dir, config, keyring.Config{Dir: dir, Seal: seal, HSM: o.HSM, Now: func() time.Time { return now }}, database)
}

func initFolder(dir string, config []byte, keys keyring.Config, database func() error) error {
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
	if err := pki.InitSealed(dir, keys.Now(), nil, keys.Seal); err != nil {
		return err
	}
	if err := keyring.Create(keys); err != nil {
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
