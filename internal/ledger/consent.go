package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// GiveConsent records an owner's yes to an app under an agreement and creates
// the subscription it carries, with its mailbox. If the two have an active
// subscription already, that one is renewed with the new scope and expiry and
// returned: one owner, one app and one provider have one subscription under
// an agreement. Only an administrator may leave c.GivenBy empty (consent
// given in the written agreement). fixed is the ID to use where another party
// supplied it (FDS 2.6.5.2), or empty to draw one.
// Errors: Denied with the verdict's reason, Invalid, Conflict if the ID is used.
func (l *Ledger) GiveConsent(ctx context.Context, actor string, c keyholder.Consent, fixed keyholder.SubscriptionID) (keyholder.Subscription, error) {
	if fixed != "" {
		if _, err := keyholder.ParseID[keyholder.SubscriptionID](string(fixed)); err != nil {
			return keyholder.Subscription{}, err
		}
	}
	for _, k := range c.Scope {
		if _, err := keyholder.ParseKind(string(k)); err != nil {
			return keyholder.Subscription{}, err
		}
	}
	if c.GivenBy == "" && actor != Administrator {
		return keyholder.Subscription{}, keyholder.Errorf(keyholder.Denied, "a consent needs the user who gives it")
	}
	var sub keyholder.Subscription
	err := l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		now := l.Now()
		c.Given, c.Cut, c.Expires = now, time.Time{}, storable(c.Expires)
		a := l.Agreement(c.Agreement)
		user := l.User(c.GivenBy)
		if c.GivenBy == "" {
			user = keyholder.User{ID: keyholder.UserID(actor), Owner: a.Owner}
		}
		if err := keyholder.PermitConsent(user, a, l.Provider(a.Provider), l.App(c.App), now).Err(); err != nil {
			return err
		}
		if !c.Expires.IsZero() && !c.Expires.After(now) {
			return keyholder.Errorf(keyholder.Invalid, "the consent expires before it begins")
		}
		var err error
		old := l.activeSubscription(a.ID, c.App)
		if err := keyholder.PermitRenewal(l.Standing(old.ID).Consent, c, now).Err(); err != nil {
			return err
		}
		if old.ID != "" && (fixed == "" || fixed == old.ID) {
			sub, err = l.renewConsent(tx, actor, c, old)
		} else {
			sub, err = l.createSubscription(tx, actor, c, a, fixed)
		}
		return err
	})
	return sub, err
}

// ConsentTo returns the consent of the subscription that an agreement and an
// app have, in force or not, or the zero value.
func (l *Ledger) ConsentTo(a keyholder.AgreementID, app keyholder.AppID) keyholder.Consent {
	return l.Standing(l.activeSubscription(a, app).ID).Consent
}

// activeSubscription returns the subscription of an agreement and an app that
// was not cut, or the zero value.
func (l *Ledger) activeSubscription(a keyholder.AgreementID, app keyholder.AppID) keyholder.Subscription {
	l.view.mu.RLock()
	defer l.view.mu.RUnlock()
	for _, s := range l.view.subscriptions {
		if s.Agreement == a && s.App == app && s.Cut.IsZero() {
			return s
		}
	}
	return keyholder.Subscription{}
}

func (l *Ledger) renewConsent(tx *store.Tx, actor string, c keyholder.Consent, s keyholder.Subscription) (keyholder.Subscription, error) {
	c.ID = s.Consent
	scope, err := toJSON(c.Scope)
	if err != nil {
		return s, err
	}
	if _, err := tx.Exec("UPDATE consents SET scope = ?, given_by = ?, given = ?, expires = ? WHERE id = ?",
		scope, c.GivenBy, micros(c.Given), micros(c.Expires), c.ID); err != nil {
		return s, fmt.Errorf("renew a consent: %w", err)
	}
	tx.After(func() { l.view.set(func() { l.view.consents[c.ID] = c }) })
	return s, l.Append(tx, keyholder.EventConsentGiven, actor, string(s.ID), detail{"consent": string(c.ID), "renewed": "true"})
}

func (l *Ledger) createSubscription(tx *store.Tx, actor string, c keyholder.Consent, a keyholder.Agreement, fixed keyholder.SubscriptionID) (keyholder.Subscription, error) {
	var err error
	if c.ID, err = keyholder.NewID[keyholder.ConsentID](l.random); err != nil {
		return keyholder.Subscription{}, err
	}
	s := keyholder.Subscription{ID: fixed, Consent: c.ID, Agreement: a.ID, Provider: a.Provider, Owner: a.Owner, App: c.App, Created: c.Given}
	if fixed == "" {
		if s.ID, err = keyholder.NewID[keyholder.SubscriptionID](l.random); err != nil {
			return s, err
		}
	}
	if l.Standing(s.ID).Subscription.ID != "" {
		// Also for a cut one: an ID is never used twice.
		return s, keyholder.Errorf(keyholder.Conflict, "that subscription ID was used before")
	}
	scope, err := toJSON(c.Scope)
	if err != nil {
		return s, err
	}
	if _, err := tx.Exec("INSERT INTO consents (id, agreement, app, scope, given_by, given, expires) VALUES (?, ?, ?, ?, ?, ?, ?)",
		c.ID, c.Agreement, c.App, scope, c.GivenBy, micros(c.Given), micros(c.Expires)); err != nil {
		return s, fmt.Errorf("add a consent: %w", err)
	}
	if _, err := tx.Exec("INSERT INTO subscriptions (id, consent, agreement, provider, owner, app, created) VALUES (?, ?, ?, ?, ?, ?, ?)",
		s.ID, s.Consent, s.Agreement, s.Provider, s.Owner, s.App, micros(s.Created)); err != nil {
		return s, fmt.Errorf("add a subscription: %w", err)
	}
	if _, err := tx.Exec("INSERT INTO mailboxes (subscription) VALUES (?)", s.ID); err != nil {
		return s, fmt.Errorf("add a mailbox: %w", err)
	}
	tx.After(func() {
		l.view.set(func() { l.view.consents[c.ID], l.view.subscriptions[s.ID] = c, s })
	})
	if err := l.Append(tx, keyholder.EventConsentGiven, actor, string(s.ID), detail{"consent": string(c.ID), "app": string(c.App)}); err != nil {
		return s, err
	}
	return s, l.Append(tx, keyholder.EventSubscriptionCreated, actor, string(s.ID),
		detail{"agreement": string(a.ID), "provider": string(s.Provider), "owner": string(s.Owner), "app": string(s.App)})
}

func (l *Ledger) loadConsents(ctx context.Context) error {
	return l.each(ctx, "SELECT id, agreement, app, scope, given_by, given, expires, cut FROM consents", func(scan scanner) error {
		var c keyholder.Consent
		var scope string
		var given, expires, cut int64
		if err := scan(&c.ID, &c.Agreement, &c.App, &scope, &c.GivenBy, &given, &expires, &cut); err != nil {
			return err
		}
		var err error
		c.Scope, err = fromJSON[keyholder.Kind](scope)
		c.Given, c.Expires, c.Cut = fromMicros(given), fromMicros(expires), fromMicros(cut)
		l.view.consents[c.ID] = c
		return err
	})
}

func (l *Ledger) loadSubscriptions(ctx context.Context) error {
	return l.each(ctx, "SELECT id, consent, agreement, provider, owner, app, created, cut FROM subscriptions", func(scan scanner) error {
		var s keyholder.Subscription
		var created, cut int64
		err := scan(&s.ID, &s.Consent, &s.Agreement, &s.Provider, &s.Owner, &s.App, &created, &cut)
		s.Created, s.Cut = fromMicros(created), fromMicros(cut)
		l.view.subscriptions[s.ID] = s
		return err
	})
}
