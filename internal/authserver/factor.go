package authserver

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Actions of the forms of a sign-in.
const (
	actionSignIn         = "signin"   // login and password
	actionCode           = "code"     // of an authenticator app
	actionRecovery       = "recovery" // a recovery code
	actionPasskey        = "passkey"
	actionPasskeyOptions = "passkey-options" // asked by the script: what to sign
	actionRestart        = "restart"
)

// attempt is a sign-in in progress, at an app's request or at the account
// page: who it is, as far as is known, and what they have presented.
type attempt struct {
	User      keyholder.UserID      `json:"user,omitempty"`
	Began     int64                 `json:"began,omitempty"` // with the first factor; Unix microseconds
	Presented []keyholder.Factor    `json:"presented,omitempty"`
	Lacking   bool                  `json:"lacking,omitempty"`   // more is required than the user has set up
	Challenge *webauthn.SessionData `json:"challenge,omitempty"` // of a passkey ceremony that was begun

	device string // by which the browser of this request is known; it is not kept here
}

// step names the page that an attempt has come to.
func (a *attempt) step() string {
	switch {
	case a.User == "":
		return stepSignIn
	case a.Lacking:
		return stepEnrol
	}
	return stepFactor
}

// complaint is what the user is told about a form that did not do.
type complaint struct {
	status int
	text   phrase
	until  time.Time // when a locked user may try again; the rest does not count then
}

// present takes a form of a sign-in, adds what it presents to the attempt and
// says whether the user is signed in by it. at says where, for the audit trail.
func (s *Server) present(ctx context.Context, a *attempt, form url.Values, at string, policy func(keyholder.User) keyholder.FactorPolicy) (done bool, c *complaint, err error) {
	if a.User == "" {
		a.Began = s.ledger.Now().UnixMicro() // before the check: a change of the password during it counts
	}
	user, factor, err := s.check(ctx, a, form)
	switch {
	case !ledger.LockedUntil(err).IsZero():
		return false, &complaint{until: ledger.LockedUntil(err)}, nil
	case keyholder.CodeOf(err) == keyholder.Denied, keyholder.CodeOf(err) == keyholder.NotFound: // a passkey removed at this moment
		return false, &complaint{status: http.StatusForbidden, text: wrongFactor(form.Get("action"))}, nil
	case err != nil:
		return false, nil, err
	}
	return s.accept(ctx, a, user, factor, at, policy, wrongFactor(form.Get("action")))
}

// accept adds a factor that was presented rightly to the attempt, and says
// whether the user is signed in by it. ended is what they are told whose
// sign-ins have ended since this one began.
func (s *Server) accept(ctx context.Context, a *attempt, user keyholder.UserID, factor keyholder.Factor, at string,
	policy func(keyholder.User) keyholder.FactorPolicy, ended phrase) (done bool, c *complaint, err error) {
	u := s.ledger.User(user)
	if !keyholder.PermitSession(u, time.UnixMicro(a.Began)).Allowed { // a disabled user is not asked for more
		return false, &complaint{status: http.StatusForbidden, text: ended}, nil
	}
	a.User, a.Presented = user, append(a.Presented, factor)
	err = s.ledger.SignIn(ctx, digest(a.device), user, a.Presented, policy(u), at)
	if keyholder.CodeOf(err) != keyholder.Denied {
		return err == nil, nil, err
	}
	set, err := s.ledger.Factors(ctx, user)
	a.Lacking = !set.Any()
	return false, nil, err
}

// check asks whether a form presents a factor rightly. Errors: Denied, Unavailable.
func (s *Server) check(ctx context.Context, a *attempt, form url.Values) (keyholder.UserID, keyholder.Factor, error) {
	first := a.User == ""
	switch action := form.Get("action"); {
	case action == actionSignIn && first:
		u, err := s.ledger.CheckPassword(ctx, digest(a.device), form.Get("login"), form.Get("password"))
		return u.ID, keyholder.FactorPassword, err
	case action == actionCode && !first:
		return a.User, keyholder.FactorTOTP, s.ledger.CheckTOTP(ctx, a.User, form.Get("code"))
	case action == actionRecovery && !first:
		return a.User, keyholder.FactorRecovery, s.ledger.CheckRecoveryCode(ctx, a.User, form.Get("code"))
	case action == actionPasskey:
		return s.checkPasskey(ctx, a, form.Get("credential"))
	}
	return "", "", keyholder.Errorf(keyholder.Denied, "the form is of another step")
}

func wrongFactor(action string) phrase {
	switch action {
	case actionCode, actionRecovery:
		return say("code.wrong")
	case actionPasskey:
		return say("passkey.wrong")
	}
	return say("signin.wrong")
}

// isFactor says whether a form presents a factor.
func isFactor(action string) bool {
	switch action {
	case actionSignIn, actionCode, actionRecovery, actionPasskey:
		return true
	}
	return false
}

// encode and decodeAttempt convert an attempt for the free part of a session.
func (a *attempt) encode() (string, error) {
	b, err := json.Marshal(a)
	return string(b), err
}

func decodeAttempt(text string) (*attempt, error) {
	a := new(attempt)
	if text == "" {
		return a, nil
	}
	return a, json.Unmarshal([]byte(text), a)
}

// joinFactors and splitFactors convert what was presented for a grant.
func joinFactors(presented []keyholder.Factor) string {
	names := make([]string, len(presented))
	for i, f := range presented {
		names[i] = string(f)
	}
	return strings.Join(names, " ")
}

func splitFactors(s string) []keyholder.Factor {
	var out []keyholder.Factor
	for name := range strings.FieldsSeq(s) {
		out = append(out, keyholder.Factor(name))
	}
	return out
}
