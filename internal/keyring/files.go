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
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// The folder holds one file for each key, named after it, and a file that
// names the one that signs: adding a key and letting it sign are two steps.
const (
	folder      = "keys"
	keyPrefix   = "es256-" // a thumbprint may begin with a hyphen, a file name should not
	keySuffix   = ".key"
	signingFile = "signing" // the kid of the key that signs; below it, one a line, later ones with the time from when
	keyType     = "PRIVATE KEY"
	factorFile  = "factors" // the key that seals the secrets of authenticator apps
	maxKeys     = 16
)

// factorKeySize is the size of the key that seals secrets, for AES-256.
const factorKeySize = 32

// Init makes one signing key in dir/keys, in PKCS #8 of mode 0600, and the key
// that seals the secrets of second factors. It is all or nothing, also when the machine stops in the middle, and never
// overwrites: keys that are there give an [keyholder.Error] of code Conflict.
func Init(dir string) error {
	target := filepath.Join(dir, folder)
	key, encoded, err := newKey()
	if err != nil {
		return err
	}
	factors := make([]byte, factorKeySize)
	rand.Read(factors) // never fails: the runtime ends the process instead
	err = keyfile.WriteFolder(target, []keyfile.File{
		{Name: keyPrefix + key.KeyID + keySuffix, Data: encoded, Mode: keyfile.Private},
		{Name: signingFile, Data: []byte(key.KeyID + "\n"), Mode: keyfile.Private},
		{Name: factorFile, Data: factors, Mode: keyfile.Private},
	})
	if errors.Is(err, fs.ErrExist) {
		return errExists(target)
	}
	return err
}

// newKey makes a key and its file.
func newKey() (jose.JSONWebKey, []byte, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return jose.JSONWebKey{}, nil, fmt.Errorf("make a signing key: %w", err)
	}
	key, err := webKey(private)
	if err != nil {
		return jose.JSONWebKey{}, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return jose.JSONWebKey{}, nil, fmt.Errorf("encode a signing key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}), nil
}

// Open reads the keys in dir/keys. An [keyholder.Error] says what is wrong:
// code NotFound if there are none, Denied if a key can be read by others than
// its owner, Invalid if the files do not fit together.
func Open(dir string) (*Ring, error) { return OpenAt(dir, time.Now) }

// OpenAt is Open with a clock, which says whose turn it is to sign.
func OpenAt(dir string, now func() time.Time) (*Ring, error) {
	path := filepath.Join(dir, folder)
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, keyholder.Errorf(keyholder.NotFound, "there are no signing keys in %s", dir).
			WithHint("make them with `keyholder init -data %s`", dir)
	} else if err != nil {
		return nil, fmt.Errorf("list the signing keys: %w", err)
	}
	signing, err := keyfile.ReadPrivate(filepath.Join(path, signingFile))
	if err != nil {
		return nil, err
	}
	r := &Ring{path: path, now: now}
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
	if r.turns, err = parseTurns(string(signing)); err != nil {
		return nil, err
	}
	for _, t := range r.turns {
		if !slices.ContainsFunc(r.keys, func(k jose.JSONWebKey) bool { return k.KeyID == t.kid }) || len(r.keys) > maxKeys {
			return nil, keyholder.Errorf(keyholder.Invalid, "of the %d keys (at most %d) in %s none is the one that the file %s names", len(r.keys), maxKeys, path, signingFile)
		}
	}
	return r, nil
}

// FactorKey reads the key that seals the secrets of second factors, 32 bytes.
// Errors: Denied if others than its owner can read it, Invalid if it is not
// there or not whole. It is never made anew by itself: what the old one has
// sealed would be lost unnoticed.
func FactorKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, folder, factorFile)
	key, err := keyfile.ReadPrivate(path)
	if err == nil && len(key) == factorKeySize {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return nil, keyholder.Errorf(keyholder.Invalid, "%s does not hold the key of %d bytes that seals second factors", path, factorKeySize).
		WithHint("restore it; if it is lost, `head -c %d /dev/urandom >%s` in mode 0600, and `keyholder user reset` for every user of an authenticator app", factorKeySize, path)
}

// parseTurns reads the file that names the keys that sign.
func parseTurns(text string) ([]turn, error) {
	var turns []turn
	for line := range strings.Lines(strings.TrimSpace(text)) {
		kid, from, later := strings.Cut(strings.TrimSpace(line), " ")
		t := turn{kid: kid}
		if later != (len(turns) > 0) {
			return nil, errTurns()
		}
		if later {
			var err error
			if t.from, err = time.Parse(time.RFC3339, from); err != nil || t.from.Before(turns[len(turns)-1].from) {
				return nil, errTurns()
			}
		}
		turns = append(turns, t)
	}
	if len(turns) == 0 {
		return nil, errTurns()
	}
	return turns, nil
}

func errTurns() error {
	return keyholder.Errorf(keyholder.Invalid, "the file %s does not name the signing keys in order", signingFile)
}

func openKey(path, kid string) (jose.JSONWebKey, error) {
	in, err := keyfile.ReadPrivate(path)
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

func errExists(path string) error {
	return keyholder.Errorf(keyholder.Conflict, "there are already signing keys in %s", path).
		WithHint("they are never overwritten: every token and receipt would lose its proof. Use another data folder")
}
