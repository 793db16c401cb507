// Package pki is the certificate authority of a Keyholder and the only holder
// of its keys: a root that signs nothing but one issuing authority, which
// signs server certificates for the listeners and client certificates for
// subscriptions, providers and apps (FDS 2.6.4.2, requirement M3).
//
// What a certificate says comes from this package's templates, the use and
// the subject; of a request only the public key is taken. A certificate gives
// no right by itself: it has one only after the ledger has recorded it.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Authority is an open certificate authority. It never changes after [Open]
// and is safe for concurrent use.
type Authority struct {
	root    *x509.Certificate
	issuing *x509.Certificate
	key     crypto.Signer // of the issuing certificate
}

// Pool returns a new pool that holds the root, for verifying peers.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.root)
	return p
}

// RootPEM returns the root certificate, which every party is given to trust.
func (a *Authority) RootPEM() []byte { return encodeCertificate(a.root.Raw) }

// ServerCertificate makes a key and a certificate for listeners reached under
// the given DNS names and IP addresses, for 90 days from now on and server
// authentication only. The key lives in memory only. Hosts that are neither a
// DNS name nor an address, or none at all, give an [keyholder.Error] of code
// Invalid; an issuing authority that is outside its dates gives Unavailable.
func (a *Authority) ServerCertificate(hosts []string, now time.Time) (tls.Certificate, error) {
	template, err := serverTemplate(hosts)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a server key: %w", err)
	}
	leaf, err := a.issue(template, key.Public(), now.Add(-skew), now.Add(serverLife), now)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, a.issuing.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// Sign issues a client certificate for the key of a request. use and subject,
// a UUID, decide what it says; the caller has asked PermitCertify. The dates
// are cut to whole seconds and to those of the issuing authority.
//
// It returns the certificate followed by the issuing one, in PEM, and the
// record for the ledger, which fills in when it was issued. A bad use,
// subject or period gives an [keyholder.Error] of code Invalid, an issuing
// authority that is outside the period gives Unavailable.
func (a *Authority) Sign(r *Request, use keyholder.CertificateUse, subject string, notBefore, notAfter time.Time) ([]byte, keyholder.Certificate, error) {
	if r == nil || r.key == nil {
		return nil, keyholder.Certificate{}, keyholder.Errorf(keyholder.Invalid, "no certificate signing request")
	}
	template, err := clientTemplate(use, subject)
	if err != nil {
		return nil, keyholder.Certificate{}, err
	}
	leaf, err := a.issue(template, r.key, notBefore, notAfter, notBefore)
	if err != nil {
		return nil, keyholder.Certificate{}, err
	}
	record := keyholder.Certificate{
		Serial:     keyholder.Serial(leaf.SerialNumber),
		Thumbprint: sha256.Sum256(leaf.Raw),
		Use:        use,
		Subject:    subject,
		NotBefore:  leaf.NotBefore,
		NotAfter:   leaf.NotAfter,
	}
	return append(encodeCertificate(leaf.Raw), encodeCertificate(a.issuing.Raw)...), record, nil
}

// issue completes a template with serial and dates and signs it. No
// certificate begins before or ends after the issuing one, which must be
// valid at the time at.
func (a *Authority) issue(template *x509.Certificate, key crypto.PublicKey, notBefore, notAfter, at time.Time) (*x509.Certificate, error) {
	notBefore, notAfter = notBefore.UTC().Truncate(time.Second), notAfter.UTC().Truncate(time.Second)
	if !notBefore.Before(notAfter) {
		return nil, keyholder.Errorf(keyholder.Invalid, "the certificate would end before it begins")
	}
	if at.Before(a.issuing.NotBefore) || !at.Before(a.issuing.NotAfter) {
		return nil, keyholder.Errorf(keyholder.Unavailable, "the issuing certificate authority is outside its dates (%s to %s)",
			a.issuing.NotBefore.Format(time.DateOnly), a.issuing.NotAfter.Format(time.DateOnly)).
			WithHint("check the clock; an issuing certificate that has ended must be replaced")
	}
	if notBefore.Before(a.issuing.NotBefore) {
		notBefore = a.issuing.NotBefore
	}
	if notAfter.After(a.issuing.NotAfter) {
		notAfter = a.issuing.NotAfter
	}
	serial, err := newSerial(rand.Reader)
	if err != nil {
		return nil, err
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = serial, notBefore, notAfter
	return create(template, a.issuing, key, a.key)
}

// create signs a template and parses the result again, so that every record
// is made of what the certificate really says.
func create(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	id, err := keyID(key)
	if err != nil {
		return nil, err
	}
	template.SubjectKeyId = id
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back a certificate: %w", err)
	}
	return cert, nil
}

// keyID is the subject key identifier: the first 160 bits of the SHA-256 hash
// of the public key, method 1 of RFC 7093.
func keyID(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return sum[:20], nil
}

// newSerial draws a positive 128-bit serial number, unguessable as the
// CA/Browser Forum's baseline requirements ask (at least 64 random bits).
func newSerial(random io.Reader) (*big.Int, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	n := new(big.Int).SetBytes(b[:])
	if n.Sign() == 0 {
		return nil, fmt.Errorf("draw a serial number: the random source gave zeros only")
	}
	return n, nil
}

// CertificatePEM returns a certificate in PEM.
func CertificatePEM(c *x509.Certificate) []byte { return encodeCertificate(c.Raw) }

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
