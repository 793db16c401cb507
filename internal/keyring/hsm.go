package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"path/filepath"

	"github.com/fds-keyholder/keyholder"
)

// The file of a key in an HSM holds its public part, and in a header of the
// PEM block the name by which the HSM knows it.
const (
	referenceType = "PUBLIC KEY"
	labelHeader   = "PKCS11-Label"
	labelPrefix   = "keyholder-"
)

// HSM says which token of a hardware security module holds the private keys
// (PKCS #11). The zero value says none: they are in files.
type HSM struct {
	Module  string `yaml:"module"`   // absolute path of the maker's library
	Token   string `yaml:"token"`    // CKA_LABEL of the token
	PINFile string `yaml:"pin_file"` // of mode 0600, with the PIN of the user
}

// Check refuses a half setting. Errors: Invalid.
func (h HSM) Check() error {
	if h == (HSM{}) {
		return nil
	}
	if h.Token == "" || h.PINFile == "" || !filepath.IsAbs(h.Module) {
		return keyholder.Errorf(keyholder.Invalid, "keys.pkcs11 does not name a module by its absolute path, a token and a file with its PIN").
			WithHint("give all of module, token and pin_file, or none to keep keys in files")
	}
	return nil
}

// token is a token of an HSM. Every key in it has a name, its label. It is
// safe for concurrent use. Errors are of code Unavailable if the HSM does not
// do what it should, which it may do later.
type token interface {
	generate(name string) (*ecdsa.PublicKey, error)
	sign(name string, digest []byte) ([]byte, error) // in ASN.1
	destroy(name string) error                       // nil also if there is no such key
	close() error
}

// openToken opens the token that holds the keys. It is nil if there is none.
func (h HSM) openToken() (token, error) {
	if h == (HSM{}) {
		return nil, nil
	}
	if err := h.Check(); err != nil {
		return nil, err
	}
	return openPKCS11(h)
}

// Reach says whether the token can be opened and takes the PIN. Errors: as
// [Open] has them, Invalid for a half setting.
func (h HSM) Reach() error {
	t, err := h.openToken()
	if err != nil || t == nil {
		return err
	}
	return t.close()
}

// tokenKey is a key in a token as a [crypto.Signer].
type tokenKey struct {
	token  token
	name   string
	public *ecdsa.PublicKey
}

// Public implements [crypto.Signer].
func (k tokenKey) Public() crypto.PublicKey { return k.public }

// Sign implements [crypto.Signer].
func (k tokenKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return k.token.sign(k.name, digest)
}

// makeTokenKey makes a key in the token, and the content of its file.
func makeTokenKey(t token) (key, []byte, error) {
	name := labelPrefix + rand.Text() // the thumbprint is known too late
	public, err := t.generate(name)
	if err != nil {
		return key{}, nil, err
	}
	k, err := proven(tokenKey{t, name, public})
	if err != nil {
		return key{}, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return key{}, nil, fmt.Errorf("encode a public key: %w", err)
	}
	return k, pem.EncodeToMemory(&pem.Block{Type: referenceType, Headers: map[string]string{labelHeader: name}, Bytes: der}), nil
}

// openTokenKey finds in the token the key that a file refers to.
func openTokenKey(t token, block *pem.Block) (key, error) {
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return key{}, fmt.Errorf("read a public key: %w", err)
	}
	public, ok := parsed.(*ecdsa.PublicKey)
	if !ok || block.Headers[labelHeader] == "" {
		return key{}, keyholder.Errorf(keyholder.Invalid, "it refers to no elliptic key in an HSM")
	}
	return proven(tokenKey{t, block.Headers[labelHeader], public})
}

// proven returns a key that was seen to sign: the private part in the token
// is the one of the public part that is published.
func proven(k tokenKey) (key, error) {
	if k.public.Curve != elliptic.P256() {
		return key{}, keyholder.Errorf(keyholder.Invalid, "the key %s in the HSM is not of P-256", k.name)
	}
	digest := sha256.Sum256([]byte(k.name))
	signature, err := k.token.sign(k.name, digest[:])
	if err != nil {
		return key{}, err
	}
	if !ecdsa.VerifyASN1(k.public, digest[:], signature) {
		return key{}, keyholder.Errorf(keyholder.Invalid, "the key %s in the HSM is another than the one that is published", k.name)
	}
	return newKey(k)
}
