package keyholder

import (
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"time"
)

// GrantType is an OAuth2 grant an app may use (RFC 6749, FDS 2.6.5.1). The
// implicit and password grants do not exist here: RFC 9700 forbids them.
type GrantType string

const (
	// GrantAuthorizationCode is the way in: the owner's user signs in.
	GrantAuthorizationCode GrantType = "authorization_code"
	// GrantRefreshToken keeps the owner's user from signing in again.
	GrantRefreshToken GrantType = "refresh_token"
	// GrantClientCredentials is for machine calls that name a subscription.
	GrantClientCredentials GrantType = "client_credentials"
)

// AuthMethod is how an OAuth2 client proves its identity at the authorization
// server.
type AuthMethod string

const (
	// AuthSecret is a client secret, in the header or the body (RFC 6749 2.3.1).
	AuthSecret AuthMethod = "client_secret"
	// AuthCertificate is tls_client_auth (RFC 8705 2.1), which FDS 2.6.5.1
	// strongly recommends.
	AuthCertificate AuthMethod = "tls_client_auth"
	// AuthSelfSigned is self_signed_tls_client_auth (RFC 8705 2.2): the app's
	// own certificate, which no authority vouches for and which the
	// administrator has put on record.
	AuthSelfSigned AuthMethod = "self_signed_tls_client_auth"
	// AuthKey is private_key_jwt (RFC 7523, OpenID Connect Core 9): the app
	// signs an assertion with a key whose public half is registered.
	AuthKey AuthMethod = "private_key_jwt"
)

// Asymmetric says whether the client proves its identity by a private key,
// which never leaves it, and not by a secret that both sides know.
func (m AuthMethod) Asymmetric() bool {
	return m == AuthCertificate || m == AuthSelfSigned || m == AuthKey
}

// Thumbprint is the SHA-256 hash of a certificate's DER form, the x5t#S256 of
// RFC 8705. The zero value means "no certificate".
type Thumbprint [32]byte

// ThumbprintOf returns the thumbprint of a certificate in DER form.
func ThumbprintOf(der []byte) Thumbprint { return sha256.Sum256(der) }

// String writes the thumbprint as openssl prints a fingerprint, in lower case
// and without colons.
func (t Thumbprint) String() string { return hex.EncodeToString(t[:]) }

// KeyThumbprint is the SHA-256 thumbprint of a public key (RFC 7638), the jkt
// of RFC 9449. The zero value means "no key".
type KeyThumbprint [32]byte

// Proof is what the holder of a token has proved to have, and what a token may
// be bound to.
type Proof struct {
	Certificate Thumbprint    // presented in the TLS handshake (RFC 8705 3); cnf.x5t#S256
	Key         KeyThumbprint // of a verified DPoP proof for this request (RFC 9449); cnf.jkt
}

// Serial writes the serial number of a certificate as the ledger knows it and
// as openssl prints it, in lower case: hexadecimal, two digits for each byte.
func Serial(n *big.Int) string { return hex.EncodeToString(n.Bytes()) }

// CertificateUse is what a client certificate identifies.
type CertificateUse string

const (
	// ForSubscription identifies an MQTT consumer; the subject is a
	// subscription ID.
	ForSubscription CertificateUse = "subscription"
	// ForProvider identifies a provider, at the broker and at the
	// authorization server; the subject is a provider ID.
	ForProvider CertificateUse = "provider"
	// ForApp identifies an app at the authorization server and on the Web
	// API; the subject is an app ID.
	ForApp CertificateUse = "app"
)

// CertificateOrigin says who vouches for a client certificate on record.
type CertificateOrigin string

const (
	// OriginIssued is this Keyholder's own certificate authority.
	OriginIssued CertificateOrigin = ""
	// OriginSelfSigned is nobody but the app; the administrator recorded the
	// very certificate.
	OriginSelfSigned CertificateOrigin = "self_signed"
	// OriginPinned is the authority that is pinned for the app.
	OriginPinned CertificateOrigin = "pinned"
)

// Certificate is a client certificate as the ledger knows it. Rights hang on
// its use and subject, never on what the bytes of the certificate say, so
// renewal changes no right and a certificate the ledger does not know has
// none.
type Certificate struct {
	// Serial names the certificate: its serial number as openssl prints it, in
	// lower-case hexadecimal. Other authorities may use a number again, so a
	// certificate that was not issued here is named by its thumbprint.
	Serial     string            `json:"serial"`
	Thumbprint Thumbprint        `json:"-"`
	Origin     CertificateOrigin `json:"origin,omitempty"`
	Use        CertificateUse    `json:"use"`
	Subject    string            `json:"subject"` // whom it identifies: a UUID
	NotBefore  time.Time         `json:"not_before"`
	NotAfter   time.Time         `json:"not_after"`
	Issued     time.Time         `json:"issued"` // when it came on record
	Revoked    time.Time         `json:"revoked,omitzero"`
}

// Valid says whether the certificate proves anything at the time now.
func (c Certificate) Valid(now time.Time) bool {
	return c.Revoked.IsZero() && !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

// Token is the content of a verified access token (RFC 9068): signature,
// issuer, audience and type have been checked by the guard; expiry, binding
// and standing are decided by [PermitRead].
type Token struct {
	Issuer       string
	Subject      string
	ClientID     string // the app's or provider's ID
	Subscription SubscriptionID
	Grant        GrantID
	ID           string // jti
	Key          string // kid of the signing key
	Scope        []string
	IssuedAt     time.Time
	Expires      time.Time
	Bound        Proof // cnf: what its holder must prove; zero if the token is not bound
}

// ScopeIngest is the scope of a provider's token for ingestion. Such a token
// carries no subscription.
const ScopeIngest = "fds:ingest"

// ScopeRead is the scope of an app's token for the Web API (pull).
const ScopeRead = "fds:read"

// ScopePush is the scope of a provider's token for an app's webhook.
const ScopePush = "fds:push"

// WebhookAudience is the audience of a token that opens the webhook of one
// subscription (RFC 9068 section 3), so that it opens no other.
func WebhookAudience(s SubscriptionID) string { return "urn:keyholder:webhook:" + string(s) }
