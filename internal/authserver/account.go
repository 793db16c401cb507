package authserver

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// accountPath is the page on which a user looks after their own sign-in.
const accountPath = "/account"

// accountCookie ties the account page to a browser. It is another one than
// that of a sign-in for an app, and is replaced when the user has signed in.
const accountCookie = "__Host-keyholder-account"

// accountLifetime is how long somebody stays signed in at the account page.
const accountLifetime = 15 * time.Minute

// accountClient marks the sessions of the account page among those of apps.
const accountClient = "account"

// accountState is what is kept of a browser at the account page.
type accountState struct {
	attempt
	SignedIn int64 `json:"signed_in,omitempty"` // Unix microseconds; 0: not yet
}

// account is one request to the account page.
type account struct {
	*Server
	w      http.ResponseWriter
	r      *http.Request
	ex     *exchange
	cookie string
	state  accountState
	row    ledger.Session
}

// routeAccount adds the account page.
func (s *Server) routeAccount(mux *http.ServeMux) {
	mux.HandleFunc("GET "+accountPath, offerLanguages(s.serveAccount))
	mux.HandleFunc("POST "+accountPath, s.serveAccount)
	mux.HandleFunc("GET /passkey.js", s.serveScript)
}

// serveAccount serves the account page and its forms.
func (s *Server) serveAccount(w http.ResponseWriter, r *http.Request) {
	a := &account{Server: s, w: w, r: r, ex: &exchange{endpoint: endpointAccount}}
	if r.Method == http.MethodPost && !s.readOwnForm(w, r, a.ex, "again.account") {
		return
	}
	err := a.open()
	a.state.device = deviceOf(r)
	switch {
	case err != nil:
	case r.Method != http.MethodPost:
		err = a.show(http.StatusOK, phrase{})
	case subtle.ConstantTimeCompare([]byte(a.ex.form.Get("csrf")), []byte(a.token())) != 1:
		a.refuse(http.StatusForbidden, "stale.title", "the form's secret is missing or of another step")
	default:
		err = a.post(a.ex.form.Get("action"))
	}
	if keyholder.CodeOf(err) == keyholder.Conflict {
		a.refuse(http.StatusConflict, "stale.title", err.Error())
		return
	}
	if err != nil {
		a.ex.fault = err
		s.faultPage(w, r, a.ex)
	}
}

func (a *account) refuse(status int, title, detail string) {
	a.refusePage(a.w, a.r, a.ex, status, &message{Title: title, Text: "again.account", Detail: detail})
}

// open reads what is kept for the browser's cookie. One that is not of ours is
// replaced, and a sign-in that has ended is forgotten.
func (a *account) open() error {
	c, err := a.r.Cookie(accountCookie)
	if err != nil || !idForm.MatchString(c.Value) {
		a.setCookie(random("")(a.r.Context()))
		return nil
	}
	a.cookie = c.Value
	row, err := a.ledger.PendingSession(a.r.Context(), digest(c.Value))
	if keyholder.CodeOf(err) == keyholder.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if row.Client != accountClient {
		a.setCookie(random("")(a.r.Context()))
		return nil
	}
	a.row = row
	if err := json.Unmarshal(row.Body, &a.state); err != nil {
		return fmt.Errorf("read an account session: %w", err)
	}
	if a.state.SignedIn != 0 && !keyholder.PermitSession(a.user(), time.UnixMicro(a.state.SignedIn)).Allowed {
		a.state = accountState{}
	}
	return nil
}

func (a *account) user() keyholder.User { return a.ledger.User(a.state.User) }

func (a *account) setCookie(value string) {
	a.cookie = value
	http.SetCookie(a.w, &http.Cookie{Name: accountCookie, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// token is the secret of the forms of the present step.
func (a *account) token() string {
	mac := hmac.New(sha256.New, []byte(a.cookie))
	mac.Write([]byte("account\x00" + a.step()))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (a *account) step() string {
	if a.state.SignedIn != 0 {
		return accountClient
	}
	return a.state.attempt.step()
}

// keep stores the state; its life is counted from when it was first stored.
// Errors: Conflict if another request changed it meanwhile.
func (a *account) keep(pending bool) error {
	lifetime := sessionLifetime
	if a.state.SignedIn != 0 {
		lifetime = accountLifetime
	}
	body, err := json.Marshal(a.state)
	if err != nil {
		return fmt.Errorf("write an account session: %w", err)
	}
	next := ledger.Session{ID: digest(a.cookie), Client: accountClient, Body: body, Pending: pending, Expires: a.ledger.Now().Add(lifetime)}
	if a.row.ID == next.ID {
		next.Version = a.row.Version
	}
	return a.ledger.SaveSession(a.r.Context(), next)
}

func (a *account) frame() frame { return a.pages.frame(a.r, "") }

// post acts on a form.
func (a *account) post(action string) error {
	if a.state.SignedIn != 0 {
		return a.change(action)
	}
	switch {
	case isFactor(action):
		return a.present()
	case action == actionPasskeyOptions:
		options, err := a.beginPasskey(a.r.Context(), &a.state.attempt)
		return a.sendOptions(options, err)
	case action == actionOrganisation && a.state.User == "":
		return a.show(http.StatusOK, phrase{})
	case action == actionRestart:
		a.state = accountState{}
		return errors.Join(a.keep(true), a.reload())
	}
	a.refuse(http.StatusBadRequest, "unreadable.title", "unknown action")
	return nil
}

// present takes a form that presents a factor. Somebody who has to have a
// second factor and has none yet is let in: here it is set up.
func (a *account) present() error {
	done, complaint, err := a.Server.present(a.r.Context(), &a.state.attempt, a.ex.form, accountClient, anyFactor)
	if err != nil {
		return err
	}
	if done {
		return a.signedIn()
	}
	if err := a.keep(true); err != nil {
		return err
	}
	if complaint == nil {
		return a.reload()
	}
	if !complaint.until.IsZero() {
		f := a.frame()
		a.pages.locked(a.w, a.ledger.Now(), &page{frame: f, Action: accountPath, Until: complaint.until})
		return nil
	}
	return a.show(complaint.status, complaint.text)
}

// signedIn begins the session of a signed-in user, under a new cookie: who
// knew the one before knows nothing.
func (a *account) signedIn() error {
	if a.row.Version != 0 {
		if err := a.keep(false); err != nil {
			return err
		}
	}
	a.setCookie(random("")(a.r.Context()))
	knowDevice(a.w, a.state.device)
	a.state.SignedIn = a.ledger.Now().UnixMicro()
	return errors.Join(a.keep(true), a.reload())
}

// signOut ends the session.
func (a *account) signOut() error {
	user := string(a.state.User)
	a.state = accountState{}
	if err := a.keep(false); err != nil {
		return err
	}
	if err := a.ledger.Record(a.r.Context(), keyholder.EventSignedOut, user, user, nil); err != nil {
		return err
	}
	a.setCookie(random("")(a.r.Context()))
	return a.reload()
}

// sendOptions tells the script what a passkey has to do.
func (a *account) sendOptions(options []byte, err error) error {
	if err == nil {
		err = a.keep(true)
	}
	if err != nil && keyholder.CodeOf(err) != keyholder.Denied {
		return err
	}
	writeOptions(a.w, options, err)
	return nil
}

// reload sends the browser to the page as it is now.
func (a *account) reload() error {
	http.Redirect(a.w, a.r, accountPath, http.StatusSeeOther)
	return nil
}

// show answers with the page of the present step.
func (a *account) show(status int, alert phrase) error {
	ctx, user := a.r.Context(), a.user()
	f := a.frame()
	p := page{frame: f, Action: accountPath, Token: a.token(), Alert: f.Say(alert), User: user.Login, Owner: a.ledger.Owner(user.Owner).Name, Passkeys: a.relyingParty != nil}
	if a.state.User == "" {
		p.Login = a.ex.form.Get("login")
		a.showSignIn(a.w, status, &p, a.ex.form.Get("organisation"), "", func(keyholder.OwnerID) bool { return true })
		return nil
	}
	set, err := a.ledger.Factors(ctx, user.ID)
	if err != nil {
		return err
	}
	p.Factors = set
	if a.state.SignedIn == 0 {
		p.Passkeys = p.Passkeys && set.Passkeys > 0
		a.pages.factor(a.w, status, &p)
		return nil
	}
	v, err := a.overview(ctx, user, set)
	if err != nil {
		return err
	}
	a.pages.account(a.w, status, &accountPage{page: p, overview: v})
	return nil
}

// overview gathers what the account page shows of a signed-in user.
func (a *account) overview(ctx context.Context, user keyholder.User, set keyholder.Factors) (v overview, err error) {
	v.Required = a.ledger.Owner(user.Owner).Factor == keyholder.FactorRequired && !set.Any()
	if v.Keys, err = a.ledger.PasskeysOf(ctx, user.ID); err != nil {
		return v, err
	}
	events, err := a.ledger.SignInEvents(ctx, user.ID, shownEvents)
	if err != nil {
		return v, err
	}
	for _, e := range events {
		v.Events = append(v.Events, activity{At: e.At, What: a.describe(e)})
	}
	if !set.TOTP.IsZero() {
		return v, nil
	}
	e, err := a.ledger.PendingTOTP(ctx, user.ID, "Keyholder "+a.host())
	if keyholder.CodeOf(err) == keyholder.NotFound {
		return v, nil
	}
	if err == nil {
		v.setEnrolment(e)
	}
	return v, err
}
