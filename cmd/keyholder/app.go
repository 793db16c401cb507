package main

import (
	"context"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
)

func runAppAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "app add", `
Registers a client application and prints its ID, which is also its OAuth2
client ID. With -auth client_secret a secret is drawn and printed on a second
line, this one time, or written to the file of -out. FDS 2.6.5.1 strongly
recommends -auth tls_client_auth: the app proves itself by a certificate.

The grants are those negotiated between provider and app (FDS 2.6.5.1):
authorization_code (the owner's user signs in; needs -redirect), refresh_token
(the user need not sign in again) and client_credentials (the app asks for a
token by itself).

example:
  $ keyholder app add -name "Cleaner" -auth tls_client_auth -grant client_credentials
  fd1c3b5a-7e9f-4a2c-8b4d-6f8e0a1c3e24
  $ keyholder app add -name "Planner" -auth client_secret -out planner.secret \
      -grant authorization_code -grant refresh_token -redirect https://planner.example/back
  e5b7d9f1-3a5c-4e7f-9b1d-2c4e6a8f0b13`).server().reading()
	name := f.need("name", "`NAME`: name for people; the owner's user sees it")
	auth := f.need("auth", "`METHOD`: client_secret or tls_client_auth")
	grants := f.values("grant", "`GRANT`: a grant the app may use")
	redirects := f.values("redirect", "`URI`: address the user comes back to")
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
	q := console.NewApp{Name: *name, Authentication: keyholder.AuthMethod(*auth), RedirectURIs: *redirects}
	for _, g := range *grants {
		q.Grants = append(q.Grants, keyholder.GrantType(g))
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	file, err := newSecretFile(*out)
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
			{title: "authentication", text: func(a keyholder.App, _ time.Time) string { return string(a.Authentication) }},
			{title: "grants", text: func(a keyholder.App, _ time.Time) string { return joined(a.Grants, "none") }},
			{title: "state", text: func(a keyholder.App, now time.Time) string {
				return stateOf(time.Time{}, time.Time{}, a.Cut, "cut", now)
			}},
			{title: "redirect", text: func(a keyholder.App, _ time.Time) string { return joined(a.RedirectURIs, "-") }, wide: true},
			{title: "added", text: func(a keyholder.App, _ time.Time) string { return stamp(a.Created) }, wide: true},
		},
		help: "Those that were cut are among them.",
		example: `  ID                                    NAME     AUTHENTICATION   GRANTS              STATE
  fd1c3b5a-7e9f-4a2c-8b4d-6f8e0a1c3e24  Cleaner  tls_client_auth  client_credentials  in force`,
	}
}
