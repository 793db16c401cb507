package main

import (
	"context"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
)

func runResourceServerAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "resourceserver add", `
Registers a party that may introspect tokens (RFC 7662) and nothing else, for
example a provider's own API gateway. Prints its ID, which is its OAuth2 client
ID, and on a second line its secret, this one time, or writes the secret to the
file of -out.

example:
  $ keyholder resourceserver add -name "gateway" -out gateway.secret
  c2d8a1b4-5e6f-4a7b-8c9d-0e1f2a3b4c5d`).server().reading()
	name := f.need("name", "`NAME`: name for people")
	out := f.value("out", "`FILE`: new file, mode 0600, for the secret")
	c, _, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	file, err := newSecretFile(*out)
	if err != nil {
		return err
	}
	added, err := c.AddResourceServer(ctx, console.NewResourceServer{Name: *name})
	if err != nil {
		file.drop()
		return err
	}
	secret := added.Secret
	if file != nil {
		added.Secret = ""
	}
	return f.addedSecret(string(added.ResourceServer.ID), secret, file, added)
}

func resourceServers() noun[keyholder.ResourceServer] {
	return noun[keyholder.ResourceServer]{
		name: "resourceserver", plural: "resource servers", key: "ID",
		list: (*console.Client).ResourceServers, show: (*console.Client).ResourceServer,
		columns: []column[keyholder.ResourceServer]{
			{title: "id", text: func(r keyholder.ResourceServer, _ time.Time) string { return string(r.ID) }},
			{title: "name", text: func(r keyholder.ResourceServer, _ time.Time) string { return r.Name }},
			{title: "added", text: func(r keyholder.ResourceServer, _ time.Time) string { return stamp(r.Created) }, wide: true},
		},
		example: `  ID                                    NAME
  c2d8a1b4-5e6f-4a7b-8c9d-0e1f2a3b4c5d  gateway`,
	}
}
