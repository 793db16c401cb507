package pki

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// VerifyClient is for the VerifyConnection of a listener's [tls.Config] that
// has the TLS stack verify chains, and is called for resumed sessions too. It
// accepts a connection without a client certificate, for ClientAuth decides on
// that, and refuses one whose certificate the TLS stack has not verified or
// that has not the profile of [Authority.Sign]. What the certificate may do is
// for the ledger's record and PermitCertificate.
//
// Errors are [keyholder.Error] of code Denied.
func VerifyClient(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	if len(s.VerifiedChains) == 0 {
		return keyholder.Errorf(keyholder.Denied, "the client certificate was not verified")
	}
	return checkProfile(s.PeerCertificates[0])
}

// VerifyClient is for a listener that does not have the TLS stack verify
// chains, because some of its clients bring certificates of their own. chain
// is what a client presented, its own certificate first. It does what the
// stack would have done with [Authority.Pool], and the rest of [VerifyClient].
//
// Errors are [keyholder.Error] of code Denied.
func (a *Authority) VerifyClient(chain []*x509.Certificate, now time.Time) error {
	if _, err := verifyChain(a.Pool(), chain, now); err != nil {
		return err
	}
	return checkProfile(chain[0])
}

// checkProfile refuses what we would not have issued to a client: crypto/x509
// takes an authority's own certificate for a client's, and RFC 5280 does not
// forbid it.
func checkProfile(leaf *x509.Certificate) error {
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature ||
		len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(leaf.UnknownExtKeyUsage) != 0 {
		return keyholder.Errorf(keyholder.Denied, "the certificate is not a client's: it may be used for other things")
	}
	if len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 ||
		leaf.URIs[0].String() != urnPrefix+leaf.Subject.CommonName {
		return keyholder.Errorf(keyholder.Denied, "the certificate does not name exactly one client")
	}
	if _, err := keyholder.ParseID[string](strings.TrimPrefix(leaf.URIs[0].String(), urnPrefix)); err != nil {
		return keyholder.Errorf(keyholder.Denied, "the certificate does not name a client by a UUID version 4")
	}
	return nil
}
