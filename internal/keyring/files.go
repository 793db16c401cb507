package keyring

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// The folder holds one file for each key, named after it, and a file that
// names the one that signs: adding a key and letting it sign are two steps.
const (
	folder        = "keys"
	keyPrefix     = "es256-" // a thumbprint may begin with a hyphen, a file name should not
	keySuffix     = ".key"
	retiredSuffix = ".retired" // public key and end; a key that has such a file is not used, whatever else is there
	signingFile   = "signing"  // the kids of the keys that sign, one a line, each with the time from when
	keyType       = "PRIVATE KEY"
	factorFile    = "factors" // the key that seals the secrets of authenticator apps
	maxKeys       = 16
)

// factorKeySize is the size of the key that seals secrets, for AES-256.
const factorKeySize = 32

// Config says where the keys are. Dir is required.
type Config struct {
	Dir  string           // the data folder
	Seal *keyfile.Seal    // nil: the files are not sealed
	HSM  HSM              // where the private keys are; zero: in the files
	Now  func() time.Time // nil: time.Now
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Init is Create for plain files.
func Init(dir string) error { return Create(Config{Dir: dir}) }

// Create makes one signing key in DIR/keys, in PKCS #8 of mode 0600 or, with
// an HSM, in that, and the key that seals the secrets of second factors. The
// folder is all or nothing, also when the machine stops in the middle; in the
// HSM a key may then be left that signs nothing. Nothing is overwritten: keys
// that are there give an [keyholder.Error] of code Conflict.
func Create(c Config) error {
	c = c.withDefaults()
	target := filepath.Join(c.Dir, folder)
	if _, err := os.Lstat(target); err == nil { // before a key is made in vain
		return errExists(target)
	}
	t, err := c.HSM.openToken()
	if err != nil {
		return err
	}
	if t != nil {
		defer t.close() // nothing to lose: the key is made
	}
	k, encoded, err := c.makeKey(t)
	if err != nil {
		return err
	}
	factors := make([]byte, factorKeySize)
	rand.Read(factors) // never fails: the runtime ends the process instead
	name := keyPrefix + k.public.KeyID + keySuffix
	err = keyfile.WriteFolder(target, []keyfile.File{
		{Name: name, Data: c.Seal.Close(filepath.Join(target, name), encoded), Mode: keyfile.Private},
		{Name: signingFile, Data: formatTurns([]turn{{k.public.KeyID, c.Now().UTC().Truncate(time.Second)}}), Mode: keyfile.Private},
		{Name: factorFile, Data: c.Seal.Close(filepath.Join(target, factorFile), factors), Mode: keyfile.Private},
	})
	if errors.Is(err, fs.ErrExist) {
		return errExists(target)
	}
	return err
}

// makeKey makes a key, in the token if there is one, and the content of its
// file.
func (c Config) makeKey(t token) (key, []byte, error) {
	if t != nil {
		return makeTokenKey(t)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return key{}, nil, fmt.Errorf("make a signing key: %w", err)
	}
	k, err := newKey(private)
	if err != nil {
		return key{}, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return key{}, nil, fmt.Errorf("encode a signing key: %w", err)
	}
	return k, pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}), nil
}

// Open is OpenRing for plain files and the machine's clock.
func Open(dir string) (*Ring, error) { return OpenRing(Config{Dir: dir}) }

// OpenRing reads the keys in DIR/keys. An [keyholder.Error] says what is
// wrong: code NotFound if there are none, Denied if a key can be read by
// others than its owner, Invalid if the files do not fit together or are not
// sealed or in an HSM as the configuration says, Unavailable if the HSM does
// not answer. The ring is to be closed.
func OpenRing(c Config) (*Ring, error) {
	r := &Ring{cfg: c.withDefaults(), path: filepath.Join(c.Dir, folder)}
	if err := r.open(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close logs out of the HSM, if there is one. The ring is not to be used any
// more.
func (r *Ring) Close() error {
	if r.token == nil {
		return nil
	}
	return r.token.close()
}

func (r *Ring) open() error {
	entries, err := os.ReadDir(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return keyholder.Errorf(keyholder.NotFound, "there are no signing keys in %s", r.cfg.Dir).
			WithHint("make them with `keyholder init -data %s`", r.cfg.Dir)
	} else if err != nil {
		return fmt.Errorf("list the signing keys: %w", err)
	}
	if r.token, err = r.cfg.HSM.openToken(); err != nil {
		return err
	}
	if err := r.readRetired(entries); err != nil {
		return err
	}
	for kid := range named(entries, keySuffix) {
		if r.retiredIndex(kid) >= 0 {
			continue // a crash came before its removal
		}
		k, err := r.openKey(kid)
		if err != nil {
			return err
		}
		r.keys = append(r.keys, k)
	}
	return r.readTurns()
}

// named yields the kids of the files with a suffix.
func named(entries []fs.DirEntry, suffix string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, e := range entries {
			rest, isKey := strings.CutPrefix(e.Name(), keyPrefix)
			if kid, ended := strings.CutSuffix(rest, suffix); isKey && ended && !yield(kid) {
				return
			}
		}
	}
}

func (r *Ring) readRetired(entries []fs.DirEntry) error {
	for kid := range named(entries, retiredSuffix) {
		path := r.file(kid, retiredSuffix)
		text, err := keyfile.ReadPrivate(path)
		if err != nil {
			return err
		}
		var h HistoricalKey
		if err := json.Unmarshal(text, &h); err != nil || h.Key.KeyID != kid || h.Retired.IsZero() || !h.Key.IsPublic() {
			return &keyholder.Error{Code: keyholder.Invalid, Detail: path + " does not hold the retired key of its name", Err: err}
		}
		r.retired = append(r.retired, h)
	}
	return nil
}

// readTurns reads who signs. Turns of retired keys are passed over.
func (r *Ring) readTurns() error {
	text, err := keyfile.ReadPrivate(filepath.Join(r.path, signingFile))
	if err != nil {
		return err
	}
	turns, err := parseTurns(string(text))
	if err != nil {
		return err
	}
	r.turns = slices.DeleteFunc(turns, func(t turn) bool { return r.retiredIndex(t.kid) >= 0 })
	missing := func(t turn) bool {
		return !slices.ContainsFunc(r.keys, func(k key) bool { return k.public.KeyID == t.kid })
	}
	if len(r.turns) == 0 || len(r.keys) > maxKeys || slices.ContainsFunc(r.turns, missing) {
		return keyholder.Errorf(keyholder.Invalid, "of the %d keys (at most %d) in %s none is the one that the file %s names", len(r.keys), maxKeys, r.path, signingFile)
	}
	return nil
}

func (r *Ring) file(kid, suffix string) string {
	return filepath.Join(r.path, keyPrefix+kid+suffix)
}

func (r *Ring) retiredIndex(kid string) int {
	return slices.IndexFunc(r.retired, func(h HistoricalKey) bool { return h.Key.KeyID == kid })
}

// FactorKey reads the key that seals the secrets of second factors, 32 bytes.
// Errors: Denied if others than its owner can read it, Invalid if it is not
// there or not whole. It is never made anew by itself: what the old one has
// sealed would be lost unnoticed.
func FactorKey(dir string, seal *keyfile.Seal) ([]byte, error) {
	path := filepath.Join(dir, folder, factorFile)
	key, err := keyfile.ReadSealed(path, seal)
	if err == nil && len(key) == factorKeySize {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return nil, keyholder.Errorf(keyholder.Invalid, "%s does not hold the key of %d bytes that seals second factors", path, factorKeySize).
		WithHint("restore it; if it is lost, `head -c %d /dev/urandom >%s` in mode 0600, and `keyholder user reset` for every user of an authenticator app", factorKeySize, path)
}

// PrivateFiles lists the files of a data folder that [keyfile.SealAll] seals.
func PrivateFiles(dir string) ([]string, error) {
	keys, err := filepath.Glob(filepath.Join(dir, folder, keyPrefix+"*"+keySuffix))
	if err != nil {
		return nil, fmt.Errorf("list the signing keys: %w", err)
	}
	return append(keys, filepath.Join(dir, folder, factorFile)), nil
}

// parseTurns reads the file that names the keys that sign.
func parseTurns(text string) ([]turn, error) {
	var turns []turn
	for line := range strings.Lines(strings.TrimSpace(text)) {
		kid, from, timed := strings.Cut(strings.TrimSpace(line), " ")
		at, err := time.Parse(time.RFC3339, from)
		if !timed || err != nil || len(turns) > 0 && at.Before(turns[len(turns)-1].from) {
			return nil, errTurns()
		}
		turns = append(turns, turn{kid, at})
	}
	if len(turns) == 0 {
		return nil, errTurns()
	}
	return turns, nil
}

// formatTurns is the inverse of parseTurns.
func formatTurns(turns []turn) []byte {
	var text strings.Builder
	for _, t := range turns {
		fmt.Fprintf(&text, "%s %s\n", t.kid, t.from.Format(time.RFC3339))
	}
	return []byte(text.String())
}

func errTurns() error {
	return keyholder.Errorf(keyholder.Invalid, "the file %s does not name the signing keys in order", signingFile)
}

func (r *Ring) openKey(kid string) (key, error) {
	block, err := r.readKey(kid)
	if err != nil {
		return key{}, err
	}
	var k key
	if r.token != nil {
		k, err = openTokenKey(r.token, block)
	} else {
		k, err = parseKey(block)
	}
	switch {
	case keyholder.CodeOf(err) == keyholder.Unavailable:
		return key{}, err
	case err != nil || k.public.KeyID != kid:
		return key{}, &keyholder.Error{Code: keyholder.Invalid, Detail: r.file(kid, keySuffix) + " does not hold the P-256 key of its name", Err: err}
	}
	return k, nil
}

// readKey reads the file of a key. Errors: Invalid if it is none, or not of
// the kind that the configuration says.
func (r *Ring) readKey(kid string) (*pem.Block, error) {
	path := r.file(kid, keySuffix)
	in, err := keyfile.ReadSealed(path, r.cfg.Seal)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(in)
	switch {
	case block == nil || len(bytes.TrimSpace(rest)) != 0:
		return nil, keyholder.Errorf(keyholder.Invalid, "%s does not hold the key of its name in PEM", path)
	case r.token == nil && block.Type == referenceType:
		return nil, keyholder.Errorf(keyholder.Invalid, "the private key of %s is in an HSM", path).
			WithHint("set keys.pkcs11 to that HSM")
	case r.token != nil && block.Type == keyType:
		return nil, keyholder.Errorf(keyholder.Invalid, "%s holds a private key, and keys.pkcs11 says that they are in an HSM", path).
			WithHint("keys in files do not move into an HSM; make a new data folder with `keyholder init -pkcs11-module FILE`, or empty keys.pkcs11")
	case r.token == nil && block.Type != keyType || r.token != nil && block.Type != referenceType:
		return nil, keyholder.Errorf(keyholder.Invalid, "%s holds something else than a key", path)
	}
	return block, nil
}

// parseKey reads a private key in PKCS #8.
func parseKey(block *pem.Block) (key, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return key{}, fmt.Errorf("read a private key: %w", err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return key{}, keyholder.Errorf(keyholder.Invalid, "it is a key of another kind")
	}
	return newKey(private)
}

func errExists(path string) error {
	return keyholder.Errorf(keyholder.Conflict, "there are already signing keys in %s", path).
		WithHint("they are never overwritten: every token and receipt would lose its proof. Use another data folder")
}
