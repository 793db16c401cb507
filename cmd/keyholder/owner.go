package main

import (
	"context"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
)

func runOwnerAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "owner add", `
Registers a resource owner, the customer whose devices and spaces they are, and
prints its ID. Commands take the key or the ID.

example:
  $ keyholder owner add -key st-anna -name "St. Anna Hospital"
  0b0f6c1e-9a37-4c7a-8d55-7e0d8b6c2f11`).server().reading()
	key := f.need("key", "`KEY`: short name: lower-case letters, digits, hyphens")
	name := f.need("name", "`NAME`: name for people")
	if _, err := f.parse(args); err != nil {
		return err
	}
	return ask(ctx, f, (*console.Client).AddOwner, console.NewOwner{Key: *key, Name: *name},
		func(o keyholder.Owner) string { return string(o.ID) })
}

func runOwnerFactor(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "owner factor", `
Settles whether the users of an owner need a second factor (an authenticator
app or a passkey) before they can share anything. "optional" asks those for it
who have set one up; "required" asks everybody. Who has none sets one up on the
account page, /account on the authorization server.

example:
  $ keyholder owner factor -owner st-anna -policy required
  required`).server().reading()
	owner := f.need("owner", "`KEY`: key or ID of the owner")
	policy := f.need("policy", "`POLICY`: optional or required")
	if _, err := f.parse(args); err != nil {
		return err
	}
	return ask(ctx, f, (*console.Client).SetFactorPolicy, console.FactorPolicy{Owner: *owner, Policy: *policy},
		func(o keyholder.Owner) string { return string(o.Factor) })
}

func owners() noun[keyholder.Owner] {
	return noun[keyholder.Owner]{
		name: "owner", plural: "owners", key: "KEY-OR-ID",
		list: (*console.Client).Owners, show: (*console.Client).Owner,
		columns: []column[keyholder.Owner]{
			{title: "id", text: func(o keyholder.Owner, _ time.Time) string { return string(o.ID) }},
			{title: "key", text: func(o keyholder.Owner, _ time.Time) string { return o.Key }},
			{title: "name", text: func(o keyholder.Owner, _ time.Time) string { return o.Name }},
			{title: "second factor", text: func(o keyholder.Owner, _ time.Time) string { return string(o.Factor) }, wide: true},
			{title: "added", text: func(o keyholder.Owner, _ time.Time) string { return stamp(o.Created) }, wide: true},
		},
		example: `  ID                                    KEY      NAME
  0b0f6c1e-9a37-4c7a-8d55-7e0d8b6c2f11  st-anna  St. Anna Hospital`,
	}
}
