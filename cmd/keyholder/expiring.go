package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fds-keyholder/keyholder"
)

func runExpiring(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "expiring", `
Lists what is in use and ends soon: agreements, consents, and certificates that
have no successor. Exit status 1 if there is something, so that it can be run
every night by a timer that reports failures.

example:
  $ keyholder expiring -within 30d
  ENDS                  WHAT         ID                                NAME                                                                 TODO
  2026-12-10 09:30:00Z  certificate  5d0c9b1f8e7a46c2b3d4e5f60718293a  provider 7a3c5e1f-2b4d-4f6a-8c0e-9d1b3f5a7c02 (Soap Inc)  renew with ...`).server().reading()
	within := f.need("within", "`TIME`: how far to look ahead: 30d, or 12h")
	if _, err := f.parse(args); err != nil {
		return err
	}
	d, err := parseDays(*within)
	if err != nil {
		return err
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	found, err := c.Expiring(ctx, d)
	if err != nil {
		return err
	}
	switch {
	case *f.json:
		if err := printJSON(env.stdout, found); err != nil {
			return err
		}
	case len(found) == 0:
		fmt.Fprintf(env.stderr, "nothing ends within %s\n", *within)
	default:
		t := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ENDS\tWHAT\tID\tNAME\tTODO")
		for _, e := range found {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", stamp(e.Ends), e.What, e.ID, e.Name, e.Todo)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if len(found) > 0 {
		return errNo
	}
	return nil
}

// parseDays reads a duration as package time does, and also days: "30d".
func parseDays(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= 3660 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	} else if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return d, nil
	}
	return 0, keyholder.Errorf(keyholder.Invalid, "expiring: -within is not a time").WithHint("write 30d or 12h, up to ten years")
}
