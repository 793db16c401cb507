package console

import (
	"context"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// NewSubscription asks to record the consent that an owner gave to an app in
// the written agreement, and with it the subscription.
type NewSubscription struct {
	Agreement string           `json:"agreement"`
	App       string           `json:"app"`
	Scope     []keyholder.Kind `json:"scope,omitempty"`  // empty: all kinds
	Expires   time.Time        `json:"expires,omitzero"` // zero: as long as the agreement
	ID        string           `json:"id,omitempty"`     // empty: drawn here; set where another party supplied it (FDS 2.6.5.2)
}

// Subscription is a subscription in the words of a list.
type Subscription struct {
	keyholder.Subscription
	ProviderName string           `json:"provider_name"`
	OwnerKey     string           `json:"owner_key"`
	AppName      string           `json:"app_name"`
	Scope        []keyholder.Kind `json:"scope"` // empty: all kinds
	InForce      bool             `json:"in_force"`
	Reason       string           `json:"reason,omitempty"` // why it is not in force
	Until        time.Time        `json:"until,omitzero"`   // when it ends by itself; zero: open-ended
	Queued       int64            `json:"queued"`           // messages waiting for the app
}

// SubscriptionDetail is a subscription with everything that hangs on it.
type SubscriptionDetail struct {
	Subscription
	Chain        []Link        `json:"chain"`
	Certificates []Certificate `json:"certificates"`
	Webhooks     []Webhook     `json:"webhooks"`
}

func (c *Console) describeSubscription(id keyholder.SubscriptionID, queued int64) Subscription {
	s := c.ledger.Standing(id)
	v := s.Holds(c.now())
	return Subscription{Subscription: s.Subscription, ProviderName: s.Provider.Name, OwnerKey: c.ledger.Owner(s.Subscription.Owner).Key,
		AppName: s.App.Name, Scope: s.Consent.Scope, InForce: v.Allowed, Reason: v.Reason, Until: s.Until(), Queued: queued}
}

func (c *Console) listSubscriptions(ctx context.Context) ([]Subscription, error) {
	depths, err := c.mailbox.Depths(ctx)
	if err != nil {
		return nil, err
	}
	subscriptions := []Subscription{}
	for _, s := range c.ledger.ListSubscriptions() {
		subscriptions = append(subscriptions, c.describeSubscription(s.ID, depths[s.ID].Messages))
	}
	return subscriptions, nil
}

func (c *Console) addSubscription(ctx context.Context, q NewSubscription) (Subscription, error) {
	agreement, err := parseID[keyholder.AgreementID]("agreement", q.Agreement)
	if err != nil {
		return Subscription{}, err
	}
	app, err := parseID[keyholder.AppID]("app", q.App)
	if err != nil {
		return Subscription{}, err
	}
	if q.ID != "" {
		if _, err := parseID[keyholder.SubscriptionID]("id", q.ID); err != nil {
			return Subscription{}, err
		}
	}
	if c.ledger.Agreement(agreement).ID == "" {
		return Subscription{}, keyholder.Errorf(keyholder.NotFound, "no agreement of that ID").WithHint("`keyholder agreement list` shows them")
	}
	if c.ledger.App(app).ID == "" {
		return Subscription{}, keyholder.Errorf(keyholder.NotFound, "no app of that ID").WithHint("`keyholder app list` shows them")
	}
	s, err := c.ledger.GiveConsent(ctx, ledger.Administrator,
		keyholder.Consent{Agreement: agreement, App: app, Scope: q.Scope, Expires: q.Expires}, keyholder.SubscriptionID(q.ID))
	if err != nil {
		return Subscription{}, err
	}
	return c.describeSubscription(s.ID, 0), nil
}

func (c *Console) subscription(ctx context.Context, id string) (SubscriptionDetail, error) {
	s, err := byID(id, "subscription", c.ledger.Standing, func(s keyholder.Standing) bool { return s.Subscription.ID != "" })
	if err != nil {
		return SubscriptionDetail{}, err
	}
	depths, err := c.mailbox.Depths(ctx)
	if err != nil {
		return SubscriptionDetail{}, err
	}
	sub := s.Subscription.ID
	d := SubscriptionDetail{Subscription: c.describeSubscription(sub, depths[sub].Messages), Chain: c.chain(s),
		Certificates: []Certificate{}, Webhooks: []Webhook{}}
	for _, cert := range c.ledger.ListCertificates() {
		if cert.Subject == string(sub) {
			d.Certificates = append(d.Certificates, c.describeCertificate(cert))
		}
	}
	for _, w := range c.ledger.ListWebhooks() {
		if w.Subscription == sub {
			d.Webhooks = append(d.Webhooks, w)
		}
	}
	return d, nil
}
