package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Lifetimes. The root outlives two issuing authorities; a server certificate
// is made anew at every start and long before its end.
const (
	rootYears    = 10
	issuingYears = 5
	serverLife   = 90 * 24 * time.Hour

	// skew is how far back the certificates of our own begin, so that a peer
	// whose clock is a little slow can connect.
	skew = 5 * time.Minute
)

// maxHosts bounds the names of one server certificate.
const maxHosts = 64

// urnPrefix begins the URI that names a client in its certificate (RFC 9562).
const urnPrefix = "urn:uuid:"

// rootTemplate signs one issuing authority and nothing below that.
func rootTemplate(now time.Time) *x509.Certificate {
	return authorityTemplate("Keyholder root", now, rootYears, 1)
}

// issuingTemplate signs end entities and no further authority.
func issuingTemplate(now time.Time) *x509.Certificate {
	return authorityTemplate("Keyholder issuing authority", now, issuingYears, 0)
}

func authorityTemplate(name string, now time.Time, years, pathLen int) *x509.Certificate {
	now = now.UTC().Truncate(time.Second)
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.AddDate(years, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
	}
}

// serverTemplate names hosts; it can authenticate a server and nothing else.
func serverTemplate(hosts []string) (*x509.Certificate, error) {
	if len(hosts) == 0 || len(hosts) > maxHosts {
		return nil, keyholder.Errorf(keyholder.Invalid, "a server certificate needs 1 to %d hosts, not %d", maxHosts, len(hosts))
	}
	t := leafTemplate("", x509.ExtKeyUsageServerAuth)
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
			continue
		}
		name := strings.ToLower(h)
		if !validDNSName(name) {
			return nil, keyholder.Errorf(keyholder.Invalid, "%.80q is neither a DNS name nor an IP address", h).
				WithHint("give host names without a scheme, port, path, wildcard or final dot, for example fds.example.org")
		}
		if !slices.Contains(t.DNSNames, name) {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	if len(t.DNSNames) > 0 && len(t.DNSNames[0]) <= 64 { // the bound of a CN, RFC 5280 appendix A
		t.Subject.CommonName = t.DNSNames[0]
	} else {
		t.Subject.CommonName = "Keyholder server"
	}
	return t, nil
}

// clientTemplate names a subject; it can authenticate a client and nothing
// else. All three uses look alike: what the subject is, the ledger knows.
func clientTemplate(use keyholder.CertificateUse, subject string) (*x509.Certificate, error) {
	switch use {
	case keyholder.ForSubscription, keyholder.ForProvider, keyholder.ForApp:
	default:
		return nil, keyholder.Errorf(keyholder.Invalid, "no such use of a certificate").
			WithHint("the uses are subscription, provider and app")
	}
	id, err := keyholder.ParseID[string](subject)
	if err != nil {
		return nil, err
	}
	t := leafTemplate(id, x509.ExtKeyUsageClientAuth)
	t.URIs = []*url.URL{{Scheme: "urn", Opaque: "uuid:" + id}}
	return t, nil
}

func leafTemplate(name string, usage x509.ExtKeyUsage) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{usage},
		BasicConstraintsValid: true,
	}
}

// validDNSName says whether s is a lower-case host name (RFC 1123 2.1).
func validDNSName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}
