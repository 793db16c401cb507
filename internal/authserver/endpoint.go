package authserver

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
)

// maxBody bounds the body of every request, in bytes.
const maxBody = 64 << 10

// serveClient serves the endpoints that clients, not browsers, call: it reads
// the request strictly, lets the library decide, and sends its answer unless
// the exchange knows better.
func (s *Server) serveClient(e endpoint, w http.ResponseWriter, r *http.Request) {
	ex := &exchange{endpoint: e}
	refused := readClientRequest(ex, w, r)
	if refused == nil {
		refused = s.readProof(ex, r)
	}
	if refused == nil {
		refused = s.checkTarget(ex)
	}
	a := newAnswer()
	if refused == nil {
		a = s.ask(ex, r)
		for turn := 1; ex.overrun && turn < maxTurns; turn++ {
			*ex = ex.again()
			a = s.ask(ex, r)
		}
		refused = s.outcome(ex, a)
	}
	if refused == nil {
		a.send(w)
		return
	}
	kind := keyholder.EventTokenDenied
	if e == endpointPush {
		kind = keyholder.EventDenied
	}
	s.denials.record(r.Context(), ex, kind, refused.code, reasonOf(ex, refused))
	s.writeRefusal(w, r, ex, refused)
}

// maxTurns bounds how often a request is decided anew because another changed
// the grant between its reading and its change. The second turn sees what the
// other has done, so more than two need more than one other.
const maxTurns = 8

// ask lets the library answer a request.
func (s *Server) ask(ex *exchange, r *http.Request) *answer {
	a := newAnswer()
	s.library.ServeHTTP(a, r.WithContext(withExchange(r.Context(), ex)))
	return a
}

// readClientRequest checks the form of a request and reads how the client
// authenticates, or says what is wrong.
func readClientRequest(ex *exchange, w http.ResponseWriter, r *http.Request) *refusal {
	bad := func(description string) *refusal {
		return &refusal{http.StatusBadRequest, string(goidc.ErrorCodeInvalidRequest), description}
	}
	if r.URL.RawQuery != "" {
		return bad("parameters belong in the body: an address is logged and credentials in it are lost")
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/x-www-form-urlencoded" {
		return bad("the content type must be application/x-www-form-urlencoded")
	}
	if refused := readForm(ex, w, r); refused != nil {
		return refused
	}
	if ex.endpoint == endpointToken {
		switch {
		case ex.form.Get("grant_type") == "":
			return bad("grant_type is required")
		case ex.form.Get("grant_type") != string(goidc.GrantClientCredentials) && ex.form.Get(paramSubscription) != "":
			return bad("subscription_id belongs to the client_credentials grant: other grants carry theirs")
		case !scopeReads(ex.form):
			// Refused before a code or a refresh token is consumed for
			// a token that could do nothing.
			return &refusal{http.StatusBadRequest, string(goidc.ErrorCodeInvalidScope), "the scope must hold " + keyholder.ScopeRead}
		}
	}
	if r.TLS != nil && r.TLS.HandshakeComplete && len(r.TLS.PeerCertificates) > 0 {
		ex.peer = r.TLS.PeerCertificates[0]
	}
	if refused := readSecret(ex, r); refused != nil {
		return refused
	}
	return readAssertion(ex)
}

// readForm parses the body, which must name each parameter once.
func readForm(ex *exchange, w http.ResponseWriter, r *http.Request) *refusal {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return &refusal{http.StatusRequestEntityTooLarge, string(goidc.ErrorCodeInvalidRequest), "the body is larger than 64 KiB"}
		}
		return &refusal{http.StatusBadRequest, string(goidc.ErrorCodeInvalidRequest), "the body is not a valid form"}
	}
	ex.form = r.PostForm
	if repeated(ex.form) {
		return &refusal{http.StatusBadRequest, string(goidc.ErrorCodeInvalidRequest), "a parameter is repeated"}
	}
	return nil
}

// repeated says whether a parameter occurs twice (RFC 6749 3.1, 3.2) that is
// not made for it (RFC 8707 2). Which
// of two values counts would be a guess, and two parties may guess differently.
func repeated(form url.Values) bool {
	for name, values := range form {
		if len(values) > 1 && name != paramResource {
			return true
		}
	}
	return false
}

func scopeReads(form url.Values) bool {
	scope := form.Get("scope")
	if scope == "" || form.Get("grant_type") == string(goidc.GrantClientCredentials) {
		return true
	}
	return hasScope(scope, keyholder.ScopeRead)
}

func hasScope(scopes, want string) bool {
	for s := range strings.FieldsSeq(scopes) {
		if s == want {
			return true
		}
	}
	return false
}

// readSecret finds out how the request carries a client secret. The library
// takes what stands in the Basic header as it is, but RFC 6749 2.3.1 has both
// parts form-encoded, and clients that do so send every hyphen of a UUID as
// %2D: they are decoded here.
func readSecret(ex *exchange, r *http.Request) *refusal {
	headers := r.Header.Values("Authorization")
	switch {
	case len(headers) > 1:
		return &refusal{http.StatusBadRequest, string(goidc.ErrorCodeInvalidRequest), "the Authorization header is repeated"}
	case len(headers) == 0:
		if ex.form.Has("client_secret") {
			ex.method = goidc.AuthnMethodSecretPost
		}
		return nil
	case ex.form.Has("client_secret"):
		return &refusal{http.StatusBadRequest, string(goidc.ErrorCodeInvalidRequest), "the client authenticates in two ways: use one"}
	}
	ex.method = goidc.AuthnMethodSecretBasic
	id, secret, ok := r.BasicAuth()
	if ok {
		var errID, errSecret error
		id, errID = url.QueryUnescape(id)
		secret, errSecret = url.QueryUnescape(secret)
		ok = errID == nil && errSecret == nil && !strings.Contains(id, ":")
	}
	if !ok {
		return &refusal{http.StatusUnauthorized, string(goidc.ErrorCodeInvalidClient), "the Authorization header is not valid Basic authentication"}
	}
	r.SetBasicAuth(id, secret)
	return nil
}

// outcome returns nil if the library's answer stands, else what is sent
// instead.
func (s *Server) outcome(ex *exchange, a *answer) *refusal {
	if ex.fault != nil {
		return &refusal{http.StatusServiceUnavailable, "temporarily_unavailable", "the server could not answer; the same request may succeed in a moment"}
	}
	if ex.refusal != nil {
		return ex.refusal
	}
	if a.status < 400 {
		return nil
	}
	var e struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.Unmarshal(a.body.Bytes(), &e); err != nil || e.Code == "" {
		e.Code = string(goidc.ErrorCodeInternalError)
	}
	refused := &refusal{a.status, e.Code, e.Description}
	switch goidc.ErrorCode(e.Code) {
	case goidc.ErrorCodeInternalError:
		refused.status, refused.code = http.StatusInternalServerError, "server_error"
	case goidc.ErrorCodeExpiredToken: // RFC 6749 5.2 knows no such code: a revoked code is an invalid grant
		refused.code = string(goidc.ErrorCodeInvalidGrant)
	case goidc.ErrorCodeUnauthorizedClient: // 401 would ask for other credentials
		refused.status = http.StatusBadRequest
	case goidc.ErrorCodeInvalidClient:
		refused.description = "the client could not be authenticated"
	case goidc.ErrorCodeInvalidRequest, goidc.ErrorCodeInvalidScope:
		if e.Description == libraryProof {
			refused.code = invalidProof
		}
		if cause := publicCause(ex.cause); cause != "" {
			refused.description = cause
		}
	}
	return refused
}

// publicCause is the innermost reason of a library error, if it may stand in
// an error_description (RFC 6749 5.2 allows printable ASCII but " and \).
// It is used for malformed requests only, where it tells a developer what to
// change and a stranger nothing.
func publicCause(err error) string {
	if err == nil {
		return ""
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	text := err.Error()
	if described, ok := err.(goidc.Error); ok {
		text = described.Description
	}
	clean := strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
			return -1
		}
		return r
	}, text)
	return clean[:min(len(clean), 200)]
}

// reasonOf is what the audit trail says about a refusal.
func reasonOf(ex *exchange, refused *refusal) string {
	if ex.refusal != nil || ex.cause == nil {
		return refused.description
	}
	return publicCause(ex.cause)
}

// writeRefusal sends an OAuth error. Internal errors are logged under a
// reference and show nothing else.
func (s *Server) writeRefusal(w http.ResponseWriter, r *http.Request, ex *exchange, refused *refusal) {
	h := w.Header()
	if refused.status >= 500 {
		ref := newReference()
		s.log.ErrorContext(r.Context(), "a request failed", "reference", ref, "endpoint", string(ex.endpoint),
			"client", ex.client, "error", errors.Join(ex.fault, ex.cause))
		refused.description = strings.TrimSpace(refused.description + " (reference " + ref + ")")
	}
	switch {
	case refused.status == http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	case refused.status == http.StatusUnauthorized && ex.method == goidc.AuthnMethodSecretBasic:
		h.Set("WWW-Authenticate", `Basic realm="keyholder", charset="UTF-8"`) // RFC 6749 5.2
	}
	h.Set("Pragma", "no-cache")
	writeJSON(w, "application/json", refused.status, map[string]string{"error": refused.code, "error_description": refused.description})
}
