package console

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// WebhookFolder is the folder in the data folder that holds, in one folder
// per webhook ID, what proves us at the receiver's authorization server.
const WebhookFolder = "webhooks"

// Names of the files in the folder of a webhook: either the secret, or the
// certificate and the key; and the authorities that the receiver's servers
// are trusted by, if they are not among the system's.
const (
	WebhookSecret      = "secret"
	WebhookCertificate = "cert.pem"
	WebhookKey         = "key.pem"
	WebhookCA          = "ca.pem"
)

// NewWebhook asks to register where an app wants the pushes of a
// subscription, with our credential at the receiver's authorization server:
// a secret, or a certificate with its key.
type NewWebhook struct {
	Subscription string `json:"subscription"`
	URL          string `json:"url"`
	Issuer       string `json:"issuer"`
	Client       string `json:"client"` // our client ID there
	Secret       string `json:"secret,omitempty"`
	Certificate  string `json:"certificate,omitempty"` // PEM
	Key          string `json:"key,omitempty"`         // PEM
	CA           string `json:"ca,omitempty"`          // PEM; empty: the system's authorities
}

// Webhook is a registered webhook target.
type Webhook = ledger.Webhook

func (c *Console) listWebhooks(context.Context) ([]Webhook, error) {
	return append([]Webhook{}, c.ledger.ListWebhooks()...), nil
}

func (c *Console) webhook(_ context.Context, id string) (Webhook, error) {
	return byID(id, "webhook", c.findWebhook, func(w Webhook) bool { return w.ID != "" })
}

func (c *Console) findWebhook(id keyholder.WebhookID) Webhook {
	for _, w := range c.ledger.ListWebhooks() {
		if w.ID == id {
			return w
		}
	}
	return Webhook{}
}

func (c *Console) addWebhook(ctx context.Context, q NewWebhook) (Webhook, error) {
	sub, err := parseID[keyholder.SubscriptionID]("subscription", q.Subscription)
	if err != nil {
		return Webhook{}, err
	}
	if err := q.checkCredentials(); err != nil {
		return Webhook{}, err
	}
	id, err := keyholder.NewID[keyholder.WebhookID](nil)
	if err != nil {
		return Webhook{}, err
	}
	// The files come first: once the ledger knows the webhook, it is used.
	if err := c.writeCredentials(id, q); err != nil {
		return Webhook{}, errors.Join(err, c.removeCredentials(id))
	}
	w, err := c.ledger.AddWebhook(ctx, ledger.Administrator, Webhook{ID: id, Subscription: sub, URL: q.URL, Issuer: q.Issuer, Client: q.Client})
	if err != nil {
		return Webhook{}, errors.Join(err, c.removeCredentials(id))
	}
	return w, nil
}

func (q NewWebhook) checkCredentials() error {
	pair := q.Certificate != "" || q.Key != ""
	if (q.Secret != "") == pair {
		return keyholder.Errorf(keyholder.Invalid, "the webhook has no credential, or two").
			WithHint("give a secret, or a certificate with its key")
	}
	if pair {
		if _, err := tls.X509KeyPair([]byte(q.Certificate), []byte(q.Key)); err != nil {
			// The cause is left out: it may quote the key.
			return keyholder.Errorf(keyholder.Invalid, "the certificate and the key are not a pair in PEM")
		}
	}
	if q.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(q.CA)) {
		return keyholder.Errorf(keyholder.Invalid, "ca: there is no certificate in PEM")
	}
	return nil
}

func (c *Console) credentials(id keyholder.WebhookID) string {
	return filepath.Join(c.webhooks, string(id))
}

// writeCredentials writes the files of a webhook and makes them durable. What
// is secret is sealed where private keys are.
func (c *Console) writeCredentials(id keyholder.WebhookID, q NewWebhook) error {
	dir := c.credentials(id)
	var files []keyfile.File
	for name, text := range map[string]string{WebhookSecret: q.Secret, WebhookCertificate: q.Certificate, WebhookKey: q.Key, WebhookCA: q.CA} {
		content := []byte(text)
		if name == WebhookSecret || name == WebhookKey {
			content = c.seal.Close(filepath.Join(dir, name), content)
		}
		if text != "" {
			files = append(files, keyfile.File{Name: name, Data: content, Mode: keyfile.Private})
		}
	}
	if err := keyfile.WriteFolder(dir, files); err != nil {
		return fmt.Errorf("write the credentials of a webhook: %w", err)
	}
	return nil
}

func (c *Console) removeCredentials(id keyholder.WebhookID) error {
	if err := os.RemoveAll(c.credentials(id)); err != nil {
		return fmt.Errorf("remove the credentials of a webhook: %w", err)
	}
	return nil
}

// sweepWebhooks removes the credentials of webhooks that are not in force.
func (c *Console) sweepWebhooks() error {
	entries, err := os.ReadDir(c.webhooks)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		// One that a crash kept from getting its name begins with a dot.
		if strings.HasPrefix(e.Name(), ".") {
			if err := os.RemoveAll(filepath.Join(c.webhooks, e.Name())); err != nil {
				return err
			}
			continue
		}
		id, err := keyholder.ParseID[keyholder.WebhookID](e.Name())
		if err != nil {
			continue // not ours to touch
		}
		if w := c.findWebhook(id); w.ID == "" || !w.Ended.IsZero() {
			if err := c.removeCredentials(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// End is the console's plane of a cut: it removes the credentials of the
// webhooks that ended and returns how many there were.
func (c *Console) End(_ context.Context, cut keyholder.Cut) (int, error) {
	ended := 0
	for _, id := range cut.Ended.Webhooks {
		if _, err := os.Stat(c.credentials(id)); err != nil {
			continue
		}
		if err := c.removeCredentials(id); err != nil {
			return ended, err
		}
		ended++
	}
	return ended, nil
}
