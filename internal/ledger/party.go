package ledger

import (
	"context"
	"fmt"
	"regexp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// AddProvider registers an information provider. Errors: Invalid.
func (l *Ledger) AddProvider(ctx context.Context, actor, name string) (keyholder.Provider, error) {
	if err := checkName("name of the provider", name); err != nil {
		return keyholder.Provider{}, err
	}
	id, err := keyholder.NewID[keyholder.ProviderID](l.random)
	if err != nil {
		return keyholder.Provider{}, err
	}
	p := keyholder.Provider{ID: id, Name: name, Created: l.Now()}
	return p, l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec("INSERT INTO providers (id, name, created) VALUES (?, ?, ?)", p.ID, p.Name, micros(p.Created)); err != nil {
			return fmt.Errorf("add a provider: %w", err)
		}
		tx.After(func() { l.view.set(func() { l.view.providers[p.ID] = p }) })
		return l.Append(tx, keyholder.EventPartyAdded, actor, string(p.ID), detail{"role": string(keyholder.RoleProvider)})
	})
}

var ownerKey = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// AddOwner registers a resource owner under a short key. Errors: Invalid,
// Conflict if the key is taken.
func (l *Ledger) AddOwner(ctx context.Context, actor, key, name string) (keyholder.Owner, error) {
	if !ownerKey.MatchString(key) {
		return keyholder.Owner{}, keyholder.Errorf(keyholder.Invalid, "the key of an owner has up to 63 lower-case letters, digits and hyphens").
			WithHint("for example st-anna")
	}
	if err := checkName("name of the owner", name); err != nil {
		return keyholder.Owner{}, err
	}
	id, err := keyholder.NewID[keyholder.OwnerID](l.random)
	if err != nil {
		return keyholder.Owner{}, err
	}
	o := keyholder.Owner{ID: id, Key: key, Name: name, Factor: keyholder.FactorOptional, Created: l.Now()}
	return o, l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if l.OwnerByKey(key).ID != "" {
			return keyholder.Errorf(keyholder.Conflict, "an owner with the key %s exists", key)
		}
		if _, err := tx.Exec("INSERT INTO owners (id, key, name, created) VALUES (?, ?, ?, ?)", o.ID, o.Key, o.Name, micros(o.Created)); err != nil {
			return fmt.Errorf("add an owner: %w", err)
		}
		tx.After(func() { l.view.set(func() { l.view.owners[o.ID] = o }) })
		return l.Append(tx, keyholder.EventPartyAdded, actor, string(o.ID), detail{"role": string(keyholder.RoleOwner), "key": key})
	})
}

// AddResourceServer registers a party that may introspect tokens. Errors:
// Invalid.
func (l *Ledger) AddResourceServer(ctx context.Context, actor, name string) (keyholder.ResourceServer, error) {
	if err := checkName("name of the resource server", name); err != nil {
		return keyholder.ResourceServer{}, err
	}
	id, err := keyholder.NewID[keyholder.ResourceServerID](l.random)
	if err != nil {
		return keyholder.ResourceServer{}, err
	}
	r := keyholder.ResourceServer{ID: id, Name: name, Created: l.Now()}
	return r, l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec("INSERT INTO resource_servers (id, name, created) VALUES (?, ?, ?)", r.ID, r.Name, micros(r.Created)); err != nil {
			return fmt.Errorf("add a resource server: %w", err)
		}
		tx.After(func() { l.view.set(func() { l.view.servers[r.ID] = r }) })
		return l.Append(tx, keyholder.EventPartyAdded, actor, string(r.ID), detail{"role": string(keyholder.RoleResourceServer)})
	})
}

func (l *Ledger) loadParties(ctx context.Context) error {
	v := &l.view
	if err := l.each(ctx, "SELECT id, name, created, cut FROM providers", func(scan scanner) error {
		var p keyholder.Provider
		var created, cut int64
		err := scan(&p.ID, &p.Name, &created, &cut)
		p.Created, p.Cut = fromMicros(created), fromMicros(cut)
		v.providers[p.ID] = p
		return err
	}); err != nil {
		return err
	}
	if err := l.each(ctx, "SELECT id, key, name, factor, created FROM owners", func(scan scanner) error {
		var o keyholder.Owner
		var created int64
		err := scan(&o.ID, &o.Key, &o.Name, &o.Factor, &created)
		o.Created = fromMicros(created)
		v.owners[o.ID] = o
		return err
	}); err != nil {
		return err
	}
	if err := l.each(ctx, "SELECT id, owner, login, issuer, subject, created, disabled, renewed FROM users", func(scan scanner) error {
		var u keyholder.User
		var created, disabled, renewed int64
		err := scan(&u.ID, &u.Owner, &u.Login, &u.Issuer, &u.Subject, &created, &disabled, &renewed)
		u.Created, u.Disabled, u.Renewed = fromMicros(created), fromMicros(disabled), fromMicros(renewed)
		v.users[u.ID] = u
		return err
	}); err != nil {
		return err
	}
	return l.each(ctx, "SELECT id, name, created FROM resource_servers", func(scan scanner) error {
		var r keyholder.ResourceServer
		var created int64
		err := scan(&r.ID, &r.Name, &created)
		r.Created = fromMicros(created)
		v.servers[r.ID] = r
		return err
	})
}
