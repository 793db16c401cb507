package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
)

func runSubscriptionAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "subscription add", `
Records the consent that an owner gave to an app in the written agreement, and
prints the ID of the subscription that this creates. Where the owner's user
signs in at the app instead, the consent given there creates it. Doing it again
for the same agreement and app renews the consent and prints the same ID.

example:
  $ keyholder subscription add -agreement 6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30 \
      -app fd1c3b5a-7e9f-4a2c-8b4d-6f8e0a1c3e24 -kind statuses -kind events
  2b4d4f6a-8c0e-4d1b-9f5a-7c027a3c5e1f`).server().reading()
	agreement := f.need("agreement", "`ID`: the agreement")
	app := f.need("app", "`ID`: the app")
	kinds := f.values("kind", "`KIND`: a kind of items that is shared (default all)")
	expires := f.time("expires", "`DATE`: when the consent ends (default with the agreement)")
	id := f.value("id", "`UUID`: subscription ID that another party supplied (default: a new one)")
	if _, err := f.parse(args); err != nil {
		return err
	}
	q := console.NewSubscription{Agreement: *agreement, App: *app, Expires: *expires, ID: *id}
	for _, k := range *kinds {
		kind, err := keyholder.ParseKind(k)
		if err != nil {
			return err
		}
		q.Scope = append(q.Scope, kind)
	}
	return ask(ctx, f, (*console.Client).AddSubscription, q,
		func(s console.Subscription) string { return string(s.ID) })
}

// subscriptions lists and shows: the list has no chain, so its rows are
// details with nothing hanging on them.
func subscriptions() noun[console.SubscriptionDetail] {
	type row = console.SubscriptionDetail
	return noun[row]{
		name: "subscription", plural: "subscriptions", key: "ID",
		list: func(c *console.Client, ctx context.Context) ([]row, error) {
			all, err := c.Subscriptions(ctx)
			rows := make([]row, len(all))
			for i, s := range all {
				rows[i].Subscription = s
			}
			return rows, err
		},
		show: (*console.Client).Subscription,
		columns: []column[row]{
			{title: "id", text: func(s row, _ time.Time) string { return string(s.ID) }},
			{title: "owner", text: func(s row, _ time.Time) string { return s.OwnerKey }},
			{title: "provider", text: func(s row, _ time.Time) string { return s.ProviderName }},
			{title: "app", text: func(s row, _ time.Time) string { return s.AppName }},
			{title: "queued", text: func(s row, _ time.Time) string { return strconv.FormatInt(s.Queued, 10) }},
			{title: "state", text: subscriptionState},
			{title: "scope", text: func(s row, _ time.Time) string { return joined(s.Scope, "all kinds") }, wide: true},
		},
		more: func(w io.Writer, s row, _ time.Time) { printChain(w, s.Chain) },
		help: "Those that were cut are among them.",
		example: `  ID                                    OWNER    PROVIDER  APP      QUEUED  STATE
  2b4d4f6a-8c0e-4d1b-9f5a-7c027a3c5e1f  st-anna  Soap Inc  Cleaner  0       in force`,
	}
}

func subscriptionState(s console.SubscriptionDetail, _ time.Time) string {
	switch {
	case !s.InForce:
		return s.Reason
	case s.Until.IsZero():
		return "in force"
	}
	return "in force until " + stamp(s.Until)
}

// printChain prints what carries a subscription, from the root on.
func printChain(w io.Writer, chain []console.Link) {
	if len(chain) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nCHAIN\tID\tNAME\tSTATE")
	for _, l := range chain {
		state := l.State
		if !l.Holds {
			state = "NOT IN FORCE: " + state
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", l.What, l.ID, l.Name, state)
	}
	_ = t.Flush() // a closed pipe shows itself in the command's own writes
}
