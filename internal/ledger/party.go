package ledger

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

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

// AddApp registers a client application; its ID and creation time are filled
// in. Errors: Invalid.
func (l *Ledger) AddApp(ctx context.Context, actor string, app keyholder.App) (keyholder.App, error) {
	if err := checkApp(app); err != nil {
		return keyholder.App{}, err
	}
	id, err := keyholder.NewID[keyholder.AppID](l.random)
	if err != nil {
		return keyholder.App{}, err
	}
	app.ID, app.Created, app.Cut = id, l.Now(), time.Time{}
	grants, err := toJSON(app.Grants)
	if err != nil {
		return keyholder.App{}, err
	}
	uris, err := toJSON(app.RedirectURIs)
	if err != nil {
		return keyholder.App{}, err
	}
	return app, l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec("INSERT INTO apps (id, name, grants, authentication, redirect_uris, created) VALUES (?, ?, ?, ?, ?, ?)",
			app.ID, app.Name, grants, app.Authentication, uris, micros(app.Created)); err != nil {
			return fmt.Errorf("add an app: %w", err)
		}
		tx.After(func() { l.view.set(func() { l.view.apps[app.ID] = app }) })
		return l.Append(tx, keyholder.EventPartyAdded, actor, string(app.ID),
			detail{"role": string(keyholder.RoleApp), "authentication": string(app.Authentication)})
	})
}

func checkApp(app keyholder.App) error {
	if err := checkName("name of the app", app.Name); err != nil {
		return err
	}
	if app.Authentication != keyholder.AuthSecret && app.Authentication != keyholder.AuthCertificate {
		return keyholder.Errorf(keyholder.Invalid, "unknown authentication method of an app").
			WithHint("use %s (recommended by FDS 2.6.5.1) or %s", keyholder.AuthCertificate, keyholder.AuthSecret)
	}
	if len(app.Grants) == 0 {
		return keyholder.Errorf(keyholder.Invalid, "the app has no grant").WithHint("FDS 2.6.5.1 recommends %s with %s",
			keyholder.GrantAuthorizationCode, keyholder.GrantRefreshToken)
	}
	for _, g := range app.Grants {
		switch g {
		case keyholder.GrantAuthorizationCode, keyholder.GrantClientCredentials:
		case keyholder.GrantRefreshToken:
			if !slices.Contains(app.Grants, keyholder.GrantAuthorizationCode) {
				return keyholder.Errorf(keyholder.Invalid, "the refresh_token grant needs the authorization_code grant")
			}
		default:
			return keyholder.Errorf(keyholder.Invalid, "unknown grant").
				WithHint("the grants are authorization_code, refresh_token and client_credentials; RFC 9700 forbids the implicit and password grants")
		}
	}
	if slices.Contains(app.Grants, keyholder.GrantAuthorizationCode) == (len(app.RedirectURIs) == 0) {
		return keyholder.Errorf(keyholder.Invalid, "an app has redirect URIs if, and only if, it uses the authorization_code grant")
	}
	for _, u := range app.RedirectURIs {
		if err := checkRedirectURI(u); err != nil {
			return err
		}
	}
	return nil
}

// checkRedirectURI accepts https, and http on the loopback interface for apps
// that run on the user's own machine (RFC 8252 7.3).
func checkRedirectURI(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil || strings.Contains(s, "#") || len(s) > 2000:
		return keyholder.Errorf(keyholder.Invalid, "a redirect URI is not an absolute URL without user and fragment")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http":
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.IsLoopback() {
			return nil
		}
	}
	return keyholder.Errorf(keyholder.Invalid, "a redirect URI is not https").
		WithHint("plain http is accepted only with the address 127.0.0.1 or [::1]")
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
	if err := l.each(ctx, "SELECT id, owner, login, created, disabled, renewed FROM users", func(scan scanner) error {
		var u keyholder.User
		var created, disabled, renewed int64
		err := scan(&u.ID, &u.Owner, &u.Login, &created, &disabled, &renewed)
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

func (l *Ledger) loadApps(ctx context.Context) error {
	return l.each(ctx, "SELECT id, name, grants, authentication, redirect_uris, created, cut FROM apps", func(scan scanner) error {
		var a keyholder.App
		var grants, uris string
		var created, cut int64
		if err := scan(&a.ID, &a.Name, &grants, &a.Authentication, &uris, &created, &cut); err != nil {
			return err
		}
		var err error
		if a.Grants, err = fromJSON[keyholder.GrantType](grants); err != nil {
			return err
		}
		if a.RedirectURIs, err = fromJSON[string](uris); err != nil {
			return err
		}
		a.Created, a.Cut = fromMicros(created), fromMicros(cut)
		l.view.apps[a.ID] = a
		return nil
	})
}
