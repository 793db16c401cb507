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
)

// folder is where the authority lives inside the data folder.
const folder = "pki"

const (
	rootKeyFile     = "root.key" // may be moved to a safe place after Init; nothing here reads it again
	rootFile        = "root.pem"
	issuingKeyFile  = "issuing.key"
	issuingFile     = "issuing.pem"
	maxFile         = 64 << 10
	modeOthers      = 0o077 // the permission bits that a key file must not have
	folderMode      = 0o700
	keyMode         = 0o600
	certificateMode = 0o644
)

// Init makes a root and an issuing authority in dir/pki: P-256 keys in PKCS #8
// of mode 0600, and their certificates, for 10 and 5 years from now on. It is
// all or nothing, also when the machine stops in the middle, and never
// overwrites: an authority that is there gives an [keyholder.Error] of code
// Conflict. Serial numbers are drawn from random (nil means crypto/rand); the
// keys always come from crypto/rand.
func Init(dir string, now time.Time, random io.Reader) error {
	if random == nil {
		random = rand.Reader
	}
	target := filepath.Join(dir, folder)
	if _, err := os.Lstat(target); err == nil {
		return errExists(target)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for a certificate authority: %w", err)
	}
	files, err := newAuthority(now, random)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, folderMode); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	return writeFolder(target, files)
}

// newAuthority makes the two authorities and returns the files that hold them.
func newAuthority(now time.Time, random io.Reader) ([]file, error) {
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
	return []file{
		{rootKeyFile, rootPEM, keyMode},
		{rootFile, encodeCertificate(root.Raw), certificateMode},
		{issuingKeyFile, issuingPEM, keyMode},
		{issuingFile, encodeCertificate(issuing.Raw), certificateMode},
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
func Open(dir string) (*Authority, error) {
	path := filepath.Join(dir, folder)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, keyholder.Errorf(keyholder.NotFound, "there is no certificate authority in %s", dir).
			WithHint("make one with `keyholder init -data %s`", dir)
	}
	if _, err := readKeyFile(filepath.Join(path, rootKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
	keyPEM, err := readKeyFile(filepath.Join(path, issuingKeyFile))
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
	in, err := readFile(path, 0)
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

// readKeyFile reads a file that only its owner may read.
func readKeyFile(path string) ([]byte, error) { return readFile(path, modeOthers) }

// readFile reads a bounded file, but not one that has any of the forbidden
// permission bits. The mode is asked of the open file, so that it cannot be
// exchanged in between.
func readFile(path string, forbidden fs.FileMode) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the certificate authority: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the certificate authority: %w", err)
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular() || info.Size() > maxFile:
		return nil, keyholder.Errorf(keyholder.Invalid, "%s is not a regular file of at most %d bytes", path, maxFile)
	case mode.Perm()&forbidden != 0:
		return nil, keyholder.Errorf(keyholder.Denied, "others than its owner may use the key file %s (mode %04o)", path, mode.Perm()).
			WithHint("chmod 600 %s; if others may have read it, make a new authority", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// file is one file to be written.
type file struct {
	name string
	data []byte
	mode fs.FileMode
}

// writeFolder writes files into a new folder beside the target, makes them
// durable and only then gives the folder its name: a crash leaves either
// nothing of that name or all of it. Renaming onto a folder that holds
// something fails, so of two that run at once one wins.
func writeFolder(target string, files []file) error {
	parent := filepath.Dir(target)
	temp, err := os.MkdirTemp(parent, "."+filepath.Base(target)+"-*") // mode 0700
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(temp) //nolint:errcheck // already renamed if all went well
	for _, f := range files {
		if err := writeFile(filepath.Join(temp, f.name), f.data, f.mode); err != nil {
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
func writeFile(path string, data []byte, mode fs.FileMode) error {
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

func errExists(path string) error {
	return keyholder.Errorf(keyholder.Conflict, "there is already a certificate authority in %s", path).
		WithHint("it is never overwritten: every certificate it issued would end. Use another data folder")
}
