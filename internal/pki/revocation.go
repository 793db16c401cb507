package pki

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// crlLife is how long others may rely on a revocation list. Our own doors do
// not wait for it: they ask the ledger.
const crlLife = 24 * time.Hour

// CRL returns a list of revoked certificates (RFC 5280 5), in DER, valid for
// 24 hours. Certificates that are not revoked are left out, and so are those
// that ended more than one list's life ago. Its number is the time in Unix
// microseconds, so that a later list has a higher number also after a restart.
func (a *Authority) CRL(revoked []keyholder.Certificate, now time.Time) ([]byte, error) {
	list := &x509.RevocationList{
		Number:     big.NewInt(now.UnixMicro()),
		ThisUpdate: now.UTC(),
		NextUpdate: now.UTC().Add(crlLife),
	}
	for _, c := range revoked {
		if c.Revoked.IsZero() || c.NotAfter.Add(crlLife).Before(now) {
			continue
		}
		b, err := hex.DecodeString(c.Serial)
		serial := new(big.Int).SetBytes(b)
		if err != nil || serial.Sign() == 0 {
			// A list that misses a certificate would be worse than none.
			return nil, fmt.Errorf("list revoked certificates: a serial on record is not hexadecimal")
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: serial, RevocationTime: c.Revoked.UTC()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.issuing, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the list of revoked certificates: %w", err)
	}
	return der, nil
}
