package keyholder

import "time"

// Subscription is what a consent creates: one owner, one app, one provider,
// named by a UUID version 4. Its ID is the claim in the token, the MQTT client
// ID, the third topic level, the name in the certificate and the key of every
// webhook (FDS 2.6.4.1, 2.6.4.2).
type Subscription struct {
	ID        SubscriptionID `json:"id"`
	Consent   ConsentID      `json:"consent"`
	Agreement AgreementID    `json:"agreement"`
	Provider  ProviderID     `json:"provider"`
	Owner     OwnerID        `json:"owner"`
	App       AppID          `json:"app"`
	Created   time.Time      `json:"created"`
	Cut       time.Time      `json:"cut,omitzero"`
}

// Standing is a subscription with the whole chain that carries it, as the
// ledger knows it at one moment. The zero value stands for "no such
// subscription" and holds no right.
type Standing struct {
	Subscription Subscription
	Consent      Consent
	Agreement    Agreement
	Provider     Provider
	App          App
}

// Holds decides whether the chain carries any right at the time now: every
// link exists, belongs to the next, is in force and not cut. Every Permit
// function that concerns a subscription begins here, so that nothing outlives
// the agreement.
func (s Standing) Holds(now time.Time) Verdict {
	sub := s.Subscription
	switch {
	case sub.ID == "":
		return deny(W6, "no such subscription")
	case sub.Consent == "", sub.Agreement == "", sub.Provider == "", sub.Owner == "", sub.App == "":
		return deny(W6, "the chain of the subscription is not complete")
	case sub.Consent != s.Consent.ID, sub.Agreement != s.Agreement.ID, s.Consent.Agreement != s.Agreement.ID,
		sub.Provider != s.Provider.ID, s.Agreement.Provider != s.Provider.ID,
		sub.App != s.App.ID, s.Consent.App != s.App.ID, sub.Owner != s.Agreement.Owner:
		return deny(W6, "the chain of the subscription is broken")
	case !sub.Cut.IsZero():
		return deny(W6, "the subscription was cut")
	case !s.Provider.Cut.IsZero():
		return deny(W6, "the provider was cut")
	case !s.App.Cut.IsZero():
		return deny(W4, "the app was cut")
	case !s.Consent.InForce(now):
		return deny(W5, "the consent is not in force")
	case !s.Agreement.InForce(now):
		return deny(W5, "the agreement is not in force")
	}
	return allow(W6)
}

// Until returns when the chain stops holding by itself: the earlier of the
// agreement's end and the consent's expiry, or zero if neither has one.
func (s Standing) Until() time.Time {
	a, c := s.Agreement.End, s.Consent.Expires
	if a.IsZero() || (!c.IsZero() && c.Before(a)) {
		return c
	}
	return a
}
