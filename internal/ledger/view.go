package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// view holds the rights in memory. mu guards all of it; every map is changed
// only by functions registered with store.Tx.After, which the single writer
// runs one at a time.
type view struct {
	mu                sync.RWMutex
	providers         map[keyholder.ProviderID]keyholder.Provider
	owners            map[keyholder.OwnerID]keyholder.Owner
	users             map[keyholder.UserID]keyholder.User
	identityProviders map[keyholder.OwnerID]keyholder.IdentityProvider
	apps              map[keyholder.AppID]keyholder.App
	servers           map[keyholder.ResourceServerID]keyholder.ResourceServer
	agreements        map[keyholder.AgreementID]keyholder.Agreement
	consents          map[keyholder.ConsentID]keyholder.Consent
	subscriptions     map[keyholder.SubscriptionID]keyholder.Subscription
	certificates      map[keyholder.Thumbprint]keyholder.Certificate
	thumbprints       map[string][]keyholder.Thumbprint // by subject, the oldest first
	vouchers          []string                          // grows only
	webhooks          map[keyholder.WebhookID]Webhook
	secrets           map[string][]secretHash // by client
	endings           endings
}

// set runs change with the view locked.
func (v *view) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

// Standing returns the subscription with the chain that carries it, or the
// zero value if there is none.
func (l *Ledger) Standing(id keyholder.SubscriptionID) keyholder.Standing {
	l.view.mu.RLock()
	defer l.view.mu.RUnlock()
	return l.view.standing(id)
}

func (v *view) standing(id keyholder.SubscriptionID) keyholder.Standing {
	s, ok := v.subscriptions[id]
	if !ok {
		return keyholder.Standing{}
	}
	return keyholder.Standing{Subscription: s, Consent: v.consents[s.Consent], Agreement: v.agreements[s.Agreement],
		Provider: v.providers[s.Provider], App: v.apps[s.App]}
}

// Peer is a certificate with everything that decides whether it proves an
// identity.
type Peer struct {
	Certificate keyholder.Certificate
	Standing    keyholder.Standing
	Provider    keyholder.Provider
	App         keyholder.App
}

// Permit asks [keyholder.PermitCertificate] about the peer.
func (p Peer) Permit(now time.Time) keyholder.Verdict {
	return keyholder.PermitCertificate(p.Certificate, p.Standing, p.Provider, p.App, now)
}

// Peer returns what the ledger knows of a certificate; its zero value stands
// for an unknown one.
func (l *Ledger) Peer(t keyholder.Thumbprint) Peer {
	l.view.mu.RLock()
	defer l.view.mu.RUnlock()
	return l.view.peer(t)
}

func (v *view) peer(t keyholder.Thumbprint) Peer {
	p := Peer{Certificate: v.certificates[t]}
	switch p.Certificate.Use {
	case keyholder.ForSubscription:
		p.Standing = v.standing(keyholder.SubscriptionID(p.Certificate.Subject))
	case keyholder.ForProvider:
		p.Provider = v.providers[keyholder.ProviderID(p.Certificate.Subject)]
	case keyholder.ForApp:
		p.App = v.apps[keyholder.AppID(p.Certificate.Subject)]
	}
	return p
}

// PeersOf returns the peers of all certificates of a subject, revoked ones
// included, the oldest first. It is for a broker that tells whom a certificate
// names and not which one it was.
func (l *Ledger) PeersOf(subject string) []Peer {
	l.view.mu.RLock()
	defer l.view.mu.RUnlock()
	peers := make([]Peer, 0, len(l.view.thumbprints[subject]))
	for _, t := range l.view.thumbprints[subject] {
		peers = append(peers, l.view.peer(t))
	}
	return peers
}

// addCertificate puts a certificate into the view, which the caller has
// locked.
func (v *view) addCertificate(c keyholder.Certificate) {
	v.certificates[c.Thumbprint] = c
	v.thumbprints[c.Subject] = append(v.thumbprints[c.Subject], c.Thumbprint)
}

// get reads one value of a map of the view.
func get[K comparable, V any](v *view, m map[K]V, k K) V {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return m[k]
}

// Provider returns a provider, or the zero value.
func (l *Ledger) Provider(id keyholder.ProviderID) keyholder.Provider {
	return get(&l.view, l.view.providers, id)
}

// Owner returns an owner, or the zero value.
func (l *Ledger) Owner(id keyholder.OwnerID) keyholder.Owner {
	return get(&l.view, l.view.owners, id)
}

// User returns a user, or the zero value.
func (l *Ledger) User(id keyholder.UserID) keyholder.User { return get(&l.view, l.view.users, id) }

// App returns an app, or the zero value.
func (l *Ledger) App(id keyholder.AppID) keyholder.App { return get(&l.view, l.view.apps, id) }

// ResourceServer returns a resource server, or the zero value.
func (l *Ledger) ResourceServer(id keyholder.ResourceServerID) keyholder.ResourceServer {
	return get(&l.view, l.view.servers, id)
}

// Agreement returns an agreement, or the zero value.
func (l *Ledger) Agreement(id keyholder.AgreementID) keyholder.Agreement {
	return get(&l.view, l.view.agreements, id)
}

// Certificate returns a certificate, or the zero value.
func (l *Ledger) Certificate(t keyholder.Thumbprint) keyholder.Certificate {
	return get(&l.view, l.view.certificates, t)
}

// OwnerByKey returns the owner of that key, or the zero value.
func (l *Ledger) OwnerByKey(key string) keyholder.Owner {
	l.view.mu.RLock()
	defer l.view.mu.RUnlock()
	for _, o := range l.view.owners {
		if o.Key == key {
			return o
		}
	}
	return keyholder.Owner{}
}

// AgreementBetween returns an agreement of the two that is in force now, the
// oldest if there are several, or the zero value.
func (l *Ledger) AgreementBetween(p keyholder.ProviderID, o keyholder.OwnerID) keyholder.Agreement {
	now := l.Now()
	between := where(&l.view, l.view.agreements, agreementCreated, func(a keyholder.Agreement) bool {
		return a.Provider == p && a.Owner == o && a.InForce(now)
	})
	if len(between) == 0 {
		return keyholder.Agreement{}
	}
	return between[0]
}

// AgreementsOf returns all agreements of an owner, ended ones included.
func (l *Ledger) AgreementsOf(o keyholder.OwnerID) []keyholder.Agreement {
	return where(&l.view, l.view.agreements, agreementCreated, func(a keyholder.Agreement) bool { return a.Owner == o })
}

// SubscriptionsBetween returns the subscriptions of a provider and an owner
// that were not cut.
func (l *Ledger) SubscriptionsBetween(p keyholder.ProviderID, o keyholder.OwnerID) []keyholder.Subscription {
	return where(&l.view, l.view.subscriptions, subscriptionCreated, func(s keyholder.Subscription) bool {
		return s.Provider == p && s.Owner == o && s.Cut.IsZero()
	})
}

// Webhooks returns the targets of a subscription that have not ended.
func (l *Ledger) Webhooks(id keyholder.SubscriptionID) []Webhook {
	return where(&l.view, l.view.webhooks, webhookCreated, func(w Webhook) bool { return w.Subscription == id && w.Ended.IsZero() })
}

func agreementCreated(a keyholder.Agreement) time.Time       { return a.Created }
func subscriptionCreated(s keyholder.Subscription) time.Time { return s.Created }
func webhookCreated(w Webhook) time.Time                     { return w.Created }

// list returns all values of a map, oldest first.
func list[K cmp.Ordered, V any](v *view, m map[K]V, created func(V) time.Time) []V {
	return where(v, m, created, func(V) bool { return true })
}

// where returns the values of a map that keep says yes to, oldest first.
func where[K cmp.Ordered, V any](v *view, m map[K]V, created func(V) time.Time, keep func(V) bool) []V {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var keys []K
	for k, value := range m {
		if keep(value) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b K) int {
		return cmp.Or(created(m[a]).Compare(created(m[b])), cmp.Compare(a, b))
	})
	out := make([]V, len(keys))
	for i, k := range keys {
		out[i] = m[k]
	}
	return out
}

// ListProviders returns all providers, oldest first; the other List methods
// do the same for their kind, cut ones included.
func (l *Ledger) ListProviders() []keyholder.Provider {
	return list(&l.view, l.view.providers, func(p keyholder.Provider) time.Time { return p.Created })
}

// ListOwners returns all owners.
func (l *Ledger) ListOwners() []keyholder.Owner {
	return list(&l.view, l.view.owners, func(o keyholder.Owner) time.Time { return o.Created })
}

// ListUsers returns all users.
func (l *Ledger) ListUsers() []keyholder.User {
	return list(&l.view, l.view.users, userCreated)
}

// ListApps returns all apps.
func (l *Ledger) ListApps() []keyholder.App {
	return list(&l.view, l.view.apps, func(a keyholder.App) time.Time { return a.Created })
}

// ListResourceServers returns all resource servers.
func (l *Ledger) ListResourceServers() []keyholder.ResourceServer {
	return list(&l.view, l.view.servers, func(r keyholder.ResourceServer) time.Time { return r.Created })
}

// ListAgreements returns all agreements.
func (l *Ledger) ListAgreements() []keyholder.Agreement {
	return list(&l.view, l.view.agreements, agreementCreated)
}

// ListConsents returns all consents.
func (l *Ledger) ListConsents() []keyholder.Consent {
	return list(&l.view, l.view.consents, func(c keyholder.Consent) time.Time { return c.Given })
}

// ListSubscriptions returns all subscriptions.
func (l *Ledger) ListSubscriptions() []keyholder.Subscription {
	return list(&l.view, l.view.subscriptions, subscriptionCreated)
}

// ListWebhooks returns all webhook targets.
func (l *Ledger) ListWebhooks() []Webhook {
	return list(&l.view, l.view.webhooks, webhookCreated)
}

// ListCertificates returns all client certificates.
func (l *Ledger) ListCertificates() []keyholder.Certificate {
	l.view.mu.RLock()
	defer l.view.mu.RUnlock()
	out := make([]keyholder.Certificate, 0, len(l.view.certificates))
	for _, c := range l.view.certificates {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b keyholder.Certificate) int {
		return cmp.Or(a.Issued.Compare(b.Issued), cmp.Compare(a.Serial, b.Serial))
	})
	return out
}

// ListRevoked returns the certificates that were issued here and revoked, for
// the revocation list of our authority.
func (l *Ledger) ListRevoked() []keyholder.Certificate {
	return slices.DeleteFunc(l.ListCertificates(), func(c keyholder.Certificate) bool {
		return c.Revoked.IsZero() || c.Origin != keyholder.OriginIssued
	})
}

// Vouchers returns, in PEM, the authorities that are pinned for apps and the
// self-signed certificates of apps. The list only grows while the ledger is
// open, so its length says whether it has changed; what was cut may still be
// in it. It must not be changed.
func (l *Ledger) Vouchers() []string {
	l.view.mu.RLock()
	defer l.view.mu.RUnlock()
	return l.view.vouchers
}

// load fills the view from the store. It runs before anything is served.
func (l *Ledger) load(ctx context.Context) error {
	v := &l.view
	v.providers = map[keyholder.ProviderID]keyholder.Provider{}
	v.owners = map[keyholder.OwnerID]keyholder.Owner{}
	v.users = map[keyholder.UserID]keyholder.User{}
	v.identityProviders = map[keyholder.OwnerID]keyholder.IdentityProvider{}
	v.apps = map[keyholder.AppID]keyholder.App{}
	v.servers = map[keyholder.ResourceServerID]keyholder.ResourceServer{}
	v.agreements = map[keyholder.AgreementID]keyholder.Agreement{}
	v.consents = map[keyholder.ConsentID]keyholder.Consent{}
	v.subscriptions = map[keyholder.SubscriptionID]keyholder.Subscription{}
	v.certificates = map[keyholder.Thumbprint]keyholder.Certificate{}
	v.thumbprints = map[string][]keyholder.Thumbprint{}
	v.webhooks = map[keyholder.WebhookID]Webhook{}
	v.secrets = map[string][]secretHash{}
	v.endings = newEndings()
	for _, load := range []func(context.Context) error{
		l.loadParties, l.loadIdentityProviders, l.loadApps, l.loadAgreements, l.loadConsents, l.loadSubscriptions,
		l.loadCertificates, l.loadWebhooks, l.loadSecrets, l.loadEndings,
	} {
		if err := load(ctx); err != nil {
			return err
		}
	}
	return nil
}

// scanner is what *sql.Rows and *sql.Row share.
type scanner func(dest ...any) error

// each runs a query and calls row for every line of the result.
func (l *Ledger) each(ctx context.Context, query string, row func(scanner) error, args ...any) error {
	return eachRow(ctx, l.store.Read(), query, row, args...)
}

// querier and rowQuerier are what the pool of readers and a transaction share.
type querier interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}

type rowQuerier interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

func eachRow(ctx context.Context, q querier, query string, row func(scanner) error, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return fmt.Errorf("read a row: %w", err)
		}
	}
	return rows.Err()
}

// fromJSON reads a stored JSON array.
func fromJSON[T any](s string) ([]T, error) {
	var out []T
	if err := json.Unmarshal([]byte(s), &out); err != nil {
		return nil, fmt.Errorf("stored JSON: %w", err)
	}
	return out, nil
}

// toJSON writes a JSON array for storing; nil becomes [].
func toJSON[T any](s []T) (string, error) {
	if s == nil {
		s = []T{}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("write JSON: %w", err)
	}
	return string(b), nil
}
