package authserver

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Pushed authorization requests (RFC 9126). An app may send the parameters of
// its authorization request itself, authenticated, and give the browser only a
// reference to them. The library authenticates the client and reads the
// request; what was pushed is kept here as it came, and taken back once, as if
// the browser had brought it. So exactly the pushed parameters count and those
// beside the reference do not (RFC 9101 6.3), where the library would mix both.

// pushedPrefix begins every request_uri of a pushed request (RFC 9126 2.2).
const pushedPrefix = "urn:ietf:params:oauth:request_uri:"

// maxPushed bounds a pushed request, in bytes of the form.
const maxPushed = 16 << 10

// checkPushed refuses a pushed request that the authorization endpoint would
// refuse (RFC 9126 2.1), so that its developer is told and not the owner.
func (s *Server) checkPushed(ctx context.Context, _ *goidc.AuthnSession, c *goidc.Client) error {
	form := exchangeOf(ctx).form
	refuse := func(code, description string) error { return goidc.NewError(goidc.ErrorCode(code), description) }
	// Parties without the authorization_code grant have no redirect URI.
	if !slices.Contains(c.RedirectURIs, form.Get("redirect_uri")) {
		return refuse(string(goidc.ErrorCodeInvalidRequest), "redirect_uri is not registered for the app; it must be the same, byte for byte")
	}
	if form.Get("response_type") == "" {
		return refuse(string(goidc.ErrorCodeInvalidRequest), "response_type is required")
	}
	if code, description := s.unsupported(form); code != "" {
		return refuse(code, description)
	}
	if len(pushedForm(form, c.ID)) > maxPushed {
		return refuse(string(goidc.ErrorCodeInvalidRequest), "the request is larger than 16 KiB")
	}
	return nil
}

// pushedForm is what is kept of a pushed request: everything but the
// credentials it was sent with.
func pushedForm(form url.Values, client string) string {
	kept := url.Values{"client_id": {client}}
	for name, values := range form {
		switch name {
		case "client_id", "client_secret", "client_assertion", "client_assertion_type":
		default:
			kept[name] = values
		}
	}
	return kept.Encode()
}

// savePushed keeps a pushed request for its app.
func (m *manager) savePushed(ctx context.Context, ex *exchange, as *goidc.AuthnSession) error {
	return settle(ex, m.ledger.SaveSession(ctx, ledger.Session{
		ID:      digest(pushedPrefix + as.PushedAuthReqID), // never that of a sign-in, whose ID has no prefix
		Client:  as.ClientID,
		Body:    []byte(pushedForm(ex.form, as.ClientID)),
		Pending: true,
		Expires: m.now().Add(pushLifetime),
	}))
}

// isPushed says whether an authorization request refers to a pushed one.
func isPushed(form url.Values) bool { return strings.HasPrefix(form.Get("request_uri"), pushedPrefix) }

// takePushed turns a reference to a pushed request into that request, once.
// A reference that another app brings, or a second time, or too late, gives
// the same page: nothing of it says what exists.
func (s *Server) takePushed(ex *exchange, r *http.Request) (*http.Request, *message) {
	pushed, err := s.ledger.PendingSession(r.Context(), digest(ex.form.Get("request_uri")))
	if err == nil && pushed.Client != ex.form.Get("client_id") {
		err = keyholder.Errorf(keyholder.NotFound, "the request was pushed by another client")
	}
	if err == nil {
		pushed.Pending = false
		err = s.ledger.SaveSession(r.Context(), pushed)
	}
	switch keyholder.CodeOf(err) {
	case keyholder.NotFound, keyholder.Conflict:
		return r, &message{Title: "used-up.title", Text: "used-up.text",
			Detail: "request_uri is unknown, used, expired or of another client"}
	}
	if err == nil {
		ex.form, err = url.ParseQuery(string(pushed.Body))
	}
	if err != nil {
		ex.fault = err
		return r, nil
	}
	taken := r.Clone(r.Context())
	taken.Method, taken.URL.RawQuery = http.MethodGet, string(pushed.Body)
	taken.Body, taken.ContentLength, taken.Form, taken.PostForm = http.NoBody, 0, nil, nil
	return taken, nil
}

// SessionByPushedAuthReqID is part of the library's manager of pushed
// requests. It is never asked for one: the reference has become the request
// before the library sees it.
func (m *manager) SessionByPushedAuthReqID(context.Context, string) (*goidc.AuthnSession, error) {
	return nil, goidc.ErrNotFound
}
