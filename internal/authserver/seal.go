package authserver

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// seal encrypts a refresh token under a key that only what it is given for
// (code: an authorization code or the refresh token before) gives, with
// AES-256-GCM. The grant's ID is bound in, so that a sealed token
// moved to another row does not open.
func seal(code, grant, token string) ([]byte, error) {
	aead, err := sealer(code)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, []byte(token), []byte(grant)), nil
}

// unseal reverses seal.
func unseal(code, grant string, sealed []byte) (string, error) {
	aead, err := sealer(code)
	if err != nil {
		return "", err
	}
	token, err := aead.Open(nil, nil, sealed, []byte(grant))
	if err != nil {
		return "", fmt.Errorf("open a sealed refresh token: %w", err)
	}
	return string(token), nil
}

// sealer derives the key from the code by HKDF (RFC 5869). The code has 256
// bits, and its stored hash is of another form, so the row does not give the
// key. The cipher draws its nonces itself and writes them before what it seals.
func sealer(code string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(code), nil, "keyholder refresh token", 32)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	return aead, nil
}

// encodeThumbprint writes a certificate's hash as x5t#S256 (RFC 8705 3.1).
func encodeThumbprint(d ledger.Digest) string { return base64.RawURLEncoding.EncodeToString(d[:]) }
