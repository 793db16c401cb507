package authserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/federation"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// federationPath begins the addresses of sign-ins at owners' providers, as
// [keyholder.IdentityProvider.RedirectURI] says.
const federationPath = "/federation/"

// federationClient marks the sessions of such sign-ins among those of apps.
const federationClient = "federation"

// actionOrganisation is the action of the form that asks for the provider of
// an owner by the owner's key.
const actionOrganisation = "organisation"

// maxOrganisations is how many providers a sign-in page offers by name. If
// there are more, it asks for the key.
const maxOrganisations = 5

// departure is what is kept of a browser that was sent to a provider. It is
// sealed with the state, of which only the hash is kept.
type departure struct {
	federation.Transaction
	Owner   keyholder.OwnerID `json:"owner"`
	Issuer  string            `json:"issuer"`
	Browser string            `json:"browser"` // hash of the browser's cookie
	Session string            `json:"session"` // of the app's sign-in; empty: the account page
	Began   int64             `json:"began"`   // Unix microseconds

	Languages string `json:"languages"` // of the page it began on
}

// back is the page on which the sign-in began.
func (d *departure) back() string {
	if d.Session == "" {
		return accountPath
	}
	return sessionPath(d.Session)
}

// arrival is a user who has come back from a provider.
type arrival struct {
	user   keyholder.UserID
	factor keyholder.Factor
	began  int64 // Unix microseconds
}

// routeFederation adds sign-in at owners' providers. It begins with a link and
// not with a form, because browsers apply form-action to the redirects that
// follow a form.
func (s *Server) routeFederation(mux *http.ServeMux) {
	mux.HandleFunc("GET "+federationPath+"{owner}", s.depart)
	mux.HandleFunc("GET "+federationPath+"{owner}/callback", s.arrive)
}

// depart sends a browser to the provider of an owner.
func (s *Server) depart(w http.ResponseWriter, r *http.Request) {
	ex := &exchange{endpoint: endpointFederation, form: r.URL.Query()}
	p := s.ledger.IdentityProvider(keyholder.OwnerID(r.PathValue("owner")))
	session := ex.form.Get("session")
	if p.Owner == "" || session != "" && !idForm.MatchString(session) {
		s.refusePage(w, r, ex, http.StatusNotFound, &message{Title: "federation.gone.title", Text: "federation.gone.text", Detail: "the owner has no identity provider"})
		return
	}
	secret := random("")
	d := departure{Owner: p.Owner, Issuer: p.Issuer, Browser: hashText(markBrowser(w, r)), Session: session, Began: s.ledger.Now().UnixMicro(), Languages: ex.form.Get("ui_locales")}
	d.State, d.Nonce, d.Verifier = secret(r.Context()), secret(r.Context()), secret(r.Context())
	address, err := s.federation.Begin(r.Context(), p, p.RedirectURI(s.issuer), d.Transaction)
	if err != nil {
		s.notArrived(w, r, ex, &d, err)
		return
	}
	if err := s.keepDeparture(r.Context(), &d); err != nil {
		ex.fault = err
		s.faultPage(w, r, ex)
		return
	}
	http.Redirect(w, r, address, http.StatusSeeOther)
}

func (s *Server) keepDeparture(ctx context.Context, d *departure) error {
	body, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("write a departure: %w", err)
	}
	sealed, err := seal(d.State, federationClient, string(body))
	if err != nil {
		return err
	}
	return s.ledger.SaveSession(ctx, ledger.Session{ID: digest(d.State), Client: federationClient, Body: sealed, Pending: true, Expires: s.ledger.Now().Add(sessionLifetime)})
}

// arrive takes the answer of a provider.
func (s *Server) arrive(w http.ResponseWriter, r *http.Request) {
	ex := &exchange{endpoint: endpointFederation}
	answer, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || repeated(answer) {
		s.refusePage(w, r, ex, http.StatusBadRequest, &message{Title: "unreadable.title", Text: "over.text", Detail: "malformed or repeated parameters"})
		return
	}
	d, err := s.takeDeparture(r, answer.Get("state"))
	switch {
	case keyholder.CodeOf(err) == keyholder.NotFound:
		s.refusePage(w, r, ex, http.StatusBadRequest, &message{Title: "over.title", Text: "over.text", Detail: "the state is used, expired or unknown"})
		return
	case keyholder.CodeOf(err) == keyholder.Denied:
		s.refusePage(w, r, ex, http.StatusForbidden, &message{Title: "other-browser.title", Text: "other-browser.text", Detail: "the sign-in was begun in another browser, or its cookie is gone"})
		return
	case err != nil:
		ex.fault = err
		s.faultPage(w, r, ex)
		return
	}
	ex.form = url.Values{"ui_locales": {d.Languages}}
	at, err := s.identify(r, d, answer)
	if err != nil {
		s.notArrived(w, r, ex, d, err)
		return
	}
	if d.Session == "" {
		s.arriveAtAccount(w, r, ex, at)
		return
	}
	// The page of the app's sign-in takes it from here, with all its checks.
	next := r.Clone(r.Context())
	next.URL = &url.URL{Path: sessionPath(d.Session)}
	s.serveBrowser(&exchange{endpoint: endpointInteraction, arrival: &at}, w, next)
}

// takeDeparture returns the departure of a state, which is spent by it. In
// another browser it is not: who has seen the state does no harm with it.
// Errors: NotFound, Denied in another browser.
func (s *Server) takeDeparture(r *http.Request, state string) (*departure, error) {
	row, err := s.ledger.PendingSession(r.Context(), digest(state))
	if err != nil {
		return nil, err
	}
	if row.Client != federationClient {
		return nil, keyholder.Errorf(keyholder.NotFound, "a session of another kind")
	}
	body, err := unseal(state, federationClient, row.Body)
	if err != nil {
		return nil, err
	}
	d := &departure{Transaction: federation.Transaction{State: state}}
	if err := json.Unmarshal([]byte(body), d); err != nil {
		return nil, fmt.Errorf("read a departure: %w", err)
	}
	if _, same := browserOf(r, d.Browser); !same {
		return nil, keyholder.Errorf(keyholder.Denied, "another browser")
	}
	row.Pending = false
	err = s.ledger.SaveSession(r.Context(), row)
	if keyholder.CodeOf(err) == keyholder.Conflict {
		return nil, keyholder.Errorf(keyholder.NotFound, "the state was used at the same time")
	}
	return d, err
}

// identify asks the provider who has signed in there, and the ledger whom that
// is here.
func (s *Server) identify(r *http.Request, d *departure, answer url.Values) (arrival, error) {
	p := s.ledger.IdentityProvider(d.Owner)
	if r.PathValue("owner") != string(d.Owner) {
		return arrival{}, keyholder.Errorf(keyholder.Denied, "the answer came to the address of another provider")
	}
	if p.Issuer != d.Issuer {
		return arrival{}, keyholder.Errorf(keyholder.Denied, "the provider was removed or replaced meanwhile")
	}
	secret, err := s.ledger.IdentityProviderSecret(r.Context(), p)
	if err != nil {
		return arrival{}, err
	}
	who, err := s.federation.Finish(r.Context(), p, secret, p.RedirectURI(s.issuer), d.Transaction, answer)
	if err != nil {
		return arrival{}, err
	}
	user, err := s.ledger.FederatedUser(d.Owner, d.Issuer, who.Subject)
	if err != nil {
		return arrival{}, &stranger{d.Issuer, who.Subject}
	}
	return arrival{user.ID, keyholder.FederatedFactor(p, who.Methods), d.Began}, nil
}

// stranger is somebody who has signed in at a provider and is nobody here.
type stranger struct{ issuer, subject string }

// Error says what an administrator needs to bind a user.
func (e *stranger) Error() string {
	return fmt.Sprintf("no user in force is bound to the subject %q of %s", e.subject, e.issuer)
}

// notArrived says, kindly, that somebody could not sign in at a provider, and
// shows the way back.
func (s *Server) notArrived(w http.ResponseWriter, r *http.Request, ex *exchange, d *departure, err error) {
	m := &message{Title: "federation.failed.title", Text: "federation.failed.text", Back: d.back(), BackText: "locked.back", Detail: err.Error()}
	status := http.StatusForbidden
	switch {
	case errors.As(err, new(*stranger)):
		m.Title, m.Text = "federation.stranger.title", "federation.stranger.text"
	case keyholder.CodeOf(err) == "": // ours
		ex.fault = err
		s.faultPage(w, r, ex)
		return
	case errors.Is(err, federation.ErrDeclined):
		m.Title, m.Text = "federation.declined.title", "federation.declined.text"
	case keyholder.CodeOf(err) == keyholder.Unavailable:
		m.Title, m.Text, status = "federation.down.title", "federation.down.text", http.StatusBadGateway
	}
	s.refusePage(w, r, ex, status, m)
}

// arrive goes on with a sign-in for an app after its user has come back.
func (i *interaction) arrive(at *arrival) goidc.Status {
	if i.text(keyStep) != stepSignIn { // the browser has gone on in another way meanwhile
		return i.next(nil)
	}
	i.signIn.Began = at.began
	return i.proceed(i.accept(i.r.Context(), i.signIn, at.user, at.factor, string(i.app.ID), i.policyOf, say("federation.ended")))
}

// arriveAtAccount begins a session of the account page for a user who has come
// back. The cookies of that page are not sent with a request that comes from
// another site, so the page is opened by one of ours.
func (s *Server) arriveAtAccount(w http.ResponseWriter, r *http.Request, ex *exchange, at arrival) {
	a := &account{Server: s, w: w, r: r, ex: ex}
	a.setCookie(random("")(r.Context()))
	a.state.Began, a.state.device = at.began, deviceOf(r)
	done, complaint, err := s.accept(r.Context(), &a.state.attempt, at.user, at.factor, accountClient, anyFactor, say("federation.ended"))
	switch {
	case err == nil && complaint != nil:
		s.refusePage(w, r, a.ex, complaint.status, &message{Title: "federation.failed.title", Text: complaint.text.key, Back: accountPath, BackText: "locked.back", Detail: "the user's sign-ins were ended meanwhile"})
		return
	case err == nil:
		if done {
			knowDevice(w, a.state.device)
			a.state.SignedIn = s.ledger.Now().UnixMicro()
		}
		err = a.keep(true)
	}
	if err != nil {
		a.ex.fault = err
		s.faultPage(w, r, a.ex)
		return
	}
	w.Header().Set("Refresh", "0; url="+accountPath)
	s.pages.message(w, r, a.ex, http.StatusOK, &message{Title: "federation.back.title", Text: "federation.back.text", Back: accountPath, BackText: "continue"})
}

// organisation is a provider that a sign-in page offers.
type organisation struct {
	Name    string
	Address string
}

// showSignIn shows the sign-in page with the providers of the owners that fit,
// or with that of the owner whose key was typed.
func (s *Server) showSignIn(w http.ResponseWriter, status int, p *page, key, session string, fits func(keyholder.OwnerID) bool) {
	for _, idp := range s.ledger.ListIdentityProviders() {
		owner := s.ledger.Owner(idp.Owner)
		if owner.Key == key || key == "" && idp.Name != "" && fits(idp.Owner) {
			p.Organisations = append(p.Organisations, organisation{cmp.Or(idp.Name, owner.Key),
				federationPath + url.PathEscape(string(idp.Owner)) + "?" + url.Values{"session": {session}, "ui_locales": {p.Lang()}}.Encode()})
		} else {
			p.AskOrganisation = true
		}
	}
	if len(p.Organisations) > maxOrganisations {
		p.Organisations, p.AskOrganisation = nil, true
	}
	if key != "" && len(p.Organisations) == 0 {
		status, p.Alert = http.StatusNotFound, p.Say(say("federation.unknown"))
	}
	s.pages.signIn(w, status, p)
}

// mayShare says whether an owner has an agreement that could be shared now.
func (i *interaction) mayShare(owner keyholder.OwnerID) bool {
	return slices.ContainsFunc(i.ledger.AgreementsOf(owner), func(a keyholder.Agreement) bool { return a.InForce(i.now()) })
}

// anyFactor is the policy where a second factor is set up: those are let in
// who have none yet.
func anyFactor(keyholder.User) keyholder.FactorPolicy { return keyholder.FactorOptional }
