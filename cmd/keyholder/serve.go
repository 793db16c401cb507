package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/fds-keyholder/keyholder/internal/daemon"
)

const serveHelp = `Serves a data folder until it is told to stop (SIGINT or SIGTERM): requests
under way are finished first. One line per door on standard output when all
of them answer; the log goes to standard error.

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
	d, err := daemon.Start(ctx, daemon.Options{Dir: dir, Config: config, Log: log, Now: env.now})
	if err != nil {
		return err
	}
	fmt.Fprintf(env.stdout, "issuer %s\napi    %s\nmqtt   %s\n", d.Issuer, d.API, d.MQTT)
	failed := d.Wait(ctx)
	log.Info("stopping")
	if err := d.Close(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return failed
}
