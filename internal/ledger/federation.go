package ledger

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// maxClientSecret bounds the secret that an identity provider has given us, in
// bytes.
const maxClientSecret = 4096

// SetIdentityProvider registers the OpenID provider of an owner, in place of
// an earlier one, with the secret it has given us. If the earlier one has
// another issuer, the sign-ins of those who are bound to it end. Errors:
// Invalid, NotFound.
func (l *Ledger) SetIdentityProvider(ctx context.Context, actor string, p keyholder.IdentityProvider, secret string) (keyholder.IdentityProvider, error) {
	if err := p.Check(); err != nil {
		return p, err
	}
	if secret == "" || len(secret) > maxClientSecret {
		return p, keyholder.Errorf(keyholder.Invalid, "the client secret is empty or longer than %d bytes", maxClientSecret)
	}
	sealed, err := l.seal(boundProvider(p), []byte(secret))
	if err != nil {
		return p, err
	}
	scopes, err := toJSON(p.Scopes)
	if err != nil {
		return p, err
	}
	hosts, err := toJSON(p.Hosts)
	if err != nil {
		return p, err
	}
	p.Set = l.Now()
	return p, l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if l.Owner(p.Owner).ID == "" {
			return keyholder.Errorf(keyholder.NotFound, "no such owner")
		}
		if earlier := l.IdentityProvider(p.Owner); earlier.Issuer != p.Issuer {
			if err := l.endFederated(tx, earlier); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`INSERT INTO identity_providers (owner, issuer, client_id, secret, scopes, hosts, name, trust_factors, set_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (owner) DO UPDATE SET issuer = excluded.issuer, client_id = excluded.client_id, secret = excluded.secret, scopes = excluded.scopes,
hosts = excluded.hosts, name = excluded.name, trust_factors = excluded.trust_factors, set_at = excluded.set_at`,
			p.Owner, p.Issuer, p.ClientID, sealed, scopes, hosts, p.Name, p.TrustFactors, micros(p.Set))
		if err != nil {
			return fmt.Errorf("set an identity provider: %w", err)
		}
		tx.After(func() { l.view.set(func() { l.view.identityProviders[p.Owner] = p }) })
		return l.Append(tx, keyholder.EventIDPSet, actor, string(p.Owner),
			detail{"issuer": p.Issuer, "client_id": p.ClientID, "trust_factors": strconv.FormatBool(p.TrustFactors)})
	})
}

// RemoveIdentityProvider removes the provider of an owner. The sign-ins of
// those who are bound to it end; what they have shared goes on. Errors:
// NotFound.
func (l *Ledger) RemoveIdentityProvider(ctx context.Context, actor string, owner keyholder.OwnerID) error {
	return l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		p := l.IdentityProvider(owner)
		if p.Owner == "" {
			return keyholder.Errorf(keyholder.NotFound, "the owner has no identity provider")
		}
		if err := l.endFederated(tx, p); err != nil {
			return err
		}
		if _, err := tx.Exec("DELETE FROM identity_providers WHERE owner = ?", owner); err != nil {
			return fmt.Errorf("remove an identity provider: %w", err)
		}
		tx.After(func() { l.view.set(func() { delete(l.view.identityProviders, owner) }) })
		return l.Append(tx, keyholder.EventIDPRemoved, actor, string(owner), detail{"issuer": p.Issuer})
	})
}

// endFederated ends the sign-ins of those who are bound to a provider.
func (l *Ledger) endFederated(tx *store.Tx, p keyholder.IdentityProvider) error {
	now := l.Now()
	bound := where(&l.view, l.view.users, userCreated, func(u keyholder.User) bool {
		return p.Owner != "" && u.Owner == p.Owner && u.Issuer == p.Issuer
	})
	for _, u := range bound {
		u.Renewed = now
		if _, err := tx.Exec("UPDATE users SET renewed = ? WHERE id = ?", micros(now), u.ID); err != nil {
			return fmt.Errorf("end the sign-ins of a user: %w", err)
		}
		tx.After(func() { l.view.set(func() { l.view.users[u.ID] = u }) })
	}
	return nil
}

// IdentityProvider returns the provider of an owner, or the zero value.
func (l *Ledger) IdentityProvider(owner keyholder.OwnerID) keyholder.IdentityProvider {
	return get(&l.view, l.view.identityProviders, owner)
}

// ListIdentityProviders returns the providers of all owners.
func (l *Ledger) ListIdentityProviders() []keyholder.IdentityProvider {
	return list(&l.view, l.view.identityProviders, func(p keyholder.IdentityProvider) time.Time { return p.Set })
}

// IdentityProviderSecret returns the secret that a provider has given us.
// Errors: NotFound.
func (l *Ledger) IdentityProviderSecret(ctx context.Context, p keyholder.IdentityProvider) (string, error) {
	var sealed []byte
	if err := l.each(ctx, "SELECT secret FROM identity_providers WHERE owner = ?", func(scan scanner) error { return scan(&sealed) }, p.Owner); err != nil {
		return "", err
	}
	if sealed == nil {
		return "", keyholder.Errorf(keyholder.NotFound, "the owner has no identity provider")
	}
	secret, err := l.unseal(boundProvider(p), sealed)
	return string(secret), err
}

// boundProvider is what a client secret is sealed for: shown to another
// issuer it would be given away.
func boundProvider(p keyholder.IdentityProvider) string {
	return fmt.Sprintf("identity provider %s %q %q", p.Owner, p.Issuer, p.ClientID)
}

// FederatedUser returns the user whom the provider of an owner calls subject.
// Errors: Denied.
func (l *Ledger) FederatedUser(owner keyholder.OwnerID, issuer, subject string) (keyholder.User, error) {
	p := l.IdentityProvider(owner)
	bound := where(&l.view, l.view.users, userCreated, func(u keyholder.User) bool {
		return keyholder.PermitFederated(u, p, issuer, subject).Allowed
	})
	if len(bound) != 1 {
		return keyholder.User{}, keyholder.Errorf(keyholder.Denied, "no user in force is bound to this subject")
	}
	return bound[0], nil
}

func userCreated(u keyholder.User) time.Time { return u.Created }

// AddFederatedUser registers a user of an owner whom the owner's provider
// calls subject. An empty password is none. Errors as for [Ledger.AddUser],
// and NotFound if the owner has no provider.
func (l *Ledger) AddFederatedUser(ctx context.Context, actor string, owner keyholder.OwnerID, login, subject, password string) (keyholder.User, error) {
	hash := ""
	if password != "" {
		var err error
		if hash, err = l.newPassword(ctx, password); err != nil {
			return keyholder.User{}, err
		}
	}
	return l.addUser(ctx, actor, owner, login, hash, func(tx *store.Tx, u *keyholder.User) error { return l.bind(tx, actor, u, subject) })
}

// BindUser binds a user to what the owner's provider calls them, in place of
// an earlier binding; an empty subject is none. Every sign-in of the user ends.
// Errors: Invalid, NotFound, Conflict if another user is bound to it.
func (l *Ledger) BindUser(ctx context.Context, actor string, user keyholder.UserID, subject string) (keyholder.User, error) {
	return l.changeUser(ctx, user, func(tx *store.Tx, u *keyholder.User) error { return l.bind(tx, actor, u, subject) })
}

// bind stores who a user is at the owner's provider.
func (l *Ledger) bind(tx *store.Tx, actor string, u *keyholder.User, subject string) error {
	u.Issuer, u.Subject, u.Renewed = "", subject, l.Now()
	if subject != "" {
		if err := checkName("subject", subject); err != nil {
			return err
		}
		if u.Issuer = l.IdentityProvider(u.Owner).Issuer; u.Issuer == "" {
			return keyholder.Errorf(keyholder.NotFound, "the owner has no identity provider").WithHint("`keyholder owner idp set` registers it")
		}
		others := where(&l.view, l.view.users, userCreated, func(o keyholder.User) bool {
			return o.ID != u.ID && o.Owner == u.Owner && o.Issuer == u.Issuer && o.Subject == subject
		})
		if len(others) > 0 {
			return keyholder.Errorf(keyholder.Conflict, "another user is bound to that subject")
		}
	}
	if _, err := tx.Exec("UPDATE users SET issuer = ?, subject = ?, renewed = ? WHERE id = ?", u.Issuer, u.Subject, micros(u.Renewed), u.ID); err != nil {
		return fmt.Errorf("bind a user: %w", err)
	}
	return l.appendSignIn(tx, keyholder.EventUserBound, actor, u.ID, detail{"issuer": u.Issuer})
}

func (l *Ledger) loadIdentityProviders(ctx context.Context) error {
	return l.each(ctx, "SELECT owner, issuer, client_id, scopes, hosts, name, trust_factors, set_at FROM identity_providers", func(scan scanner) error {
		var p keyholder.IdentityProvider
		var scopes, hosts string
		var set int64
		if err := scan(&p.Owner, &p.Issuer, &p.ClientID, &scopes, &hosts, &p.Name, &p.TrustFactors, &set); err != nil {
			return err
		}
		var err error
		if p.Scopes, err = fromJSON[string](scopes); err != nil {
			return err
		}
		p.Hosts, err = fromJSON[string](hosts)
		p.Set = fromMicros(set)
		l.view.identityProviders[p.Owner] = p
		return err
	})
}
