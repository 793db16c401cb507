package authserver_test

import (
	"encoding/json"
	"html"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pquerna/otp/totp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

var (
	keyTag  = regexp.MustCompile(`<code class="key">([^<]*)</code>`)
	codeTag = regexp.MustCompile(`<li><code>([^<]*)</code></li>`)
)

// totp is what an authenticator app with the secret shows, some steps from now.
func (b *bench) totp(secret string, steps int) string {
	b.t.Helper()
	return must(totp.GenerateCode(secret, b.now().Add(time.Duration(steps)*30*time.Second)))
}

// enrol sets an authenticator app up on the account page, and returns its
// secret and the recovery codes. A minute goes by, so that its codes are good
// again.
func (b *bench) enrol(user keyholder.User) (secret string, recovery []string) {
	b.t.Helper()
	w := b.account(user).submit("action", "totp-begin")
	m := keyTag.FindStringSubmatch(w.page.body)
	if m == nil {
		b.t.Fatalf("no key on the page (status %d):\n%s", w.page.status, w.page.body)
	}
	secret = strings.ReplaceAll(m[1], " ", "")
	w.submit("action", "totp-confirm", "code", b.totp(secret, 0))
	for _, m := range codeTag.FindAllStringSubmatch(w.page.body, -1) {
		recovery = append(recovery, m[1])
	}
	if len(recovery) != 8 || w.page.status != http.StatusOK {
		b.t.Fatalf("no recovery codes (status %d):\n%s", w.page.status, w.page.body)
	}
	b.pass(2 * time.Minute)
	return secret, recovery
}

// says fails unless the page has that status and says that.
func (w *browser) says(status int, text string) *browser {
	w.b.t.Helper()
	if w.page.status != status || !strings.Contains(html.UnescapeString(w.page.body), text) {
		w.b.t.Errorf("at %s: status %d, want %d and %q:\n%s", w.at, w.page.status, status, text, w.page.body)
	}
	return w
}

// signedInBy shares the agreement and checks how the ID token says that the
// user signed in.
func (w *browser) signedInBy(acr string, amr ...string) {
	w.b.t.Helper()
	if w.submit("action", "share"); w.left == nil {
		w.b.t.Fatalf("not sent back: status %d\n%s", w.page.status, w.page.body)
	}
	r := w.b.redeem(w.left.Query().Get("code"))
	var c map[string]any // TestForeignClients verifies the signature
	if err := json.Unmarshal(must(b64.DecodeString(strings.Split(r.text("id_token"), ".")[1])), &c); err != nil {
		w.b.t.Fatal(err)
	}
	var got []string
	methods, _ := c["amr"].([]any)
	for _, m := range methods {
		got = append(got, m.(string))
	}
	at, _ := c["auth_time"].(float64)
	if age := w.b.now().Unix() - int64(at); c["acr"] != acr || !slices.Equal(got, amr) || age < 0 || age > 60 {
		w.b.t.Errorf("acr %v, amr %v, signed in %d s ago; want %s %v", c["acr"], got, age, acr, amr)
	}
}

// Ensure that who has set up an authenticator app signs in with password and
// code, without script, and that no other code will do.
func TestAuthenticatorApp(t *testing.T) {
	b := open(t)
	other := must(b.ledger.AddUser(t.Context(), "administrator", b.owner.ID, "other@northgate.example", password))
	w := b.browser().signIn(authorization(b.app)).says(http.StatusOK, "How to withdraw")
	w.signedInBy(keyholder.ACRPassword, "pwd")

	secret, recovery := b.enrol(b.user)
	otherSecret, otherRecovery := b.enrol(other)
	w = b.browser().signIn(authorization(b.app)).says(http.StatusOK, "Second step")
	address, fields := w.form()
	if w.send(address, with(fields, "action", "share", "agreement", string(b.agreement.ID))); w.left != nil || w.page.status != http.StatusBadRequest {
		t.Errorf("shared after the password alone: %v, status %d", w.left, w.page.status)
	}
	w.open(address)
	for what, code := range map[string]string{"of another user": b.totp(otherSecret, 0), "two steps old": b.totp(secret, -2), "none": ""} {
		t.Run(what, func(t *testing.T) {
			w.submit("action", "code", "code", code).says(http.StatusForbidden, "The code is wrong")
		})
	}
	w.submit("action", "recovery", "code", otherRecovery[0]).says(http.StatusForbidden, "The code is wrong")
	spent := b.totp(secret, 0)
	w.submit("action", "code", "code", spent).says(http.StatusOK, "How to withdraw").signedInBy(keyholder.ACRTwoFactors, "pwd", "otp", "mfa")

	w = b.browser().signIn(authorization(b.app)).submit("action", "code", "code", spent).says(http.StatusForbidden, "The code is wrong")
	w.submit("action", "recovery", "code", recovery[0]).says(http.StatusOK, "How to withdraw").signedInBy(keyholder.ACRTwoFactors, "pwd", "otp", "mfa")
	w = b.browser().signIn(authorization(b.app)).submit("action", "recovery", "code", recovery[0]).says(http.StatusForbidden, "The code is wrong")
	for range 4 {
		w.submit("action", "code", "code", "000000")
	}
	b.pass(time.Second)
	w.submit("action", "code", "code", b.totp(secret, 1)).says(http.StatusTooManyRequests, "Too many")
	if w.page.header.Get("Retry-After") == "" {
		t.Error("without Retry-After")
	}
	w.open(w.at.String())
	stale := b.browser().signIn(authorization(b.app)).says(http.StatusOK, "Second step")
	b.pass(time.Second)
	must(b.ledger.ChangePassword(t.Context(), ledger.Stranger, b.user.ID, password, "another long password"))
	b.pass(30 * time.Minute / 4)
	stale.submit("action", "recovery", "code", recovery[1])
	if stale.says(http.StatusForbidden, "The code is wrong"); stale.left != nil {
		t.Error("the password from before the change counted")
	}
	w.submit("action", "restart").says(http.StatusOK, `name="login"`)
	w.submit("action", "code", "code", b.totp(secret, 1)).says(http.StatusForbidden, "wrong")
	for _, e := range must(b.ledger.Audit(t.Context(), 0, 1000)) {
		for key, value := range e.Detail {
			if strings.Contains(value, secret) || strings.Contains(value, recovery[2]) || value == spent {
				t.Errorf("the audit trail tells the secret in %s of %s", key, e.Kind)
			}
		}
	}
}

// Ensure that an owner that requires a second factor gets no consent without,
// and that its users can set one up on the account page.
func TestFactorRequired(t *testing.T) {
	b := open(t)
	must(b.ledger.SetFactorPolicy(t.Context(), "administrator", b.owner.ID, keyholder.FactorRequired))
	w := b.browser().signIn(authorization(b.app)).says(http.StatusOK, "A second factor is needed")
	address, fields := w.form()
	if w.send(address, with(fields, "action", "share", "agreement", string(b.agreement.ID))); w.left != nil || w.page.status != http.StatusBadRequest {
		t.Errorf("shared without a second factor: %v, status %d", w.left, w.page.status)
	}
	b.account(b.user).says(http.StatusOK, "Until you have set one up")
	secret, _ := b.enrol(b.user)
	w.open(address).submit("action", "restart").submit("action", "signin", "login", b.user.Login, "password", password)
	w.submit("action", "code", "code", b.totp(secret, 0)).signedInBy(keyholder.ACRTwoFactors, "pwd", "otp", "mfa")
	if w := b.account(b.user).says(http.StatusOK, "Second step"); strings.Contains(w.page.body, "Sign out") {
		t.Error("the account page is open to the password alone")
	}
}

// Ensure that a passkey signs in by itself and as second step, and that what a
// passkey must not say is refused and audited.
func TestPasskey(t *testing.T) {
	b := openAt(t, "localhost")
	other := must(b.ledger.AddUser(t.Context(), "administrator", b.owner.ID, "other@northgate.example", password))
	mine, theirs := b.newAuthenticator(), b.newAuthenticator()
	b.account(b.user).register(mine).says(http.StatusOK, "Note your recovery codes")
	b.account(other).register(theirs)

	begin := func() *browser { return b.browser().open(b.issuer + "/authorize?" + authorization(b.app).Encode()) }
	w := begin()
	w.submit("action", "passkey", "credential", mine.get(w.options("passkey-options"))).signedInBy(keyholder.ACRPhishingResistant, "hwk", "mfa")
	w = b.browser().signIn(authorization(b.app)).says(http.StatusOK, "Second step")
	w.submit("action", "passkey", "credential", mine.get(w.options("passkey-options"))).signedInBy(keyholder.ACRPhishingResistant, "pwd", "hwk", "mfa")

	stranger := b.newAuthenticator()
	stranger.user = []byte(b.user.ID)
	for name, c := range map[string]struct {
		key    authenticator
		change func(a *authenticator)
		mangle func(answer string) string
		second bool // as a second step
	}{
		"wrong origin":           {key: *mine, change: func(a *authenticator) { a.origin = "https://evil.example" }},
		"origin of another port": {key: *mine, change: func(a *authenticator) { a.origin = "https://localhost" }},
		"wrong relying party":    {key: *mine, change: func(a *authenticator) { a.rpID = "evil.example" }},
		"user not verified":      {key: *mine, change: func(a *authenticator) { a.flags = userPresent }},
		"user not present":       {key: *mine, change: func(a *authenticator) { a.flags = userVerified }},
		"of a registration":      {key: *mine, change: func(a *authenticator) { a.typ = "webauthn.create" }},
		"copied passkey":         {key: *mine, change: func(a *authenticator) { a.count = 0 }},
		"unknown passkey":        {key: *stranger},
		"id of another passkey":  {key: *stranger, change: func(a *authenticator) { a.id = mine.id }},
		"handle of another user": {key: *theirs, change: func(a *authenticator) { a.user = []byte(b.user.ID) }},
		"another user's, second": {key: *theirs, second: true},
		"unverified, second":     {key: *mine, second: true, change: func(a *authenticator) { a.flags = userPresent }},
		"another challenge":      {key: *mine, mangle: func(string) string { m := *mine; return m.get(begin().options("passkey-options")) }},
		"nothing":                {key: *mine, mangle: func(string) string { return "" }},
		"no JSON":                {key: *mine, mangle: func(string) string { return "{" }},
		"too much":               {key: *mine, mangle: func(s string) string { return s + s }},
	} {
		t.Run(name, func(t *testing.T) {
			w := begin()
			if c.second {
				w.submit("action", "signin", "login", b.user.Login, "password", password)
			}
			key := c.key
			if c.change != nil {
				c.change(&key)
			}
			answer := key.get(w.options("passkey-options"))
			if c.mangle != nil {
				answer = c.mangle(answer)
			}
			before := b.audited(keyholder.EventSignInFailed) + b.audited(keyholder.EventFactorCloned)
			w.submit("action", "passkey", "credential", answer).says(http.StatusForbidden, "The passkey was not accepted")
			if n := b.audited(keyholder.EventSignInFailed) + b.audited(keyholder.EventFactorCloned); n != before+1 {
				t.Errorf("%d failures audited, want 1", n-before)
			}
		})
	}
	mine.count += 10

	t.Run("replay", func(t *testing.T) {
		w := begin()
		answer := mine.get(w.options("passkey-options"))
		address, fields := w.form()
		form := with(fields, "action", "passkey", "credential", answer)
		if w.send(address, form).says(http.StatusOK, "How to withdraw"); w.left != nil {
			t.Fatal("left")
		}
		w.send(address, form).says(http.StatusForbidden, "not up to date")
		begin().submit("action", "passkey", "credential", answer).says(http.StatusForbidden, "The passkey was not accepted")
		again := begin()
		again.options("passkey-options")
		again.submit("action", "passkey", "credential", answer).says(http.StatusForbidden, "The passkey was not accepted")
	})
	t.Run("many at once", func(t *testing.T) {
		w := begin()
		address, fields := w.form()
		form := with(fields, "action", "passkey", "credential", mine.get(w.options("passkey-options")))
		before := b.audited(keyholder.EventSignedIn)
		for g := range drain(atOnce(16, func() (*http.Response, error) {
			r := must(http.NewRequest(http.MethodPost, address, strings.NewReader(form.Encode())))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			return w.http.Do(r)
		}), 16) {
			if g.err == nil {
				_ = g.resp.Body.Close()
			}
		}
		if n := b.audited(keyholder.EventSignedIn) - before; n != 1 {
			t.Errorf("one answer signed in %d times", n)
		}
	})
	t.Run("disabled user", func(t *testing.T) {
		must(b.ledger.DisableUser(t.Context(), "administrator", b.user.ID))
		w := begin()
		w.submit("action", "passkey", "credential", mine.get(w.options("passkey-options"))).says(http.StatusForbidden, "The passkey was not accepted")
	})
}

// drain yields n answers.
func drain(answers <-chan given, n int) func(func(given) bool) {
	return func(yield func(given) bool) {
		for range n {
			if !yield(<-answers) {
				return
			}
		}
	}
}

// Ensure that a passkey is registered only for the user, the page and the
// challenge it was made for, and once.
func TestPasskeyRegistration(t *testing.T) {
	b := openAt(t, "localhost")
	other := must(b.ledger.AddUser(t.Context(), "administrator", b.owner.ID, "other@northgate.example", password))
	w := b.account(b.user)
	for name, change := range map[string]func(a *authenticator){
		"wrong origin":        func(a *authenticator) { a.origin = "https://evil.example" },
		"wrong relying party": func(a *authenticator) { a.rpID = "evil.example" },
		"user not verified":   func(a *authenticator) { a.flags = userPresent },
		"of a sign-in":        func(a *authenticator) { a.typ = "webauthn.get" },
	} {
		t.Run(name, func(t *testing.T) {
			a := b.newAuthenticator()
			change(a)
			w.register(a).says(http.StatusForbidden, "The passkey was not accepted")
		})
	}
	a := b.newAuthenticator()
	answer := a.create(w.options("passkey-new"))
	w.submit("action", "passkey-add", "name", " ", "credential", answer).says(http.StatusBadRequest, "The name of the passkey is empty")
	w.submit("action", "passkey-add", "name", "Phone", "credential", answer).says(http.StatusForbidden, "The passkey was not accepted")
	answer = a.create(w.options("passkey-new"))
	w.submit("action", "passkey-add", "name", "Phone", "credential", answer).says(http.StatusOK, "Note your recovery codes")
	w.open(b.issuer+"/account").says(http.StatusOK, "Phone")
	w.register(a).says(http.StatusBadRequest, "The passkey is registered already")
	b.account(other).register(a).says(http.StatusBadRequest, "The passkey is registered already")
	stolen := b.account(other)
	stolen.submit("action", "passkey-add", "name", "Stolen", "credential", b.newAuthenticator().create(w.options("passkey-new"))).says(http.StatusForbidden, "The passkey was not accepted")

	stolen.open(b.issuer+"/account").submit("action", "passkey-remove", "id", b64.EncodeToString(a.id))
	if n := len(must(b.ledger.PasskeysOf(t.Context(), b.user.ID))); n != 1 {
		t.Errorf("after another's removal %d passkeys are left", n)
	}
	w.open(b.issuer+"/account").submit("action", "passkey-remove", "id", b64.EncodeToString(a.id))
	if set := must(b.ledger.Factors(t.Context(), b.user.ID)); set != (keyholder.Factors{}) {
		t.Errorf("after the removal there are %+v", set)
	}
	var kinds []keyholder.EventKind
	for _, e := range must(b.ledger.SignInEvents(t.Context(), b.user.ID, 3)) {
		kinds = append(kinds, e.Kind)
	}
	if diff := cmp.Diff([]keyholder.EventKind{keyholder.EventFactorRemoved, keyholder.EventRecoveryCodesDrawn, keyholder.EventFactorAdded}, kinds); diff != "" {
		t.Errorf("audited (-want +got):\n%s", diff)
	}
}

// Ensure that whatever a browser sends as the answer of a passkey is refused
// in order, unless the passkey signed it.
func FuzzPasskey(f *testing.F) {
	b := openAt(f, "localhost")
	key := b.newAuthenticator()
	b.account(b.user).register(key)
	w := b.browser().open(b.issuer + "/authorize?" + authorization(b.app).Encode())
	answer := key.get(w.options("passkey-options"))
	f.Add(answer)
	f.Add(strings.Replace(answer, `"signature":"`, `"signature":"AAAA`, 1))
	f.Add(strings.Replace(answer, `"userHandle":"`, `"userHandle":"AAAA`, 1))
	f.Add(key.create(w.options("passkey-options")))
	for _, s := range []string{"", "{}", "[]", "null", `{"id":"","rawId":"","type":"public-key","response":{}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		b.t = t
		w := b.browser().open(b.issuer + "/authorize?" + authorization(b.app).Encode())
		w.options("passkey-options")
		w.submit("action", "passkey", "credential", answer).says(http.StatusForbidden, "The passkey was not accepted")
		b.pass(time.Second) // sign-ins that were left go after ten minutes
	})
}
