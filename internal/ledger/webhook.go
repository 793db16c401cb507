package ledger

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// Webhook is where an app wants the pushes of a subscription (FDS 2.6.4.1:
// apps that expose webhooks are under the same rules as providers). The
// secret or key that proves us at the receiver's authorization server is a
// file, not part of the record.
type Webhook struct {
	ID           keyholder.WebhookID      `json:"id"`
	Subscription keyholder.SubscriptionID `json:"subscription"`
	URL          string                   `json:"url"`
	Issuer       string                   `json:"issuer"` // the receiver's authorization server
	Client       string                   `json:"client"` // our client ID there
	Created      time.Time                `json:"created"`
	Ended        time.Time                `json:"ended,omitzero"`
}

// AddWebhook registers a webhook target; its ID and creation time are filled
// in. A subscription has at most one. Errors: Invalid, Denied if the
// subscription does not hold, Conflict if it has a target.
func (l *Ledger) AddWebhook(ctx context.Context, actor string, w Webhook) (Webhook, error) {
	for what, s := range map[string]string{"URL": w.URL, "issuer": w.Issuer} {
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || len(s) > 2000 {
			return Webhook{}, keyholder.Errorf(keyholder.Invalid, "the %s of a webhook is not an https address without user and fragment", what)
		}
	}
	if err := checkName("client ID at the receiver", w.Client); err != nil {
		return Webhook{}, err
	}
	id, err := keyholder.NewID[keyholder.WebhookID](l.random)
	if err != nil {
		return Webhook{}, err
	}
	if w.ID == "" {
		w.ID = id
	} else if _, err := keyholder.ParseID[keyholder.WebhookID](string(w.ID)); err != nil {
		return Webhook{}, err
	}
	w.Created, w.Ended = l.Now(), time.Time{}
	return w, l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if err := l.Standing(w.Subscription).Holds(l.Now()).Err(); err != nil {
			return err
		}
		if len(l.Webhooks(w.Subscription)) > 0 {
			return keyholder.Errorf(keyholder.Conflict, "the subscription has a webhook")
		}
		if _, err := tx.Exec("INSERT INTO webhooks (id, subscription, url, issuer, client, created) VALUES (?, ?, ?, ?, ?, ?)",
			w.ID, w.Subscription, w.URL, w.Issuer, w.Client, micros(w.Created)); err != nil {
			return fmt.Errorf("add a webhook: %w", err)
		}
		tx.After(func() { l.view.set(func() { l.view.webhooks[w.ID] = w }) })
		return l.Append(tx, keyholder.EventWebhookAdded, actor, string(w.Subscription), detail{"webhook": string(w.ID)})
	})
}

func (l *Ledger) loadWebhooks(ctx context.Context) error {
	return l.each(ctx, "SELECT id, subscription, url, issuer, client, created, ended FROM webhooks", func(scan scanner) error {
		var w Webhook
		var created, ended int64
		err := scan(&w.ID, &w.Subscription, &w.URL, &w.Issuer, &w.Client, &created, &ended)
		w.Created, w.Ended = fromMicros(created), fromMicros(ended)
		l.view.webhooks[w.ID] = w
		return err
	})
}
