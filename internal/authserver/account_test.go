package authserver_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

func accountCookie(w *browser) string {
	for _, c := range w.http.Jar.Cookies(w.at) {
		if c.Name == "__Host-keyholder-account" {
			return c.Value
		}
	}
	return ""
}

// Ensure that the account page opens to its user only, under a cookie that is
// of no use elsewhere, and for a short while.
func TestAccountSession(t *testing.T) {
	b := open(t)
	w := b.browser().open(b.issuer+"/account").says(http.StatusOK, `name="password"`)
	set := w.page.header.Get("Set-Cookie")
	for _, want := range []string{"__Host-keyholder-account=", "Path=/", "Secure", "HttpOnly", "SameSite=Strict"} {
		if !strings.Contains(set, want) {
			t.Errorf("the cookie %q lacks %s", set, want)
		}
	}
	if strings.Contains(set, "Domain=") || strings.Contains(set, "Max-Age") {
		t.Errorf("the cookie %q is too wide", set)
	}
	before := accountCookie(w)
	w.submit("action", "signin", "login", b.user.Login, "password", "wrong wrong wrong").says(http.StatusForbidden, "is wrong")
	w.submit("action", "signin", "login", b.user.Login, "password", password).says(http.StatusOK, "Signed in as")
	if after := accountCookie(w); after == before || after == "" {
		t.Error("the cookie from before the sign-in is the one after it")
	}
	if w.says(http.StatusOK, "Signed in to this page"); !strings.Contains(w.page.body, "Sign-in failed at the password") {
		t.Error("the page does not show what happened")
	}
	stranger := b.browser()
	stranger.open(b.issuer + "/account")
	stranger.http.Jar.SetCookies(stranger.at, []*http.Cookie{{Name: "__Host-keyholder-account", Value: before, Path: "/", Secure: true}})
	stranger.open(b.issuer+"/account").says(http.StatusOK, `name="password"`)

	signedIn := func() *browser { return b.account(b.user).says(http.StatusOK, "Signed in as") }
	ended := func(w *browser) {
		t.Helper()
		address, fields := w.form()
		if w.send(address, with(fields, "action", "totp-begin")); w.page.status != http.StatusForbidden {
			t.Errorf("a form of an ended session: status %d", w.page.status)
		}
		w.open(b.issuer+"/account").says(http.StatusOK, `name="password"`)
	}
	out := signedIn()
	old := accountCookie(out)
	out.submit("action", "signout").says(http.StatusOK, `name="password"`)
	out.http.Jar.SetCookies(out.at, []*http.Cookie{{Name: "__Host-keyholder-account", Value: old, Path: "/", Secure: true}})
	out.open(b.issuer+"/account").says(http.StatusOK, `name="password"`)
	if b.audited(keyholder.EventSignedOut) != 1 {
		t.Error("signing out was not audited")
	}

	late := signedIn()
	b.pass(14 * time.Minute)
	late.open(b.issuer+"/account").says(http.StatusOK, "Signed in as")
	b.pass(61 * time.Second)
	ended(late)
	late.submit("action", "signin", "login", b.user.Login, "password", password).says(http.StatusOK, "Signed in as")

	disabled := signedIn()
	must(b.ledger.DisableUser(t.Context(), "administrator", b.user.ID))
	ended(disabled)
	must(b.ledger.EnableUser(t.Context(), "administrator", b.user.ID))

	reset, consenting := signedIn(), b.browser().signIn(authorization(b.app)).says(http.StatusOK, "How to withdraw")
	b.pass(time.Second)
	must(b.ledger.ResetUser(t.Context(), "administrator", b.user.ID, password))
	ended(reset)
	if consenting.submit("action", "share"); consenting.left != nil || consenting.page.status != http.StatusForbidden {
		t.Errorf("shared after the reset: left for %v, status %d", consenting.left, consenting.page.status)
	}
	signedIn().says(http.StatusOK, "The administrator reset your sign-in")
	if n := b.audited(keyholder.EventConsentGiven); n != 0 {
		t.Errorf("%d consents were given", n)
	}
}

// Ensure that a form of the account page is taken from that page only, once
// for its step, and that every answer is as closed as the pages of a sign-in.
func TestAccountForms(t *testing.T) {
	b := openAt(t, "localhost")
	w := b.account(b.user)
	address, fields := w.form()
	begun := func() bool {
		_, err := b.ledger.PendingTOTP(t.Context(), b.user.ID, "Keyholder")
		return err == nil
	}
	for name, change := range map[string]func(r *http.Request) *http.Request{
		"another site": func(r *http.Request) *http.Request { r.Header.Set("Sec-Fetch-Site", "cross-site"); return r },
		"a subdomain":  func(r *http.Request) *http.Request { r.Header.Set("Sec-Fetch-Site", "same-site"); return r },
		"another origin": func(r *http.Request) *http.Request {
			r.Header.Del("Sec-Fetch-Site")
			r.Header.Set("Origin", "https://evil.example")
			return r
		},
	} {
		r := must(http.NewRequest(http.MethodPost, address, strings.NewReader(with(fields, "action", "totp-begin").Encode())))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if w.do(change(r)); w.page.status != http.StatusForbidden || begun() {
			t.Errorf("from %s: status %d", name, w.page.status)
		}
	}
	for name, csrf := range map[string]string{"none": "", "another browser's": must2(b.account(b.user).form()).Get("csrf"), "of another step": must2(b.browser().open(b.issuer + "/account").form()).Get("csrf")} {
		if w.send(address, with(fields, "action", "totp-begin", "csrf", csrf)); w.page.status != http.StatusForbidden || begun() {
			t.Errorf("secret %s: status %d", name, w.page.status)
		}
	}
	w.send(address, with(fields, "action", "unknown")).says(http.StatusBadRequest, "could not be read")
	bare := &browser{b: b, http: b.client()}
	if bare.send(address, with(fields, "action", "totp-begin")); bare.page.status != http.StatusForbidden || begun() {
		t.Errorf("without the cookie: status %d", bare.page.status)
	}

	headers := map[string]http.Header{"account": w.open(b.issuer + "/account").page.header}
	w.submit("action", "totp-begin").says(http.StatusOK, "data:image/png;base64,")
	if !begun() {
		t.Fatal("nothing was begun")
	}
	headers["enrolment"] = w.page.header
	headers["wrong code"] = w.submit("action", "totp-confirm", "code", "000000").says(http.StatusForbidden, "The code is wrong").page.header
	headers["sign-in"] = b.browser().open(b.issuer + "/account").page.header
	headers["recovery codes"] = w.open(b.issuer + "/account").register(b.newAuthenticator()).page.header
	for name, h := range headers {
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "style-src 'sha256-", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self' ;"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy %q lacks %s", name, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") || strings.Contains(csp, "img-src") != (name == "enrolment" || name == "wrong code") ||
			strings.Contains(csp, "script-src 'self'; connect-src 'self'") != (name != "recovery codes") {
			t.Errorf("%s: the policy is %q", name, csp)
		}
		if h.Get("X-Frame-Options") != "DENY" || h.Get("Cache-Control") != "no-store" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: headers are %v", name, h)
		}
	}
	script := w.open(b.issuer + "/passkey.js").page
	if script.status != http.StatusOK || script.header.Get("Content-Type") != "text/javascript; charset=utf-8" || script.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("the script: status %d, headers %v", script.status, script.header)
	}
}

func must2[A, B any](_ A, b B) B { return b }

// Ensure that a user changes the password by the present one, that this ends
// other sign-ins and not this one, and that wrong ones are throttled.
func TestChangePassword(t *testing.T) {
	b := open(t)
	w, other := b.account(b.user), b.account(b.user)
	w.submit("action", "password", "present", "wrong wrong wrong", "next", "another long password").says(http.StatusForbidden, "The present password is wrong")
	w.submit("action", "password", "present", password, "next", "short").says(http.StatusBadRequest, "at least 12")
	b.pass(time.Second)
	w.submit("action", "password", "present", password, "next", "another long password").says(http.StatusOK, "The password was changed")
	other.open(b.issuer+"/account").says(http.StatusOK, `name="password"`)
	b.account(b.user).says(http.StatusForbidden, "is wrong")
	for range 5 {
		w.submit("action", "password", "present", "wrong wrong wrong", "next", "yet another password")
	}
	w.submit("action", "password", "present", "another long password", "next", "yet another password").says(http.StatusTooManyRequests, "Too many")
}
