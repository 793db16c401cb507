// Package keyring holds the keys that sign access tokens and receipts: ES256
// (RFC 7518 3.4), each named by its RFC 7638 thumbprint, in files of mode 0600
// under the data folder.
//
// Several keys may be published at once while one of them signs, so that a
// key can be known to everyone before it signs and remain known while the
// tokens it signed are in use. Of a key that is no longer published the public
// part is kept for ever, with the time of its end, because receipts are
// verified for years. Private parts do not leave the package: others are
// given a [crypto.Signer].
package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/fds-keyholder/keyholder"
)

// maxCompact bounds what [Verify] looks at, in bytes. A receipt of a cut that
// ends thousands of subscriptions takes less.
const maxCompact = 8 << 20

// Ring is an open set of signing keys. It is safe for concurrent use.
type Ring struct {
	cfg  Config
	path string // of the folder

	token token // with the private keys; nil: they are in the files

	mu      sync.RWMutex    // guards the rest
	keys    []key           // in no order
	turns   []turn          // whose turn it is to sign, from when; the first from the beginning
	retired []HistoricalKey // in no order
}

// key is a signing key. Its private part never leaves this package, and with
// an HSM never that.
type key struct {
	public jose.JSONWebKey
	signer crypto.Signer
}

// turn lets a key sign from a moment on.
type turn struct {
	kid  string
	from time.Time
}

// active returns which of the turns it is.
func active(turns []turn, now time.Time) int {
	at := 0
	for i, t := range turns {
		if !now.Before(t.from) {
			at = i
		}
	}
	return at
}

// ordered returns the keys, the one whose turn it is first.
func (r *Ring) ordered() []key {
	now := r.cfg.Now()
	r.mu.RLock()
	defer r.mu.RUnlock()
	signing := r.turns[active(r.turns, now)].kid
	keys := slices.Clone(r.keys)
	i := slices.IndexFunc(keys, func(k key) bool { return k.public.KeyID == signing }) // Open and what changes turns see to it
	keys[0], keys[i] = keys[i], keys[0]
	return keys
}

// JWKS returns the public keys, the signing one first, for publication (RFC
// 7517).
func (r *Ring) JWKS() jose.JSONWebKeySet {
	var set jose.JSONWebKeySet
	for _, k := range r.ordered() {
		set.Keys = append(set.Keys, k.public)
	}
	return set
}

// Signer returns the key that signs, and its name. The signer takes digests
// of SHA-256 and answers with signatures in the form of JWS, R and S of 32
// bytes each (RFC 7518 3.4), not in that of ASN.1, which crypto/ecdsa has.
func (r *Ring) Signer() (kid string, signer crypto.Signer) {
	k := r.ordered()[0]
	return k.public.KeyID, jwsSigner{k}
}

// Sign returns payload as a compact JWS (RFC 7515) of the given typ. Every use
// has a typ of its own, for example "at+jwt" (RFC 9068), so that nothing
// signed for one is taken for another. Errors: Unavailable if the keys are in
// an HSM that does not answer.
func (r *Ring) Sign(payload []byte, typ string) (string, error) {
	if typ == "" {
		return "", fmt.Errorf("sign: no typ was given")
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: opaqueSigner{r.ordered()[0]}},
		(&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		return "", fmt.Errorf("make a signer: %w", err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("write a signature: %w", err)
	}
	return compact, nil
}

// Verify returns the payload of a compact JWS if it is of the given typ and
// signed with ES256 by the key of the set that its kid names. Keys of any
// other kind in the set, and keys, addresses and certificates in the header
// of the JWS, are never used (RFC 8725 3.1, 3.11). Every error is an
// [keyholder.Error] of code Denied.
func Verify(keys jose.JSONWebKeySet, compact, typ string) ([]byte, error) {
	payload, _, err := verify(keys, compact, typ)
	return payload, err
}

// VerifyHistorical is Verify with keys of which some are retired. It returns
// also the key: what its end means for the payload is for the caller to say.
func VerifyHistorical(keys []HistoricalKey, compact, typ string) ([]byte, HistoricalKey, error) {
	var set jose.JSONWebKeySet
	for _, h := range keys {
		set.Keys = append(set.Keys, h.Key)
	}
	payload, kid, err := verify(set, compact, typ)
	if err != nil {
		return nil, HistoricalKey{}, err
	}
	return payload, keys[slices.IndexFunc(keys, func(h HistoricalKey) bool { return h.Key.KeyID == kid })], nil
}

// verify is Verify that also returns the kid.
func verify(keys jose.JSONWebKeySet, compact, typ string) (payload []byte, kid string, err error) {
	if typ == "" || len(compact) > maxCompact {
		return nil, "", denied("it is oversize or of no type", nil)
	}
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, "", denied("it is not a compact JWS signed with ES256", err)
	}
	header := jws.Signatures[0].Protected
	if got, ok := header.ExtraHeaders[jose.HeaderType].(string); !ok || got != typ {
		return nil, "", denied("it is of another type", nil)
	}
	if _, ok := header.ExtraHeaders["crit"]; ok {
		return nil, "", denied("it has critical extensions", nil)
	}
	key, err := publicKey(keys, header.KeyID)
	if err != nil {
		return nil, "", err
	}
	if payload, err = jws.Verify(key); err != nil {
		return nil, "", denied("the signature does not match", err)
	}
	return payload, header.KeyID, nil
}

// publicKey returns the one ES256 key of that name.
func publicKey(keys jose.JSONWebKeySet, kid string) (*ecdsa.PublicKey, error) {
	named := keys.Key(kid)
	if kid == "" || len(named) != 1 {
		return nil, denied("it is signed by an unknown key", nil)
	}
	key, ok := named[0].Public().Key.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || !for256(named[0]) {
		return nil, denied("it is signed by a key of another kind", nil)
	}
	return key, nil
}

// for256 says whether a key's own words allow it to check ES256 signatures.
func for256(k jose.JSONWebKey) bool {
	return (k.Algorithm == "" || k.Algorithm == string(jose.ES256)) && (k.Use == "" || k.Use == "sig")
}

func denied(reason string, cause error) error {
	return &keyholder.Error{Code: keyholder.Denied, Detail: "the signature is refused: " + reason, Err: cause}
}
