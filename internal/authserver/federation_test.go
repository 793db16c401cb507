package authserver_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// federated is a server whose owner has another Keyholder as its OpenID
// provider, where a user is known by the subject that the user here is bound
// to.
type federated struct {
	*bench
	idp      *bench
	client   keyholder.App // of the server at the provider
	provider keyholder.IdentityProvider
	bound    keyholder.User // has no password here
}

func openFederated(t *testing.T) *federated {
	t.Helper()
	f := &federated{bench: open(t), idp: openAt(t, "localhost")} // another site
	f.trusted = guard.HTTPClient(f.idp.authority.Pool(), keyholder.TLSStrict)
	f.stop()
	f.start()
	f.register(f.idp, f.owner, "Northgate")
	f.bound = must(f.ledger.AddFederatedUser(t.Context(), ledger.Administrator, f.owner.ID, "bound", string(f.idp.user.ID), ""))
	return f
}

// register makes a bench the provider of an owner.
func (f *federated) register(idp *bench, owner keyholder.Owner, name string) {
	f.t.Helper()
	ctx := f.t.Context()
	f.client = must(idp.ledger.AddApp(ctx, ledger.Administrator, keyholder.App{Name: "Keyholder", Grants: []keyholder.GrantType{keyholder.GrantAuthorizationCode},
		Authentication: keyholder.AuthSecret, RedirectURIs: []string{keyholder.IdentityProvider{Owner: owner.ID}.RedirectURI(f.issuer)}}))
	f.provider = must(f.ledger.SetIdentityProvider(ctx, ledger.Administrator, keyholder.IdentityProvider{Owner: owner.ID, Issuer: idp.issuer,
		ClientID: string(f.client.ID), Scopes: []string{keyholder.ScopeRead}, Name: name}, must(idp.ledger.AddSecret(ctx, ledger.Administrator, string(f.client.ID)))))
}

var organisationLink = regexp.MustCompile(`<a class="button" href="(/federation/[^"]*)">`)

// depart follows the link to the provider on a sign-in page.
func (w *browser) depart() *browser {
	w.b.t.Helper()
	m := organisationLink.FindStringSubmatch(w.page.body)
	if m == nil {
		w.b.t.Fatalf("no link to a provider on the page (status %d):\n%s", w.page.status, w.page.body)
	}
	return w.open(must(w.at.Parse(strings.ReplaceAll(m[1], "&amp;", "&"))).String())
}

// elsewhere signs the provider's user in, where the browser has left for, and
// returns the address to which they are sent back.
func (f *federated) elsewhere(w *browser) string {
	f.t.Helper()
	if w.left == nil {
		f.t.Fatalf("not sent to the provider: status %d\n%s", w.page.status, w.page.body)
	}
	there := f.idp.browser().open(w.left.String()).submit("action", "signin", "login", f.idp.user.Login, "password", password).submit("action", "share")
	if there.left == nil {
		f.t.Fatalf("not sent back: status %d\n%s", there.page.status, there.page.body)
	}
	return there.left.String()
}

// pass lets time go by at both.
func (f *federated) pass(d time.Duration) {
	f.bench.pass(d)
	f.idp.pass(d)
}

// begin sends a browser to the provider, from the sign-in for an app.
func (f *federated) begin() *browser {
	return f.browser().open(f.issuer + "/authorize?" + authorization(f.app).Encode()).depart()
}

// Ensure that a user signs in at the owner's provider, shares, and that the
// app gets tokens whose ID token says no more about the sign-in than is known.
func TestFederatedSignIn(t *testing.T) {
	f := openFederated(t)
	w := f.begin()
	q := w.left.Query()
	if q.Get("code_challenge_method") != "S256" || len(q.Get("state")) != 43 || len(q.Get("nonce")) != 43 || q.Get("redirect_uri") != f.provider.RedirectURI(f.issuer) {
		t.Errorf("sent to the provider with %v", q)
	}
	w.open(f.elsewhere(w)).says(http.StatusOK, "Share data").submit("action", "share")
	if w.left == nil {
		t.Fatalf("not sent back to the app: %s", w.page.body)
	}
	r := f.redeem(w.left.Query().Get("code"))
	c := f.claims(r.text("id_token"), "JWT")
	if c["sub"] != string(f.bound.ID) || c["acr"] != keyholder.ACRUnspecified {
		t.Errorf("the ID token says %v", c)
	}
	if got := f.audited(keyholder.EventSignedIn); got != 1 {
		t.Errorf("%d sign-ins are on the audit trail", got)
	}
	if _, err := f.ledger.DisableUser(t.Context(), ledger.Administrator, f.bound.ID); err != nil {
		t.Fatal(err)
	}
	again := f.begin()
	again.open(f.elsewhere(again)).says(http.StatusForbidden, "You are not registered here")
}

// Ensure that the answer of a provider is good once, in the browser that was
// sent there, for a while, and for nobody else's provider, and that no other
// answer passes for it.
func TestFederatedAnswers(t *testing.T) {
	f := openFederated(t)
	change := func(address string, pairs ...string) string {
		u := must(url.Parse(address))
		q := u.Query()
		for i := 0; i < len(pairs); i += 2 {
			q.Set(pairs[i], pairs[i+1])
		}
		u.RawQuery = q.Encode()
		return u.String()
	}
	stranger := must(f.ledger.AddOwner(t.Context(), ledger.Administrator, "st-anna", "St. Anna"))
	other := open(t)
	for _, c := range []struct {
		name   string
		change func(w *browser, answer string) string
		status int
		says   string
	}{
		{"wrong state", func(_ *browser, answer string) string { return change(answer, "state", strings.Repeat("a", 43)) }, http.StatusBadRequest, "sign-in is over"},
		{"no state", func(_ *browser, answer string) string { return change(answer, "state", "") }, http.StatusBadRequest, "sign-in is over"},
		{"a session of another kind", func(w *browser, answer string) string { return change(answer, "state", w.at.Query().Get("session")) }, http.StatusBadRequest, "sign-in is over"},
		{"another browser", func(w *browser, answer string) string { w.http.Jar = f.browser().http.Jar; return answer }, http.StatusForbidden, "another browser"},
		{"replayed", func(w *browser, answer string) string { w.open(answer); return answer }, http.StatusBadRequest, "sign-in is over"},
		{"too late", func(_ *browser, answer string) string { f.pass(11 * time.Minute); return answer }, http.StatusBadRequest, "sign-in is over"},
		{"another issuer", func(_ *browser, answer string) string { return change(answer, "iss", other.issuer) }, http.StatusForbidden, "did not work"},
		{"no issuer", func(_ *browser, answer string) string { return change(answer, "iss", "") }, http.StatusForbidden, "did not work"},
		{"at the address of another owner", func(_ *browser, answer string) string {
			return strings.Replace(answer, string(f.owner.ID), string(stranger.ID), 1)
		}, http.StatusForbidden, "did not work"},
		{"the code of another sign-in", func(w *browser, answer string) string {
			second := f.begin()
			return change(answer, "code", must(url.Parse(f.elsewhere(second))).Query().Get("code"))
		}, http.StatusForbidden, "did not work"},
		{"no code", func(_ *browser, answer string) string { return change(answer, "code", "") }, http.StatusForbidden, "did not work"},
		{"repeated", func(_ *browser, answer string) string { return answer + "&code=x" }, http.StatusBadRequest, "could not be read"},
		{"declined", func(_ *browser, answer string) string { return change(answer, "code", "", "error", "access_denied") }, http.StatusForbidden, "You did not sign in"},
		{"another error", func(_ *browser, answer string) string { return change(answer, "code", "", "error", "<script>") }, http.StatusForbidden, "did not work"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, before := f.begin(), f.audited(keyholder.EventDenied)
			f.pass(time.Minute) // the limits of the audit trail
			w.open(c.change(w, f.elsewhere(w))).says(c.status, c.says)
			if w.left != nil || strings.Contains(w.page.body, "<script>") {
				t.Errorf("left for %v:\n%s", w.left, w.page.body)
			}
			if got := f.audited(keyholder.EventDenied); got <= before {
				t.Error("it is not on the audit trail")
			}
		})
	}
	if got := f.audited(keyholder.EventSignedIn); got != 1 { // before the replay
		t.Errorf("%d sign-ins", got)
	}
}

// Ensure that of many answers that come at once one is taken.
func TestFederatedAnswersAtOnce(t *testing.T) {
	f := openFederated(t)
	w := f.begin()
	answer := f.elsewhere(w)
	taken := 0
	answers := atOnce(5, func() (*http.Response, error) { return w.http.Get(answer) })
	for range 5 {
		got := <-answers
		switch r := read(t, got.resp, got.err); r.status {
		case http.StatusSeeOther:
			taken++
		case http.StatusBadRequest:
		default:
			t.Errorf("status %d: %s", r.status, r.body)
		}
	}
	if signedIn := f.audited(keyholder.EventSignedIn); taken != 1 || signedIn != 1 {
		t.Errorf("%d were taken, %d sign-ins", taken, signedIn)
	}
}

// Ensure that nobody becomes a user by signing in at a provider, whatever
// their name there, and that they are told so.
func TestFederatedStranger(t *testing.T) {
	f := openFederated(t)
	same := must(f.idp.ledger.AddUser(t.Context(), ledger.Administrator, f.idp.owner.ID, f.user.Login+".", password))
	f.idp.user = same
	w := f.begin()
	w.open(f.elsewhere(w)).says(http.StatusForbidden, "You are not registered here")
	if !strings.Contains(w.page.body, string(same.ID)) {
		t.Errorf("the page does not say who is to be registered:\n%s", w.page.body)
	}
	if got := len(f.ledger.ListUsers()); got != 2 {
		t.Errorf("there are %d users", got)
	}
	if w.open(must(w.at.Parse(regexp.MustCompile(`href="(/authorize/[^"]*)"`).FindStringSubmatch(w.page.body)[1])).String()); !strings.Contains(w.page.body, `name="password"`) {
		t.Errorf("the way back leads to\n%s", w.page.body)
	}
}

// Ensure that a sign-in elsewhere counts as one factor unless the provider
// says that it was two or is trusted, and that one's own second factor is
// asked for otherwise.
func TestFederatedFactors(t *testing.T) {
	f := openFederated(t)
	ctx := t.Context()
	must(f.ledger.SetFactorPolicy(ctx, ledger.Administrator, f.owner.ID, keyholder.FactorRequired))
	arrive := func() *browser {
		w := f.begin()
		return w.open(f.elsewhere(w))
	}
	arrive().says(http.StatusOK, "A second factor is needed")

	trusted := f.provider
	trusted.TrustFactors = true
	must(f.ledger.SetIdentityProvider(ctx, ledger.Administrator, trusted, must(f.idp.ledger.AddSecret(ctx, ledger.Administrator, string(f.client.ID)))))
	arrive().says(http.StatusOK, "Share data").signedInBy(keyholder.ACRTwoFactors, "mfa")

	must(f.ledger.SetIdentityProvider(ctx, ledger.Administrator, f.provider, must(f.idp.ledger.AddSecret(ctx, ledger.Administrator, string(f.client.ID)))))
	must(f.ledger.ResetUser(ctx, ledger.Administrator, f.bound.ID, password))
	secret, _ := f.enrol(f.bound)
	f.pass(time.Minute)
	arrive().says(http.StatusOK, "The first step for").submit("action", "code", "code", f.totp(secret, 0)).says(http.StatusOK, "Share data").
		signedInBy(keyholder.ACRTwoFactors, "otp", "mfa")

	if err := f.ledger.RemoveTOTP(ctx, f.bound.ID); err != nil {
		t.Fatal(err)
	}
	there, _ := f.idp.enrol(f.idp.user)
	f.pass(time.Minute)
	w := f.begin()
	v := f.idp.browser().open(w.left.String()).submit("action", "signin", "login", f.idp.user.Login, "password", password).
		submit("action", "code", "code", f.idp.totp(there, 0)).submit("action", "share")
	w.open(v.left.String()).says(http.StatusOK, "Share data").signedInBy(keyholder.ACRTwoFactors, "mfa")
}

// Ensure that a sign-in ends with the provider it was begun at, and those
// begun at one before with its replacement.
func TestFederatedProviderRemoved(t *testing.T) {
	f := openFederated(t)
	w, signedIn := f.begin(), f.begin()
	signedIn.open(f.elsewhere(signedIn)).says(http.StatusOK, "Share data")
	answer := f.elsewhere(w)
	if err := f.ledger.RemoveIdentityProvider(t.Context(), ledger.Administrator, f.owner.ID); err != nil {
		t.Fatal(err)
	}
	w.open(answer).says(http.StatusForbidden, "did not work")
	signedIn.submit("action", "share")
	if signedIn.left != nil {
		t.Errorf("shared after the end of the provider: %v", signedIn.left)
	}
	f.browser().open(f.issuer+"/federation/"+string(f.owner.ID)).says(http.StatusNotFound, "There is no such sign-in")
	if page := f.browser().open(f.issuer + "/account"); strings.Contains(page.page.body, "organisation") {
		t.Errorf("the page still offers it:\n%s", page.page.body)
	}

	f.register(f.idp, f.owner, "Northgate")
	w = f.begin()
	answer = f.elsewhere(w)
	other := open(t)
	f.register(other, f.owner, "Northgate")
	w.open(answer).says(http.StatusForbidden, "did not work")
}

// Ensure that a provider that does not answer is said not to, and that the
// password still works.
func TestFederatedProviderDown(t *testing.T) {
	f := openFederated(t)
	w := f.begin()
	answer := f.elsewhere(w)
	f.idp.stop()
	w.open(answer).says(http.StatusBadGateway, "does not answer")
	f.stop()
	f.start() // forgets what the provider said of itself
	f.browser().open(f.issuer+"/federation/"+string(f.owner.ID)).says(http.StatusBadGateway, "does not answer")
	if w := f.browser().signIn(authorization(f.app)); !strings.Contains(w.page.body, "Share data") {
		t.Errorf("by password:\n%s", w.page.body)
	}
	f.idp.start()
	f.pass(11 * time.Second)
	f.begin()
}

// Ensure that a sign-in elsewhere outlives a restart of the server.
func TestFederatedRestart(t *testing.T) {
	f := openFederated(t)
	w := f.begin()
	f.stop()
	f.start()
	w.open(f.elsewhere(w)).says(http.StatusOK, "Share data")
}

// Ensure that the account page opens after a sign-in elsewhere, in a session
// of its own.
func TestFederatedAccount(t *testing.T) {
	f := openFederated(t)
	w := f.browser().open(f.issuer + "/account").depart()
	before := accountCookie(w)
	w.open(f.elsewhere(w)).says(http.StatusOK, "You have signed in at your organisation")
	if w.page.header.Get("Refresh") != "0; url=/account" || accountCookie(w) == before {
		t.Errorf("the page has %v", w.page.header)
	}
	w.open(f.issuer+"/account").says(http.StatusOK, "Signed in as <strong>bound</strong>")
}

// Ensure that providers are offered by name where the administrator named them
// and the owner could answer the app, else by the owner's key, and that no
// page tells which logins there are.
func TestOrganisations(t *testing.T) {
	f := openFederated(t)
	ctx := t.Context()
	hidden := must(f.ledger.AddOwner(ctx, ledger.Administrator, "st-anna", "St. Anna Hospital"))
	p := f.provider
	p.Owner, p.Name = hidden.ID, ""
	must(f.ledger.SetIdentityProvider(ctx, ledger.Administrator, p, "secret"))
	idle := must(f.ledger.AddOwner(ctx, ledger.Administrator, "idle", "Idle Halls"))
	p.Owner, p.Name = idle.ID, "Idle"
	must(f.ledger.SetIdentityProvider(ctx, ledger.Administrator, p, "secret"))
	w := f.browser().open(f.issuer + "/authorize?" + authorization(f.app).Encode())
	if !strings.Contains(w.page.body, "Sign in at Northgate") || strings.Contains(w.page.body, "Idle") || strings.Contains(strings.ToLower(w.page.body), "anna") {
		t.Errorf("the page offers\n%s", w.page.body)
	}
	ask := func(key string) *browser {
		_, fields := w.form()
		return w.send(w.at.String(), with(fields, "action", "organisation", "organisation", key))
	}
	ask("nobody").says(http.StatusNotFound, "There is no sign-in at an organisation of that short name")
	ask("st-anna").says(http.StatusOK, "Sign in at st-anna")
	if strings.Contains(w.page.body, "Hospital") || !strings.Contains(w.page.body, string(hidden.ID)) {
		t.Errorf("for its key the page says\n%s", w.page.body)
	}
	f.browser().open(f.issuer+"/account").says(http.StatusOK, "Sign in at Idle")
}
