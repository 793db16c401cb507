package main

import (
	"context"
	"fmt"
	"time"
)

func runKeyList(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "key list", `
Prints the public keys that verify access tokens and receipts, as a key set
(JWKS, RFC 7517). The authorization server publishes the same set under /jwks.

example:
  $ keyholder key list > keys.json`).server()
	c, _, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	keys, err := c.Keys(ctx)
	if err != nil {
		return err
	}
	return printJSON(env.stdout, keys)
}

func runKeyRotate(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "key rotate", `
Makes a new key for tokens and receipts. It is published at once and signs
after fifteen minutes, when everyone who verifies tokens has seen it; until
then, and for what it signed for ever, the old key stays published. Nothing
is interrupted.

example:
  $ keyholder key rotate
  CkFoO0ZHgIPDSmRVSwNxBCSBAmjDKn5ojrnZpxVjTOE`).server().reading()
	c, _, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	k, err := c.RotateKey(ctx)
	if err != nil {
		return err
	}
	if *f.json {
		return printJSON(env.stdout, k)
	}
	fmt.Fprintln(env.stdout, k.ID)
	fmt.Fprintf(env.stderr, "published now, signs from %s\n", k.From.Format(time.RFC3339))
	return nil
}
