package authserver_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that a request whose app or return address is not certain gets a
// page and is never redirected, whatever the spelling.
func TestNoOpenRedirect(t *testing.T) {
	b := open(t)
	sound := authorization(b.app)
	queries := map[string]string{
		"unknown app":     with(sound, "client_id", "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30").Encode(),
		"no app":          with(sound, "client_id", "").Encode(),
		"provider as app": with(sound, "client_id", string(b.provider.ID)).Encode(),
		"repeated":        sound.Encode() + "&state=another",
		"repeated app":    sound.Encode() + "&client_id=" + string(b.certApp.ID),
		"bad escape":      sound.Encode() + "&x=%zz",
		"semicolon":       sound.Encode() + ";x=y",
	}
	for _, uri := range []string{"", "https://evil.example/callback", callback + "/", callback + "?", callback + "#", callback + "?x=1",
		"HTTPS://app.example/callback", "https://APP.example/callback", "https://app.example:443/callback", "https://app.example/./callback",
		"https://app.example/callback/../callback", "https://app.example/%63allback", "https://app.example@evil.example/callback",
		"http://app.example/callback", "//app.example/callback", "javascript:alert(1)", callback + "\n", " " + callback} {
		queries["redirect "+uri] = with(sound, "redirect_uri", uri).Encode()
	}
	for name, query := range queries {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(method+" "+name, func(t *testing.T) {
				w := b.browser()
				if method == http.MethodGet {
					w.open(b.issuer + "/authorize?" + query)
				} else {
					r := must(http.NewRequest(http.MethodPost, b.issuer+"/authorize", strings.NewReader(query)))
					r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					w.do(r)
				}
				if w.left != nil || w.page.status != http.StatusBadRequest || !strings.Contains(w.page.body, "<h1>") {
					t.Errorf("left for %v, status %d", w.left, w.page.status)
				}
			})
		}
	}
	if n := b.audited(keyholder.EventDenied); n == 0 {
		t.Error("nothing of it was audited")
	}
}

// Ensure that what is wrong in a well-addressed request is told to the app by
// redirect, with iss and state, and gives no code.
func TestAuthorizationRefused(t *testing.T) {
	b := open(t)
	sound := authorization(b.app)
	without := func(name string) url.Values { q := with(sound); q.Del(name); return q }
	for name, c := range map[string]struct {
		query url.Values
		code  string
	}{
		"no PKCE":           {without("code_challenge"), "invalid_request"},
		"PKCE plain":        {with(sound, "code_challenge_method", "plain"), "invalid_request"},
		"PKCE no method":    {without("code_challenge_method"), "invalid_request"},
		"PKCE other method": {with(sound, "code_challenge_method", "s256"), "invalid_request"},
		"no response type":  {without("response_type"), "invalid_request"},
		"implicit":          {with(sound, "response_type", "token"), "unsupported_response_type"},
		"implicit ID token": {with(sound, "response_type", "id_token"), "unsupported_response_type"},
		"hybrid":            {with(sound, "response_type", "code id_token"), "unsupported_response_type"},
		"fragment":          {with(sound, "response_mode", "fragment"), "invalid_request"},
		"form post":         {with(sound, "response_mode", "form_post"), "invalid_request"},
		"request object":    {with(sound, "request", "e30.e30."), "request_not_supported"},
		"request URI":       {with(sound, "request_uri", "https://evil.example/r"), "request_uri_not_supported"},
		"no prompt":         {with(sound, "prompt", "none"), "login_required"},
		"unknown scope":     {with(sound, "scope", "fds:read everything"), "invalid_scope"},
		"scope of provider": {with(sound, "scope", "fds:read fds:push"), "invalid_scope"},
		"only openid":       {with(sound, "scope", "openid"), "invalid_scope"},
	} {
		t.Run(name, func(t *testing.T) {
			w := b.browser().open(b.issuer + "/authorize?" + c.query.Encode())
			if w.left == nil {
				t.Fatalf("not sent back: status %d\n%s", w.page.status, w.page.body)
			}
			q := w.left.Query()
			if q.Get("error") != c.code || q.Get("iss") != b.issuer || q.Get("state") != "a state" || q.Has("code") || w.left.Fragment != "" {
				t.Errorf("sent to %s, want error %s", w.left, c.code)
			}
			if q.Get("error_description") == "" {
				t.Error("the app is not told why")
			}
		})
	}
	t.Run("grant not negotiated", func(t *testing.T) {
		machine := must(b.ledger.AddApp(t.Context(), "administrator", keyholder.App{Name: "Machine", Authentication: keyholder.AuthSecret,
			Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}))
		w := b.browser().open(b.issuer + "/authorize?" + authorization(machine).Encode())
		if w.page.status != http.StatusBadRequest || w.left != nil {
			t.Errorf("status %d, left %v", w.page.status, w.left)
		}
	})
}

// Ensure that malformed requests to the endpoints for clients are refused
// with a reason, before anything is done.
func TestMalformedRequests(t *testing.T) {
	b := open(t)
	refresh := b.tokens().text("refresh_token")
	form := b.asApp("grant_type", "refresh_token", "refresh_token", refresh).Encode()
	urlencoded := "application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		path, contentType, body string
		status                  int
		code                    string
	}{
		"repeated parameter": {"/token", urlencoded, form + "&grant_type=refresh_token", 400, "invalid_request"},
		"repeated secret":    {"/token", urlencoded, form + "&client_secret=x", 400, "invalid_request"},
		"query parameters":   {"/token?" + form, urlencoded, form, 400, "invalid_request"},
		"JSON":               {"/token", "application/json", `{"grant_type":"refresh_token"}`, 400, "invalid_request"},
		"no content type":    {"/token", "", form, 400, "invalid_request"},
		"broken escape":      {"/token", urlencoded, form + "&x=%zz", 400, "invalid_request"},
		"oversize":           {"/token", urlencoded, form + "&x=" + strings.Repeat("x", 64<<10), 413, "invalid_request"},
		"oversize revoke":    {"/revoke", urlencoded, "token=" + strings.Repeat("x", 64<<10), 413, "invalid_request"},
		"no grant type":      {"/token", urlencoded, b.asApp().Encode(), 400, "invalid_request"},
		"password grant":     {"/token", urlencoded, b.asApp("grant_type", "password", "username", b.user.Login, "password", password).Encode(), 400, "unsupported_grant_type"},
		"implicit grant":     {"/token", urlencoded, b.asApp("grant_type", "implicit").Encode(), 400, "unsupported_grant_type"},
		"token exchange":     {"/token", urlencoded, b.asApp("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange").Encode(), 400, "unsupported_grant_type"},
		"jwt bearer":         {"/token", urlencoded, b.asApp("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer").Encode(), 400, "unsupported_grant_type"},
		"device code":        {"/token", urlencoded, b.asApp("grant_type", "urn:ietf:params:oauth:grant-type:device_code").Encode(), 400, "unsupported_grant_type"},
		"no code":            {"/token", urlencoded, b.asApp("grant_type", "authorization_code").Encode(), 400, "invalid_request"},
		"no refresh token":   {"/token", urlencoded, b.asApp("grant_type", "refresh_token").Encode(), 400, "invalid_request"},
		"wider scope":        {"/token", urlencoded, form + "&scope=fds%3Aread+fds%3Apush", 400, "invalid_scope"},
		"scope not reading":  {"/token", urlencoded, form + "&scope=openid", 400, "invalid_scope"},
		"other subscription": {"/token", urlencoded, form + "&subscription_id=6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30", 400, "invalid_request"},
		"no client":          {"/token", urlencoded, "grant_type=refresh_token&refresh_token=" + refresh, 401, "invalid_client"},
		"no secret":          {"/token", urlencoded, "grant_type=refresh_token&client_id=" + string(b.app.ID) + "&refresh_token=" + refresh, 401, "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			req := must(http.NewRequest(http.MethodPost, b.issuer+c.path, strings.NewReader(c.body)))
			if c.contentType != "" {
				req.Header.Set("Content-Type", c.contentType)
			}
			resp, err := b.client().Do(req)
			refused(t, read(t, resp, err), c.status, c.code)
		})
	}
	t.Run("two ways to authenticate", func(t *testing.T) {
		req := must(http.NewRequest(http.MethodPost, b.issuer+"/token", strings.NewReader(form)))
		req.Header.Set("Content-Type", urlencoded)
		req.SetBasicAuth(string(b.app.ID), b.secret)
		resp, err := b.client().Do(req)
		refused(t, read(t, resp, err), 400, "invalid_request")
	})
	if r := b.refresh(refresh); r.status != http.StatusOK {
		t.Errorf("after all this the refresh token is spent: %s", r.body)
	}
	if n := b.audited(keyholder.EventTokenDenied); n < 15 {
		t.Errorf("only %d refusals were audited", n)
	}
}

// Ensure that nothing is served that the metadata does not promise.
func TestNothingElseIsServed(t *testing.T) {
	b := open(t)
	c := b.client()
	for _, path := range []string{"/register", "/register/x", "/userinfo", "/device", "/device_authorization", "/bc-authorize", "/logout",
		"/authorize/x/y", "/", "/.well-known/openid-federation", "/signed-jwks", "/pki/", "/pki/issuing.key"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
			resp, err := c.Do(must(http.NewRequest(method, b.issuer+path, strings.NewReader("{}"))))
			if r := read(t, resp, err); r.status != http.StatusNotFound && r.status != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: status %d", method, path, r.status)
			}
		}
	}
	resp, err := c.Post(b.issuer+"/register", "application/json", strings.NewReader(`{"redirect_uris":["https://evil.example/"]}`))
	if r := read(t, resp, err); r.status != http.StatusNotFound {
		t.Errorf("registration: status %d", r.status)
	}
}

// Ensure that every answer carries the headers that keep it out of frames,
// caches and referrers.
func TestHeaders(t *testing.T) {
	b := open(t)
	w := b.browser().open(b.issuer + "/authorize?" + authorization(b.app).Encode())
	answers := map[string]http.Header{"sign-in page": w.page.header}
	w.submit("action", "signin", "login", b.user.Login, "password", password)
	answers["consent page"] = w.page.header
	w.open(b.issuer + "/authorize?client_id=x")
	answers["error page"] = w.page.header
	for name, h := range answers {
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "style-src 'sha256-", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy %q lacks %s", name, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") || strings.Contains(csp, "script-src") {
			t.Errorf("%s: the policy %q is too wide", name, csp)
		}
	}
	if !strings.Contains(answers["consent page"].Get("Content-Security-Policy"), "form-action 'self' https://app.example;") {
		t.Error("the consent page cannot lead back to the app")
	}
	answers["token error"] = b.post(b.client(), "/token", url.Values{}).header
	resp, err := b.client().Get(b.issuer + "/jwks")
	answers["keys"] = read(t, resp, err).header
	for name, h := range answers {
		if h.Get("X-Frame-Options") != "DENY" || h.Get("Referrer-Policy") != "no-referrer" || h.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.Contains(h.Get("Cache-Control"), "no-store") || h.Get("Content-Security-Policy") == "" || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: headers are %v", name, h)
		}
	}
}

// Ensure that signing in is needed, fails politely, is audited and throttled,
// and that refusing or having nothing to share tells the app access_denied.
func TestSignInAndRefusal(t *testing.T) {
	b := open(t)
	w := b.browser().open(b.issuer + "/authorize?" + authorization(b.app).Encode())
	address, fields := w.form()
	if w.send(address, with(fields, "action", "share", "agreement", string(b.agreement.ID))); w.left != nil || w.page.status != http.StatusBadRequest {
		t.Errorf("shared without signing in: %v, status %d", w.left, w.page.status)
	}
	w.open(address)
	for range 5 {
		w.submit("action", "signin", "login", b.user.Login, "password", "wrong wrong wrong")
		if w.page.status != http.StatusForbidden || !strings.Contains(w.page.body, "is wrong") || strings.Contains(w.page.body, "wrong wrong") {
			t.Fatalf("a wrong password: status %d", w.page.status)
		}
	}
	w.submit("action", "signin", "login", b.user.Login, "password", password)
	if w.page.status != http.StatusTooManyRequests {
		t.Errorf("after five failures: status %d, want 429", w.page.status)
	}
	if n := b.audited(keyholder.EventSignInFailed); n != 5 {
		t.Errorf("%d failures audited, want 5", n)
	}
	b.pass(time.Minute)
	w.open(address).submit("action", "signin", "login", b.user.Login, "password", password).submit("action", "refuse")
	denied := func(what string) {
		t.Helper()
		if w.left == nil || w.left.Query().Get("error") != "access_denied" || w.left.Query().Get("iss") != b.issuer || w.left.Query().Has("code") {
			t.Errorf("%s: left for %v, status %d", what, w.left, w.page.status)
		}
	}
	denied("refused")
	w.open(b.issuer + "/authorize?" + authorization(b.app).Encode())
	w.submit("action", "refuse")
	denied("cancelled")
	if n := b.audited(keyholder.EventConsentRefused); n != 2 {
		t.Errorf("%d refusals audited, want 2", n)
	}
	if subs := b.ledger.ListSubscriptions(); len(subs) != 0 {
		t.Errorf("subscriptions %v after refusals", subs)
	}
	must(b.ledger.Cut(t.Context(), "administrator", keyholder.Target{Kind: keyholder.CutAgreement, ID: string(b.agreement.ID)}, "over"))
	w = b.browser().signIn(authorization(b.app))
	if !strings.Contains(w.page.body, "nothing to share") {
		t.Errorf("without an agreement the page is:\n%s", w.page.body)
	}
	w.submit("action", "refuse")
	denied("nothing to share")
}

// Ensure that of several agreements exactly the chosen one is shared, and
// none of another owner.
func TestChoice(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	second := must(b.ledger.AddAgreement(ctx, "administrator", keyholder.Agreement{Provider: must(b.ledger.AddProvider(ctx, "administrator", "Bin Works")).ID,
		Owner: b.owner.ID, Purpose: "Waste on demand"}))
	stranger := must(b.ledger.AddAgreement(ctx, "administrator", keyholder.Agreement{Provider: b.provider.ID,
		Owner: must(b.ledger.AddOwner(ctx, "administrator", "st-anna", "St Anna")).ID, Purpose: "Not yours"}))
	w := b.browser().signIn(authorization(b.app))
	if strings.Contains(w.page.body, "Not yours") || strings.Count(w.page.body, `type="radio"`) != 2 || strings.Contains(w.page.body, " checked") {
		t.Errorf("the choice is:\n%s", w.page.body)
	}
	address, fields := w.form()
	for name, id := range map[string]keyholder.AgreementID{"none": "", "another owner's": stranger.ID, "invented": "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"} {
		if w.send(address, with(fields, "action", "share", "agreement", string(id))); w.left != nil || w.page.status < 400 || !strings.Contains(w.page.body, "role=\"alert\"") {
			t.Errorf("choosing %s: left for %v, status %d", name, w.left, w.page.status)
		}
	}
	if w.send(address, with(fields, "action", "share", "agreement", string(second.ID))); w.left == nil {
		t.Fatalf("status %d\n%s", w.page.status, w.page.body)
	}
	sub := b.subscription(b.redeem(w.left.Query().Get("code")).text("access_token"))
	if got := b.ledger.Standing(sub).Agreement.ID; got != second.ID {
		t.Errorf("shared %s, want %s", got, second.ID)
	}
}

// Ensure that a sign-in ends after ten minutes.
func TestSessionExpiry(t *testing.T) {
	b := open(t)
	w := b.browser().signIn(authorization(b.app))
	b.pass(9 * time.Minute)
	if w.open(w.at.String()); w.page.status != http.StatusOK {
		t.Errorf("after 9 minutes: status %d", w.page.status)
	}
	b.pass(61 * time.Second)
	if w.submit("action", "share"); w.left != nil || w.page.status != http.StatusBadRequest {
		t.Errorf("after 10 minutes: left for %v, status %d", w.left, w.page.status)
	}
}

// Ensure that nothing that gives a right stands in the database in the clear.
func TestNothingInTheClear(t *testing.T) {
	b := open(t)
	w := b.browser().signIn(authorization(b.app))
	secrets := map[string]string{"session ID": w.at.Path[len("/authorize/"):], "cookie": w.http.Jar.Cookies(w.at)[0].Value,
		"password": password, "client secret": b.secret}
	w.submit("action", "share")
	secrets["code"] = w.left.Query().Get("code")
	unredeemed := b.code(b.app)
	secrets["unredeemed code"] = unredeemed
	first := b.redeem(secrets["code"])
	secrets["used refresh token"] = first.text("refresh_token")
	secrets["refresh token"] = b.refresh(first.text("refresh_token")).text("refresh_token")
	secrets["access token"] = first.text("access_token")
	raw := b.at.Contents(t)
	if len(raw) < 5_000 || !strings.Contains(string(raw), string(b.app.ID)) {
		t.Fatal("the database was not read")
	}
	for name, s := range secrets {
		if len(s) < 10 || strings.Contains(string(raw), s) {
			t.Errorf("the %s is in the database, or was not got (%d bytes)", name, len(s))
		}
	}
	if r := b.redeem(unredeemed); r.text("refresh_token") == "" || b.refresh(r.text("refresh_token")).status != http.StatusOK {
		t.Error("the sealed refresh token does not come out")
	}
}

// FuzzTokenRequest ensures that no request, however formed, gets anything but
// a plain refusal.
func FuzzTokenRequest(f *testing.F) {
	f.Add("/token", "grant_type=client_credentials&scope=fds%3Aread", "Basic eDp5", "application/x-www-form-urlencoded")
	f.Add("/introspect", "token=e30.e30.e30", "Bearer x", "application/x-www-form-urlencoded; charset=utf-8")
	f.Add("/authorize", "client_id=%00&redirect_uri=https://x", "", "application/x-www-form-urlencoded")
	f.Add("/authorize/x", "csrf=x&action=share", "", "application/x-www-form-urlencoded")
	f.Add("/par", "client_id=x&redirect_uri=https://x", "", "application/x-www-form-urlencoded")
	f.Add("/revoke", "token=a&token=b", "Basic OjolMw==", "text/plain")
	b := open(f)
	f.Fuzz(func(t *testing.T, path, body, authorization, contentType string) {
		r := httptest.NewRequest(http.MethodPost, "https://as.example/token", strings.NewReader(body))
		r.URL.Path = path
		r.Header.Set("Authorization", authorization)
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		b.server.Handler().ServeHTTP(w, r)
		if w.Code < 300 || w.Code >= 500 || w.Code < 400 && !strings.HasPrefix(w.Header().Get("Location"), "/") {
			t.Errorf("status %d, %s", w.Code, w.Body)
		}
	})
}
