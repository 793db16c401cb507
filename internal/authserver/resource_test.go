package authserver_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that the parameter resource (RFC 8707) restricts whom a token is for
// to registered audiences, in the authorization request for all tokens that
// come of it, in a token request for that token, and never widens it.
func TestResourceIndicators(t *testing.T) {
	b := open(t)
	const second, unknown = "https://archive.example", "https://evil.example"
	b.stop()
	b.audiences = []string{apiBase, second}
	b.start()
	every := any([]any{apiBase, second})
	audience := func(t *testing.T, r reply) any {
		t.Helper()
		if r.status != http.StatusOK {
			t.Fatalf("status %d: %s", r.status, r.body)
		}
		return b.claims(r.text("access_token"), "at+jwt")["aud"]
	}
	naming := func(form url.Values, resources ...string) url.Values {
		form["resource"] = resources
		return form
	}
	pushed := func(query url.Values) url.Values {
		r := b.push(query)
		if r.status != http.StatusCreated {
			t.Fatalf("push: %s", r.body)
		}
		return referring(b.app, r.text("request_uri"))
	}
	for name, c := range map[string]struct {
		query     url.Values
		atToken   []string
		want      any // of the first token
		refreshed any // of the next, which names nothing
		beyond    string
	}{
		"none named":       {authorization(b.app), nil, every, every, unknown},
		"one at the code":  {authorization(b.app), []string{second}, second, every, unknown},
		"one":              {naming(authorization(b.app), second), nil, second, second, apiBase},
		"one, named again": {naming(authorization(b.app), second), []string{second}, second, second, apiBase},
		"two":              {naming(authorization(b.app), apiBase, second), nil, every, every, unknown},
		"two, one at code": {naming(authorization(b.app), apiBase, second), []string{apiBase}, apiBase, every, unknown},
		"two at code":      {authorization(b.app), []string{second, apiBase}, every, every, unknown},
		"one, pushed":      {pushed(naming(authorization(b.app), second)), nil, second, second, apiBase},
		"same named twice": {authorization(b.app), []string{second, second}, second, every, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			w := b.browser().signIn(c.query).submit("action", "share")
			if w.left == nil || w.left.Query().Get("code") == "" {
				t.Fatalf("no code: %v", w.left)
			}
			form := with(redemption(w.left.Query().Get("code")), "client_id", string(b.app.ID), "client_secret", b.secret)
			// What goes too far does not cost the code.
			refused(t, b.post(b.client(), "/token", naming(with(form), c.beyond)), http.StatusBadRequest, "invalid_target")
			first := b.post(b.client(), "/token", naming(with(form), c.atToken...))
			if diff := cmp.Diff(c.want, audience(t, first)); diff != "" {
				t.Errorf("first token (-want +got):\n%s", diff)
			}
			renewal := b.asApp("grant_type", "refresh_token", "refresh_token", first.text("refresh_token"))
			refused(t, b.post(b.client(), "/token", naming(with(renewal), c.beyond)), http.StatusBadRequest, "invalid_target")
			if diff := cmp.Diff(c.refreshed, audience(t, b.post(b.client(), "/token", renewal))); diff != "" {
				t.Errorf("next token (-want +got):\n%s", diff)
			}
		})
	}

	sub := string(b.subscription(b.tokens().text("access_token")))
	machine := b.asApp("grant_type", "client_credentials", "subscription_id", sub)
	if got := audience(t, b.post(b.client(), "/token", naming(with(machine), second))); got != any(second) {
		t.Errorf("client credentials: for %v", got)
	}
	for _, bad := range []string{unknown, "", apiBase + "/", apiBase + "#x", "x", keyholder.WebhookAudience(keyholder.SubscriptionID(sub))} {
		refused(t, b.post(b.client(), "/token", naming(with(machine), bad)), http.StatusBadRequest, "invalid_target")
		w := b.browser().open(b.issuer + "/authorize?" + naming(authorization(b.app), apiBase, bad).Encode())
		if w.left == nil || w.left.Query().Get("error") != "invalid_target" {
			t.Errorf("authorization for %q: left for %v", bad, w.left)
		}
		refused(t, b.push(naming(authorization(b.app), bad)), http.StatusBadRequest, "invalid_target")
	}
	secret := must(b.ledger.AddSecret(t.Context(), "administrator", string(b.provider.ID)))
	push := values("grant_type", "client_credentials", "client_id", string(b.provider.ID), "client_secret", secret, "scope", "fds:push", "subscription_id", sub)
	refused(t, b.post(b.client(), "/token", naming(push, apiBase)), http.StatusBadRequest, "invalid_target")
}

// Ensure that tokens of a grant for an audience that is none any more are for
// nobody.
func TestResourceWithdrawn(t *testing.T) {
	b := open(t)
	b.stop()
	b.audiences = []string{apiBase, "https://archive.example"}
	b.start()
	query := authorization(b.app)
	query.Set("resource", "https://archive.example")
	w := b.browser().signIn(query).submit("action", "share")
	first := b.redeem(w.left.Query().Get("code"))
	if first.status != http.StatusOK {
		t.Fatal(first.body)
	}
	b.stop()
	b.audiences = []string{apiBase}
	b.start()
	refused(t, b.refresh(first.text("refresh_token")), http.StatusBadRequest, "invalid_target")
}
