package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
)

func runCut(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "cut", `
Ends a right, and everything that hangs on it, on every plane: tokens, Web API,
webhook, certificates, live MQTT sessions and queued messages. KIND is one of
subscription, consent, agreement, app, provider and cert; ID is its ID, of a
cert its serial. There is no way back: what was cut is set up anew.

Prints the receipt: what ended, and for each plane how long after the commit it
had ended there. The receipt is signed and kept. Exit status 1 if a plane did
not confirm in time; the rights have ended all the same.

example:
  $ keyholder cut subscription 2b4d4f6a-8c0e-4d1b-9f5a-7c027a3c5e1f -reason "contract ended"`, "KIND", "ID").server().reading()
	reason := f.need("reason", "`TEXT`: why; it stands in the receipt and the audit trail")
	found, err := f.parse(args)
	if err != nil {
		return err
	}
	return f.cut(ctx, found[0], found[1], *reason)
}

// cut asks the server for a cut and prints the receipt.
func (f *flags) cut(ctx context.Context, kind, id, reason string) error {
	// A misspelt ID is told before a server is looked for.
	if _, err := keyholder.ParseTarget(kind, id); err != nil {
		return err
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := c.Cut(ctx, console.NewCut{Kind: kind, ID: id, Reason: reason})
	if err != nil {
		return err
	}
	if *f.json {
		err = printJSON(f.env.stdout, r)
	} else {
		err = printReceipt(f.env.stdout, r)
	}
	if err != nil {
		return err
	}
	for _, p := range r.Planes {
		if p.Failed != "" {
			complain(f.env, p.Plane+": "+p.Failed, "the rights have ended: every new request is refused. A connection may stay open until the server is restarted")
			return errNo
		}
	}
	return nil
}

// printReceipt writes a receipt for people.
func printReceipt(w io.Writer, r keyholder.Receipt) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "receipt\t%s\n", r.Receipt)
	fmt.Fprintf(t, "cut\t%s %s\n", r.Target.Kind, r.Target.ID)
	fmt.Fprintf(t, "reason\t%s\n", r.Reason)
	fmt.Fprintf(t, "by\t%s\n", r.Actor)
	fmt.Fprintf(t, "at\t%s, row %d of the audit trail\n", r.At.UTC().Format("2006-01-02 15:04:05.000000Z"), r.Audit)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(t, "\nENDED\tCOUNT\tWHICH")
	for _, e := range endedInWords(r.Ended) {
		fmt.Fprintln(t, e)
	}
	fmt.Fprintln(t, "\nPLANE\tAFTER\tCLOSED")
	for _, p := range r.Planes {
		line := fmt.Sprintf("%s\t%s\t%d", p.Plane, milliseconds(p.Took), p.Ended)
		if p.Failed != "" {
			line += "\tFAILED: " + p.Failed
		}
		fmt.Fprintln(t, line)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nsigned; `keyholder receipt show %s -signed` prints that form, -json everything\n", r.Receipt)
	return err
}

// endedInWords lists what ended, one line for each kind of thing.
func endedInWords(e keyholder.Ended) []string {
	var lines []string
	add := func(what string, ids []string) {
		if len(ids) == 0 {
			return
		}
		shown := strings.Join(ids[:min(len(ids), 3)], " ")
		if len(ids) > 3 {
			shown += fmt.Sprintf(" and %d more", len(ids)-3)
		}
		lines = append(lines, fmt.Sprintf("%s\t%d\t%s", what, len(ids), shown))
	}
	add("providers", texts(e.Providers))
	add("apps", texts(e.Apps))
	add("agreements", texts(e.Agreements))
	add("consents", texts(e.Consents))
	add("subscriptions", texts(e.Subscriptions))
	add("certificates", e.Certificates)
	add("grants", texts(e.Grants))
	add("webhooks", texts(e.Webhooks))
	return append(lines, fmt.Sprintf("queued messages\t%d", e.Messages))
}

func texts[T ~string](ids []T) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

// milliseconds writes a short time with a unit that does not change.
func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
