package ledger

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// AddApp registers a client application; its ID and creation time are filled
// in, and its profile if it has none. Errors: Invalid, Conflict if the subject
// of a pinned authority is taken.
func (l *Ledger) AddApp(ctx context.Context, actor string, app keyholder.App) (keyholder.App, error) {
	app.Profile = cmp.Or(app.Profile, keyholder.ProfileFDS)
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
	keys, err := toJSON(app.Keys)
	if err != nil {
		return keyholder.App{}, err
	}
	uris, err := toJSON(app.RedirectURIs)
	if err != nil {
		return keyholder.App{}, err
	}
	return app, l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if err := l.checkPinned(app.Pinned); err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO apps (id, name, profile, grants, authentication, keys, pinned_pem, pinned_subject, pinned_lists, redirect_uris, pushed_only, created)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			app.ID, app.Name, app.Profile, grants, app.Authentication, keys, app.Pinned.PEM, app.Pinned.Subject, app.Pinned.RevocationLists, uris, app.PushedOnly, micros(app.Created)); err != nil {
			return fmt.Errorf("add an app: %w", err)
		}
		tx.After(func() {
			l.view.set(func() {
				l.view.apps[app.ID] = app
				l.view.vouch(app.Pinned.PEM)
			})
		})
		return l.Append(tx, keyholder.EventPartyAdded, actor, string(app.ID),
			detail{"role": string(keyholder.RoleApp), "authentication": string(app.Authentication), "profile": string(app.Profile)})
	})
}

// checkPinned refuses a subject that another app in force has, so that a
// certificate never names two. Whose authority vouches is not compared: it can
// be written in many ways, and a subject of one's own costs nothing.
func (l *Ledger) checkPinned(p keyholder.PinnedAuthority) error {
	if p != (keyholder.PinnedAuthority{}) && slices.ContainsFunc(l.PinnedApps(), func(a keyholder.App) bool { return a.Pinned.Subject == p.Subject }) {
		return keyholder.Errorf(keyholder.Conflict, "another app is registered with that subject of a pinned authority")
	}
	return nil
}

// PinnedApps returns the apps in force for which an authority of others may
// vouch, oldest first.
func (l *Ledger) PinnedApps() []keyholder.App {
	return where(&l.view, l.view.apps, func(a keyholder.App) time.Time { return a.Created }, func(a keyholder.App) bool {
		return a.Cut.IsZero() && a.Pinned != (keyholder.PinnedAuthority{})
	})
}

// ReplaceKeys gives an app that authenticates by assertions other public keys,
// at once and in place of all it had. Errors: NotFound, Invalid.
func (l *Ledger) ReplaceKeys(ctx context.Context, actor string, id keyholder.AppID, keys []keyholder.ClientKey) (keyholder.App, error) {
	stored, err := toJSON(keys)
	if err != nil {
		return keyholder.App{}, err
	}
	return l.changeApp(ctx, id, func(tx *store.Tx, app *keyholder.App) error {
		app.Keys = keys
		if _, err := tx.Exec("UPDATE apps SET keys = ? WHERE id = ?", stored, id); err != nil {
			return fmt.Errorf("replace the keys of an app: %w", err)
		}
		return l.Append(tx, keyholder.EventAppKeysReplaced, actor, string(id), detail{"keys": fmt.Sprint(len(keys))})
	})
}

// ReplaceRevocationLists gives the authority that is pinned for an app other
// revocation lists, which the caller has checked. They end in part, or as a
// whole, at the time until. Errors: NotFound, Invalid.
func (l *Ledger) ReplaceRevocationLists(ctx context.Context, actor string, id keyholder.AppID, lists string, until time.Time) (keyholder.App, error) {
	return l.changeApp(ctx, id, func(tx *store.Tx, app *keyholder.App) error {
		app.Pinned.RevocationLists = lists
		if _, err := tx.Exec("UPDATE apps SET pinned_lists = ? WHERE id = ?", lists, id); err != nil {
			return fmt.Errorf("replace the revocation lists of an app: %w", err)
		}
		return l.Append(tx, keyholder.EventRevocationLists, actor, string(id), detail{"until": until.UTC().Format(time.RFC3339)})
	})
}

// changeApp changes an app in force, if the result may be registered.
func (l *Ledger) changeApp(ctx context.Context, id keyholder.AppID, change func(*store.Tx, *keyholder.App) error) (app keyholder.App, err error) {
	err = l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if app = l.App(id); app.ID == "" || !app.Cut.IsZero() {
			return keyholder.Errorf(keyholder.NotFound, "no such app in force")
		}
		if err := change(tx, &app); err != nil {
			return err
		}
		if err := keyholder.CheckRegistration(app); err != nil {
			return err
		}
		tx.After(func() { l.view.set(func() { l.view.apps[id] = app }) })
		return nil
	})
	return app, err
}

func checkApp(app keyholder.App) error {
	if err := checkName("name of the app", app.Name); err != nil {
		return err
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
	return keyholder.CheckRegistration(app)
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

func (l *Ledger) loadApps(ctx context.Context) error {
	return l.each(ctx, "SELECT id, name, profile, grants, authentication, keys, pinned_pem, pinned_subject, pinned_lists, redirect_uris, pushed_only, created, cut FROM apps", func(scan scanner) error {
		var a keyholder.App
		var grants, keys, uris string
		var created, cut int64
		if err := scan(&a.ID, &a.Name, &a.Profile, &grants, &a.Authentication, &keys, &a.Pinned.PEM, &a.Pinned.Subject, &a.Pinned.RevocationLists,
			&uris, &a.PushedOnly, &created, &cut); err != nil {
			return err
		}
		var err error
		if a.Grants, err = fromJSON[keyholder.GrantType](grants); err != nil {
			return err
		}
		if a.Keys, err = fromJSON[keyholder.ClientKey](keys); err != nil {
			return err
		}
		if a.RedirectURIs, err = fromJSON[string](uris); err != nil {
			return err
		}
		a.Created, a.Cut = fromMicros(created), fromMicros(cut)
		l.view.apps[a.ID] = a
		if a.Cut.IsZero() {
			l.view.vouch(a.Pinned.PEM)
		}
		return nil
	})
}
