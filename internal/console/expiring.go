package console

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// maxWithin bounds how far ahead expiring looks.
const maxWithin = 10 * 366 * 24 * time.Hour

// Expiry is something in use that ends soon, or, if it is a certificate or a
// revocation list, has ended without a new one in its place.
type Expiry struct {
	What string    `json:"what"` // agreement, consent, certificate or revocation list
	ID   string    `json:"id"`
	Name string    `json:"name"`
	Ends time.Time `json:"ends"`
	Todo string    `json:"todo"` // what to do if it is to go on
}

// expiring answers what ends within a time, the earliest first.
func (c *Console) expiring(_ context.Context, q map[string]string) ([]Expiry, error) {
	within, err := time.ParseDuration(q["within"])
	if err != nil || within <= 0 || within > maxWithin {
		return nil, keyholder.Errorf(keyholder.Invalid, "within is not a positive duration").WithHint("for example 720h, which is 30 days")
	}
	now := c.now()
	limit := now.Add(within)
	soon := func(t time.Time) bool { return !t.IsZero() && t.Before(limit) }
	found := c.expiringCertificates(soon)
	for _, a := range c.ledger.ListAgreements() {
		if p := c.ledger.Provider(a.Provider); a.InForce(now) && p.Cut.IsZero() && soon(a.End) {
			found = append(found, Expiry{What: "agreement", ID: string(a.ID), Ends: a.End,
				Name: fmt.Sprintf("%s with %s: %s", p.Name, c.ledger.Owner(a.Owner).Key, a.Purpose),
				Todo: "agree on a new one; everything under this one ends with it"})
		}
	}
	for _, s := range c.ledger.ListSubscriptions() {
		standing := c.ledger.Standing(s.ID)
		if standing.Holds(now).Allowed && soon(standing.Consent.Expires) {
			found = append(found, Expiry{What: "consent", ID: string(s.Consent), Ends: standing.Consent.Expires,
				Name: fmt.Sprintf("%s to %s", c.ledger.Owner(s.Owner).Key, standing.App.Name),
				Todo: "the owner gives it again: by signing in, or with `keyholder subscription add`"})
		}
	}
	for _, a := range c.ledger.PinnedApps() {
		if until := pki.RevocationListsEnd(a.Pinned); soon(until) {
			found = append(found, Expiry{What: "revocation list", ID: string(a.ID), Ends: until, Name: fmt.Sprintf("the authority of app %s", a.Name),
				Todo: fmt.Sprintf("give the new one with `keyholder app crl -id %s`", a.ID)})
		}
	}
	slices.SortStableFunc(found, func(a, b Expiry) int { return a.Ends.Compare(b.Ends) })
	return found, nil
}

// expiringCertificates looks at the longest-lived certificate of each subject
// in force: one that has been renewed is of no interest, and a subject whose
// last one has ended is.
func (c *Console) expiringCertificates(soon func(time.Time) bool) []Expiry {
	type subject struct {
		use keyholder.CertificateUse
		id  string
	}
	all := c.ledger.ListCertificates()
	last := map[subject]keyholder.Certificate{}
	for _, k := range all {
		s := subject{k.Use, k.Subject}
		if k.Revoked.IsZero() && k.NotAfter.After(last[s].NotAfter) {
			last[s] = k
		}
	}
	found := []Expiry{}
	for _, k := range all {
		s := subject{k.Use, k.Subject}
		if last[s] != k {
			continue
		}
		inForce := keyholder.PermitCertify(s.use, c.ledger.Standing(keyholder.SubscriptionID(s.id)),
			c.ledger.Provider(keyholder.ProviderID(s.id)), c.ledger.App(keyholder.AppID(s.id)), c.now()).Allowed
		if inForce && soon(k.NotAfter) {
			found = append(found, Expiry{What: "certificate", ID: k.Serial, Ends: k.NotAfter,
				Name: fmt.Sprintf("%s %s (%s)", s.use, s.id, c.describeCertificate(k).SubjectName),
				Todo: fmt.Sprintf("renew with `keyholder cert issue -for %s -id %s`", s.use, s.id)})
		}
	}
	return found
}
