package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/conformance"
	"github.com/fds-keyholder/keyholder/internal/console"
)

func runWhy(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "why", `
Explains what would be decided about a subscription at this moment, by asking
the very function that the servers ask, and prints the chain that the decision
rests on. Exit status 1 if the answer is no.

The actions are
  read       the app reads items on the Web API with a token
  issue      the app gets a token
  connect    the app connects to the broker
  subscribe  the app subscribes to topics
  publish    the provider publishes
  deliver    a queued item leaves for the app
  certify    the app gets a certificate for the broker

example:
  $ keyholder why -subscription 2b4d4f6a-8c0e-4d1b-9f5a-7c027a3c5e1f -action read -kind events
  NO   may the app read events with an unexpired token of the subscription?
  the consent does not cover this kind of item
  W5: an OAuth2 token identifies and authorizes the resource owner at every endpoint (FDS 2.6.4.1)`).server().reading()
	q := map[string]*string{
		"subscription": f.need("subscription", "`ID`: the subscription"),
		"action":       f.need("action", "`ACTION`: "+strings.Join(console.Actions(), ", ")),
		"kind":         f.value("kind", "`KIND`: kind of items, for read, publish and deliver (default statuses)"),
		"topic":        f.value("topic", "`TOPIC`: topic or filter, for publish and subscribe"),
		"cert":         f.value("cert", "`SERIAL`: certificate, for connect, subscribe and publish (default the newest)"),
		"client_id":    f.value("client-id", "`ID`: MQTT client ID, for connect (default the subscription)"),
		"grant":        f.value("grant", "`GRANT`: grant, for issue (default the app's first)"),
	}
	if _, err := f.parse(args); err != nil {
		return err
	}
	parameters := map[string]string{}
	for name, v := range q {
		parameters[name] = *v
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	e, err := c.Why(ctx, parameters)
	if err != nil {
		return err
	}
	if *f.json {
		err = printJSON(env.stdout, e)
	} else {
		err = printExplanation(env, e)
	}
	if err == nil && !e.Allowed {
		return errNo
	}
	return err
}

func printExplanation(env *environment, e console.Explanation) error {
	answer := "YES"
	if !e.Allowed {
		answer = "NO "
	}
	if _, err := fmt.Fprintf(env.stdout, "%s  %s\n", answer, e.Question); err != nil {
		return err
	}
	if e.Reason != "" {
		fmt.Fprintln(env.stdout, e.Reason)
	}
	fmt.Fprintln(env.stdout, requirementInWords(e.Requirement))
	printChain(env.stdout, e.Chain)
	return nil
}

// requirementInWords says what a requirement demands and where it stands.
func requirementInWords(id keyholder.Requirement) string {
	for _, r := range conformance.Requirements() {
		if r.ID == id {
			return fmt.Sprintf("%s: %s (FDS %s)", r.ID, r.Text, r.Section)
		}
	}
	return string(id)
}
