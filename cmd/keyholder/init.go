package main

import (
	"context"
	"fmt"

	"github.com/fds-keyholder/keyholder/internal/daemon"
)

const initHelp = `Creates a data folder: the certificate authority, the signing keys, the
database and a configuration that explains every key. It refuses a folder
that is not empty, so that no key is ever overwritten.

example:
  $ keyholder init -data /var/lib/keyholder
  $ keyholder serve -data /var/lib/keyholder`

func runInit(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "init", initHelp).server()
	if _, err := f.parse(args); err != nil {
		return err
	}
	dir := f.dataFolder()
	if err := daemon.Init(dir, env.now()); err != nil {
		return err
	}
	fmt.Fprintf(env.stdout, "%s\n", dir)
	fmt.Fprintf(env.stderr, "created; look at %s/%s, then `keyholder serve -data %s`\n", dir, daemon.ConfigName, dir)
	return nil
}
