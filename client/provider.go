package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/fds-keyholder/keyholder"
)

const (
	// maxBatchBytes and maxBatchItems bound one request of an ingestion.
	maxBatchBytes = 4 << 20
	maxBatchItems = 5000
)

// Provider delivers a provider's items to Keyholder, which serves them by pull
// and pushes them to the owners' apps. It is safe for concurrent use.
type Provider struct {
	session *Session
}

// Ingested says what became of items.
type Ingested struct {
	Stored int `json:"stored"` // items that changed what is stored
	Pushed int `json:"pushed"` // messages put into mailboxes
	// Full lists subscriptions whose mailbox had no room: their app can pull
	// the items, but gets no push of them.
	Full []keyholder.SubscriptionID `json:"full"`
}

// NewProvider returns the back end of a provider; the client ID is the
// provider's ID. The errors are those of [New].
func NewProvider(cfg Config) (*Provider, error) {
	if cfg.API == "" {
		return nil, keyholder.Errorf(keyholder.Invalid, "the address of the Web API is missing")
	}
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return &Provider{session: c.machine(keyholder.ScopeIngest, "")}, nil
}

// Close closes connections that are not in use. The provider stays usable.
func (p *Provider) Close() { p.session.c.Close() }

// Ingest stores items of one kind for an owner, named by its key or ID. On a
// nil error they are durable, and their pushes are queued in the given order.
// Many items go in several requests; after an error those of the requests
// before it are stored, which the result counts, and the whole call may be
// repeated.
func (p *Provider) Ingest(ctx context.Context, owner string, kind keyholder.Kind, items []json.RawMessage) (Ingested, error) {
	var sum Ingested
	if _, err := keyholder.ParseKind(string(kind)); err != nil {
		return sum, err
	}
	if owner == "" {
		return sum, keyholder.Errorf(keyholder.Invalid, "the owner is missing")
	}
	path := "/ingest/v1/owners/" + url.PathEscape(owner) + "/" + string(kind)
	for i := 0; i < len(items); {
		var body bytes.Buffer
		first := i
		for ; i < len(items) && i-first < maxBatchItems && (i == first || body.Len()+len(items[i]) < maxBatchBytes); i++ {
			// An item takes one line, whatever white space it holds.
			if err := json.Compact(&body, items[i]); err != nil {
				return sum, keyholder.Errorf(keyholder.Invalid, "item %d is not JSON", i)
			}
			body.WriteByte('\n')
		}
		answer, err := p.session.call(ctx, call{method: http.MethodPost, path: path, contentType: typeNDJSON, body: body.Bytes()})
		if err != nil {
			return sum, err
		}
		var done Ingested
		if len(answer) > 0 && json.Unmarshal(answer, &done) != nil {
			return sum, keyholder.Errorf(keyholder.Invalid, "the Web API did not answer with JSON")
		}
		sum.add(done)
	}
	return sum, nil
}

// add sums up; a subscription is listed once.
func (i *Ingested) add(more Ingested) {
	i.Stored += more.Stored
	i.Pushed += more.Pushed
	known := map[keyholder.SubscriptionID]bool{}
	for _, sub := range i.Full {
		known[sub] = true
	}
	for _, sub := range more.Full {
		if !known[sub] {
			known[sub] = true
			i.Full = append(i.Full, sub)
		}
	}
}
