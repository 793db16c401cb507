package main

import (
	"context"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/daemon"
)

func runKeyList(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "key list", `
Prints the public keys that verify access tokens and receipts, as a key set
(JWKS, RFC 7517). The authorization server publishes under /jwks those that
tokens are verified with; here are also the retired ones (member revoked),
for receipts.

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
after fifteen minutes, when everyone who verifies tokens has seen it. The old
key stays published for an hour after that, and in key list for ever, for the
receipts it signed. Nothing is interrupted.

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

func runKeyRetire(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "key retire", `
Takes a key out of use at once, because others may have it: it signs nothing
any more, and every token it signed is refused everywhere within a second.
Another key signs at once, without the fifteen minutes of key rotate. Apps
fetch new tokens. Receipts it signed are shown as signed by a retired key.

example:
  $ keyholder key retire -kid CkFoO0ZHgIPDSmRVSwNxBCSBAmjDKn5ojrnZpxVjTOE -reason "disk was stolen"`).server().reading()
	kid := f.need("kid", "`KID` of the key, as in key list")
	reason := f.need("reason", "`TEXT`: why, for the audit trail")
	c, _, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	k, err := c.RetireKey(ctx, console.KeyRetirement{ID: *kid, Reason: *reason})
	if err != nil {
		return err
	}
	if *f.json {
		return printJSON(env.stdout, k)
	}
	fmt.Fprintln(env.stdout, k.Signs)
	fmt.Fprintf(env.stderr, "%s is retired; the key above signs now\n", k.ID)
	return nil
}

func runKeySeal(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "key seal", `
Seals the private keys of a data folder, those of the certificate authority
too, with the key that keys.seal_file in its configuration names; that file is
made if it is not there. The server must not run. What fails leaves the folder
as it was. From then on a copy of the folder is worth nothing without that
file: keep a copy of it elsewhere.

example:
  $ keyholder key seal -data /var/lib/keyholder`).server()
	if _, err := f.parse(args); err != nil {
		return err
	}
	if err := daemon.SealFolder(f.dataFolder()); err != nil {
		return err
	}
	fmt.Fprintln(env.stderr, "sealed")
	return nil
}
