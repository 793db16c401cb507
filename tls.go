package keyholder

import "crypto/tls"

// TLSProfile is a named set of TLS settings. There is none below strict.
type TLSProfile string

const (
	// TLSStrict is exactly TLS 1.2, as FDS 2.6.4.1 and 2.6.4.2 say.
	TLSStrict TLSProfile = "strict"
	// TLSModern adds TLS 1.3.
	TLSModern TLSProfile = "modern"
)

// ParseTLSProfile returns s as a profile, or an [Error] of code [Invalid].
func ParseTLSProfile(s string) (TLSProfile, error) {
	if p := TLSProfile(s); p == TLSStrict || p == TLSModern {
		return p, nil
	}
	return "", Errorf(Invalid, "unknown TLS profile").WithHint("use strict (TLS 1.2 only) or modern (TLS 1.2 and 1.3)")
}

// Config returns a new TLS configuration of the profile, for a server or a
// client: only ECDHE with an AEAD cipher, no renegotiation. The caller adds
// certificates and trust. An unknown profile gives the strict one.
func (p TLSProfile) Config() *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		Renegotiation: tls.RenegotiateNever,
	}
	if p == TLSModern {
		c.MaxVersion = tls.VersionTLS13
	}
	return c
}

// tlsAllowed says whether a connection of the given version is within FDS
// 2.6.4: TLS 1.2, or 1.3 under the modern profile; listeners refuse the rest
// in the handshake and this is the second lock.
func tlsAllowed(version uint16) bool {
	return version == tls.VersionTLS12 || version == tls.VersionTLS13
}
