package console

import (
	"context"
	"slices"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// NewAgreement asks to record an agreement of a provider and an owner.
type NewAgreement struct {
	Provider string    `json:"provider"`
	Owner    string    `json:"owner"` // key or ID
	Purpose  string    `json:"purpose"`
	Start    time.Time `json:"start,omitzero"` // zero: now
	End      time.Time `json:"end,omitzero"`   // zero: open-ended; the end itself is outside
}

// Agreement is an agreement with the names of its parties.
type Agreement struct {
	keyholder.Agreement
	ProviderName string `json:"provider_name"`
	OwnerKey     string `json:"owner_key"`
}

func (c *Console) describeAgreement(a keyholder.Agreement) Agreement {
	return Agreement{Agreement: a, ProviderName: c.ledger.Provider(a.Provider).Name, OwnerKey: c.ledger.Owner(a.Owner).Key}
}

func (c *Console) listAgreements(context.Context) ([]Agreement, error) {
	agreements := []Agreement{}
	for _, a := range c.ledger.ListAgreements() {
		agreements = append(agreements, c.describeAgreement(a))
	}
	return agreements, nil
}

func (c *Console) addAgreement(ctx context.Context, q NewAgreement) (Agreement, error) {
	provider, err := parseID[keyholder.ProviderID]("provider", q.Provider)
	if err != nil {
		return Agreement{}, err
	}
	o, err := c.findOwner(q.Owner)
	if err != nil {
		return Agreement{}, err
	}
	a, err := c.ledger.AddAgreement(ctx, ledger.Administrator, keyholder.Agreement{
		Provider: provider, Owner: o.ID, Purpose: q.Purpose, Start: q.Start, End: q.End})
	return c.describeAgreement(a), err
}

func (c *Console) agreement(_ context.Context, id string) (Agreement, error) {
	a, err := byID(id, "agreement", c.ledger.Agreement, func(a keyholder.Agreement) bool { return a.ID != "" })
	return c.describeAgreement(a), err
}

// Consent is a consent with the names of its parties and the subscription it
// created.
type Consent struct {
	keyholder.Consent
	AppName      string                   `json:"app_name"`
	OwnerKey     string                   `json:"owner_key"`
	Subscription keyholder.SubscriptionID `json:"subscription"`
}

func (c *Console) listConsents(context.Context) ([]Consent, error) {
	carried := map[keyholder.ConsentID]keyholder.Subscription{}
	for _, s := range c.ledger.ListSubscriptions() {
		carried[s.Consent] = s
	}
	consents := []Consent{}
	for _, given := range c.ledger.ListConsents() {
		s := carried[given.ID]
		consents = append(consents, Consent{Consent: given, AppName: c.ledger.App(given.App).Name,
			OwnerKey: c.ledger.Owner(s.Owner).Key, Subscription: s.ID})
	}
	return consents, nil
}

func (c *Console) consent(ctx context.Context, id string) (Consent, error) {
	want, err := keyholder.ParseID[keyholder.ConsentID](id)
	if err != nil {
		return Consent{}, err
	}
	all, err := c.listConsents(ctx)
	if err != nil {
		return Consent{}, err
	}
	i := slices.IndexFunc(all, func(s Consent) bool { return s.ID == want })
	if i < 0 {
		return Consent{}, keyholder.Errorf(keyholder.NotFound, "no consent of that ID")
	}
	return all[i], nil
}
