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
		return a.settle(nil, a.ledger.BeginTOTP(ctx, user), "")
	case "totp-confirm":
		codes, err := a.ledger.ConfirmTOTP(ctx, user, form.Get("code"))
		return a.settle(codes, err, wrongFactor(actionCode))
	case "totp-remove":
		return a.settle(nil, a.ledger.RemoveTOTP(ctx, user), "")
	case "passkey-new":
		options, err := a.beginRegistration(ctx, &a.state.attempt)
		return a.sendOptions(options, err)
	case "passkey-add":
		codes, err := a.addPasskey(ctx, &a.state.attempt, strings.TrimSpace(form.Get("name")), form.Get("credential"))
		return a.settle(codes, errors.Join(err, a.keep(true)), "The passkey was not accepted.")
	case "passkey-remove":
		id, err := base64.RawURLEncoding.DecodeString(form.Get("id"))
		if err != nil {
			id = nil
		}
		return a.settle(nil, a.ledger.RemovePasskey(ctx, user, id), "")
	case "recovery-draw":
		codes, err := a.ledger.DrawRecoveryCodes(ctx, user)
		return a.settle(codes, err, "")
	case "password":
		return a.changePassword(form.Get("present"), form.Get("next"))
	}
	a.refuse(http.StatusBadRequest, "This form could not be read", "unknown action")
	return nil
}

// settle answers a change: with recovery codes to be noted, with the page as
// it is now, or with a complaint.
func (a *account) settle(codes []string, err error, denied string) error {
	var e *keyholder.Error
	switch {
	case !ledger.LockedUntil(err).IsZero():
		locked := a.lockedOut(ledger.LockedUntil(err))
		a.retryAfter(a.w, locked)
		return a.show(locked.status, locked.text)
	case keyholder.CodeOf(err) == keyholder.Denied:
		return a.show(http.StatusForbidden, denied)
	case keyholder.CodeOf(err) == keyholder.NotFound: // it is gone already, which is what was wanted
		return a.reload()
	case errors.As(err, &e) && (e.Code == keyholder.Invalid || e.Code == keyholder.Conflict):
		return a.show(http.StatusBadRequest, sentence(e.Detail))
	case err != nil:
		return err
	case codes != nil:
		a.pages.recovery(a.w, &recoveryPage{Codes: codes})
		return nil
	}
	return a.reload()
}

// changePassword replaces the password. Every other sign-in of the user ends;
// this one goes on.
func (a *account) changePassword(present, next string) error {
	u, err := a.ledger.ChangePassword(a.r.Context(), a.state.User, present, next)
	if err == nil {
		a.state.SignedIn = u.Renewed.UnixMicro()
		err = a.keep(true)
	}
	return a.settle(nil, err, "The present password is wrong.")
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
type activity struct{ At, What string }

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

// Day writes a date for people.
func (*accountPage) Day(t time.Time) string { return t.UTC().Format("2 January 2006") }

// recoveryPage shows recovery codes this one time.
type recoveryPage struct {
	Codes []string
	Back  string
	frame
}

func (p *pages) account(w http.ResponseWriter, status int, v *accountPage) {
	v.frame = p.frame()
	p.write(w, status, "account.html", policy{script: v.Passkeys, picture: v.Secret != ""}, v)
}

func (p *pages) recovery(w http.ResponseWriter, v *recoveryPage) {
	v.frame, v.Back = p.frame(), accountPath
	p.write(w, http.StatusOK, "recovery.html", policy{}, v)
}

// describe says what happened, to the user it happened to.
func (a *account) describe(e keyholder.Event) string {
	factor := map[string]string{"password": "the password", "totp": "a code of the authenticator app", "recovery": "a recovery code",
		"passkey": "a passkey", "synced_passkey": "a passkey"}[e.Detail["factor"]]
	switch e.Kind {
	case keyholder.EventSignedIn:
		if app := a.ledger.App(keyholder.AppID(e.Detail["at"])); app.ID != "" {
			return "Signed in for " + app.Name
		}
		return "Signed in to this page"
	case keyholder.EventSignInFailed:
		return "Sign-in failed at " + factor
	case keyholder.EventFactorAdded:
		return "Set up: " + strings.Replace(factor, "a code of the", "the", 1)
	case keyholder.EventFactorRemoved:
		return "Removed: " + strings.Replace(factor, "a code of the", "the", 1)
	case keyholder.EventFactorCloned:
		return "A passkey was refused: it may have been copied"
	case keyholder.EventRecoveryCodesDrawn:
		return "New recovery codes were drawn"
	case keyholder.EventPasswordChanged:
		return "The password was changed"
	case keyholder.EventUserReset:
		return "The administrator reset your sign-in"
	case keyholder.EventUserUnlocked:
		return "The administrator ended a lock-out"
	case keyholder.EventUserDisabled:
		return "The administrator disabled your sign-in"
	case keyholder.EventUserEnabled:
		return "The administrator enabled your sign-in"
	}
	return string(e.Kind)
}

func stampText(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") }

// sentence makes a sentence of an error's detail.
func sentence(detail string) string {
	return strings.ToUpper(detail[:1]) + detail[1:] + "."
}

// host is the issuer's host without the port.
func (s *Server) host() string {
	u, err := url.Parse(s.issuer)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
