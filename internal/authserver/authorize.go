package authserver

import (
	"mime"
	"net/http"
	"net/url"
	"slices"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
)

// serveAuthorize begins a sign-in (RFC 6749 4.1.1). Until the redirect URI is
// known to be the app's, errors are pages: to redirect would make this server
// send people wherever a stranger likes (RFC 9700 4.11).
func (s *Server) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	ex := &exchange{endpoint: endpointAuthorize}
	r.Header.Del("DPoP") // a browser proves nothing; an app names its key by dpop_jkt
	problem := readAuthorization(ex, w, r)
	pushed := problem == nil && isPushed(ex.form)
	if pushed {
		r, problem = s.takePushed(ex, r)
		if ex.fault != nil {
			s.faultPage(w, r, ex)
			return
		}
	}
	if problem == nil {
		problem = s.checkRedirect(ex.form)
	}
	if problem != nil {
		s.denials.record(r.Context(), ex, keyholder.EventDenied, string(goidc.ErrorCodeInvalidRequest), allTexts[problem.Title][0])
		s.pages.message(w, r, ex, http.StatusBadRequest, problem)
		return
	}
	code, description := s.unsupported(ex.form)
	if v := keyholder.PermitAuthorization(s.ledger.App(keyholder.AppID(ex.form.Get("client_id"))), pushed); !v.Allowed {
		code, description = string(goidc.ErrorCodeInvalidRequest), v.Reason
	}
	if code != "" {
		s.denials.record(r.Context(), ex, keyholder.EventDenied, code, description)
		s.redirectError(w, r, ex.form, code, description)
		return
	}
	s.serveBrowser(ex, w, r)
}

// readAuthorization reads the parameters, which stand in the address of a GET
// or in the body of a POST, each once.
func readAuthorization(ex *exchange, w http.ResponseWriter, r *http.Request) *message {
	malformed := &message{Title: "incomplete.title", Text: "incomplete.text",
		Detail: "the parameters of the authorization request are malformed or repeated"}
	if r.Method == http.MethodGet {
		q, err := url.ParseQuery(r.URL.RawQuery)
		ex.form = q
		if err != nil || repeated(q) {
			return malformed
		}
		return nil
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.URL.RawQuery != "" || err != nil || media != "application/x-www-form-urlencoded" || readForm(ex, w, r) != nil {
		return malformed
	}
	return nil
}

// checkRedirect says what is wrong with the app or with the address to return
// to, which must be, byte for byte, one the app has registered. The library
// compares a parsed form, which forgives an empty fragment and other spellings.
func (s *Server) checkRedirect(form url.Values) *message {
	app := s.ledger.App(keyholder.AppID(form.Get("client_id")))
	if app.ID == "" || !app.Cut.IsZero() {
		return &message{Title: "unknown-app.title", Text: "unknown-app.text",
			Detail: "client_id names no app in force"}
	}
	if !slices.Contains(app.RedirectURIs, form.Get("redirect_uri")) {
		return &message{Title: "no-way-back.title", Text: "no-way-back.text",
			Detail: "redirect_uri is not registered for the app; it must be the same, byte for byte"}
	}
	return nil
}

// unsupported names what a well-addressed request asks for and is not done
// here, and the error code for it.
func (s *Server) unsupported(form url.Values) (code, description string) {
	switch {
	case form.Has("request"):
		return "request_not_supported", "request objects are not supported"
	case form.Has("request_uri"):
		return string(goidc.ErrorCodeRequestURINotSupported), "request objects are not supported"
	case form.Has("response_type") && form.Get("response_type") != string(goidc.ResponseTypeCode):
		return "unsupported_response_type", "response_type must be code"
	case form.Has("response_mode") && form.Get("response_mode") != string(goidc.ResponseModeQuery):
		return string(goidc.ErrorCodeInvalidRequest), "response_mode must be query"
	case form.Get("code_challenge") == "":
		return string(goidc.ErrorCodeInvalidRequest), "code_challenge is required (PKCE, RFC 7636)"
	case form.Get("code_challenge_method") != string(goidc.CodeChallengeMethodSHA256):
		// Without the parameter the method would be "plain" (RFC 7636 4.3).
		return string(goidc.ErrorCodeInvalidRequest), "code_challenge_method must be S256"
	case form.Get(paramKey) != "" && !idForm.MatchString(form.Get(paramKey)):
		return string(goidc.ErrorCodeInvalidRequest), "dpop_jkt must be the SHA-256 thumbprint of a key (RFC 7638)"
	case !containsAll(s.audiences, form[paramResource]):
		return invalidTarget, unknownTarget
	case hasScope(form.Get("prompt"), "none"):
		return string(goidc.ErrorCodeLoginRequired), "the owner's user must sign in"
	case form.Get("scope") != "" && !hasScope(form.Get("scope"), keyholder.ScopeRead):
		return string(goidc.ErrorCodeInvalidScope), "the scope must hold " + keyholder.ScopeRead
	}
	return "", ""
}

// redirectError tells an app by redirect what is wrong with its request. The
// redirect URI has been found among the app's own.
func (s *Server) redirectError(w http.ResponseWriter, r *http.Request, form url.Values, code, description string) {
	u, err := url.Parse(form.Get("redirect_uri"))
	if err != nil {
		s.pages.message(w, r, &exchange{form: form}, http.StatusBadRequest, &message{Title: "no-way-back.title", Text: "no-way-back.text"})
		return
	}
	q := u.Query()
	q.Set("error", code)
	q.Set("error_description", description)
	q.Set("iss", s.issuer)
	if state := form.Get("state"); state != "" {
		q.Set("state", state)
	}
	u.RawQuery = q.Encode()
	http.Redirect(w, r, u.String(), http.StatusSeeOther)
}

// serveInteraction serves the pages of a sign-in in progress.
func (s *Server) serveInteraction(w http.ResponseWriter, r *http.Request) {
	ex := &exchange{endpoint: endpointInteraction}
	if r.Method == http.MethodPost && !s.readOwnForm(w, r, ex, "again.app") {
		return
	}
	s.serveBrowser(ex, w, r)
}

// readOwnForm reads a form of one of our pages: one that was sent from another
// site is forged. If it cannot, it answers, again being the key of the text
// that says where to begin again.
func (s *Server) readOwnForm(w http.ResponseWriter, r *http.Request, ex *exchange, again string) bool {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		s.refusePage(w, r, ex, http.StatusForbidden, &message{Title: "foreign-form.title", Text: again, Detail: "cross-origin form"})
		return false
	}
	if readForm(ex, w, r) != nil {
		s.refusePage(w, r, ex, http.StatusBadRequest, &message{Title: "unreadable.title", Text: again, Detail: "malformed, repeated or oversize form"})
		return false
	}
	return true
}

// serveBrowser lets the library run a step of a sign-in and sends what came
// of it, or a page that says that the server could not answer.
func (s *Server) serveBrowser(ex *exchange, w http.ResponseWriter, r *http.Request) {
	a := newAnswer()
	s.library.ServeHTTP(a, r.WithContext(withExchange(r.Context(), ex)))
	if ex.fault != nil {
		s.faultPage(w, r, ex)
		return
	}
	a.send(w)
}

// faultPage says that the server could not answer.
func (s *Server) faultPage(w http.ResponseWriter, r *http.Request, ex *exchange) {
	ref := newReference()
	s.log.ErrorContext(r.Context(), "a sign-in failed", "reference", ref, "error", ex.fault)
	w.Header().Set("Retry-After", "1")
	s.pages.message(w, r, ex, http.StatusServiceUnavailable, &message{Title: "fault.title", Text: "fault.text", Detail: "reference " + ref})
}

// refusePage shows and audits a refusal.
func (s *Server) refusePage(w http.ResponseWriter, r *http.Request, ex *exchange, status int, m *message) {
	s.denials.record(r.Context(), ex, keyholder.EventDenied, http.StatusText(status), m.Detail)
	s.pages.message(w, r, ex, status, m)
}

// renderError is the library's way to show an error that must not be sent to
// the app.
func (s *Server) renderError(w http.ResponseWriter, r *http.Request, err error) error {
	if a, ok := w.(*answer); ok {
		a.reset()
	}
	ex := exchangeOf(r.Context())
	if ex.fault != nil {
		return nil // serveBrowser shows it
	}
	if ex.endpoint == endpointInteraction {
		s.refusePage(w, r, ex, http.StatusBadRequest, &message{Title: "over.title", Text: "over.text",
			Detail: "the session is finished, expired or unknown"})
		return nil
	}
	s.refusePage(w, r, ex, http.StatusBadRequest, &message{Title: "refused.title", Text: "refused.text", Detail: publicCause(err)})
	return nil
}
