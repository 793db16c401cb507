package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

func runAppAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "app add", `
Registers a client application and prints its ID, which is also its OAuth2
client ID.

The app proves itself by -auth tls_client_auth, which FDS 2.6.5.1 strongly
recommends: a certificate of this Keyholder (keyholder cert issue -for app), or
of an authority that is pinned for this app with -ca and -subject;
self_signed_tls_client_auth: the certificate of -cert, which the app made
itself; private_key_jwt: assertions, verified with the public keys of -keys, a
JWK set; or client_secret: a secret, which is drawn and printed on a second
line, this one time, or written to the file of -out.

The grants are those negotiated between provider and app (FDS 2.6.5.1):
authorization_code (the owner's user signs in; needs -redirect), refresh_token
(the user need not sign in again) and client_credentials (the app asks for a
token by itself).

The profile fapi2 holds the app to the FAPI 2.0 Security Profile: no secret,
pushed authorization requests, tokens bound to a key of the app.

example:
  $ keyholder app add -name "Cleaner" -auth tls_client_auth -grant client_credentials
  fd1c3b5a-7e9f-4a2c-8b4d-6f8e0a1c3e24
  $ keyholder app add -name "Planner" -auth client_secret -out planner.secret \
      -grant authorization_code -grant refresh_token -redirect https://planner.example/back
  e5b7d9f1-3a5c-4e7f-9b1d-2c4e6a8f0b13`).server().reading()
	name := f.need("name", "`NAME`: name for people; the owner's user sees it")
	auth := f.need("auth", "`METHOD`: tls_client_auth, self_signed_tls_client_auth, private_key_jwt or client_secret")
	profile := f.value("profile", "`PROFILE`: fds or fapi2 (default fds)")
	grants := f.values("grant", "`GRANT`: a grant the app may use")
	redirects := f.values("redirect", "`URI`: address the user comes back to")
	pushed := f.Bool("pushed", false, "take authorization requests only if they were pushed (RFC 9126)")
	keys := f.value("keys", "`FILE`: JWK set of the app's public keys")
	cert := f.value("cert", "`FILE`: certificate in PEM that the app made itself")
	ca := f.value("ca", "`FILE`: certificate in PEM of the authority to pin")
	crl := f.value("crl", "`FILE`: revocation list of the authority of -ca; without one only keyholder cert revoke ends its certificates early")
	subject := f.value("subject", "`SUBJECT`: what certificates of -ca must name: dns:NAME, uri:URI or dn:DISTINGUISHED-NAME")
	out := f.value("out", "`FILE`: new file, mode 0600, for the secret")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if *out != "" && *auth != string(keyholder.AuthSecret) {
		return f.wrong("-out is for the secret of an app with -auth client_secret")
	}
	if len(*grants) == 0 {
		return f.wrong("-grant is missing")
	}
	q := console.NewApp{Name: *name, Authentication: keyholder.AuthMethod(*auth), Profile: keyholder.Profile(*profile), RedirectURIs: *redirects,
		PushedOnly: *pushed, Pinned: keyholder.PinnedAuthority{Subject: *subject}}
	for _, g := range *grants {
		q.Grants = append(q.Grants, keyholder.GrantType(g))
	}
	var err error
	if *keys != "" {
		if q.Keys, err = readKeys(env, *keys); err != nil {
			return err
		}
	}
	if *cert != "" {
		if q.Certificate, err = readSelfSigned(env, *cert); err != nil {
			return err
		}
	}
	if *ca != "" {
		if q.Pinned.PEM, err = readPinned(env, *ca); err != nil {
			return err
		}
	}
	if *crl != "" {
		if q.Pinned.RevocationLists, err = readRevocationLists(env, *crl); err != nil {
			return err
		}
	}
	return f.addApp(ctx, q, *out)
}

// addApp registers an app and hands over what was drawn for it.
func (f *flags) addApp(ctx context.Context, q console.NewApp, out string) error {
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	file, err := newSecretFile(out)
	if err != nil {
		return err
	}
	added, err := c.AddApp(ctx, q)
	if err != nil {
		file.drop()
		return err
	}
	if added.Secret == "" {
		return f.added(string(added.App.ID), added)
	}
	secret := added.Secret
	if file != nil {
		added.Secret = ""
	}
	return f.addedSecret(string(added.App.ID), secret, file, added)
}

// What an app brings is checked here before it is sent to the server, so that
// a private key goes no further than this process.

func readKeys(env *environment, path string) ([]byte, error) {
	b, err := readFile(env, path)
	if err == nil {
		_, err = keyholder.ParseClientKeys(b)
	}
	return b, err
}

func readSelfSigned(env *environment, path string) (string, error) {
	b, err := readFile(env, path)
	if err == nil {
		_, err = pki.ParseSelfSigned(b, "")
	}
	return string(b), err
}

func readPinned(env *environment, path string) (string, error) {
	b, err := readFile(env, path)
	if err == nil {
		err = pki.CheckPinned(b, env.now())
	}
	return string(b), err
}

func readRevocationLists(env *environment, path string) (string, error) {
	b, err := readFile(env, path)
	if err != nil {
		return "", err
	}
	return pki.RevocationListPEM(b)
}

func runAppCRL(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "app crl", `
Takes the newest revocation list (CRL) of the authority that is pinned for an
app, in PEM or DER, and prints the app's ID. Certificates of the app that it
lists end everywhere at once; those that never came here are refused when they
do. From then on the list must stay in force: when it has ended without a new
one, the authority's certificates are refused, so run this by a timer. If the
authority is several, give the lists of all in one file, in PEM.

example:
  $ keyholder app crl -id fd1c3b5a-7e9f-4a2c-8b4d-6f8e0a1c3e24 -crl ca.crl`).server().reading()
	id := f.need("id", "`ID`: the app")
	file := f.need("crl", "`FILE`: revocation list; - is standard input")
	if _, err := f.parse(args); err != nil {
		return err
	}
	lists, err := readRevocationLists(env, *file)
	if err != nil {
		return err
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	done, err := c.ReplaceAppRevocationLists(ctx, console.NewAppRevocationLists{App: *id, Lists: lists})
	if err != nil {
		return err
	}
	fmt.Fprintf(env.stderr, "in force until %s; certificates ended: %d\n", stamp(done.Until), len(done.Receipts))
	return f.added(string(done.App), done)
}

func runAppKeys(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "app keys", `
Replaces the public keys of an app with -auth private_key_jwt, at once, and
prints the app's ID. To change over without interruption, first give both the
old and the new key, and the new one alone when the app signs with it.

example:
  $ keyholder app keys -id fd1c3b5a-7e9f-4a2c-8b4d-6f8e0a1c3e24 -keys both.json`).server().reading()
	id := f.need("id", "`ID`: the app")
	file := f.need("keys", "`FILE`: JWK set of the app's public keys; - is standard input")
	if _, err := f.parse(args); err != nil {
		return err
	}
	keys, err := readKeys(env, *file)
	if err != nil {
		return err
	}
	return ask(ctx, f, (*console.Client).ReplaceAppKeys, console.NewAppKeys{App: *id, Keys: keys},
		func(app keyholder.App) string { return string(app.ID) })
}

// addedSecret prints an ID and hands over the secret that was drawn for it:
// to the file if there is one, else to standard output. v is everything, for
// JSON, without the secret if there is a file.
func (f *flags) addedSecret(id, secret string, file *secretFile, v any) error {
	if file != nil {
		if err := file.keep(secret + "\n"); err != nil {
			return err
		}
		return f.added(id, v)
	}
	fmt.Fprintln(f.env.stderr, "the secret is shown this one time; it is not kept")
	if *f.json {
		return printJSON(f.env.stdout, v)
	}
	_, err := fmt.Fprintf(f.env.stdout, "%s\n%s\n", id, secret)
	return err
}

// secretCommand draws a further secret of a client of that noun.
func secretCommand(noun string) func(context.Context, *environment, []string) error {
	return func(ctx context.Context, env *environment, args []string) error {
		f := newFlags(env, noun+" secret", `
Draws a further secret and prints it, this one time, or writes it to the file
of -out. The secret before it stays valid, so that the client can change over;
older ones stop working at once.

example:
  $ keyholder `+noun+` secret -id fd1c3b5a-7e9f-4a2c-8b4d-6f8e0a1c3e24 -out new.secret`).server().reading()
		id := f.need("id", "`ID`: whose secret")
		out := f.value("out", "`FILE`: new file, mode 0600, for the secret")
		c, _, err := f.connect(args)
		if err != nil {
			return err
		}
		defer c.Close()
		file, err := newSecretFile(*out)
		if err != nil {
			return err
		}
		added, err := c.AddSecret(ctx, *id)
		if err != nil {
			file.drop()
			return err
		}
		if file != nil {
			return file.keep(added.Secret + "\n")
		}
		fmt.Fprintln(env.stderr, "the secret is shown this one time; it is not kept")
		return f.added(added.Secret, added)
	}
}

func apps() noun[keyholder.App] {
	return noun[keyholder.App]{
		name: "app", plural: "apps", key: "ID",
		list: (*console.Client).Apps, show: (*console.Client).App,
		columns: []column[keyholder.App]{
			{title: "id", text: func(a keyholder.App, _ time.Time) string { return string(a.ID) }},
			{title: "name", text: func(a keyholder.App, _ time.Time) string { return a.Name }},
			{title: "profile", text: func(a keyholder.App, _ time.Time) string { return string(a.Profile) }},
			{title: "authentication", text: func(a keyholder.App, _ time.Time) string { return string(a.Authentication) }},
			{title: "grants", text: func(a keyholder.App, _ time.Time) string { return joined(a.Grants, "none") }},
			{title: "state", text: func(a keyholder.App, now time.Time) string {
				return stateOf(time.Time{}, time.Time{}, a.Cut, "cut", now)
			}},
			{title: "keys", text: func(a keyholder.App, _ time.Time) string {
				var ids []string
				for _, k := range a.Keys {
					ids = append(ids, k.ID)
				}
				return joined(ids, "-")
			}, wide: true},
			{title: "pinned", text: func(a keyholder.App, _ time.Time) string { return cmp.Or(a.Pinned.Subject, "-") }, wide: true},
			{title: "requests", text: func(a keyholder.App, _ time.Time) string {
				if a.MustPush() {
					return "pushed only"
				}
				return "by the browser, or pushed"
			}, wide: true},
			{title: "redirect", text: func(a keyholder.App, _ time.Time) string { return joined(a.RedirectURIs, "-") }, wide: true},
			{title: "added", text: func(a keyholder.App, _ time.Time) string { return stamp(a.Created) }, wide: true},
		},
		help: "Those that were cut are among them.",
		example: `  ID                                    NAME     PROFILE  AUTHENTICATION   GRANTS              STATE
  fd1c3b5a-7e9f-4a2c-8b4d-6f8e0a1c3e24  Cleaner  fds      tls_client_auth  client_credentials  in force`,
	}
}
