package ledger

import (
	"context"
	"fmt"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// AddCertificate records a client certificate, issued here or brought by an
// app. Only from then on does the certificate prove anything, so one that was
// signed but not recorded is worthless. Errors: Denied with the verdict's
// reason, Conflict if the certificate is known.
func (l *Ledger) AddCertificate(ctx context.Context, actor string, c keyholder.Certificate, pem string) error {
	c.NotBefore, c.NotAfter = storable(c.NotBefore), storable(c.NotAfter)
	return l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		c.Issued = l.Now()
		standing := l.Standing(keyholder.SubscriptionID(c.Subject))
		v := keyholder.PermitRecord(c, standing, l.Provider(keyholder.ProviderID(c.Subject)), l.App(keyholder.AppID(c.Subject)), c.Issued)
		if err := v.Err(); err != nil {
			return err
		}
		if l.Certificate(c.Thumbprint).Serial != "" {
			return keyholder.Errorf(keyholder.Conflict, "that certificate is on record already")
		}
		if _, err := tx.Exec(`INSERT INTO certificates (serial, thumbprint, origin, use, subject, not_before, not_after, issued, pem) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			c.Serial, c.Thumbprint[:], c.Origin, c.Use, c.Subject, micros(c.NotBefore), micros(c.NotAfter), micros(c.Issued), pem); err != nil {
			return fmt.Errorf("add a certificate: %w", err)
		}
		tx.After(func() {
			l.view.set(func() {
				l.view.addCertificate(c)
				if c.Origin == keyholder.OriginSelfSigned {
					l.view.vouch(pem)
				}
			})
		})
		if c.Origin != keyholder.OriginIssued {
			return l.Append(tx, keyholder.EventCertificateRecorded, actor, c.Subject, detail{"serial": c.Serial, "origin": string(c.Origin)})
		}
		return l.Append(tx, keyholder.EventCertificateIssued, actor, c.Subject, detail{"serial": c.Serial, "use": string(c.Use)})
	})
}

// CertificatePEM returns the PEM form of a recorded certificate with its
// chain. Errors: NotFound.
func (l *Ledger) CertificatePEM(ctx context.Context, serial string) (string, error) {
	var pem string
	err := l.each(ctx, "SELECT pem FROM certificates WHERE serial = ?", func(scan scanner) error { return scan(&pem) }, serial)
	if err == nil && pem == "" {
		return "", keyholder.Errorf(keyholder.NotFound, "no certificate of that serial")
	}
	return pem, err
}

// vouch adds to the vouchers; an empty text is none. The caller holds the lock.
func (v *view) vouch(pem string) {
	if pem != "" {
		v.vouchers = append(v.vouchers, pem)
	}
}

func (l *Ledger) loadCertificates(ctx context.Context) error {
	if err := l.each(ctx, "SELECT pem FROM certificates WHERE origin = ? AND revoked = 0", func(scan scanner) error {
		var pem string
		err := scan(&pem)
		l.view.vouch(pem)
		return err
	}, keyholder.OriginSelfSigned); err != nil {
		return err
	}
	return l.each(ctx, "SELECT serial, thumbprint, origin, use, subject, not_before, not_after, issued, revoked FROM certificates ORDER BY issued, serial", func(scan scanner) error {
		var c keyholder.Certificate
		var thumbprint []byte
		var notBefore, notAfter, issued, revoked int64
		if err := scan(&c.Serial, &thumbprint, &c.Origin, &c.Use, &c.Subject, &notBefore, &notAfter, &issued, &revoked); err != nil {
			return err
		}
		if copy(c.Thumbprint[:], thumbprint) != len(c.Thumbprint) {
			return fmt.Errorf("the thumbprint of certificate %s is damaged", c.Serial)
		}
		c.NotBefore, c.NotAfter = fromMicros(notBefore), fromMicros(notAfter)
		c.Issued, c.Revoked = fromMicros(issued), fromMicros(revoked)
		l.view.addCertificate(c)
		return nil
	})
}
