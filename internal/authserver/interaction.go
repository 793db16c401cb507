package authserver

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
)

// Steps of a sign-in.
const (
	stepSignIn  = "signin"
	stepFactor  = "factor" // a second one
	stepEnrol   = "enrol"  // a second one is required, and the user has none
	stepConsent = "consent"
)

// cookieName is the cookie that ties a sign-in to the browser it began in.
// The prefix makes browsers insist on Secure, this host and no other path
// (RFC 6265bis 4.1.3.2).
const cookieName = "__Host-keyholder"

// idForm is what a cookie of ours, and the ID of a session, looks like.
var idForm = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// interact is the library's authentication policy: it is called when a
// sign-in begins and for every request to its page. It answers the browser
// and says how the sign-in stands.
func (s *Server) interact(w http.ResponseWriter, r *http.Request, as *goidc.AuthnSession, c *goidc.Client) (goidc.Status, error) {
	ex := exchangeOf(r.Context())
	if ex.endpoint == endpointAuthorize {
		return s.begin(w, r, as), nil
	}
	step := &interaction{Server: s, w: w, r: r, ex: ex, as: as, app: s.ledger.App(keyholder.AppID(c.ID))}
	if !step.sameBrowser() {
		s.refusePage(w, r, ex, http.StatusForbidden, &message{Title: "other-browser.title", Text: "other-browser.text", Detail: "the sign-in was begun in another browser, or its cookie is gone"})
		return goidc.StatusPending, nil
	}
	if err := step.open(); err != nil {
		ex.fault = err
		return goidc.StatusPending, nil
	}
	if ex.arrival != nil {
		return step.arrive(ex.arrival), nil
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		step.show(http.StatusOK, phrase{})
		return goidc.StatusPending, nil
	}
	return step.post(), nil
}

// begin binds the new sign-in to the browser and sends it to its first page.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, as *goidc.AuthnSession) goidc.Status {
	as.Store = map[string]any{keyStep: stepSignIn, keyBrowser: hashText(markBrowser(w, r)), keyLanguages: exchangeOf(r.Context()).form.Get("ui_locales")}
	http.Redirect(w, r, sessionPath(as.ID), http.StatusSeeOther)
	return goidc.StatusPending
}

// markBrowser returns the value of the cookie that ties sign-ins to a browser,
// and sets it if there is none, or none of ours.
func markBrowser(w http.ResponseWriter, r *http.Request) string {
	cookie, err := r.Cookie(cookieName)
	if err != nil || !idForm.MatchString(cookie.Value) {
		cookie = &http.Cookie{Name: cookieName, Value: random("")(r.Context())}
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: cookie.Value, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, MaxAge: int(sessionLifetime.Seconds())})
	return cookie.Value
}

// browserOf returns the value of that cookie, and whether it is the one of
// which the hash was kept.
func browserOf(r *http.Request, hash string) (value string, same bool) {
	c, err := r.Cookie(cookieName)
	if err != nil || subtle.ConstantTimeCompare([]byte(hashText(c.Value)), []byte(hash)) != 1 {
		return "", false
	}
	return c.Value, true
}

func sessionPath(id string) string { return "/authorize/" + url.PathEscape(id) }

func hashText(s string) string {
	d := digest(s)
	return hex.EncodeToString(d[:])
}

// interaction is one request to the page of a sign-in in progress.
type interaction struct {
	*Server
	w      http.ResponseWriter
	r      *http.Request
	ex     *exchange
	as     *goidc.AuthnSession
	app    keyholder.App
	cookie string   // of the browser, which has been checked
	signIn *attempt // until the user is signed in
}

// open reads what is kept of the sign-in. One that has ended meanwhile begins
// anew.
func (i *interaction) open() (err error) {
	if i.signIn, err = decodeAttempt(i.text(keyAttempt)); err != nil {
		return fmt.Errorf("read a sign-in: %w", err)
	}
	i.signIn.device = deviceOf(i.r)
	at, _ := i.as.Store[keySignedIn].(float64)
	if i.text(keyStep) == stepConsent && !keyholder.PermitSession(i.ledger.User(keyholder.UserID(i.text(keyUser))), time.UnixMicro(int64(at))).Allowed {
		return i.restart()
	}
	return nil
}

// restart forgets who is signing in.
func (i *interaction) restart() error {
	i.signIn = new(attempt)
	delete(i.as.Store, keyUser)
	delete(i.as.Store, keySignedIn)
	delete(i.as.Store, keyFactors)
	return i.keep()
}

// keep stores the sign-in; it is made durable with the session.
func (i *interaction) keep() (err error) {
	i.as.Store[keyStep] = i.signIn.step()
	i.as.Store[keyAttempt], err = i.signIn.encode()
	return err
}

func (i *interaction) text(key string) string {
	v, _ := i.as.Store[key].(string)
	return v
}

func (i *interaction) sameBrowser() (same bool) {
	i.cookie, same = browserOf(i.r, i.text(keyBrowser))
	return same
}

// token is the secret of the form of the present step: only a page of ours,
// shown to this browser, holds it.
func (i *interaction) token() string {
	mac := hmac.New(sha256.New, []byte(i.cookie))
	mac.Write([]byte("form\x00" + i.as.ID + "\x00" + i.text(keyStep)))
	if i.text(keyStep) == stepConsent {
		i.signShown(mac)
	}
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// signShown makes the token one of a page that showed the consents as they are
// narrowed now: what somebody was not shown they do not give.
func (i *interaction) signShown(mac hash.Hash) {
	for _, a := range i.agreements(i.ledger.User(keyholder.UserID(i.text(keyUser)))) {
		if c := i.ledger.ConsentTo(a.ID, i.app.ID); c.Narrowed() {
			fmt.Fprintf(mac, "\x00%s %q %d", a.ID, c.Scope, c.Expires.UnixMicro())
		}
	}
}

// frame is what the pages of this sign-in have around them.
func (i *interaction) frame() frame { return i.pages.frame(i.r, i.text(keyLanguages)) }

// post acts on a form.
func (i *interaction) post() goidc.Status {
	form := i.ex.form
	if subtle.ConstantTimeCompare([]byte(form.Get("csrf")), []byte(i.token())) != 1 {
		i.refusePage(i.w, i.r, i.ex, http.StatusForbidden, &message{Title: "stale.title", Text: "again.app", Detail: "the form's secret is missing or of another step"})
		return goidc.StatusPending
	}
	switch action := form.Get("action"); {
	case action == "refuse":
		return i.refuse()
	case i.text(keyStep) != stepConsent && isFactor(action):
		return i.present()
	case i.text(keyStep) != stepConsent && action == actionPasskeyOptions:
		return i.passkeyOptions()
	case i.text(keyStep) == stepSignIn && action == actionOrganisation:
		i.show(http.StatusOK, phrase{})
		return goidc.StatusPending
	case i.text(keyStep) != stepConsent && action == actionRestart:
		return i.next(i.restart())
	case action == "share" && i.text(keyStep) == stepConsent:
		return i.share(keyholder.AgreementID(form.Get("agreement")))
	}
	i.refusePage(i.w, i.r, i.ex, http.StatusBadRequest, &message{Title: "unreadable.title", Text: "again.app", Detail: "unknown action"})
	return goidc.StatusPending
}

// refuse ends the sign-in with access_denied.
func (i *interaction) refuse() goidc.Status {
	actor := "user"
	if u := i.text(keyUser); u != "" {
		actor = u
	}
	err := i.ledger.Record(i.r.Context(), keyholder.EventConsentRefused, actor, string(i.app.ID), nil)
	if err != nil {
		i.ex.fault = err
		return goidc.StatusPending
	}
	return goidc.StatusFailure
}

// present takes a form that presents a factor.
func (i *interaction) present() goidc.Status {
	return i.proceed(i.Server.present(i.r.Context(), i.signIn, i.ex.form, string(i.app.ID), i.policyOf))
}

// policyOf returns the policy of second factors that binds a user here.
func (i *interaction) policyOf(u keyholder.User) keyholder.FactorPolicy {
	return i.ledger.Owner(u.Owner).Factor
}

// proceed goes on after a factor was presented.
func (i *interaction) proceed(done bool, complaint *complaint, err error) goidc.Status {
	if err == nil {
		err = i.keep()
	}
	if complaint != nil {
		if !complaint.until.IsZero() {
			i.pages.locked(i.w, i.ledger.Now(), &page{frame: i.frame(), Action: sessionPath(i.as.ID), Until: complaint.until})
			return goidc.StatusPending
		}
		i.show(complaint.status, complaint.text)
		return goidc.StatusPending
	}
	if done {
		knowDevice(i.w, i.signIn.device)
		i.as.Store[keyUser] = string(i.signIn.User)
		i.as.Store[keySignedIn] = i.ledger.Now().UnixMicro()
		i.as.Store[keyFactors] = joinFactors(i.signIn.Presented)
		i.as.Store[keyStep] = stepConsent
		delete(i.as.Store, keyAttempt)
	}
	return i.next(err)
}

// next sends the browser to the page of the step it has come to.
func (i *interaction) next(err error) goidc.Status {
	if err != nil {
		i.ex.fault = err
		return goidc.StatusPending
	}
	http.Redirect(i.w, i.r, sessionPath(i.as.ID), http.StatusSeeOther)
	return goidc.StatusPending
}

// passkeyOptions tells the script what a passkey has to sign.
func (i *interaction) passkeyOptions() goidc.Status {
	options, err := i.beginPasskey(i.r.Context(), i.signIn)
	if err == nil {
		err = i.keep()
	}
	if err != nil && keyholder.CodeOf(err) != keyholder.Denied {
		i.ex.fault = err
		return goidc.StatusPending
	}
	writeOptions(i.w, options, err)
	return goidc.StatusPending
}

// agreements returns those the signed-in user may share with the app now.
func (i *interaction) agreements(u keyholder.User) []keyholder.Agreement {
	now := i.now()
	return slices.DeleteFunc(i.ledger.AgreementsOf(u.Owner), func(a keyholder.Agreement) bool {
		earlier := i.ledger.ConsentTo(a.ID, i.app.ID)
		return !keyholder.PermitConsent(u, a, i.ledger.Provider(a.Provider), i.app, now).Allowed ||
			!keyholder.PermitRenewal(earlier, earlier.Renewed(a.ID, i.app.ID, u.ID), now).Allowed
	})
}

// share records the consent and finishes the sign-in with a grant for the one
// subscription it created.
func (i *interaction) share(id keyholder.AgreementID) goidc.Status {
	if id == "" {
		i.show(http.StatusBadRequest, say("consent.choose-first"))
		return goidc.StatusPending
	}
	user := keyholder.UserID(i.text(keyUser))
	// The ledger asks PermitConsent again, in the transaction.
	sub, err := i.ledger.GiveConsent(i.r.Context(), string(user),
		i.ledger.ConsentTo(id, i.app.ID).Renewed(id, i.app.ID, user), "")
	switch keyholder.CodeOf(err) {
	case keyholder.Denied, keyholder.Invalid, keyholder.NotFound, keyholder.Conflict:
		i.denials.record(i.r.Context(), i.ex, keyholder.EventDenied, string(goidc.ErrorCodeAccessDenied), err.Error())
		i.show(http.StatusForbidden, say("consent.gone"))
		return goidc.StatusPending
	}
	if err != nil {
		i.ex.fault = err
		return goidc.StatusPending
	}
	i.as.Subject = string(user)
	i.as.GrantedScopes = grantedScope(i.as.Scopes)
	i.as.Store[keySubscription] = string(sub.ID)
	i.as.Store[keyResources] = strings.Join(i.as.Resources, " ")
	return goidc.StatusSuccess
}

// grantedScope is what of the requested scope is given: reading, and an ID
// token if it was asked for.
func grantedScope(requested string) string {
	if hasScope(requested, goidc.ScopeOpenID.ID) {
		return goidc.ScopeOpenID.ID + " " + keyholder.ScopeRead
	}
	return keyholder.ScopeRead
}

// show answers with the page of the present step.
func (i *interaction) show(status int, alert phrase) {
	f := i.frame()
	p := page{
		frame:    f,
		App:      i.app.Name,
		Action:   sessionPath(i.as.ID),
		Token:    i.token(),
		Alert:    f.Say(alert),
		Redirect: redirectSource(i.as.RedirectURI),
	}
	p.Passkeys = i.relyingParty != nil
	switch i.text(keyStep) {
	case stepSignIn:
		p.Login = i.ex.form.Get("login")
		i.showSignIn(i.w, status, &p, i.ex.form.Get("organisation"), i.as.ID, i.mayShare)
		return
	case stepFactor, stepEnrol:
		i.showFactor(status, &p)
		return
	}
	user := i.ledger.User(keyholder.UserID(i.text(keyUser)))
	p.User, p.Owner = user.Login, i.ledger.Owner(user.Owner).Name
	for _, a := range i.agreements(user) {
		earlier := i.ledger.ConsentTo(a.ID, i.app.ID)
		p.Choices = append(p.Choices, choice{ID: a.ID, Provider: i.ledger.Provider(a.Provider).Name, Purpose: a.Purpose,
			Until: keyholder.Standing{Agreement: a, Consent: earlier}.Until(), Kinds: earlier.Scope, Narrowed: earlier.Narrowed()})
	}
	i.pages.consent(i.w, status, &p)
}

// showFactor answers with the page that asks for a second factor, or says that
// one has to be set up.
func (i *interaction) showFactor(status int, p *page) {
	user := i.ledger.User(i.signIn.User)
	set, err := i.ledger.Factors(i.r.Context(), user.ID)
	if err != nil {
		i.ex.fault = err
		return
	}
	p.User, p.Owner, p.Factors = user.Login, i.ledger.Owner(user.Owner).Name, set
	if i.text(keyStep) == stepEnrol {
		i.pages.enrol(i.w, status, p)
		return
	}
	p.Passkeys = p.Passkeys && set.Passkeys > 0
	i.pages.factor(i.w, status, p)
}

// redirectSource is the CSP source of a redirect URI: browsers apply
// form-action also to the redirect that answers a form. What does not look
// like a plain origin is left out, so that an address cannot add a directive.
func redirectSource(redirectURI string) string {
	u, err := url.Parse(redirectURI)
	if err != nil {
		return ""
	}
	source := u.Scheme + ":"
	if u.Scheme == "https" || u.Scheme == "http" {
		source = u.Scheme + "://" + u.Host
	}
	if !sourceForm.MatchString(source) || strings.Contains(source, "*") {
		return ""
	}
	return source
}

// sourceForm is a scheme, or a scheme with host and port.
var sourceForm = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:(//([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?)?$`)
