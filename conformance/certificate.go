package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	keyholder "github.com/fds-keyholder/keyholder"
)

// forgedCertificate is a certificate that its owner's CA never issued.
type forgedCertificate struct {
	name        string
	certificate *tls.Certificate
}

// forgeCertificates returns copies of a client certificate with keys of our
// own: self-signed, and from a CA with the real issuer's name.
func forgeCertificates(victim *x509.Certificate, now time.Time) ([]forgedCertificate, error) {
	self, err := issue(victim, now, nil)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw a key: %w", err)
	}
	keyID := victim.AuthorityKeyId
	if len(keyID) == 0 {
		sum := sha256.Sum256(victim.RawIssuer)
		keyID = sum[:20]
	}
	template := &x509.Certificate{
		RawSubject: victim.RawIssuer, SerialNumber: serial(), SubjectKeyId: keyID,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a foreign CA: %w", err)
	}
	ca := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if ca.Leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("read the foreign CA: %w", err)
	}
	foreign, err := issue(victim, now, ca)
	if err != nil {
		return nil, err
	}
	return []forgedCertificate{
		{"a self-signed copy of the certificate", self},
		{"a copy from a foreign CA with the issuer's name", foreign},
	}, nil
}

// issue makes a certificate with the names of the victim and a key of our own.
// The issuer may be any certificate with a key, also one that is no CA; nil
// means self-signed.
func issue(victim *x509.Certificate, now time.Time, issuer *tls.Certificate) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw a key: %w", err)
	}
	template := &x509.Certificate{
		RawSubject: victim.RawSubject, SerialNumber: victim.SerialNumber,
		URIs: victim.URIs, DNSNames: victim.DNSNames, EmailAddresses: victim.EmailAddresses, IPAddresses: victim.IPAddresses,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	parent, signer := template, any(key)
	var chain [][]byte
	if issuer != nil {
		parent, signer, chain = issuer.Leaf, issuer.PrivateKey, issuer.Certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read a certificate: %w", err)
	}
	return &tls.Certificate{Certificate: append([][]byte{der}, chain...), PrivateKey: key, Leaf: leaf}, nil
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// strangerID returns a UUID version 4 that names nobody.
func strangerID() string {
	id, err := keyholder.NewID[keyholder.AppID](nil)
	if err != nil {
		panic(err) // crypto/rand does not fail; judge would turn this into an error
	}
	return string(id)
}

// chain verifies a client certificate against the broker manager's CA and
// returns its names, leaf first.
func (d *deployment) chain(c *tls.Certificate) (string, error) {
	intermediates := x509.NewCertPool()
	for _, der := range c.Certificate[1:] {
		if i, err := x509.ParseCertificate(der); err == nil {
			intermediates.AddCert(i)
		}
	}
	chains, err := c.Leaf.Verify(x509.VerifyOptions{
		Roots: d.clientRoots, Intermediates: intermediates, CurrentTime: d.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return "", err
	}
	names := ""
	for i, one := range chains[0] {
		if i > 0 {
			names += " <- "
		}
		names += clean(one.Subject.String())
	}
	return names, nil
}
