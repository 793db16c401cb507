package authserver

import (
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// shownEvents is how many events the account page shows.
const shownEvents = 10

// change acts on a form of a signed-in user.
func (a *account) change(action string) error {
	ctx, user, form := a.r.Context(), a.state.User, a.ex.form
	switch action {
	case "signout":
		return a.signOut()
	case "totp-begin":
		return a.settle(nil, a.ledger.BeginTOTP(ctx, user), phrase{})
	case "totp-confirm":
		codes, err := a.ledger.ConfirmTOTP(ctx, user, form.Get("code"))
		return a.settle(codes, err, wrongFactor(actionCode))
	case "totp-remove":
		return a.settle(nil, a.ledger.RemoveTOTP(ctx, user), phrase{})
	case "passkey-new":
		options, err := a.beginRegistration(ctx, &a.state.attempt)
		return a.sendOptions(options, err)
	case "passkey-add":
		codes, err := a.addPasskey(ctx, &a.state.attempt, strings.TrimSpace(form.Get("name")), form.Get("credential"))
		return a.settle(codes, errors.Join(err, a.keep(true)), say("passkey.wrong"))
	case "passkey-remove":
		id, err := base64.RawURLEncoding.DecodeString(form.Get("id"))
		if err != nil {
			id = nil
		}
		return a.settle(nil, a.ledger.RemovePasskey(ctx, user, id), phrase{})
	case "recovery-draw":
		codes, err := a.ledger.DrawRecoveryCodes(ctx, user)
		return a.settle(codes, err, phrase{})
	case "password":
		return a.changePassword(form.Get("present"), form.Get("next"))
	}
	a.refuse(http.StatusBadRequest, "unreadable.title", "unknown action")
	return nil
}

// settle answers a change: with recovery codes to be noted, with the page as
// it is now, or with a complaint.
func (a *account) settle(codes []string, err error, denied phrase) error {
	switch {
	case !ledger.LockedUntil(err).IsZero():
		retryAfter(a.w, ledger.LockedUntil(err).Sub(a.ledger.Now()))
		return a.show(http.StatusTooManyRequests, say("locked.alert", ledger.LockedUntil(err).Add(time.Minute)))
	case keyholder.CodeOf(err) == keyholder.Denied:
		return a.show(http.StatusForbidden, denied)
	case keyholder.CodeOf(err) == keyholder.NotFound: // it is gone already, which is what was wanted
		return a.reload()
	case keyholder.CodeOf(err) == keyholder.Invalid, keyholder.CodeOf(err) == keyholder.Conflict:
		return a.show(http.StatusBadRequest, rule(a.ex.form.Get("action"), keyholder.CodeOf(err)))
	case err != nil:
		return err
	case codes != nil:
		a.pages.recovery(a.w, &recoveryPage{Codes: codes, Back: accountPath, frame: a.frame()})
		return nil
	}
	return a.reload()
}

// changePassword replaces the password. Every other sign-in of the user ends;
// this one goes on.
func (a *account) changePassword(present, next string) error {
	u, err := a.ledger.ChangePassword(a.r.Context(), digest(a.state.device), a.state.User, present, next)
	if err == nil {
		a.state.SignedIn = u.Renewed.UnixMicro()
		err = a.keep(true)
	}
	return a.settle(nil, err, say("account.password-wrong"))
}

// overview is what the account page shows of a signed-in user.
type overview struct {
	Required bool // a second factor is, and there is none
	Secret   string
	Picture  template.URL // QR code of the secret
	Keys     []ledger.Passkey
	Events   []activity
}

// activity is one line of what happened.
type activity struct {
	At   time.Time
	What phrase
}

func (v *overview) setEnrolment(e ledger.TOTPEnrolment) {
	for i := 0; i < len(e.Secret); i += 4 {
		v.Secret += e.Secret[i:min(i+4, len(e.Secret))] + " "
	}
	// A PNG that the ledger drew, in base64: nothing in it can end the address.
	v.Picture = template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(e.Image))
}

// accountPage is the page of a signed-in user.
type accountPage struct {
	page
	overview
}

// KeyID is the form of a passkey's ID in a form.
func (*accountPage) KeyID(k ledger.Passkey) string {
	return base64.RawURLEncoding.EncodeToString(k.ID)
}

// recoveryPage shows recovery codes this one time.
type recoveryPage struct {
	Codes []string
	Back  string
	frame
}

func (p *pages) account(w http.ResponseWriter, status int, v *accountPage) {
	p.write(w, status, "account.html", policy{script: v.Passkeys, picture: v.Secret != ""}, v.frame, v)
}

func (p *pages) recovery(w http.ResponseWriter, v *recoveryPage) {
	p.write(w, http.StatusOK, "recovery.html", policy{}, v.frame, v)
}

// rule says what keeps an action from being done as it was asked for.
func rule(action string, code keyholder.Code) phrase {
	switch {
	case action == "password":
		return say("account.password-rule")
	case action == "passkey-add" && code == keyholder.Conflict:
		return say("account.passkey-known")
	case action == "passkey-add":
		return say("account.name-rule")
	}
	return say("account.impossible")
}

// happened are the events about a sign-in that need no further word.
var happened = map[keyholder.EventKind]string{
	keyholder.EventSignedIn:           "event.signed-in",
	keyholder.EventSignedOut:          "event.signed-out",
	keyholder.EventFactorCloned:       "event.cloned",
	keyholder.EventRecoveryCodesDrawn: "event.codes-drawn",
	keyholder.EventPasswordChanged:    "event.password-changed",
	keyholder.EventUserBound:          "event.bound",
	keyholder.EventUserReset:          "event.reset",
	keyholder.EventRecoveryBegun:      "event.recovery-begun",
	keyholder.EventUserRecovered:      "event.recovered",
	keyholder.EventUserUnlocked:       "event.unlocked",
	keyholder.EventUserDisabled:       "event.disabled",
	keyholder.EventUserEnabled:        "event.enabled",
}

// describe says what happened, to the user it happened to.
func (a *account) describe(e keyholder.Event) phrase {
	factor := say("name." + e.Detail["factor"])
	switch e.Kind {
	case keyholder.EventSignedIn:
		if app := a.ledger.App(keyholder.AppID(e.Detail["at"])); app.ID != "" {
			return say("event.signed-in-app", app.Name)
		}
	case keyholder.EventSignInFailed:
		return say("event.failed", factor)
	case keyholder.EventFactorAdded:
		return say("event.factor-added", factor)
	case keyholder.EventFactorRemoved:
		return say("event.factor-removed", factor)
	}
	if key := happened[e.Kind]; key != "" {
		return say(key)
	}
	return say("event.other", e.Kind)
}

// host is the issuer's host without the port.
func (s *Server) host() string {
	u, err := url.Parse(s.issuer)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
