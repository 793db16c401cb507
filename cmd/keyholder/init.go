package main

import (
	"context"
	"fmt"

	"github.com/fds-keyholder/keyholder/internal/daemon"
	"github.com/fds-keyholder/keyholder/internal/keyring"
)

const initHelp = `Creates a data folder: the certificate authority, the signing keys, the
database and a configuration that explains every key. It refuses a folder
that is not empty, so that no key is ever overwritten.

example:
  $ keyholder init -data /var/lib/keyholder
  $ keyholder serve -data /var/lib/keyholder`

func runInit(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "init", initHelp).server()
	dsnFile := f.value("database-dsn-file", "`FILE` (mode 0600) with the DSN of an empty PostgreSQL database to use instead of a SQLite file")
	sealFile := f.value("seal-key", "`FILE`, outside the data folder, with the key that seals all private keys; it is made if it is not there")
	module := f.value("pkcs11-module", "`FILE`: PKCS #11 library of an HSM that makes and keeps the signing keys")
	token := f.value("pkcs11-token", "`LABEL` of the token in the HSM")
	pinFile := f.value("pkcs11-pin-file", "`FILE` (mode 0600) with the PIN of the token")
	if _, err := f.parse(args); err != nil {
		return err
	}
	dir := f.dataFolder()
	options := daemon.InitOptions{DSNFile: *dsnFile, SealFile: *sealFile, HSM: keyring.HSM{Module: *module, Token: *token, PINFile: *pinFile}}
	if err := daemon.InitWith(ctx, dir, options, env.now()); err != nil {
		return err
	}
	fmt.Fprintf(env.stdout, "%s\n", dir)
	fmt.Fprintf(env.stderr, "created; look at %s/%s, then `keyholder serve -data %s`\n", dir, daemon.ConfigName, dir)
	return nil
}
