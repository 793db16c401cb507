package ledger

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"

	"github.com/fds-keyholder/keyholder"
)

// seal encrypts a secret of a user or an owner with AES-256-GCM. What it is
// for is bound in, so that a secret moved to another row does not open.
func (l *Ledger) seal(bound string, secret []byte) ([]byte, error) {
	aead, err := l.factorCipher()
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, secret, []byte(bound)), nil
}

// unseal reverses seal.
func (l *Ledger) unseal(bound string, sealed []byte) ([]byte, error) {
	aead, err := l.factorCipher()
	if err != nil {
		return nil, err
	}
	secret, err := aead.Open(nil, nil, sealed, []byte(bound))
	if err != nil {
		return nil, fmt.Errorf("open a sealed secret: %w", err)
	}
	return secret, nil
}

// factorCipher draws its nonces itself and writes them before what it seals.
func (l *Ledger) factorCipher() (cipher.AEAD, error) {
	if len(l.factorKey) != FactorKeySize {
		return nil, keyholder.Errorf(keyholder.Unavailable, "there is no key to seal the secrets of authenticator apps and identity providers")
	}
	block, err := aes.NewCipher(l.factorKey)
	if err != nil {
		return nil, fmt.Errorf("read the key of second factors: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}
