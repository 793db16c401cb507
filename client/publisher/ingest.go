package publisher

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
)

const (
	// requests is how many are under way at the same time, each of another
	// owner.
	requests = 8
	// maxRequest and maxRequestBytes bound the items of one request.
	maxRequest      = 1000
	maxRequestBytes = 1 << 20
)

// backend makes requests with one certificate, or with a secret.
type backend struct {
	*client.Provider
	certificate *tls.Certificate
}

// provider returns the back end with the certificate of now.
func (p *Publisher) provider() (*backend, error) {
	b := &backend{}
	var err error
	if p.cfg.Certificate != nil {
		if b.certificate, err = p.cfg.Certificate(); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.backend != nil && p.backend.same(b.certificate) {
		return p.backend, nil
	}
	b.Provider, err = client.NewProvider(client.Config{Issuer: p.cfg.Issuer, API: p.cfg.API, ClientID: string(p.cfg.Provider),
		Secret: p.cfg.Secret, Certificate: b.certificate, RootCAs: p.cfg.RootCAs, TLS: p.cfg.TLS, Now: p.cfg.Now})
	if err != nil {
		return nil, err
	}
	if p.backend != nil {
		p.backend.Close()
	}
	p.backend = b
	return b, nil
}

// same says whether a certificate is that of the back end.
func (b *backend) same(c *tls.Certificate) bool {
	if b.certificate == nil || c == nil {
		return b.certificate == c
	}
	return slices.EqualFunc(b.certificate.Certificate, c.Certificate, bytes.Equal)
}

// request stores one batch after the other until ctx ends.
func (p *Publisher) request(ctx context.Context) {
	for ctx.Err() == nil {
		batch := p.queue.take(maxRequest, maxRequestBytes)
		if batch == nil {
			select {
			case <-p.queue.wake:
			case <-ctx.Done():
			}
			continue
		}
		p.queue.pending() // for the others
		b, err := p.provider()
		if err != nil {
			p.turn(false, err)
			p.trouble(err, 0, batch...)
			continue
		}
		p.ingest(ctx, b, batch)
	}
}

// ingest stores a batch. Where the server refuses it because of an item,
// halves are tried, so that the item is found and the others are stored.
func (p *Publisher) ingest(ctx context.Context, b *backend, batch []*entry) {
	items := make([]json.RawMessage, len(batch))
	for i, e := range batch {
		items[i] = e.item.Payload
	}
	to := batch[0].lane.to
	done, err := b.Ingest(ctx, to, keyholder.Kind(batch[0].item.Level), items)
	var answered *client.APIError
	reached := err == nil || errors.As(err, &answered)
	p.turn(reached, err)
	switch final := finalOf(answered); {
	case err == nil:
		if len(done.Full) > 0 {
			p.queue.countUnpushed(len(done.Full))
			p.cfg.Log.Warn("stored, but not pushed to all apps: mailboxes are full", "owner", to, "subscriptions", len(done.Full))
		}
		p.queue.settle(nil, batch...)
	case final == nil:
		wait := time.Duration(0)
		if answered != nil {
			wait = answered.RetryAfter
		}
		p.trouble(fmt.Errorf("%w: %w", ErrServer, err), wait, batch...)
	case final != ErrRefused && len(batch) > 1: //nolint:errorlint // finalOf returns it as it is
		half := len(batch) / 2
		p.ingest(ctx, b, batch[:half])
		if batch[half-1].settled(p.queue) {
			p.ingest(ctx, b, batch[half:])
		} else {
			p.queue.putBack(err, 0, batch[half:]...) // nothing overtakes the first half
		}
	default:
		p.queue.settle(fmt.Errorf("%w: %w", final, err), batch...)
	}
}

// finalOf translates the answer to a request; nil means that it may be
// repeated. A token that is refused is no matter of the items.
func finalOf(e *client.APIError) error {
	if e == nil {
		return nil
	}
	switch e.HTTPStatus {
	case http.StatusForbidden, http.StatusNotFound:
		return ErrRefused
	case http.StatusRequestEntityTooLarge:
		return ErrTooLarge
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return ErrInvalid
	}
	return nil
}
