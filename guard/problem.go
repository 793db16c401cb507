package guard

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/fds-keyholder/keyholder"
)

// problem is the body of an RFC 9457 problem document. Its type is the
// default "about:blank": title says what the status says, and code, a member
// of ours, is the word a program should look at.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   string `json:"code,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// WriteProblem answers a request with a problem document (RFC 9457). detail
// and hint are shown to the caller and must hold no secret.
func WriteProblem(w http.ResponseWriter, status int, code, detail, hint string) {
	body, err := json.Marshal(problem{Title: http.StatusText(status), Status: status, Detail: detail, Code: code, Hint: hint})
	if err != nil { // strings and an int always marshal
		body = []byte("{}")
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(append(body, '\n')) //nolint:errcheck // the client is gone; there is nobody to tell
}

// StatusOf returns the HTTP status of an error: by the code of the first
// [keyholder.Error] in its chain, 500 if there is none.
func StatusOf(err error) int {
	switch keyholder.CodeOf(err) {
	case keyholder.Invalid:
		return http.StatusBadRequest
	case keyholder.Denied:
		return http.StatusForbidden
	case keyholder.NotFound:
		return http.StatusNotFound
	case keyholder.Conflict:
		return http.StatusConflict
	case keyholder.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// WriteError answers a request with the problem document of an error. Of an
// error that is no [keyholder.Error] nothing is shown but reference, which
// the caller has logged with it.
func WriteError(w http.ResponseWriter, err error, reference string) {
	var e *keyholder.Error
	if !errors.As(err, &e) {
		WriteProblem(w, http.StatusInternalServerError, "internal", "an internal error occurred", "reference "+reference)
		return
	}
	if e.Code == keyholder.Unavailable && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "2")
	}
	WriteProblem(w, StatusOf(err), string(e.Code), e.Detail, e.Hint)
}

// Refuse is the default answer of [Guard.Middleware]: 503 if the keys of the
// authorization server cannot be had, otherwise 401 with WWW-Authenticate
// headers. Why a verified token was not permitted is not shown, since it
// could tell a stranger what exists.
func (g *Guard) Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	answerRefused(w, err, g.Challenges(err))
}

// Refuse is [Guard.Refuse] for a door that takes bearer tokens only.
func Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	answerRefused(w, err, []string{bearerChallenge(err)})
}

func answerRefused(w http.ResponseWriter, err error, challenges []string) {
	if keyholder.CodeOf(err) == keyholder.Unavailable {
		WriteError(w, err, "")
		return
	}
	w.Header()["Www-Authenticate"] = challenges
	detail := "the request is not authorized"
	var e *keyholder.Error
	if errors.Is(err, errToken) || errors.Is(err, errProof) || errors.Is(err, ErrNoToken) {
		errors.As(err, &e)
		detail = e.Detail
	}
	WriteProblem(w, http.StatusUnauthorized, string(keyholder.Denied), detail, "")
}
