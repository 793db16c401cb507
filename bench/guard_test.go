package bench_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// world is a server with an app that may read by client credentials.
type world struct {
	*keyholdertest.Server
	provider keyholder.Provider
	app      keyholder.App
	secret   string
	owner    keyholder.Owner
	sub      keyholder.SubscriptionID
	http     *http.Client
	password string // of the owner's user, if there is one
}

func newWorld(b *testing.B, options ...keyholdertest.Option) *world {
	b.Helper()
	w := &world{Server: keyholdertest.Start(b, options...)}
	w.provider, w.owner = w.AddProvider("Provider"), w.AddOwner("owner")
	w.app, w.secret = w.AddApp("App", keyholder.AuthSecret, "")
	w.sub = w.AddSubscription(w.AddAgreement(w.provider.ID, w.owner.ID), w.app.ID, "")
	w.http = w.HTTP()
	w.http.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	// One connection per worker: HTTP/2 would send all of them through one.
	w.http.Transport.(*http.Transport).ForceAttemptHTTP2 = false
	return w
}

func (w *world) token(ctx context.Context) (string, error) {
	access, _, err := w.ask(ctx, w.app, w.secret, url.Values{"grant_type": {"client_credentials"}, "scope": {keyholder.ScopeRead}, "subscription_id": {string(w.sub)}})
	return access, err
}

// ask asks the token endpoint.
func (w *world) ask(ctx context.Context, app keyholder.App, secret string, form url.Values) (access, refresh string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.Issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", "", err
	}
	r.SetBasicAuth(string(app.ID), secret)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := w.http.Do(r)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	var t struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		Error        string `json:"error"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&t); err != nil {
		return "", "", err
	}
	if t.AccessToken == "" {
		return "", "", keyholder.Errorf(keyholder.Denied, "token endpoint answered %s %s", resp.Status, t.Error)
	}
	return t.AccessToken, t.RefreshToken, nil
}

// BenchmarkGuard compares a check of an access token: from the cache, in
// full, and in full by a peer library.
func BenchmarkGuard(b *testing.B) {
	w := newWorld(b)
	raw, err := w.token(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	config := guard.Config{Issuer: w.Issuer, Audience: w.API, Keys: guard.FetchKeys(w.Issuer, w.http)}
	for _, c := range []struct {
		name string
		size int
	}{{"keyholder cached", 0}, {"keyholder uncached", -1}} {
		b.Run(c.name, func(b *testing.B) {
			config.CacheSize = c.size
			g, err := guard.New(config)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				t, err := g.Verify(b.Context(), raw)
				if err != nil || !keyholder.PermitToken(t, keyholder.Proof{}, time.Now()).Allowed {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("coreos go-oidc", func(b *testing.B) {
		ctx := oidc.ClientContext(b.Context(), w.http)
		p, err := oidc.NewProvider(ctx, w.Issuer)
		if err != nil {
			b.Fatal(err)
		}
		v := p.Verifier(&oidc.Config{ClientID: w.API})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(ctx, raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}
