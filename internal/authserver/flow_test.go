package authserver_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that a user can sign in, share an agreement and so give an app tokens
// that say what RFC 9068 and FDS 2.6.4.1 ask for, and that the app can renew
// them.
func TestCodeFlow(t *testing.T) {
	b := open(t)
	w := b.browser().signIn(authorization(b.app))
	for _, want := range []string{"CleanPlan", "Aqua Dispensers", "Northgate Station", "Cleaning on demand", "withdraw", b.agreement.End.UTC().Format("2 January 2006")} {
		if !strings.Contains(w.page.body, want) {
			t.Errorf("the consent page does not name %q", want)
		}
	}
	w.submit("action", "share")
	if w.left == nil {
		t.Fatalf("not sent back to the app: status %d\n%s", w.page.status, w.page.body)
	}
	if got := w.left.Scheme + "://" + w.left.Host + w.left.Path; got != callback {
		t.Errorf("sent to %s, want %s", got, callback)
	}
	q := w.left.Query()
	if q.Get("iss") != b.issuer || q.Get("state") != "a state" || q.Has("access_token") || q.Has("id_token") {
		t.Errorf("the response is %s; want iss %s, the state and no token", w.left, b.issuer)
	}

	before := time.Now().Unix()
	first := b.redeem(q.Get("code"))
	if first.status != http.StatusOK {
		t.Fatalf("redemption: status %d, body %s", first.status, first.body)
	}
	if first.json["expires_in"] != 300.0 || first.text("token_type") != "Bearer" || first.header.Get("Cache-Control") != "no-store" && !strings.Contains(first.header.Get("Cache-Control"), "no-store") {
		t.Errorf("the token answer is %s with %v", first.body, first.header)
	}
	c := b.claims(first.text("access_token"), "at+jwt")
	subs := b.ledger.SubscriptionsBetween(b.provider.ID, b.owner.ID)
	if len(subs) != 1 {
		t.Fatalf("got %d subscriptions, want 1", len(subs))
	}
	iat, _ := c["iat"].(float64)
	if int64(iat) < before || c["exp"] != iat+300 || c["jti"] == "" || c["jti"] == nil || c["grant_id"] == nil {
		t.Errorf("iat %v, exp %v, jti %v, grant_id %v", c["iat"], c["exp"], c["jti"], c["grant_id"])
	}
	for _, variable := range []string{"iat", "exp", "jti", "grant_id"} {
		delete(c, variable)
	}
	want := map[string]any{"iss": b.issuer, "sub": string(b.user.ID), "aud": apiBase, "client_id": string(b.app.ID),
		"scope": "openid fds:read", "subscription_id": string(subs[0].ID)}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}

	second := b.refresh(first.text("refresh_token"))
	if second.status != http.StatusOK || second.text("refresh_token") == first.text("refresh_token") || second.text("refresh_token") == "" {
		t.Fatalf("refresh: status %d, body %s", second.status, second.body)
	}
	if got := b.subscription(second.text("access_token")); got != subs[0].ID {
		t.Errorf("the renewed token is for %s, want %s", got, subs[0].ID)
	}
	if !b.active(second.text("access_token")) || !b.active(first.text("access_token")) {
		t.Error("fresh tokens are not active")
	}
	for kind, want := range map[keyholder.EventKind]int{keyholder.EventSignedIn: 1, keyholder.EventConsentGiven: 1,
		keyholder.EventSubscriptionCreated: 1, keyholder.EventGrantCreated: 1, keyholder.EventGrantRefreshed: 2} {
		if got := b.audited(kind); got != want {
			t.Errorf("%d audit rows of %s, want %d", got, kind, want)
		}
	}
}

// Ensure that the flow works with the client libraries that Go programs use.
func TestForeignClients(t *testing.T) {
	b := open(t)
	ctx := oidc.ClientContext(t.Context(), b.client())
	p, err := oidc.NewProvider(ctx, b.issuer)
	if err != nil {
		t.Fatal(err)
	}
	for name, style := range map[string]oauth2.AuthStyle{"header": oauth2.AuthStyleInHeader, "body": oauth2.AuthStyleInParams, "guessed": oauth2.AuthStyleAutoDetect} {
		t.Run(name, func(t *testing.T) {
			conf := oauth2.Config{ClientID: string(b.app.ID), ClientSecret: b.secret, RedirectURL: callback,
				Endpoint: p.Endpoint(), Scopes: []string{oidc.ScopeOpenID, keyholder.ScopeRead}}
			conf.Endpoint.AuthStyle = style
			v := oauth2.GenerateVerifier()
			w := b.browser().open(conf.AuthCodeURL("s", oauth2.S256ChallengeOption(v), oidc.Nonce("n")))
			w.submit("action", "signin", "login", b.user.Login, "password", password).submit("action", "share")
			if w.left == nil {
				t.Fatalf("not sent back: %s", w.page.body)
			}
			tok, err := conf.Exchange(ctx, w.left.Query().Get("code"), oauth2.VerifierOption(v))
			if err != nil {
				t.Fatal(err)
			}
			raw, _ := tok.Extra("id_token").(string)
			id, err := p.Verifier(&oidc.Config{ClientID: conf.ClientID}).Verify(ctx, raw)
			if err != nil {
				t.Fatal(err)
			}
			if id.Subject != string(b.user.ID) || id.Nonce != "n" {
				t.Errorf("ID token of %s with nonce %q", id.Subject, id.Nonce)
			}
			if _, err := p.Verifier(&oidc.Config{ClientID: "another"}).Verify(ctx, raw); err == nil {
				t.Error("the ID token is good for another client")
			}
			if b.active(raw) {
				t.Error("an ID token passes for an access token")
			}
			tok.Expiry = time.Now().Add(-time.Minute)
			again, err := conf.TokenSource(ctx, tok).Token()
			if err != nil {
				t.Fatal(err)
			}
			if again.AccessToken == tok.AccessToken || again.RefreshToken == tok.RefreshToken {
				t.Error("the refresh brought no new tokens")
			}
		})
	}
}

// Ensure that a code is good once and briefly, and that its replay ends what
// it gave.
func TestCodeReplay(t *testing.T) {
	b := open(t)
	code := b.code(b.app)
	first := b.redeem(code)
	if first.status != http.StatusOK || !b.active(first.text("access_token")) {
		t.Fatalf("redemption: %s", first.body)
	}
	refused(t, b.redeem(code), http.StatusBadRequest, "invalid_grant")
	if b.active(first.text("access_token")) {
		t.Error("after the replay the access token is still active")
	}
	refused(t, b.refresh(first.text("refresh_token")), http.StatusBadRequest, "invalid_grant")
	refused(t, b.redeem(code), http.StatusBadRequest, "invalid_grant")
	if n := b.audited(keyholder.EventTokenReused); n != 1 {
		t.Errorf("%d audit rows of the replay, want 1", n)
	}

	late := b.code(b.app)
	b.pass(61 * time.Second)
	refused(t, b.redeem(late), http.StatusBadRequest, "invalid_grant")
}

// Ensure that a code is worth nothing without its verifier, its redirect URI
// or its app, and that an attempt without them spends it.
func TestCodeBinding(t *testing.T) {
	b := open(t)
	other := must(b.ledger.AddApp(t.Context(), "administrator", keyholder.App{Name: "Other", Grants: b.app.Grants,
		Authentication: keyholder.AuthSecret, RedirectURIs: []string{callback}}))
	otherSecret := must(b.ledger.AddSecret(t.Context(), "administrator", string(other.ID)))
	for name, change := range map[string][]string{
		"wrong verifier":     {"code_verifier", strings.Repeat("x", 50)},
		"no verifier":        {"code_verifier", ""},
		"short verifier":     {"code_verifier", "short"},
		"other redirect URI": {"redirect_uri", callback + "/"},
		"no redirect URI":    {"redirect_uri", ""},
		"other app":          {"client_id", string(other.ID), "client_secret", otherSecret},
	} {
		t.Run(name, func(t *testing.T) {
			code := b.code(b.app)
			form := with(redemption(code), "client_id", string(b.app.ID), "client_secret", b.secret)
			refused(t, b.post(b.client(), "/token", with(form, change...)), http.StatusBadRequest, "invalid_grant")
			refused(t, b.redeem(code), http.StatusBadRequest, "invalid_grant")
		})
	}
}

// Ensure that of many at once who use one code exactly one gets tokens, and
// that the grant then ends, because one of them stole it.
func TestParallelRedemption(t *testing.T) {
	b := open(t)
	for range 3 {
		code := b.code(b.app)
		c := b.client()
		answers := atOnce(64, func() (*http.Response, error) {
			return c.PostForm(b.issuer+"/token", with(redemption(code), "client_id", string(b.app.ID), "client_secret", b.secret))
		})
		var won []reply
		for range 64 {
			a := <-answers
			switch r := read(t, a.resp, a.err); r.status {
			case http.StatusOK:
				won = append(won, r)
			default:
				refused(t, r, http.StatusBadRequest, "invalid_grant")
			}
		}
		if len(won) != 1 {
			t.Fatalf("%d of 64 got tokens, want exactly 1", len(won))
		}
		if b.active(won[0].text("access_token")) {
			t.Error("the grant outlived the reuse")
		}
	}
}
