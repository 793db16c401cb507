package main

import (
	"cmp"
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/fds-keyholder/keyholder/internal/console"
)

func runOwnerIDPSet(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "owner idp set", `
Registers the OpenID provider of an owner, at which its users can sign in
instead of typing a password here, in place of an earlier one. Prints the
redirect URI that is to be registered there. Users are bound to it by
"user add -subject" and "user bind", by what the provider calls them and by
nothing else. A sign-in there counts as one factor, unless its ID token says
that it was more (amr "mfa") or -trust-factors is given.

The provider's endpoints must be on the host of the issuer, or on one named by
-host. With -name, sign-in pages have a button with that name; without it the
users type the owner's key first.

example:
  $ keyholder owner idp set -owner st-anna -issuer https://login.st-anna.example -client-id keyholder -secret-file idp.secret -name "St. Anna"
  https://auth.example/federation/0b0f6c1e-9a37-4c7a-8d55-7e0d8b6c2f11/callback`).server().reading()
	owner := f.need("owner", "`KEY`: key or ID of the owner")
	issuer := f.need("issuer", "`URL`: issuer, exactly as the provider's metadata say it")
	client := f.need("client-id", "`ID`: of this server at the provider")
	file := f.need("secret-file", "`FILE`: file with the client secret; - is standard input")
	scopes := f.values("scope", "`SCOPE`: asked for beside openid")
	hosts := f.values("host", "`HOST`: further host, with its port, that the provider's endpoints are on")
	name := f.value("name", "`NAME`: on the button of the sign-in page")
	trust := f.Bool("trust-factors", false, "a sign-in there counts as two factors always")
	if _, err := f.parse(args); err != nil {
		return err
	}
	secret, err := readSecret(env, *file)
	if err != nil {
		return err
	}
	return ask(ctx, f, (*console.Client).SetIdentityProvider, console.NewIdentityProvider{Owner: *owner, Issuer: *issuer, ClientID: *client, ClientSecret: secret,
		Scopes: *scopes, Hosts: *hosts, Name: *name, TrustFactors: *trust},
		func(p console.IdentityProvider) string { return p.RedirectURI })
}

func runOwnerIDPShow(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "owner idp show", `
Shows the OpenID provider of an owner. Its client secret is not shown.

example:
  $ keyholder owner idp show st-anna
  owner          st-anna
  issuer         https://login.st-anna.example
  client ID      keyholder
  redirect URI   https://auth.example/federation/0b0f6c1e-9a37-4c7a-8d55-7e0d8b6c2f11/callback
  scopes         openid
  further hosts  -
  button         St. Anna
  counts as      one factor, or what the ID token says
  set            2026-11-24 09:30:00Z`, "KEY-OR-ID").server().reading()
	c, positional, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	p, err := c.IdentityProvider(ctx, positional[0])
	if err != nil {
		return err
	}
	if *f.json {
		return printJSON(env.stdout, p)
	}
	factors := "one factor, or what the ID token says"
	if p.TrustFactors {
		factors = "two factors"
	}
	t := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{{"owner", p.OwnerKey}, {"issuer", p.Issuer}, {"client ID", p.ClientID}, {"redirect URI", p.RedirectURI},
		{"scopes", joined(append([]string{"openid"}, p.Scopes...), "")}, {"further hosts", joined(p.Hosts, "-")},
		{"button", cmp.Or(p.Name, "-, users type the owner's key")}, {"counts as", factors}, {"set", stamp(p.Set)}} {
		fmt.Fprintf(t, "%s\t%s\n", line[0], line[1])
	}
	return t.Flush()
}

func runOwnerIDPRemove(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "owner idp remove", `
Removes the OpenID provider of an owner. The sign-ins of users who are bound to
it end; what they have shared goes on. Who has no password has no way in until
a provider of the same issuer is set again, or "user recover" gives them one.

example:
  $ keyholder owner idp remove st-anna
  https://login.st-anna.example`, "KEY-OR-ID").server().reading()
	positional, err := f.parse(args)
	if err != nil {
		return err
	}
	return ask(ctx, f, (*console.Client).RemoveIdentityProvider, console.IdentityProviderRemoval{Owner: positional[0]},
		func(p console.IdentityProvider) string { return p.Issuer })
}
