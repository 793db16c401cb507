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

// seal encrypts a text, such as a refresh token, under a key that only what it
// is given for (code: an authorization code, the refresh token before, or the
// state of a sign-in elsewhere) gives, with AES-256-GCM. What it belongs to
// (the grant's ID) is bound in, so that one moved to another row does not open.
func seal(code, bound, text string) ([]byte, error) {
	aead, err := sealer(code)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, []byte(text), []byte(bound)), nil
}

// unseal reverses seal.
func unseal(code, bound string, sealed []byte) (string, error) {
	aead, err := sealer(code)
	if err != nil {
		return "", err
	}
	text, err := aead.Open(nil, nil, sealed, []byte(bound))
	if err != nil {
		return "", fmt.Errorf("open what is sealed: %w", err)
	}
	return string(text), nil
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
