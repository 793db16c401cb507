package bench_test

import (
	"context"
	"fmt"
	"net/url"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// BenchmarkDatabase compares the two databases under the same work over
// HTTPS: tokens by client credentials, which write one audit row, and rotated
// refresh tokens, which change a grant. Both are durable. The PostgreSQL
// server runs on the same machine, on the same disk.
func BenchmarkDatabase(b *testing.B) {
	options := map[string][]keyholdertest.Option{
		"sqlite":   nil,
		"postgres": {keyholdertest.OnPostgres(storetest.NewDSN(b, storetest.Postgres(b)))},
	}
	for _, name := range []string{"sqlite", "postgres"} {
		w := newWorld(b, options[name]...)
		for _, clients := range []int{1, workers, 64} {
			b.Run(name+"/client credentials/"+label(clients), func(b *testing.B) {
				closedLoop(b, clients, func(int) error {
					_, err := w.token(b.Context())
					return err
				})
			})
		}
		app, secret := w.AddApp("Refreshing", keyholder.AuthSecret, redirect)
		tokens := make([]string, 64)
		for i := range tokens {
			tokens[i] = w.signIn(b, app, secret)
		}
		for _, clients := range []int{1, workers, 64} {
			b.Run(name+"/refresh/"+label(clients), func(b *testing.B) {
				closedLoop(b, clients, func(worker int) error {
					_, next, err := w.ask(b.Context(), app, secret, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens[worker]}})
					if err == nil {
						tokens[worker] = next
					}
					return err
				})
			})
		}
	}
}

func label(clients int) string { return fmt.Sprintf("clients=%d", clients) }

const redirect = "https://app.example/callback"

// signIn has a user of the owner sign in to an app and returns the refresh
// token.
func (w *world) signIn(b *testing.B, app keyholder.App, secret string) string {
	b.Helper()
	if w.password == "" {
		w.password = w.AddUser(w.owner.ID, "user")
	}
	var refresh string
	c, err := client.New(client.Config{Issuer: w.Issuer, API: w.API, ClientID: string(app.ID), Secret: secret, RedirectURI: redirect, RootCAs: w.Roots(),
		OnTokens: func(_ context.Context, t client.Tokens) error { refresh = t.Refresh; return nil }})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	signIn, err := c.SignIn(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	back, err := url.Parse(w.SignIn(signIn.URL, redirect, "user", w.password))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := signIn.Finish(b.Context(), back); err != nil {
		b.Fatal(err)
	}
	return refresh
}
