package main

import (
	"context"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
)

func runProviderAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "provider add", `
Registers an information provider and prints its ID, which is also its OAuth2
client ID and its MQTT client ID. A provider proves itself by certificate; see
keyholder help cert issue.

example:
  $ keyholder provider add -name "Soap Inc"
  7a3c5e1f-2b4d-4f6a-8c0e-9d1b3f5a7c02`).server().reading()
	name := f.need("name", "`NAME`: name for people")
	if _, err := f.parse(args); err != nil {
		return err
	}
	return ask(ctx, f, (*console.Client).AddProvider, console.NewProvider{Name: *name},
		func(p keyholder.Provider) string { return string(p.ID) })
}

func providers() noun[keyholder.Provider] {
	return noun[keyholder.Provider]{
		name: "provider", plural: "providers", key: "ID",
		list: (*console.Client).Providers, show: (*console.Client).Provider,
		columns: []column[keyholder.Provider]{
			{title: "id", text: func(p keyholder.Provider, _ time.Time) string { return string(p.ID) }},
			{title: "name", text: func(p keyholder.Provider, _ time.Time) string { return p.Name }},
			{title: "state", text: func(p keyholder.Provider, now time.Time) string {
				return stateOf(time.Time{}, time.Time{}, p.Cut, "cut", now)
			}},
			{title: "added", text: func(p keyholder.Provider, _ time.Time) string { return stamp(p.Created) }, wide: true},
		},
		help: "Those that were cut are among them.",
		example: `  ID                                    NAME      STATE
  7a3c5e1f-2b4d-4f6a-8c0e-9d1b3f5a7c02  Soap Inc  in force`,
	}
}

// ask sends a request to the server and prints what came of it as added does.
// name is its ID, or what else a script may take.
func ask[Q, A any](ctx context.Context, f *flags, do func(*console.Client, context.Context, Q) (A, error), q Q, name func(A) string) error {
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	a, err := do(c, ctx, q)
	if err != nil {
		return err
	}
	return f.added(name(a), a)
}

// added prints what an add command made: its ID alone on a line, so that a
// script can take it, or everything as JSON.
func (f *flags) added(id string, v any) error {
	if *f.json {
		return printJSON(f.env.stdout, v)
	}
	_, err := fmt.Fprintln(f.env.stdout, id)
	return err
}
