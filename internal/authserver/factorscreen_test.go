package authserver_test

import (
	"context"
	"html"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that a real browser registers and uses a passkey and an authenticator
// app, with the keyboard alone, on a desktop and a phone; that it brings no
// passkey without verifying its user; and that without script all but the
// passkey works. With SCREENSHOTS set to a folder, pictures are left there.
func TestFactorsInBrowser(t *testing.T) {
	chromium := newChromium(t)
	b := openAt(t, "localhost")
	app := b.appSite()
	query := with(authorization(app), "redirect_uri", app.RedirectURIs[0]).Encode()
	for _, device := range []struct {
		name          string
		width, height int64
		dark          bool
	}{{"desktop", 1280, 800, false}, {"phone", 390, 844, false}, {"phone dark", 390, 844, true}} {
		t.Run(device.name, func(t *testing.T) {
			user := must(b.ledger.AddUser(t.Context(), "administrator", b.owner.ID, "facility-"+strings.ReplaceAll(device.name, " ", "-")+"@northgate.example", password))
			must(b.ledger.SetFactorPolicy(t.Context(), "administrator", b.owner.ID, keyholder.FactorOptional))
			s := chromium.open(t, device.width, device.height, device.dark)
			authenticator := s.authenticator()
			signIn := func(address string) {
				t.Helper()
				s.visit(address, "#login")
				s.enter("#login", user.Login)
				s.enter("#password", password+"\r")
			}
			press := func(selector, then string) {
				t.Helper()
				s.run(chromedp.Focus(selector), chromedp.KeyEvent("\r"))
				s.wait(then)
			}
			signIn(b.issuer + "/account")
			s.wait(`button[value="signout"]`)
			s.picture("account")
			press(`button[value="totp-begin"]`, ".qr img")
			s.enter("#code", "000000\r")
			s.wait(".alert:not([hidden])")
			s.picture("account-enrol")
			e := must(b.ledger.PendingTOTP(t.Context(), user.ID, "Keyholder"))
			s.enter("#code", b.totp(e.Secret, 0)+"\r")
			s.wait(".codes")
			s.picture("recovery")
			recovery := s.text(".codes li:first-child")
			press("a.button", `form[data-passkey="create"]:not([hidden])`)
			s.enter("#name", "My phone\r")
			s.wait(`button[aria-label="Remove My phone"]`)
			s.picture("account-set")
			press(`button[value="signout"]`, "#login")

			passkey := `form[data-passkey="get"]:not([hidden]) button`
			s.visit(b.issuer+"/authorize?"+query, passkey)
			s.picture("signin-passkey")
			press(passkey, `button[value="share"]`)
			signIn(b.issuer + "/authorize?" + query)
			s.wait("#code")
			s.picture("second")
			press(passkey, `button[value="share"]`)
			press(`button[value="share"]`, "#thanks")

			s.run(chromedp.ActionFunc(func(ctx context.Context) error { return webauthn.SetUserVerified(authenticator, false).Do(ctx) }))
			s.visit(b.issuer+"/authorize?"+query, passkey)
			press(passkey, "[data-problem]:not([hidden])")
			s.picture("signin-no-passkey")

			s.withoutScript()
			signIn(b.issuer + "/authorize?" + query)
			s.wait("details form")
			s.wait(`form[data-passkey][hidden]`)
			s.picture("second-no-script")
			press("summary", "details[open]")
			s.enter("#recovery", recovery+"\r")
			s.wait(`button[value="share"]`)
			must(b.ledger.ResetUser(t.Context(), "administrator", user.ID, password))
			must(b.ledger.SetFactorPolicy(t.Context(), "administrator", b.owner.ID, keyholder.FactorRequired))
			signIn(b.issuer + "/authorize?" + query)
			s.wait(`ol a[href="/account"]`)
			s.picture("enrol")
			signIn(b.issuer + "/account")
			s.wait(`[data-no-passkey]:not([hidden])`)
			s.picture("account-required-no-script")
		})
	}
}

// authenticator gives the browser one like that of a phone.
func (s *screen) authenticator() (id webauthn.AuthenticatorID) {
	s.t.Helper()
	s.run(webauthn.Enable(), chromedp.ActionFunc(func(ctx context.Context) (err error) {
		id, err = webauthn.AddVirtualAuthenticator(&webauthn.VirtualAuthenticatorOptions{Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
			HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true}).Do(ctx)
		return err
	}))
	return id
}

// text returns what an element says.
func (s *screen) text(selector string) (text string) {
	s.t.Helper()
	s.run(chromedp.Text(selector, &text))
	return strings.TrimSpace(html.UnescapeString(text))
}
