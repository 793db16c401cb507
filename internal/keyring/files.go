package keyring

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/fds-keyholder/keyholder"
)

// The folder holds one file for each key, named after it, and a file that
// names the one that signs: adding a key and letting it sign are two steps.
const (
	folder      = "keys"
	keyPrefix   = "es256-" // a thumbprint may begin with a hyphen, a file name should not
	keySuffix   = ".key"
	signingFile = "signing" // one line: the kid of the key that signs
	keyType     = "PRIVATE KEY"
	maxFile     = 16 << 10
	maxKeys     = 16
	modeOthers  = 0o077
	folderMode  = 0o700
	keyMode     = 0o600
)

// Init makes one signing key in dir/keys, in PKCS #8 of mode 0600. It is all
// or nothing, also when the machine stops in the middle, and never
// overwrites: keys that are there give an [keyholder.Error] of code Conflict.
func Init(dir string) error {
	target := filepath.Join(dir, folder)
	if _, err := os.Lstat(target); err == nil {
		return errExists(target)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for signing keys: %w", err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	key, err := webKey(private)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("encode a signing key: %w", err)
	}
	if err := os.MkdirAll(dir, folderMode); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	return writeFolder(target, map[string][]byte{
		keyPrefix + key.KeyID + keySuffix: pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}),
		signingFile:                       []byte(key.KeyID + "\n"),
	})
}

// Open reads the keys in dir/keys. An [keyholder.Error] says what is wrong:
// code NotFound if there are none, Denied if a key can be read by others than
// its owner, Invalid if the files do not fit together.
func Open(dir string) (*Ring, error) {
	path := filepath.Join(dir, folder)
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, keyholder.Errorf(keyholder.NotFound, "there are no signing keys in %s", dir).
			WithHint("make them with `keyholder init -data %s`", dir)
	} else if err != nil {
		return nil, fmt.Errorf("list the signing keys: %w", err)
	}
	name, err := readFile(filepath.Join(path, signingFile))
	if err != nil {
		return nil, err
	}
	r := &Ring{}
	for _, e := range entries {
		rest, isKey := strings.CutPrefix(e.Name(), keyPrefix)
		kid, ended := strings.CutSuffix(rest, keySuffix)
		if !isKey || !ended {
			continue
		}
		key, err := openKey(filepath.Join(path, e.Name()), kid)
		if err != nil {
			return nil, err
		}
		r.keys = append(r.keys, key)
	}
	signing := strings.TrimSpace(string(name))
	i := slices.IndexFunc(r.keys, func(k jose.JSONWebKey) bool { return k.KeyID == signing })
	if i < 0 || len(r.keys) > maxKeys {
		return nil, keyholder.Errorf(keyholder.Invalid, "of the %d keys (at most %d) in %s none is the one that the file %s names", len(r.keys), maxKeys, path, signingFile)
	}
	r.keys[0], r.keys[i] = r.keys[i], r.keys[0]
	r.signing = r.keys[0]
	return r, nil
}

func openKey(path, kid string) (jose.JSONWebKey, error) {
	in, err := readFile(path)
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	bad := keyholder.Errorf(keyholder.Invalid, "%s does not hold the P-256 key of its name in PKCS #8", path)
	block, rest := pem.Decode(in)
	if block == nil || block.Type != keyType || len(bytes.TrimSpace(rest)) != 0 {
		return jose.JSONWebKey{}, bad
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || private.Curve != elliptic.P256() {
		return jose.JSONWebKey{}, bad
	}
	key, err := webKey(private)
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	if key.KeyID != kid {
		return jose.JSONWebKey{}, bad
	}
	return key, nil
}

// readFile reads a bounded file that only its owner may use. The mode is
// asked of the open file, so that it cannot be exchanged in between.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open a signing key: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open a signing key: %w", err)
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular() || info.Size() > maxFile:
		return nil, keyholder.Errorf(keyholder.Invalid, "%s is not a regular file of at most %d bytes", path, maxFile)
	case mode.Perm()&modeOthers != 0:
		return nil, keyholder.Errorf(keyholder.Denied, "others than its owner may use the key file %s (mode %04o)", path, mode.Perm()).
			WithHint("chmod 600 %s; if others may have read it, replace the signing key", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// writeFolder writes files into a new folder beside the target, makes them
// durable and only then gives the folder its name: a crash leaves either
// nothing of that name or all of it. Renaming onto a folder that holds
// something fails, so of two that run at once one wins.
func writeFolder(target string, files map[string][]byte) error {
	parent := filepath.Dir(target)
	temp, err := os.MkdirTemp(parent, "."+filepath.Base(target)+"-*") // mode 0700
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(temp) //nolint:errcheck // already renamed if all went well
	for name, data := range files {
		if err := writeFile(filepath.Join(temp, name), data); err != nil {
			return err
		}
	}
	if err := syncFolder(temp); err != nil {
		return err
	}
	if err := os.Rename(temp, target); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return errExists(target)
		}
		return fmt.Errorf("name the folder %s: %w", target, err)
	}
	return syncFolder(parent)
}

// writeFile writes a new file and makes its content durable.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, keyMode)
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

func errExists(path string) error {
	return keyholder.Errorf(keyholder.Conflict, "there are already signing keys in %s", path).
		WithHint("they are never overwritten: every token and receipt would lose its proof. Use another data folder")
}
