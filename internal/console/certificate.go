package console

import (
	"context"
	"slices"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// Lifetimes of client certificates, in days. The bound is one year and a
// month for the change.
const (
	defaultDays = 90
	maxDays     = 397
)

// skew is how far back a client certificate begins, for peers whose clock is
// a little slow.
const skew = 5 * time.Minute

// NewCertificate asks for a client certificate for the key of a certificate
// signing request. Nothing of the request but its key is used.
type NewCertificate struct {
	Use     keyholder.CertificateUse `json:"use"`
	Subject string                   `json:"subject"`        // ID of the subscription, provider or app
	Request string                   `json:"request"`        // PEM (PKCS #10)
	Days    int                      `json:"days,omitempty"` // 0: 90; never beyond the end of the subscription
}

// Certificate is a client certificate with the name of its subject.
type Certificate struct {
	keyholder.Certificate
	SubjectName string `json:"subject_name"`
}

// CertificateText is a client certificate with its PEM form, the issuing
// certificate after it.
type CertificateText struct {
	Certificate
	PEM string `json:"pem"`
}

// Authority is what everyone needs to verify servers and client certificates.
type Authority struct {
	Root string `json:"root"` // PEM
}

func (c *Console) authorityRoot(context.Context) (Authority, error) {
	return Authority{Root: string(c.authority.RootPEM())}, nil
}

func (c *Console) describeCertificate(cert keyholder.Certificate) Certificate {
	name := ""
	switch cert.Use {
	case keyholder.ForSubscription:
		s := c.ledger.Standing(keyholder.SubscriptionID(cert.Subject))
		name = c.ledger.Owner(s.Subscription.Owner).Key + ", " + s.App.Name
	case keyholder.ForProvider:
		name = c.ledger.Provider(keyholder.ProviderID(cert.Subject)).Name
	case keyholder.ForApp:
		name = c.ledger.App(keyholder.AppID(cert.Subject)).Name
	}
	return Certificate{Certificate: cert, SubjectName: name}
}

func (c *Console) listCertificates(context.Context) ([]Certificate, error) {
	certificates := []Certificate{}
	for _, cert := range c.ledger.ListCertificates() {
		certificates = append(certificates, c.describeCertificate(cert))
	}
	return certificates, nil
}

func (c *Console) certificate(ctx context.Context, serial string) (CertificateText, error) {
	if _, err := keyholder.ParseTarget(string(keyholder.CutCertificate), serial); err != nil {
		return CertificateText{}, err
	}
	cert := c.bySerial(serial)
	if cert.Serial == "" {
		return CertificateText{}, keyholder.Errorf(keyholder.NotFound, "no certificate of that serial").WithHint("`keyholder cert list` shows the serials")
	}
	text, err := c.ledger.CertificatePEM(ctx, serial)
	return CertificateText{Certificate: c.describeCertificate(cert), PEM: text}, err
}

// bySerial returns a certificate, or the zero value.
func (c *Console) bySerial(serial string) keyholder.Certificate {
	all := c.ledger.ListCertificates()
	if i := slices.IndexFunc(all, func(k keyholder.Certificate) bool { return k.Serial == serial }); i >= 0 {
		return all[i]
	}
	return keyholder.Certificate{}
}

func (c *Console) issueCertificate(ctx context.Context, q NewCertificate) (CertificateText, error) {
	if _, err := parseID[string]("subject", q.Subject); err != nil {
		return CertificateText{}, err
	}
	if q.Days == 0 {
		q.Days = defaultDays
	}
	if q.Days < 1 || q.Days > maxDays {
		return CertificateText{}, keyholder.Errorf(keyholder.Invalid, "days: a certificate is valid for 1 to %d days", maxDays)
	}
	request, err := pki.ParseRequest([]byte(q.Request))
	if err != nil {
		return CertificateText{}, err
	}
	now := c.now()
	standing := c.ledger.Standing(keyholder.SubscriptionID(q.Subject))
	if err := keyholder.PermitCertify(q.Use, standing, c.ledger.Provider(keyholder.ProviderID(q.Subject)),
		c.ledger.App(keyholder.AppID(q.Subject)), now).Err(); err != nil {
		return CertificateText{}, err
	}
	end := now.AddDate(0, 0, q.Days)
	if until := standing.Until(); q.Use == keyholder.ForSubscription && !until.IsZero() && until.Before(end) {
		end = until
	}
	text, record, err := c.authority.Sign(request, q.Use, q.Subject, now.Add(-skew), end)
	if err != nil {
		return CertificateText{}, err
	}
	if err := c.ledger.AddCertificate(ctx, ledger.Administrator, record, string(text)); err != nil {
		return CertificateText{}, err
	}
	return CertificateText{Certificate: c.describeCertificate(c.ledger.Certificate(record.Thumbprint)), PEM: string(text)}, nil
}
