package main

import (
	"context"
	"fmt"
	"runtime/debug"
)

func runVersion(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "version", `
Prints the version of this program and of the Go it was built with.

example:
  $ keyholder version`)
	if _, err := f.parse(args); err != nil {
		return err
	}
	version, goVersion := "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version, goVersion = info.Main.Version, info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && version == "(devel)" {
				version = "development " + s.Value[:min(len(s.Value), 12)]
			}
		}
	}
	_, err := fmt.Fprintf(env.stdout, "keyholder %s, %s\n", version, goVersion)
	return err
}
