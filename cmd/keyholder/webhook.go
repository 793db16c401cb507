package main

import (
	"context"
	"time"

	"github.com/fds-keyholder/keyholder/internal/console"
)

func runWebhookAdd(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "webhook add", `
Registers where an app wants the pushes of a subscription and prints the ID of
the webhook. Every push carries a token from the receiver's own authorization
server, where we are a client: with a secret, or better with a certificate. The
files are copied into the data folder, for its owner only.

example:
  $ keyholder webhook add -subscription 2b4d4f6a-8c0e-4d1b-9f5a-7c027a3c5e1f \
      -url https://app.example/fds/push -issuer https://login.app.example \
      -client soap-inc -secret-file push.secret -ca app-ca.pem
  9d1b3f5a-7c02-4a3c-8e1f-2b4d4f6a8c0e`).server().reading()
	q := console.NewWebhook{}
	subscription := f.need("subscription", "`ID`: the subscription")
	url := f.need("url", "`URL`: where to push, https")
	issuer := f.need("issuer", "`URL`: the receiver's authorization server, https")
	client := f.need("client", "`ID`: our client ID there")
	secret := f.value("secret-file", "`FILE`: our secret there")
	cert := f.value("cert", "`FILE`: or our certificate there, PEM")
	key := f.value("key", "`FILE`: and its private key, PEM")
	ca := f.value("ca", "`FILE`: authorities that the receiver's servers are trusted by, PEM (default the system's)")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if (*secret == "") == (*cert == "") || (*cert == "") != (*key == "") {
		return f.wrong("give -secret-file, or -cert with -key")
	}
	q.Subscription, q.URL, q.Issuer, q.Client = *subscription, *url, *issuer, *client
	if *secret != "" {
		var err error
		if q.Secret, err = readSecret(env, *secret); err != nil {
			return err
		}
	}
	for into, path := range map[*string]string{&q.Certificate: *cert, &q.Key: *key, &q.CA: *ca} {
		if path == "" {
			continue
		}
		b, err := readFile(env, path)
		if err != nil {
			return err
		}
		*into = string(b)
	}
	return ask(ctx, f, (*console.Client).AddWebhook, q,
		func(w console.Webhook) string { return string(w.ID) })
}

func webhooks() noun[console.Webhook] {
	return noun[console.Webhook]{
		name: "webhook", plural: "webhooks", key: "ID",
		list: (*console.Client).Webhooks, show: (*console.Client).Webhook,
		columns: []column[console.Webhook]{
			{title: "id", text: func(w console.Webhook, _ time.Time) string { return string(w.ID) }},
			{title: "subscription", text: func(w console.Webhook, _ time.Time) string { return string(w.Subscription) }},
			{title: "url", text: func(w console.Webhook, _ time.Time) string { return w.URL }},
			{title: "state", text: func(w console.Webhook, now time.Time) string {
				return stateOf(time.Time{}, time.Time{}, w.Ended, "ended", now)
			}},
			{title: "issuer", text: func(w console.Webhook, _ time.Time) string { return w.Issuer }, wide: true},
			{title: "client", text: func(w console.Webhook, _ time.Time) string { return w.Client }, wide: true},
			{title: "added", text: func(w console.Webhook, _ time.Time) string { return stamp(w.Created) }, wide: true},
		},
		help: "Those that have ended are among them.",
		example: `  ID                                    SUBSCRIPTION                          URL                           STATE
  9d1b3f5a-7c02-4a3c-8e1f-2b4d4f6a8c0e  2b4d4f6a-8c0e-4d1b-9f5a-7c027a3c5e1f  https://app.example/fds/push  in force`,
	}
}
