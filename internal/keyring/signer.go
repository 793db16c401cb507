package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"

	"github.com/go-jose/go-jose/v4"

	"github.com/fds-keyholder/keyholder"
)

// jwsSigner is a key as a [crypto.Signer] whose signatures have the form of
// JWS.
type jwsSigner struct{ key key }

// Public implements [crypto.Signer].
func (s jwsSigner) Public() crypto.PublicKey { return s.key.signer.Public() }

// Sign implements [crypto.Signer].
func (s jwsSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	der, err := s.key.signer.Sign(random, digest, opts)
	if keyholder.CodeOf(err) == keyholder.Unavailable {
		return nil, err // it says more than we know
	} else if err != nil {
		return nil, &keyholder.Error{Code: keyholder.Unavailable, Detail: "the signing key cannot be used", Err: err}
	}
	var pair struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &pair); err != nil || len(rest) > 0 || pair.R.BitLen() > 256 || pair.S.BitLen() > 256 {
		return nil, keyholder.Errorf(keyholder.Unavailable, "the signing key made a signature that is none")
	}
	var out [64]byte
	pair.R.FillBytes(out[:32])
	pair.S.FillBytes(out[32:])
	return out[:], nil
}

// opaqueSigner is a key in the form that go-jose signs with.
type opaqueSigner struct{ key key }

// Public implements [jose.OpaqueSigner].
func (s opaqueSigner) Public() *jose.JSONWebKey { return &s.key.public }

// Algs implements [jose.OpaqueSigner].
func (s opaqueSigner) Algs() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.ES256}
}

// SignPayload implements [jose.OpaqueSigner].
func (s opaqueSigner) SignPayload(payload []byte, _ jose.SignatureAlgorithm) ([]byte, error) {
	digest := sha256.Sum256(payload)
	return jwsSigner(s).Sign(rand.Reader, digest[:], crypto.SHA256)
}

// newKey names a key by its thumbprint (RFC 7638).
func newKey(signer crypto.Signer) (key, error) {
	public, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok {
		return key{}, fmt.Errorf("name a key: it is no elliptic one")
	}
	k := jose.JSONWebKey{Key: public, Algorithm: string(jose.ES256), Use: "sig"}
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return key{}, fmt.Errorf("name a key: %w", err)
	}
	k.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	return key{k, signer}, nil
}
