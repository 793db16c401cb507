package keyholder

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
)

// Identifiers. All are UUID version 4 (RFC 9562) in canonical form: 36
// characters, lower case, hyphens after 8, 12, 16 and 20 hexadecimal digits.
// The subscription ID must have that form by FDS 2.6.4.1; the others have it
// so that one strict parser serves all and no ID tells anything of another.
type (
	// ProviderID names an information provider. It is also the provider's
	// OAuth2 client ID and its MQTT client ID.
	ProviderID string
	// OwnerID names a resource owner.
	OwnerID string
	// UserID names a user of a resource owner.
	UserID string
	// AppID names a client application. It is also its OAuth2 client ID.
	AppID string
	// ResourceServerID names a party that may introspect tokens. It is also
	// its OAuth2 client ID.
	ResourceServerID string
	// AgreementID names an agreement.
	AgreementID string
	// ConsentID names a consent.
	ConsentID string
	// SubscriptionID names a subscription (FDS 2.6.4.1, 2.6.4.2).
	SubscriptionID string
	// GrantID names an OAuth2 grant: the family of tokens that one
	// authorization produced.
	GrantID string
	// WebhookID names a registered webhook target.
	WebhookID string
	// ReceiptID names the receipt of a cut.
	ReceiptID string
)

// ParseID returns s as an identifier if it is a canonical UUID version 4.
// Otherwise it returns an [Error] of code [Invalid]. It never normalises: two
// spellings of one ID would be two MQTT client IDs and two topics.
func ParseID[T ~string](s string) (T, error) {
	if problem := uuidProblem(s); problem != "" {
		return "", Errorf(Invalid, "not a UUID version 4: %s", problem).
			WithHint("write it as 8-4-4-4-12 lower-case hexadecimal digits, for example 6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30")
	}
	return T(s), nil
}

// uuidProblem says what keeps s from being a canonical UUID version 4, or "".
// It never repeats s, which may be hostile or a misplaced secret.
func uuidProblem(s string) string {
	if len(s) != 36 {
		return fmt.Sprintf("%d characters where 36 are needed", len(s))
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return fmt.Sprintf("no hyphen at position %d", i+1)
			}
		case 14:
			if c != '4' {
				return "the version digit (position 15) is not 4"
			}
		case 19:
			if c != '8' && c != '9' && c != 'a' && c != 'b' {
				return "the variant digit (position 20) is not 8, 9, a or b"
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return fmt.Sprintf("no lower-case hexadecimal digit at position %d", i+1)
			}
		}
	}
	return ""
}

// NewID returns a fresh identifier drawn from random, which must be
// cryptographically secure. A nil random means crypto/rand.
func NewID[T ~string](random io.Reader) (T, error) {
	if random == nil {
		random = rand.Reader
	}
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("draw an ID: %w", err)
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	var out [36]byte
	hex.Encode(out[0:8], b[0:4])
	hex.Encode(out[9:13], b[4:6])
	hex.Encode(out[14:18], b[6:8])
	hex.Encode(out[19:23], b[8:10])
	hex.Encode(out[24:36], b[10:16])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return T(out[:]), nil
}
