package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Certificates of others. An app may bring a certificate that it made itself
// (RFC 8705 2.2), or one of an authority that is pinned for it (RFC 8705 2.1).

const (
	// maxForeign bounds the PEM form of what one app brings.
	maxForeign = 64 << 10
	// maxCertificates bounds how many certificates that may be.
	maxCertificates = 8
)

// ParseSelfSigned reads the certificate that an app made itself, in PEM, and
// returns the record for the ledger. Nobody vouches for what it says, so all
// that counts is its key, which must be one that we would certify too, and its
// dates. Errors are [keyholder.Error] of code Invalid.
func ParseSelfSigned(in []byte, app keyholder.AppID) (keyholder.Certificate, error) {
	certs, err := parseCertificates(in)
	if err != nil {
		return keyholder.Certificate{}, err
	}
	if len(certs) != 1 {
		return keyholder.Certificate{}, keyholder.Errorf(keyholder.Invalid, "not exactly one certificate").
			WithHint("a self-signed certificate has no chain; record a second one by a second command")
	}
	c := certs[0]
	// Not CheckSignatureFrom: it takes authorities only, and this need be none.
	if c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
		return keyholder.Certificate{}, keyholder.Errorf(keyholder.Invalid, "the certificate is not signed by its own key").
			WithHint("for one that an authority has signed, register the app with %s and pin the authority", keyholder.AuthCertificate)
	}
	if checkKey(c.PublicKey) != nil {
		return keyholder.Certificate{}, keyholder.Errorf(keyholder.Invalid, "the key of the certificate is not one that is accepted").
			WithHint("use a P-256 key; P-384 and RSA of %d to %d bits are accepted too", minRSA, maxRSA)
	}
	return foreign(c, keyholder.OriginSelfSigned, app), nil
}

// foreign is the record of an app's certificate that was not issued here.
func foreign(c *x509.Certificate, origin keyholder.CertificateOrigin, app keyholder.AppID) keyholder.Certificate {
	thumbprint := keyholder.ThumbprintOf(c.Raw)
	return keyholder.Certificate{Serial: thumbprint.String(), Thumbprint: thumbprint, Origin: origin,
		Use: keyholder.ForApp, Subject: string(app), NotBefore: c.NotBefore, NotAfter: c.NotAfter}
}

// CheckPinned says whether what is to be pinned for an app holds authorities
// and nothing else. Errors are [keyholder.Error] of code Invalid.
func CheckPinned(in []byte, now time.Time) error {
	certs, err := parseCertificates(in)
	if err != nil {
		return err
	}
	for _, c := range certs {
		if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
			return keyholder.Errorf(keyholder.Invalid, "a certificate to pin is not one of a certificate authority").
				WithHint("give the certificate of the authority; for one that the app made itself use %s", keyholder.AuthSelfSigned)
		}
		if now.After(c.NotAfter) {
			return keyholder.Errorf(keyholder.Invalid, "an authority to pin has ended")
		}
	}
	return nil
}

// VerifyPinned says whether the chain that a client presented, its own
// certificate first, leads to an authority pinned for an app, names the subject
// registered with it, and is not revoked by the lists on record, and returns
// the record of the client's certificate. Errors are [keyholder.Error] of code Denied.
func VerifyPinned(p keyholder.PinnedAuthority, app keyholder.AppID, chain []*x509.Certificate, now time.Time) (keyholder.Certificate, error) {
	roots, leaf := x509.NewCertPool(), chain[0]
	if !names(leaf, p.Subject) || !roots.AppendCertsFromPEM([]byte(p.PEM)) {
		return keyholder.Certificate{}, keyholder.Errorf(keyholder.Denied, "the certificate does not name the app")
	}
	if leaf.IsCA || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || checkKey(leaf.PublicKey) != nil {
		return keyholder.Certificate{}, keyholder.Errorf(keyholder.Denied, "the certificate is not a client's")
	}
	chains, err := verifyChain(roots, chain, now)
	if err != nil {
		return keyholder.Certificate{}, err
	}
	for _, c := range chains {
		if err = checkRevocation(p, c, now); err == nil {
			return foreign(leaf, keyholder.OriginPinned, app), nil
		}
	}
	return keyholder.Certificate{}, err
}

// names says whether a certificate names a subject in the form of
// [keyholder.PinnedAuthority].
func names(c *x509.Certificate, subject string) bool {
	form, name, _ := strings.Cut(subject, ":")
	switch form {
	case "dn":
		return c.Subject.String() == name
	case "dns":
		return slices.Contains(c.DNSNames, name)
	case "uri":
		for _, u := range c.URIs {
			if u.String() == name {
				return true
			}
		}
	}
	return false
}

// verifyChain verifies a client's chain against roots, and returns the chains
// to them, the client's certificate first.
func verifyChain(roots *x509.CertPool, chain []*x509.Certificate, now time.Time) ([][]*x509.Certificate, error) {
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	chains, err := chain[0].Verify(o)
	if err != nil {
		return nil, &keyholder.Error{Code: keyholder.Denied, Detail: "the client certificate was not verified", Err: err}
	}
	return chains, nil
}

// parseCertificates reads 1 to maxCertificates certificates in PEM and nothing
// else. Errors repeat nothing of the input.
func parseCertificates(in []byte) ([]*x509.Certificate, error) {
	if len(in) > maxForeign {
		return nil, keyholder.Errorf(keyholder.Invalid, "the certificates are longer than %d KiB", maxForeign>>10)
	}
	if bytes.Contains(in, []byte(keyType)) {
		return nil, keyholder.Errorf(keyholder.Invalid, "this holds a private key, which must never leave its owner; it was neither kept nor sent on").
			WithHint("give the certificate only; a private key that has left the app is to be replaced")
	}
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(in); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if bytes.HasPrefix(rest, []byte("-----BEGIN CERTIFICATE-----")) {
			block, rest = pem.Decode(rest)
		}
		if block == nil || len(block.Headers) != 0 || len(certs) == maxCertificates {
			return nil, keyholder.Errorf(keyholder.Invalid, "not 1 to %d PEM blocks of type CERTIFICATE and nothing else", maxCertificates)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, &keyholder.Error{Code: keyholder.Invalid, Detail: "a certificate is malformed", Err: err}
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, keyholder.Errorf(keyholder.Invalid, "no certificate")
	}
	return certs, nil
}
