package main

import (
	"context"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
)

func runAgreementAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "agreement add", `
Records the business agreement of a provider and an owner and prints its ID. It
is the root of every right: subscriptions, certificates and tokens below it end
with it at the latest.

example:
  $ keyholder agreement add -provider 7a3c5e1f-2b4d-4f6a-8c0e-9d1b3f5a7c02 \
      -owner st-anna -purpose "refill planning" -end 2028-01-01
  6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30`).server().reading()
	provider := f.need("provider", "`ID`: the provider")
	owner := f.need("owner", "`KEY`: key or ID of the owner")
	purpose := f.need("purpose", "`TEXT`: what the data may be used for")
	start := f.time("start", "`DATE`: when it begins, 2027-01-31 or 2027-01-31T12:00:00Z (default now)")
	end := f.time("end", "`DATE`: when it is over; a date is its first moment, in UTC (default open-ended)")
	if _, err := f.parse(args); err != nil {
		return err
	}
	return ask(ctx, f, (*console.Client).AddAgreement, console.NewAgreement{Provider: *provider, Owner: *owner, Purpose: *purpose, Start: *start, End: *end},
		func(a console.Agreement) string { return string(a.ID) })
}

func agreements() noun[console.Agreement] {
	return noun[console.Agreement]{
		name: "agreement", plural: "agreements", key: "ID",
		list: (*console.Client).Agreements, show: (*console.Client).Agreement,
		columns: []column[console.Agreement]{
			{title: "id", text: func(a console.Agreement, _ time.Time) string { return string(a.ID) }},
			{title: "provider", text: func(a console.Agreement, _ time.Time) string { return a.ProviderName }},
			{title: "owner", text: func(a console.Agreement, _ time.Time) string { return a.OwnerKey }},
			{title: "purpose", text: func(a console.Agreement, _ time.Time) string { return a.Purpose }},
			{title: "state", text: func(a console.Agreement, now time.Time) string { return stateOf(a.Start, a.End, a.Cut, "cut", now) }},
			{title: "provider id", text: func(a console.Agreement, _ time.Time) string { return string(a.Provider) }, wide: true},
			{title: "owner id", text: func(a console.Agreement, _ time.Time) string { return string(a.Owner) }, wide: true},
			{title: "start", text: func(a console.Agreement, _ time.Time) string { return stamp(a.Start) }, wide: true},
			{title: "end", text: func(a console.Agreement, _ time.Time) string { return stamp(a.End) }, wide: true},
			{title: "added", text: func(a console.Agreement, _ time.Time) string { return stamp(a.Created) }, wide: true},
		},
		help: "Those that were cut are among them.",
		example: `  ID                                    PROVIDER  OWNER    PURPOSE          STATE
  6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30  Soap Inc  st-anna  refill planning  in force until 2028-01-01 00:00:00Z`,
	}
}

func consents() noun[console.Consent] {
	return noun[console.Consent]{
		name: "consent", plural: "consents", key: "ID",
		list: (*console.Client).Consents, show: (*console.Client).Consent,
		columns: []column[console.Consent]{
			{title: "id", text: func(c console.Consent, _ time.Time) string { return string(c.ID) }},
			{title: "owner", text: func(c console.Consent, _ time.Time) string { return c.OwnerKey }},
			{title: "app", text: func(c console.Consent, _ time.Time) string { return c.AppName }},
			{title: "scope", text: func(c console.Consent, _ time.Time) string { return joined(c.Scope, "all kinds") }},
			{title: "state", text: func(c console.Consent, now time.Time) string { return stateOf(c.Given, c.Expires, c.Cut, "cut", now) }},
			{title: "given by", text: func(c console.Consent, _ time.Time) string {
				return joined(nonEmpty(c.GivenBy), "the administrator, from the written agreement")
			}, wide: true},
			{title: "given", text: func(c console.Consent, _ time.Time) string { return stamp(c.Given) }, wide: true},
			{title: "agreement", text: func(c console.Consent, _ time.Time) string { return string(c.Agreement) }, wide: true},
			{title: "app id", text: func(c console.Consent, _ time.Time) string { return string(c.App) }, wide: true},
			{title: "subscription", text: func(c console.Consent, _ time.Time) string { return string(c.Subscription) }, wide: true},
		},
		help: "A consent is given by the owner's user when signing in, or recorded with\n`keyholder subscription add`.",
		example: `  ID                                    OWNER    APP      SCOPE      STATE
  1f0e9b7d-2a5c-4d4e-8f30-6f1e9a523c1b  st-anna  Cleaner  all kinds  in force`,
	}
}

func nonEmpty(id keyholder.UserID) []keyholder.UserID {
	if id == "" {
		return nil
	}
	return []keyholder.UserID{id}
}
