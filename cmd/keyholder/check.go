package main

import (
	"context"
	"fmt"

	"github.com/fds-keyholder/keyholder/conformance"
)

func runCheck(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "check", `
Checks from outside whether a deployment of FDS version 2, of any make, keeps
the sixteen requirements of FDS 2.6.4. The target file names its addresses and
credentials of two consumers and a provider; -example prints one to start from.

A check connects with the client IDs of the consumers and publishes test
messages: use subscriptions made for the purpose. Exit status 1 if a requirement
fails or cannot be shown to hold.

example:
  $ keyholder check -example > target.json
  $ keyholder check -target target.json`).reading()
	target := f.value("target", "`FILE`: the deployment to check")
	only := f.values("only", "`ID`: check a requirement (M6) or a probe (M6.foreign) alone")
	timeout := f.Duration("timeout", conformance.DefaultTimeout, "`TIME`: longest time of a probe (default "+conformance.DefaultTimeout.String()+")")
	example := f.Bool("example", false, "print an example of a target file")
	if _, err := f.parse(args); err != nil {
		return err
	}
	switch {
	case *example && *target != "":
		return f.wrong("-example and -target are two things; give one")
	case *example:
		_, err := fmt.Fprint(env.stdout, conformance.Example())
		return err
	case *target == "":
		return f.wrong("-target is missing")
	case *timeout <= 0:
		return f.wrong("-timeout is not positive")
	}
	t, err := conformance.Load(*target)
	if err != nil {
		return err
	}
	n := 0
	o := conformance.Options{Only: *only, Timeout: *timeout, Now: env.now}
	if isTerminal(env, env.stderr) {
		o.Progress = func(r conformance.Result) {
			n++
			fmt.Fprintf(env.stderr, "\r\x1b[K%d %s", n, r.ID)
		}
	}
	report, err := conformance.Run(ctx, t, o)
	if n > 0 {
		fmt.Fprint(env.stderr, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	if *f.json {
		err = printJSON(env.stdout, report)
	} else {
		err = report.WriteTable(env.stdout, isTerminal(env, env.stdout))
	}
	if err == nil && !report.Holds {
		return errNo
	}
	return err
}
