package authserver_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// push pushes an authorization request of the secret app.
func (b *bench) push(query url.Values) reply {
	b.t.Helper()
	return b.post(b.client(), "/par", with(query, "client_secret", b.secret))
}

// pushed pushes a sound request and returns its request_uri.
func (b *bench) pushed() string {
	b.t.Helper()
	r := b.push(authorization(b.app))
	if r.status != http.StatusCreated || r.json["expires_in"] != 60.0 || !strings.HasPrefix(r.text("request_uri"), "urn:ietf:params:oauth:request_uri:") {
		b.t.Fatalf("push: status %d, body %s", r.status, r.body)
	}
	return r.text("request_uri")
}

func referring(app keyholder.App, uri string, more ...string) url.Values {
	return with(values("client_id", string(app.ID), "request_uri", uri), more...)
}

// notTaken checks that a reference gives an error page and leads nowhere.
func notTaken(t *testing.T, w *browser) {
	t.Helper()
	if w.left != nil || w.page.status != http.StatusBadRequest || !strings.Contains(w.page.body, "used up") {
		t.Errorf("left for %v, status %d:\n%s", w.left, w.page.status, w.page.body)
	}
}

// Ensure that an app can push its request (RFC 9126), with each way to
// authenticate, and that the browser that brings the reference goes the whole
// way to tokens, by GET and by POST.
func TestPushedFlow(t *testing.T) {
	b := open(t)
	cert := b.certificate(keyholder.ForApp, string(b.certApp.ID))
	basic := must(http.NewRequest(http.MethodPost, b.issuer+"/par", strings.NewReader(authorization(b.app).Encode())))
	basic.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	basic.SetBasicAuth(url.QueryEscape(string(b.app.ID)), b.secret)
	resp, err := b.client().Do(basic)
	for name, c := range map[string]struct {
		answer reply
		app    keyholder.App
		finish func(code string) reply
	}{
		"body":   {b.push(authorization(b.app)), b.app, b.redeem},
		"header": {read(t, resp, err), b.app, b.redeem},
		"certificate": {b.post(b.client(cert), "/par", authorization(b.certApp)), b.certApp, func(code string) reply {
			return b.post(b.client(cert), "/token", with(redemption(code), "client_id", string(b.certApp.ID)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.answer.status != http.StatusCreated || !strings.Contains(c.answer.header.Get("Cache-Control"), "no-store") {
				t.Fatalf("push: status %d, body %s, %v", c.answer.status, c.answer.body, c.answer.header)
			}
			w := b.browser().signIn(referring(c.app, c.answer.text("request_uri")))
			w.submit("action", "share")
			if w.left == nil || w.left.Query().Get("state") != "a state" || w.left.Query().Get("iss") != b.issuer {
				t.Fatalf("left for %v; page %d:\n%s", w.left, w.page.status, w.page.body)
			}
			r := c.finish(w.left.Query().Get("code"))
			if r.status != http.StatusOK || b.claims(r.text("id_token"), "JWT")["nonce"] != "a nonce" {
				t.Errorf("redemption: status %d, body %s", r.status, r.body)
			}
		})
	}
	w := b.browser()
	w.send(b.issuer+"/authorize", referring(b.app, b.pushed()))
	if w.submit("action", "refuse"); w.left == nil || w.left.Query().Get("error") != "access_denied" {
		t.Errorf("by POST: left for %v; page %d:\n%s", w.left, w.page.status, w.page.body)
	}
}

// Ensure that a reference works once, also of many at once, within a minute,
// for its own app, and that another app's attempt does not spend it.
func TestRequestURI(t *testing.T) {
	b := open(t)
	t.Run("replayed", func(t *testing.T) {
		uri := b.pushed()
		w := b.browser().signIn(referring(b.app, uri))
		notTaken(t, b.browser().open(b.issuer+"/authorize?"+referring(b.app, uri).Encode()))
		if w.submit("action", "share"); w.left == nil || w.left.Query().Get("code") == "" {
			t.Fatalf("the first one was disturbed: %d\n%s", w.page.status, w.page.body)
		}
		notTaken(t, w.open(b.issuer+"/authorize?"+referring(b.app, uri).Encode()))
	})
	t.Run("at once", func(t *testing.T) {
		address, c := b.issuer+"/authorize?"+referring(b.app, b.pushed()).Encode(), b.client()
		answers, won := atOnce(16, func() (*http.Response, error) { return c.Get(address) }), 0
		for range 16 {
			a := <-answers
			switch r := read(t, a.resp, a.err); r.status {
			case http.StatusSeeOther:
				won++
			case http.StatusBadRequest:
			default:
				t.Errorf("status %d, body %s", r.status, r.body)
			}
		}
		if won != 1 {
			t.Errorf("%d of 16 began a sign-in, want 1", won)
		}
	})
	t.Run("another app's", func(t *testing.T) {
		uri := b.pushed()
		notTaken(t, b.browser().open(b.issuer+"/authorize?"+referring(b.certApp, uri).Encode()))
		notTaken(t, b.browser().open(b.issuer+"/authorize?"+url.Values{"request_uri": {uri}}.Encode()))
		if w := b.browser().signIn(referring(b.app, uri)); w.page.status != http.StatusOK {
			t.Errorf("afterwards its own app: status %d", w.page.status)
		}
	})
	t.Run("expired", func(t *testing.T) {
		in, late := b.pushed(), b.pushed()
		b.pass(58 * time.Second)
		if w := b.browser().open(b.issuer + "/authorize?" + referring(b.app, in).Encode()); w.page.status != http.StatusOK {
			t.Errorf("after 58 s: status %d", w.page.status)
		}
		b.pass(3 * time.Second)
		notTaken(t, b.browser().open(b.issuer+"/authorize?"+referring(b.app, late).Encode()))
	})
	t.Run("invented", func(t *testing.T) {
		notTaken(t, b.browser().open(b.issuer+"/authorize?"+referring(b.app, "urn:ietf:params:oauth:request_uri:x").Encode()))
	})
	t.Run("as a sign-in", func(t *testing.T) {
		uri := b.pushed()
		for _, id := range []string{uri, strings.TrimPrefix(uri, "urn:ietf:params:oauth:request_uri:")} {
			if w := b.browser().open(b.issuer + "/authorize/" + url.PathEscape(id)); w.page.status != http.StatusBadRequest || !strings.Contains(w.page.body, "sign-in is over") {
				t.Errorf("%s: status %d", id, w.page.status)
			}
		}
	})
	t.Run("of a cut app", func(t *testing.T) {
		uri := b.pushed()
		must(b.ledger.Cut(t.Context(), "administrator", keyholder.Target{Kind: keyholder.CutApp, ID: string(b.app.ID)}, "over"))
		notTaken(t, b.browser().open(b.issuer+"/authorize?"+referring(b.app, uri).Encode()))
	})
}

// Ensure that only what was pushed counts: what the browser brings beside the
// reference changes nothing (RFC 9101 6.3).
func TestPushedParametersCount(t *testing.T) {
	b := open(t)
	w := b.browser().signIn(referring(b.app, b.pushed(), "redirect_uri", "https://evil.example/callback", "state", "another", "nonce", "another",
		"code_challenge", "another", "code_challenge_method", "plain", "scope", "openid", "response_mode", "fragment", "response_type", "token"))
	w.submit("action", "share")
	if w.left == nil || w.left.Host != "app.example" || w.left.Query().Get("state") != "a state" || w.left.Fragment != "" {
		t.Fatalf("left for %v; page %d:\n%s", w.left, w.page.status, w.page.body)
	}
	r := b.redeem(w.left.Query().Get("code"))
	if r.status != http.StatusOK || b.claims(r.text("access_token"), "at+jwt")["scope"] != "openid fds:read" || b.claims(r.text("id_token"), "JWT")["nonce"] != "a nonce" {
		t.Errorf("redemption: status %d, body %s", r.status, r.body)
	}
}

// Ensure that a push that is not authenticated, or asks for what would be
// refused at the authorization endpoint, is refused at once, and audited.
func TestPushRefused(t *testing.T) {
	b := open(t)
	sound := with(authorization(b.app), "client_secret", b.secret)
	without := func(name string) url.Values { q := with(sound); q.Del(name); return q }
	machine := must(b.ledger.AddApp(t.Context(), "administrator", keyholder.App{Name: "Machine", Grants: []keyholder.GrantType{keyholder.GrantClientCredentials},
		Authentication: keyholder.AuthSecret}))
	machineSecret := must(b.ledger.AddSecret(t.Context(), "administrator", string(machine.ID)))
	for name, c := range map[string]struct {
		form   url.Values
		status int
		code   string
	}{
		"no secret":           {without("client_secret"), 401, "invalid_client"},
		"wrong secret":        {with(sound, "client_secret", "khs_wrong"), 401, "invalid_client"},
		"unknown client":      {with(sound, "client_id", "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"), 401, "invalid_client"},
		"no client":           {without("client_id"), 401, "invalid_client"},
		"certificate missing": {authorization(b.certApp), 401, "invalid_client"},
		"resource server":     {with(sound, "client_id", string(b.rs.ID), "client_secret", b.rsSecret), 400, "invalid_request"},
		"no sign-in":          {with(sound, "client_id", string(machine.ID), "client_secret", machineSecret), 400, "invalid_request"},
		"other redirect":      {with(sound, "redirect_uri", callback+"/"), 400, "invalid_request"},
		"other spelling":      {with(sound, "redirect_uri", callback+"#"), 400, "invalid_request"},
		"no redirect":         {without("redirect_uri"), 400, "invalid_request"},
		"no PKCE":             {without("code_challenge"), 400, "invalid_request"},
		"PKCE plain":          {with(sound, "code_challenge_method", "plain"), 400, "invalid_request"},
		"no response type":    {without("response_type"), 400, "invalid_request"},
		"implicit":            {with(sound, "response_type", "token"), 400, "invalid_request"},
		"fragment":            {with(sound, "response_mode", "fragment"), 400, "invalid_request"},
		"other scope":         {with(sound, "scope", keyholder.ScopePush), 400, "invalid_scope"},
		"request object":      {with(sound, "request", "e30.e30."), 400, "request_not_supported"},
		"nested":              {with(sound, "request_uri", "urn:ietf:params:oauth:request_uri:x"), 400, "invalid_request"},
		"no prompt":           {with(sound, "prompt", "none"), 400, "login_required"},
		"oversize":            {with(sound, "state", strings.Repeat("x", 17<<10)), 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			r := b.post(b.client(), "/par", c.form)
			refused(t, r, c.status, c.code)
			if strings.Contains(r.body, "request_uri:") {
				t.Errorf("a refusal holds a reference: %s", r.body)
			}
		})
	}
	if n := b.audited(keyholder.EventDenied); n < 15 {
		t.Errorf("only %d refusals were audited", n)
	}
	resp, err := b.client().Get(b.issuer + "/par")
	if r := read(t, resp, err); r.status != http.StatusNotFound && r.status != http.StatusMethodNotAllowed {
		t.Errorf("GET: status %d", r.status)
	}
}

// Ensure that a fault of the database neither spends a reference nor is taken
// for a refusal, and that the database holds neither reference nor secret.
func TestStorageFaultAtPush(t *testing.T) {
	b := open(t)
	uri := b.pushed()
	if raw := string(b.at.Contents(t)); strings.Contains(raw, strings.TrimPrefix(uri, "urn:ietf:params:oauth:request_uri:")) || strings.Contains(raw, b.secret) {
		t.Error("the reference or the secret is in the database")
	}
	db := b.at.SQL(t)
	must(db.Exec("ALTER TABLE sessions RENAME TO lost"))
	if r := b.push(authorization(b.app)); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
		t.Errorf("push during the fault: status %d, body %s", r.status, r.body)
	}
	w := b.browser().open(b.issuer + "/authorize?" + referring(b.app, uri).Encode())
	if w.page.status != http.StatusServiceUnavailable || w.page.header.Get("Retry-After") == "" {
		t.Errorf("browser during the fault: status %d", w.page.status)
	}
	must(db.Exec("ALTER TABLE lost RENAME TO sessions"))
	if w := b.browser().signIn(referring(b.app, uri)); w.page.status != http.StatusOK {
		t.Errorf("after the fault: status %d", w.page.status)
	}
}
