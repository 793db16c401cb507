package keyholder

import (
	"encoding/base64"
	"time"
)

// EndingKind says what has ended.
type EndingKind string

// The kinds of things whose end is the end of access tokens. Their names are
// part of the feed that guards in other processes follow and never change.
const (
	EndedGrant        EndingKind = "grant"
	EndedSubscription EndingKind = "subscription"
	EndedClient       EndingKind = "client" // an app or a provider
	EndedCertificate  EndingKind = "certificate"
	EndedKey          EndingKind = "key" // a signing key that was retired
)

// FeedBeat is how often the feed of endings gives a sign of life. A follower
// that has had none for two beats no longer knows what has ended.
const FeedBeat = time.Second

// Ending is the end of something that access tokens rest on: whoever takes
// tokens refuses those that rest on it from then on, even before they expire.
// An ID is never used for anything else, so an ending that is remembered for
// too long does no harm.
type Ending struct {
	Kind EndingKind `json:"kind"`
	ID   string     `json:"id"` // a UUID; of a certificate its x5t#S256, of a key its kid
	At   time.Time  `json:"at"`
}

// CertificateEnding returns the ending of tokens bound to a certificate.
func CertificateEnding(t Thumbprint, at time.Time) Ending {
	return Ending{EndedCertificate, base64.RawURLEncoding.EncodeToString(t[:]), at}
}

// Key is what [Token.RestsOn] calls the thing that ended.
func (e Ending) Key() string {
	if e.Kind == EndedCertificate {
		if sum, err := base64.RawURLEncoding.DecodeString(e.ID); err == nil {
			return string(sum)
		}
	}
	return e.ID
}

// RestsOn returns the keys of everything whose end ends the token; see
// [Ending.Key]. What the token does not name is empty.
func (t Token) RestsOn() [5]string {
	keys := [5]string{string(t.Grant), string(t.Subscription), t.ClientID, t.Key}
	if t.Bound.Certificate != (Thumbprint{}) {
		keys[4] = string(t.Bound.Certificate[:])
	}
	return keys
}
