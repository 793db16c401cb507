package keyfile

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fds-keyholder/keyholder"
)

// sealSize is the size of a sealing key in bytes, for AES-256.
const sealSize = 32

// sealedType is the PEM type of a sealed file.
const sealedType = "KEYHOLDER SEALED FILE"

// Seal encrypts the content of key files with AES-256-GCM. A nil Seal leaves
// them as they are. It never changes and is safe for concurrent use.
type Seal struct {
	aead cipher.AEAD
}

// MakeSeal writes a new random sealing key to a file of mode 0600. One that
// exists is kept: another key would open nothing that it has sealed. It must
// not lie in the folder that it seals. Errors: Invalid.
func MakeSeal(path, folder string) error {
	if err := outside(path, folder); err != nil {
		return err
	}
	key := make([]byte, sealSize)
	rand.Read(key) // never fails: the runtime ends the process instead
	if err := Add(path, key); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a sealing key: %w", err)
	}
	return nil
}

// OpenSeal reads a sealing key, which must not lie in the folder that it
// seals, because a copy of the folder would hold both. Root's group may read
// it: that is how systemd hands a credential to a service. Errors: Invalid,
// Denied.
func OpenSeal(path, folder string) (*Seal, error) {
	if err := outside(path, folder); err != nil {
		return nil, err
	}
	forbidden := fs.FileMode(0o077)
	if info, err := os.Stat(path); err == nil {
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Gid == 0 {
			forbidden = 0o037
		}
	}
	key, err := read(path, forbidden)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil || len(key) != sealSize {
		return nil, keyholder.Errorf(keyholder.Invalid, "%s does not hold a sealing key of %d bytes", path, sealSize).
			WithHint("restore it: what it has sealed opens with no other key; `keyholder key seal` makes a new one for a folder that is not sealed yet")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("open a sealing key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("open a sealing key: %w", err)
	}
	return &Seal{aead}, nil
}

// outside refuses a path that lies, links followed, in a folder.
func outside(path, folder string) error {
	real := [2]string{path, folder}
	for i, p := range real {
		var err error
		if real[i], err = filepath.Abs(p); err != nil {
			return fmt.Errorf("find %s: %w", p, err)
		}
		if followed, err := filepath.EvalSymlinks(real[i]); err == nil { // what is not there leads nowhere
			real[i] = followed
		}
	}
	if rel, err := filepath.Rel(real[1], real[0]); err == nil && filepath.IsLocal(rel) {
		return keyholder.Errorf(keyholder.Invalid, "the sealing key %s lies in the folder that it seals", path).
			WithHint("give it a place that is not copied with the data folder")
	}
	return nil
}

// Close returns the content of the file at path, sealed. The names of the
// file and of its folder are bound in, so that a sealed file opens in its
// place only.
func (s *Seal) Close(path string, plain []byte) []byte {
	if s == nil {
		return plain
	}
	return pem.EncodeToMemory(&pem.Block{Type: sealedType, Bytes: s.aead.Seal(nil, nil, plain, place(path))})
}

// Open reverses Close. A file that is not sealed is refused by a Seal, or one
// who can write to the folder could exchange a key for another; and a sealed
// one without. Errors: Invalid.
func (s *Seal) Open(path string, content []byte) ([]byte, error) {
	sealed := Sealed(content)
	switch {
	case s == nil && !sealed:
		return content, nil
	case s == nil:
		return nil, keyholder.Errorf(keyholder.Invalid, "%s is sealed, and no sealing key is configured", path).
			WithHint("name its file in the configuration: keys.seal_file")
	case !sealed:
		return nil, keyholder.Errorf(keyholder.Invalid, "%s is not sealed, and keys.seal_file says it is", path).
			WithHint("stop the server and run `keyholder key seal`")
	}
	block, _ := pem.Decode(content)
	plain, err := []byte(nil), errors.New("no PEM block")
	if block != nil {
		plain, err = s.aead.Open(nil, nil, block.Bytes, place(path))
	}
	if err != nil {
		return nil, (&keyholder.Error{Code: keyholder.Invalid, Detail: path + " was sealed with another key, is damaged, or was moved", Err: err}).
			WithHint("restore the sealing key that keys.seal_file named when the file was sealed, or the file")
	}
	return plain, nil
}

// Sealed says whether the content of a file is sealed.
func Sealed(content []byte) bool {
	return bytes.HasPrefix(content, []byte("-----BEGIN "+sealedType))
}

// ReadSealed is ReadPrivate for a file that may be sealed. Errors: also those
// of [Seal.Open].
func ReadSealed(path string, s *Seal) ([]byte, error) {
	content, err := ReadPrivate(path)
	if err != nil {
		return nil, err
	}
	return s.Open(path, content)
}

// SealAll seals private files in their places, those that are sealed already
// left alone. An error leaves all of them as they were: every file is written
// beside its place before the first one takes it. What a crash of the machine
// in the middle leaves half done is finished by the next call.
func SealAll(s *Seal, paths []string) error {
	var staged []string
	defer func() {
		for _, path := range staged {
			_ = os.Remove(path + ".new") // those that took their place have no such name any more
		}
	}()
	for _, path := range paths {
		content, err := ReadPrivate(path)
		if err != nil {
			return err
		}
		if Sealed(content) {
			if _, err := s.Open(path, content); err != nil {
				return err
			}
			continue
		}
		if err := os.Remove(path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what a crash left: %w", err)
		}
		staged = append(staged, path)
		if err := write(path+".new", s.Close(path, content), Private); err != nil {
			return err
		}
	}
	for _, path := range staged {
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("seal %s: %w", path, err)
		}
		if err := syncFolder(filepath.Dir(path)); err != nil {
			return err
		}
	}
	return nil
}

func place(path string) []byte {
	return []byte(filepath.Base(filepath.Dir(path)) + "/" + filepath.Base(path))
}
