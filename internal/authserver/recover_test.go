package authserver_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Ensure that a user sets a forgotten password with the administrator's code,
// that other sign-ins end and second factors stay, and that unknown logins,
// wrong codes and used ones are answered alike.
func TestRecoverPage(t *testing.T) {
	b := open(t)
	secret, _ := b.enrol(b.user)
	b.pass(time.Minute)
	signedIn := b.account(b.user).submit("action", "code", "code", b.totp(secret, 0)).says(http.StatusOK, "Your account")
	b.pass(time.Minute)
	code, _, err := b.ledger.BeginRecovery(t.Context(), ledger.Administrator, b.user.ID)
	if err != nil {
		t.Fatal(err)
	}
	const next = "a new long password"
	w := b.browser().open(b.issuer+"/authorize?"+authorization(b.app).Encode()).says(http.StatusOK, `href="/recover"`)
	page := func() *browser { return w.open(b.issuer+"/recover").says(http.StatusOK, "Set a new password") }
	wrong := func(login, code string) string {
		t.Helper()
		page().submit("login", login, "code", code, "next", next).says(http.StatusForbidden, "The login or the code is wrong, or the code has ended.")
		return strings.ReplaceAll(w.page.body, login, "")
	}
	if wrong(b.user.Login, "aaaa-bbbb-cccc-dddd") != wrong("nobody", "aaaa-bbbb-cccc-dddd") {
		t.Error("a page tells which logins there are")
	}
	page().submit("login", b.user.Login, "code", code, "next", "short").says(http.StatusBadRequest, "at least 12")
	page().submit("login", b.user.Login, "code", code, "next", next).says(http.StatusOK, "Your password is set")
	wrong(b.user.Login, code)
	signedIn.open(b.issuer+"/account").says(http.StatusOK, `name="password"`)
	w.open(b.issuer+"/account").submit("action", "signin", "login", b.user.Login, "password", next).says(http.StatusOK, "Second step")
	if got := b.audited(keyholder.EventUserRecovered); got != 1 {
		t.Errorf("%d recoveries are on the audit trail", got)
	}
}

// Ensure that the form belongs to the browser it was shown to, and that wrong
// codes are throttled with a page that says until when.
func TestRecoverForm(t *testing.T) {
	b := open(t)
	code, _, err := b.ledger.BeginRecovery(t.Context(), ledger.Administrator, b.user.ID)
	if err != nil {
		t.Fatal(err)
	}
	w := b.browser().open(b.issuer + "/recover")
	address, fields := w.form()
	right := with(fields, "login", b.user.Login, "code", code, "next", "a new long password")
	b.browser().send(address, right).says(http.StatusForbidden, "not up to date")
	w.send(address, with(right, "csrf", "x")).says(http.StatusForbidden, "not up to date")
	foreign := must(http.NewRequest(http.MethodPost, address, strings.NewReader(right.Encode())))
	foreign.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	foreign.Header.Set("Sec-Fetch-Site", "cross-site")
	w.do(foreign).says(http.StatusForbidden, "came from another site")
	w.send(address, with(right, "login", "a", "code", "b"))
	for range 5 {
		w.send(address, with(right, "code", "aaaa"))
	}
	w.send(address, with(right, "code", "aaaa")).says(http.StatusTooManyRequests, "Locked for a while")
	if w.page.header.Get("Retry-After") == "" {
		t.Error("the page does not say when to come back")
	}
	w.send(address, right).says(http.StatusOK, "Your password is set")
}
