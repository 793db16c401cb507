package authserver_test

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// Ensure that a real browser, on a desktop and on a phone, light and dark,
// shows the pages without sideways scrolling and as WCAG 2.2 AA asks (labels,
// contrast, structure), can be used with the keyboard alone, and is let back
// to the app by the content security policy, in both languages. With
// SCREENSHOTS set to a folder, pictures of all pages are left there.
func TestPagesInBrowser(t *testing.T) {
	chromium := newChromium(t)
	b := open(t)
	app := b.appSite()
	second := must(b.ledger.AddProvider(t.Context(), "administrator", "Abfall- und Wertstoffgesellschaft Nordstadt mbH & Co. KG"))
	for _, device := range []struct {
		name          string
		width, height int64
		dark          bool
		language      string
	}{{"desktop", 1280, 800, false, "en"}, {"phone", 390, 844, false, "en"}, {"desktop German", 1280, 800, false, "de"}, {"phone German", 390, 844, false, "de"},
		{"desktop dark", 1280, 800, true, "en"}, {"phone dark", 390, 844, true, "de"}} {
		t.Run(device.name, func(t *testing.T) {
			s := chromium.open(t, device.width, device.height, device.dark)
			query := with(authorization(app), "redirect_uri", app.RedirectURIs[0], "ui_locales", device.language).Encode()
			s.visit(b.issuer+"/authorize?"+query, "#login")
			for _, other := range []string{map[string]string{"en": "de", "de": "en"}[device.language], device.language} {
				s.run(chromedp.Focus(`a[hreflang="`+other+`"]`), chromedp.KeyEvent("\r"))
				s.wait(`html[lang="` + other + `"] #login`)
			}
			s.picture("signin")
			s.enter("#login", b.user.Login)
			s.enter("#password", "not the password\r")
			s.wait(".alert")
			s.picture("signin-wrong")
			s.enter("#password", password+"\r")
			s.wait(`button[value="share"]`)
			s.picture("consent")
			s.run(chromedp.Focus(`button[value="share"]`), chromedp.KeyEvent("\r"))
			s.wait("#thanks")
			s.visit(b.issuer+"/authorize?client_id=unknown", "h1")
			s.picture("message")

			more := must(b.ledger.AddAgreement(t.Context(), "administrator", keyholder.Agreement{Provider: second.ID, Owner: b.owner.ID,
				Purpose: "Waste collected when the bins are full, in all three buildings", End: b.now().AddDate(0, 3, 0)}))
			s.visit(b.issuer+"/authorize?"+query, "#login")
			s.enter("#login", b.user.Login)
			s.enter("#password", password+"\r")
			s.wait("fieldset")
			s.picture("choice")
			s.run(chromedp.Click(`input[value="` + string(more.ID) + `"]`))
			s.picture("chosen")
			s.run(chromedp.Click(`button[value="refuse"]`))
			s.wait("#thanks")
			must(b.ledger.Cut(t.Context(), "administrator", keyholder.Target{Kind: keyholder.CutAgreement, ID: string(more.ID)}, "test"))

			must(b.ledger.ResetUser(t.Context(), "administrator", b.user.ID, password)) // so that the browser is not known any more
			for range 8 {
				_, _ = b.ledger.CheckPassword(t.Context(), ledger.Stranger, b.user.Login, "not the password")
				b.pass(15 * time.Second)
			}
			_, _ = b.ledger.CheckPassword(t.Context(), ledger.Stranger, b.user.Login, "not the password")
			s.visit(b.issuer+"/account", "#login")
			s.enter("#login", b.user.Login)
			s.enter("#password", "not the password\r")
			s.wait(`.button[href="/account"]`)
			s.picture("locked")
			s.follow(`a[href="/recover"]`, "#code")
			s.picture("recover")
			s.enter("#login", b.user.Login)
			s.enter("#code", "aaaa-bbbb-cccc-dddd")
			s.enter("#next", password+"\r")
			s.wait(".alert")
			s.picture("recover-wrong")
			code, _, err := b.ledger.BeginRecovery(t.Context(), "administrator", b.user.ID)
			if err != nil {
				t.Fatal(err)
			}
			s.enter("#code", code)
			s.enter("#next", password+"\r")
			s.wait(`.button[href="/account"]`)
			s.picture("recovered")
			s.follow(".button", "#login")
			s.enter("#login", b.user.Login)
			s.enter("#password", password+"\r")
			s.wait(`button[value="signout"]`)
			s.picture("account")
			must(b.ledger.UnlockUser(t.Context(), "administrator", b.user.ID))
		})
	}
	must(b.ledger.Cut(t.Context(), "administrator", keyholder.Target{Kind: keyholder.CutAgreement, ID: string(b.agreement.ID)}, "test"))
	s := chromium.open(t, 390, 844, false)
	s.visit(b.issuer+"/authorize?"+with(authorization(app), "redirect_uri", app.RedirectURIs[0]).Encode(), "#login")
	s.enter("#login", b.user.Login)
	s.enter("#password", password+"\r")
	s.wait("form:not(:has(#login))")
	s.picture("nothing")
	s.run(chromedp.Click(`button[value="refuse"]`))
	s.wait("#thanks")
}

// Ensure that a real browser goes to the owner's provider, which is another
// site, and comes back to the app's sign-in and to the account page, by
// keyboard and without script, in both languages.
func TestFederatedInBrowser(t *testing.T) {
	chromium := newChromium(t)
	f := openFederated(t)
	hidden := must(f.ledger.AddOwner(t.Context(), "administrator", "st-anna", "St. Anna Hospital"))
	must(f.ledger.SetIdentityProvider(t.Context(), "administrator", keyholder.IdentityProvider{Owner: hidden.ID, Issuer: "https://login.example", ClientID: "keyholder"}, "secret"))
	app := f.appSite()
	const toProvider = `a[href^="/federation/"]`
	for _, device := range []struct {
		name          string
		width, height int64
		language      string
		scriptless    bool
	}{{"desktop", 1280, 800, "en", false}, {"phone German", 390, 844, "de", false}, {"phone without script", 390, 844, "en", true}} {
		t.Run(device.name, func(t *testing.T) {
			s := chromium.open(t, device.width, device.height, false)
			if device.scriptless {
				s.withoutScript()
			}
			query := with(authorization(app), "redirect_uri", app.RedirectURIs[0], "ui_locales", device.language).Encode()
			s.visit(f.issuer+"/authorize?"+query, toProvider)
			s.picture("organisations")
			s.enter("#organisation", "nobody\r")
			s.wait(".alert")
			s.picture("organisation-unknown")
			s.enter("#organisation", "st-anna\r")
			s.wait(`a[href^="/federation/` + string(hidden.ID) + `"]`)
			s.picture("organisation-found")

			there := func() {
				s.wait(`button[name="action"][value="signin"]`)
				s.enter("#login", f.idp.user.Login)
				s.enter("#password", password+"\r")
				s.wait(`button[value="share"]`)
			}
			s.visit(f.issuer+"/authorize?"+query, toProvider)
			s.follow(toProvider, "html:not(:has("+toProvider+"))")
			there()
			s.follow(`button[value="refuse"]`, `html[lang="`+device.language+`"] .button[href^="/authorize/"]`)
			s.picture("declined")
			s.follow(".button", toProvider)
			s.follow(toProvider, "html:not(:has("+toProvider+"))")
			there()
			s.follow(`button[value="share"]`, `input[name="agreement"][value="`+string(f.agreement.ID)+`"]`)
			s.follow(`button[value="share"]`, "#thanks")

			s.visit(f.issuer+"/account", toProvider)
			s.follow(toProvider, "html:not(:has("+toProvider+"))")
			there()
			s.follow(`button[value="share"]`, `button[value="signout"]`)
			s.picture("account")
		})
	}
}

// appSite serves the app's own page, to which the browser is sent back, and
// registers the app.
func (b *bench) appSite() keyholder.App {
	site := serveTLS(b.t, b.authority, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(`<!doctype html><title>app</title><p id="thanks">Thanks`))
	}))
	return must(b.ledger.AddApp(b.t.Context(), "administrator", keyholder.App{Name: "CleanPlan Facility Manager", Grants: b.app.Grants,
		Authentication: keyholder.AuthSecret, RedirectURIs: []string{site + "/callback"}}))
}

// chromium is the browser, and the program that judges the pages it shows.
type chromium struct{ path, axe string }

func newChromium(t *testing.T) chromium {
	t.Helper()
	path := keyholdertest.RequireProgram(t, "chromium")
	if testing.Short() {
		t.Skip("NOT RUN: -short leaves out the browser")
	}
	_, dir := keyholdertest.NodePackage(t, "testdata/axe/package.json", "testdata/axe/package-lock.json")
	return chromium{path, string(must(os.ReadFile(filepath.Join(dir, "node_modules/axe-core/axe.min.js"))))}
}

// screen is a browser window.
type screen struct {
	t      *testing.T
	ctx    context.Context
	folder string // of pictures; empty: none are kept
	axe    string

	scriptless bool
}

func (b chromium) open(t *testing.T, width, height int64, dark bool) *screen {
	t.Helper()
	profile := must(os.MkdirTemp("", "browser-"))
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(b.path), chromedp.UserDataDir(profile), chromedp.Headless}
	for _, flag := range []string{"no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
		"disable-component-update", "disable-sync", "ignore-certificate-errors"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	if dark {
		options = append(options, chromedp.Flag("blink-settings", "preferredColorScheme=0"))
	}
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancelTab := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // the browser ends in order, so that its folder can go
		cancelTab()
		cancel()
		_ = os.RemoveAll(profile)
	})
	s := &screen{t: t, ctx: ctx, folder: os.Getenv("SCREENSHOTS"), axe: b.axe}
	// The first action starts the browser, whose life must not be bounded by it.
	if err := chromedp.Run(ctx, chromedp.EmulateViewport(width, height)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *screen) run(actions ...chromedp.Action) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		var address, text string
		_ = chromedp.Run(s.ctx, chromedp.Location(&address), chromedp.Text("body", &text))
		s.t.Fatalf("%v\nat %s the page says:\n%s", err, address, text)
	}
}

func (s *screen) visit(address, selector string) {
	s.t.Helper()
	s.run(chromedp.Navigate(address))
	s.wait(selector)
}

// withoutScript keeps pages from running theirs.
func (s *screen) withoutScript() {
	s.t.Helper()
	s.scriptless = true
	s.run(emulation.SetScriptExecutionDisabled(true))
}

// follow presses Enter on a link or a button and waits for what comes of it.
func (s *screen) follow(selector, next string) {
	s.t.Helper()
	s.run(chromedp.Focus(selector), chromedp.KeyEvent("\r"))
	s.wait(next)
}

// enter fills in a field; a line end at the end of the text is the Enter key.
func (s *screen) enter(selector, text string) {
	s.t.Helper()
	text, enter := strings.CutSuffix(text, "\r")
	s.run(chromedp.SetValue(selector, text), chromedp.Focus(selector))
	if enter {
		s.run(chromedp.KeyEvent("\r"))
	}
}

// wait waits until the page holds what the selector names.
func (s *screen) wait(selector string) {
	s.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		var there bool
		// While a page gives way to the next, there is nothing to ask.
		if err := chromedp.Run(s.ctx, chromedp.Evaluate("document.readyState === 'complete' && document.querySelector("+strconv.Quote(selector)+") !== null", &there)); err == nil && there {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			s.run(chromedp.ActionFunc(func(context.Context) error { return fmt.Errorf("no %s on the page", selector) }))
		}
	}
}

// picture checks that the page fits its window, was styled, and can be used
// by everybody, and keeps a picture of it if asked to.
func (s *screen) picture(name string) {
	s.t.Helper()
	var page []byte
	var wide, styled bool
	s.run(chromedp.Evaluate(`document.documentElement.scrollWidth > window.innerWidth`, &wide),
		chromedp.Evaluate(`getComputedStyle(document.querySelector("main")).maxWidth !== "none" || window.innerWidth < 500`, &styled),
		chromedp.FullScreenshot(&page, 100))
	if wide {
		s.t.Errorf("%s is wider than the window", name)
	}
	if !styled {
		s.t.Errorf("%s has no style", name)
	}
	s.accessible(name)
	if _, err := png.Decode(bytes.NewReader(page)); err != nil {
		s.t.Errorf("%s: %v", name, err)
	}
	if s.folder == "" {
		return
	}
	file := filepath.Join(s.folder, filepath.Base(s.t.Name())+"-"+name+".png")
	if err := os.WriteFile(file, page, 0o600); err != nil {
		s.t.Error(err)
	}
}

// judgement has axe look for what breaks WCAG 2.2 AA or its own good practice,
// and gives one line for each: the rule, the element, and how to mend it.
const judgement = `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.flatMap(v =>
	v.nodes.map(n => v.id + " at " + n.target.join(" ") + ": " + n.failureSummary.replace(/\s+/g, " "))))`

func (s *screen) accessible(name string) {
	s.t.Helper()
	var broken []string
	if s.scriptless { // axe is one
		s.run(emulation.SetScriptExecutionDisabled(false))
		defer s.run(emulation.SetScriptExecutionDisabled(true))
	}
	s.run(chromedp.Evaluate(s.axe, nil), chromedp.Evaluate(judgement, &broken, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	for _, b := range broken {
		s.t.Errorf("%s: %s", name, b)
	}
}
