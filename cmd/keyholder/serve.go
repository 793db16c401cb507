package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/fds-keyholder/keyholder/internal/daemon"
)

const serveHelp = `Serves a data folder until it is told to stop (SIGINT or SIGTERM): requests
under way are finished first. One line per door on standard output when all
of them answer; the log goes to standard error. On PostgreSQL a server waits
as a standby while another one is active on the same database.

example:
  $ keyholder serve -data /var/lib/keyholder`

func runServe(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "serve", serveHelp).server()
	if _, err := f.parse(args); err != nil {
		return err
	}
	dir := f.dataFolder()
	config, err := daemon.LoadConfig(dir)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(env.stderr, &slog.HandlerOptions{Level: config.Log.Level}))
	return daemon.Serve(ctx, daemon.Options{Dir: dir, Config: config, Log: log, Now: env.now}, func(d *daemon.Daemon) {
		fmt.Fprintf(env.stdout, "issuer %s\napi    %s\nmqtt   %s\n", d.Issuer, d.API, d.MQTT)
	})
}
