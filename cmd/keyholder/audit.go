package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

func runAuditList(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "audit list", `
Lists rows of the audit trail in order: everything that changed a right, and
every refusal worth keeping. -after continues after a row.

example:
  $ keyholder audit list -limit 2
  ROW  AT                    KIND         ACTOR          SUBJECT                               DETAIL
  1    2026-11-24 09:30:00Z  party.added  administrator  7a3c5e1f-2b4d-4f6a-8c0e-9d1b3f5a7c02  role=provider
  2    2026-11-24 09:30:12Z  party.added  administrator  0b0f6c1e-9a37-4c7a-8d55-7e0d8b6c2f11  key=st-anna role=owner`).server().reading()
	after := f.Int64("after", 0, "`ROW`: list what comes after this row")
	limit := f.Int("limit", 100, "`N`: at most this many rows, up to 10000 (default 100)")
	c, _, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	events, err := c.Audit(ctx, *after, *limit)
	if err != nil {
		return err
	}
	if *f.json {
		return printJSON(env.stdout, events)
	}
	t := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ROW\tAT\tKIND\tACTOR\tSUBJECT\tDETAIL")
	for _, e := range events {
		var detail []string
		for _, name := range slices.Sorted(maps.Keys(e.Detail)) {
			detail = append(detail, name+"="+e.Detail[name])
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\n", e.Seq, stamp(e.At), e.Kind, e.Actor, e.Subject, strings.Join(detail, " "))
	}
	return t.Flush()
}

func runAuditVerify(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "audit verify", `
Follows the hash chain of the audit trail from the first row. Exit status 1 if a
row was changed, removed, inserted or moved.

example:
  $ keyholder audit verify
  the audit trail is whole: 42 rows`).server().reading()
	c, _, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	state, err := c.VerifyAudit(ctx)
	if err != nil {
		return err
	}
	if *f.json {
		return printJSON(env.stdout, state)
	}
	_, err = fmt.Fprintf(env.stdout, "the audit trail is whole: %d rows\n", state.Rows)
	return err
}
