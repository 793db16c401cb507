package authserver_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/authserver"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Ensure that every sentence exists in both languages with the same names and
// the same markup, and that the pages use all of them and no other.
func TestTexts(t *testing.T) {
	mark := regexp.MustCompile(`%s|<[^>]*>`)
	for key, text := range authserver.Texts {
		if text[0] == "" || text[1] == "" {
			t.Errorf("%s is not written in both languages", key)
		}
		if diff := cmp.Diff(mark.FindAllString(text[0], -1), mark.FindAllString(text[1], -1)); diff != "" {
			t.Errorf("%s differs between the languages:\n%s", key, diff)
		}
	}
	used := map[string]bool{"signin.title": true}
	quoted, called := regexp.MustCompile(`"([a-z][a-z_.-]*)"`), regexp.MustCompile(`\.T "([^"]*)"`)
	for _, pattern := range []string{"*.go", "page/*.html"} {
		for _, file := range must(filepath.Glob(pattern)) {
			if strings.HasSuffix(file, "texts.go") || strings.HasSuffix(file, "_test.go") {
				continue
			}
			content := string(must(os.ReadFile(file)))
			for _, m := range quoted.FindAllStringSubmatch(content, -1) {
				used[m[1]] = true
			}
			for _, m := range called.FindAllStringSubmatch(content, -1) {
				if _, ok := authserver.Texts[m[1]]; !ok {
					t.Errorf("%s uses %q, which is not written", file, m[1])
				}
			}
		}
	}
	for _, k := range keyholder.Kinds() {
		used["kind."+string(k)] = true
	}
	for _, f := range []keyholder.Factor{keyholder.FactorPassword, keyholder.FactorTOTP, keyholder.FactorRecovery, keyholder.FactorPasskey, keyholder.FactorSyncedPasskey} {
		used["name."+string(f)] = true
	}
	for key := range used {
		group, word, _ := strings.Cut(key, ".")
		if _, ok := authserver.Texts[key]; !ok && word != "" && (group == "kind" || group == "name") {
			t.Errorf("%s is not written", key)
		}
	}
	for key := range authserver.Texts {
		if !used[key] {
			t.Errorf("no page says %s", key)
		}
	}
}

// Ensure that the language is the one the reader chose, else that of the app's
// request, else that of the browser, and that choosing needs no script and
// leads nowhere else.
func TestLanguages(t *testing.T) {
	b := open(t)
	client := b.browser().http
	get := func(address, accept string) (int, http.Header, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept-Language", accept)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header, string(body)
	}
	signIn := func(accept string, more ...string) (address, language string) {
		t.Helper()
		_, h, _ := get(b.issuer+"/authorize?"+with(authorization(b.app), more...).Encode(), accept)
		_, page, body := get(b.issuer+h.Get("Location"), accept)
		language = page.Get("Content-Language")
		words := map[string]string{"en": "Password", "de": "Passwort"}[language]
		if !strings.Contains(body, `<html lang="`+language+`">`) || !strings.Contains(body, ">"+words+"<") {
			t.Errorf("a page in %q says\n%s", language, body)
		}
		return b.issuer + h.Get("Location"), language
	}
	var address string
	for _, c := range []struct{ accept, wished, want string }{
		{"", "", "en"}, {"de-AT,de;q=0.9,en;q=0.5", "", "de"}, {"fr", "", "en"}, {"fr, de;q=0.3", "", "de"},
		{"en", "de", "de"}, {"de", "en-GB fr", "en"}, {"de", "fr", "de"}, {"en", "xx-\x00 de-CH", "de"}, {"%%%;;", "", "en"},
	} {
		var got string
		if address, got = signIn(c.accept, "ui_locales", c.wished); got != c.want {
			t.Errorf("Accept-Language %q, ui_locales %q: got %s, want %s", c.accept, c.wished, got, c.want)
		}
	}
	if status, h, _ := get(address+"?lang=de", ""); status != http.StatusSeeOther || b.issuer+h.Get("Location") != address {
		t.Errorf("the link to the other language: status %d, to %s", status, h.Get("Location"))
	}
	if _, got := signIn("en", "ui_locales", "en"); got != "de" {
		t.Errorf("after choosing German: %s", got)
	}
	if _, h, _ := get(b.issuer+"/authorize?client_id=unknown", ""); h.Get("Content-Language") != "de" {
		t.Error("the page of a refusal is not in the language that was chosen")
	}
	for _, wished := range []string{"xx", "en%0d%0aX:y", "//evil.example"} {
		if _, h, _ := get(address+"?lang="+wished, ""); h.Get("Set-Cookie") != "" || !strings.HasPrefix(h.Get("Location"), "/authorize/") {
			t.Errorf("lang=%s: %v", wished, h)
		}
	}
	if status, h, _ := get(b.issuer+"/authorize/%2f%2fevil.example?lang=de", ""); strings.HasPrefix(h.Get("Location"), "//") {
		t.Errorf("status %d, sent to %s", status, h.Get("Location"))
	}
}

// Ensure that a locked sign-in says until when, in the reader's form, and what
// to do, and that it is open again afterwards.
func TestLockedPage(t *testing.T) {
	b := open(t)
	w := b.browser().open(b.issuer + "/authorize?" + authorization(b.app).Encode())
	address, fields := w.form()
	for range 5 {
		w.send(address, with(fields, "action", "signin", "login", b.user.Login, "password", "wrong wrong wrong"))
	}
	w.send(address, with(fields, "action", "signin", "login", b.user.Login, "password", password))
	until := b.now().Add(2*time.Second + time.Minute).UTC()
	if w.page.status != http.StatusTooManyRequests || !strings.Contains(w.page.body, until.Format("2 January 2006, 15:04 UTC")) {
		t.Fatalf("status %d:\n%s", w.page.status, w.page.body)
	}
	w.open(address + "?lang=de")
	w.send(address, with(fields, "action", "signin", "login", b.user.Login, "password", password))
	if !strings.Contains(w.page.body, until.Format("15:04 Uhr (UTC)")) || !strings.Contains(w.page.body, "Vorübergehend gesperrt") {
		t.Errorf("in German:\n%s", w.page.body)
	}
	b.pass(3 * time.Second)
	w.send(address, with(fields, "action", "signin", "login", b.user.Login, "password", password))
	if !strings.Contains(w.page.body, `value="share"`) {
		t.Errorf("after the lock: status %d", w.page.status)
	}
}

// Ensure that a browser in which the user has signed in is not locked by
// strangers, and that its cookie is for this server only and gives no right.
func TestKnownBrowserSignsIn(t *testing.T) {
	b := open(t)
	w := b.browser().signIn(authorization(b.app))
	var device *http.Cookie
	for _, c := range w.http.Jar.Cookies(w.at) {
		if c.Name == "__Host-keyholder-device" {
			device = c
		}
	}
	if device == nil || len(device.Value) != 43 {
		t.Fatal("the browser got no cookie")
	}
	for range 6 {
		_, _ = b.ledger.CheckPassword(t.Context(), ledger.Stranger, b.user.Login, "wrong wrong wrong")
	}
	b.browser().signIn(authorization(b.app)).says(http.StatusTooManyRequests, "Locked for a while")
	w.signIn(authorization(b.app)).says(http.StatusOK, "Share data")
	w.open(b.issuer+"/account").submit("action", "signin", "login", b.user.Login, "password", password).says(http.StatusOK, "Your account")
	if bytes.Contains(b.at.Contents(t), []byte(device.Value)) {
		t.Error("the cookie is in the database in the clear")
	}
	thief := b.browser()
	thief.http.Jar.SetCookies(w.at, []*http.Cookie{device})
	thief.open(b.issuer+"/account").says(http.StatusOK, `name="password"`)
}

// Ensure that the consent page shows what an administrator narrowed, that it is
// what is given, and that a page that showed something else is out of date.
func TestNarrowedConsentPage(t *testing.T) {
	b := open(t)
	narrow := func(scope ...keyholder.Kind) {
		t.Helper()
		must(b.ledger.GiveConsent(t.Context(), "administrator", keyholder.Consent{Agreement: b.agreement.ID, App: b.app.ID, Scope: scope}, ""))
	}
	narrow(keyholder.Statuses, keyholder.Spaces)
	w := b.browser().signIn(authorization(b.app))
	if !strings.Contains(w.page.body, "<li>present status of your devices</li>\n<li>your spaces</li>\n</ul>") || strings.Contains(w.page.body, "statistics") {
		t.Errorf("the page says\n%s", w.page.body)
	}
	narrow(keyholder.Statuses, keyholder.Events)
	address, _ := w.form()
	w.submit("action", "share")
	if w.left != nil || !strings.Contains(w.page.body, "not up to date") {
		t.Errorf("shared what was not shown: %v, status %d", w.left, w.page.status)
	}
	w.open(address).submit("action", "share")
	if got := b.ledger.ConsentTo(b.agreement.ID, b.app.ID); w.left == nil || got.GivenBy != b.user.ID || !cmp.Equal(got.Scope, []keyholder.Kind{keyholder.Statuses, keyholder.Events}) {
		t.Errorf("left for %v, the consent is %+v", w.left, got)
	}

	until := b.now().Add(48 * time.Hour)
	must(b.ledger.GiveConsent(t.Context(), "administrator", keyholder.Consent{Agreement: b.agreement.ID, App: b.app.ID, Expires: until}, ""))
	w = b.browser().signIn(authorization(b.app))
	for _, want := range []string{until.UTC().Format("2 January 2006"), "statistics", "This consent was limited earlier"} {
		if !strings.Contains(w.page.body, want) {
			t.Errorf("the page does not say %q:\n%s", want, w.page.body)
		}
	}
	w.submit("action", "share")
	if got := b.ledger.ConsentTo(b.agreement.ID, b.app.ID); w.left == nil || got.GivenBy != b.user.ID || !got.Expires.Equal(until.UTC().Truncate(time.Microsecond)) {
		t.Errorf("left for %v, the consent is %+v", w.left, got)
	}
	b.pass(72 * time.Hour)
	if w := b.browser().signIn(authorization(b.app)); !strings.Contains(w.page.body, "There is nothing to share") {
		t.Errorf("after its end the page says\n%s", w.page.body)
	}
}
