package pki

import (
	"bytes"
	"crypto"
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
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// folder is where the authority lives inside the data folder.
const folder = "pki"

const (
	rootKeyFile    = "root.key" // may be moved to a safe place after Init; nothing here reads it again
	rootFile       = "root.pem"
	issuingKeyFile = "issuing.key"
	issuingFile    = "issuing.pem"
)

// Init makes a root and an issuing authority in dir/pki: P-256 keys in PKCS #8
// of mode 0600, and their certificates, for 10 and 5 years from now on. It is
// all or nothing, also when the machine stops in the middle, and never
// overwrites: an authority that is there gives an [keyholder.Error] of code
// Conflict. Serial numbers are drawn from random (nil means crypto/rand); the
// keys always come from crypto/rand.
func Init(dir string, now time.Time, random io.Reader) error {
	return InitSealed(dir, now, random, nil)
}

// InitSealed is Init with the keys sealed. A nil seal leaves them plain.
func InitSealed(dir string, now time.Time, random io.Reader, seal *keyfile.Seal) error {
	if random == nil {
		random = rand.Reader
	}
	target := filepath.Join(dir, folder)
	files, err := newAuthority(now, random)
	if err != nil {
		return err
	}
	for i, f := range files {
		if f.Mode == keyfile.Private {
			files[i].Data = seal.Close(filepath.Join(target, f.Name), f.Data)
		}
	}
	err = keyfile.WriteFolder(target, files)
	if errors.Is(err, fs.ErrExist) {
		return errExists(target)
	}
	return err
}

// newAuthority makes the two authorities and returns the files that hold them.
func newAuthority(now time.Time, random io.Reader) ([]keyfile.File, error) {
	rootKey, root, err := newPair(rootTemplate(now), nil, nil, random)
	if err != nil {
		return nil, err
	}
	issuingKey, issuing, err := newPair(issuingTemplate(now), root, rootKey, random)
	if err != nil {
		return nil, err
	}
	rootPEM, err := encodeKey(rootKey)
	if err != nil {
		return nil, err
	}
	issuingPEM, err := encodeKey(issuingKey)
	if err != nil {
		return nil, err
	}
	return []keyfile.File{
		{Name: rootKeyFile, Data: rootPEM, Mode: keyfile.Private},
		{Name: rootFile, Data: encodeCertificate(root.Raw), Mode: keyfile.Public},
		{Name: issuingKeyFile, Data: issuingPEM, Mode: keyfile.Private},
		{Name: issuingFile, Data: encodeCertificate(issuing.Raw), Mode: keyfile.Public},
	}, nil
}

// newPair makes a key and its certificate, signed by the parent or, if that is
// nil, by itself.
func newPair(template, parent *x509.Certificate, signer *ecdsa.PrivateKey, random io.Reader) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if template.SerialNumber, err = newSerial(random); err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, signer = template, key
	}
	cert, err := create(template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	return key, cert, nil
}

// Open reads the authority that [Init] made in dir/pki. The root key is not
// read and need not be there. An [keyholder.Error] says what is wrong: code
// NotFound if there is no authority, Denied if a key can be read by others
// than its owner, Invalid if the files do not fit together.
func Open(dir string) (*Authority, error) { return OpenSealed(dir, nil) }

// OpenSealed is Open for keys that [InitSealed] made or [keyfile.SealAll] has
// sealed; Invalid also if they are not.
func OpenSealed(dir string, seal *keyfile.Seal) (*Authority, error) {
	path := filepath.Join(dir, folder)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, keyholder.Errorf(keyholder.NotFound, "there is no certificate authority in %s", dir).
			WithHint("make one with `keyholder init -data %s`", dir)
	}
	if _, err := keyfile.ReadPrivate(filepath.Join(path, rootKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	root, err := openCertificate(filepath.Join(path, rootFile))
	if err != nil {
		return nil, err
	}
	issuing, err := openCertificate(filepath.Join(path, issuingFile))
	if err != nil {
		return nil, err
	}
	keyPEM, err := keyfile.ReadSealed(filepath.Join(path, issuingKeyFile), seal)
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", issuingKeyFile, err)
	}
	if err := checkAuthority(root, issuing, key); err != nil {
		return nil, err
	}
	return &Authority{root: root, issuing: issuing, key: key}, nil
}

// PrivateFiles lists the files of a data folder that [keyfile.SealAll] seals.
func PrivateFiles(dir string) []string {
	files := []string{filepath.Join(dir, folder, issuingKeyFile)}
	if root := filepath.Join(dir, folder, rootKeyFile); fileExists(root) { // it may have been moved to a safe place
		files = append(files, root)
	}
	return files
}

func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// checkAuthority refuses files that were mixed up, so that nothing is ever
// signed that no peer would take.
func checkAuthority(root, issuing *x509.Certificate, key crypto.Signer) error {
	public, ok := issuing.PublicKey.(*ecdsa.PublicKey)
	switch {
	case root.CheckSignatureFrom(root) != nil:
		return keyholder.Errorf(keyholder.Invalid, "%s is not a certificate authority that signed itself", rootFile)
	case !issuing.IsCA || issuing.CheckSignatureFrom(root) != nil:
		return keyholder.Errorf(keyholder.Invalid, "%s is not an authority signed by %s", issuingFile, rootFile)
	case !ok || !public.Equal(key.Public()):
		return keyholder.Errorf(keyholder.Invalid, "%s does not belong to %s", issuingKeyFile, issuingFile)
	}
	return nil
}

func openCertificate(path string) (*x509.Certificate, error) {
	in, err := keyfile.Read(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(in)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, keyholder.Errorf(keyholder.Invalid, "%s does not hold exactly one certificate in PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the certificate in %s: %w", path, err)
	}
	return cert, nil
}

func errExists(path string) error {
	return keyholder.Errorf(keyholder.Conflict, "there is already a certificate authority in %s", path).
		WithHint("it is never overwritten: every certificate it issued would end. Use another data folder")
}
