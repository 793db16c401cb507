package webapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/fds-keyholder/keyholder"
)

// Messages of FDS error objects. The first three stand in the FDS pages. The
// pages seen define none for the other cases, so those words are ours.
const (
	unauthorizedRequest = "unauthorized_request"
	invalidParameter    = "invalid_parameter"
	notImplemented      = "not_implemented"

	invalidBody      = "invalid_body"
	notFound         = "not_found"
	methodNotAllowed = "method_not_allowed"
	conflict         = "conflict"
	bodyTooLarge     = "body_too_large"
	unsupportedType  = "unsupported_media_type"
	internalError    = "internal_error"
	unavailable      = "unavailable"
)

// detailHeader carries what was wrong in words. It is a header because the
// FDS error object has exactly two members.
const detailHeader = "Keyholder-Detail"

// fdsError is the error object of FDS version 2.
type fdsError struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// writeFDS answers with an FDS error object. detail may be empty; it holds
// nothing of another party.
func writeFDS(w http.ResponseWriter, httpStatus int, e fdsError, detail string) {
	body, err := json.Marshal(e)
	if err != nil { // an int and a string always marshal
		body = []byte("{}")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if detail != "" {
		h.Set(detailHeader, headerText(detail))
	}
	w.WriteHeader(httpStatus)
	w.Write(body) //nolint:errcheck // the client is gone; there is nobody to tell
}

// headerText keeps printable ASCII, which is all a header value may hold.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, s)
}

func writeFDSStatus(w http.ResponseWriter, status int, message, detail string) {
	writeFDS(w, status, fdsError{Status: status, Message: message}, detail)
}

// refuseFDS answers 401 to everything that is not authorized: no token, a bad
// one, and one that has no right to what was asked, which must look the same
// as what does not exist (FDS 2.6.4.1 with position 7 of the design).
func (a *API) refuseFDS(w *response, err error) {
	if keyholder.CodeOf(err) == keyholder.Unavailable {
		w.Header().Set("Retry-After", "2")
		writeFDSStatus(w, http.StatusServiceUnavailable, unavailable, "")
		return
	}
	w.refused(err)
	w.Header()["Www-Authenticate"] = a.guard.Challenges(err)
	writeFDSStatus(w, http.StatusUnauthorized, unauthorizedRequest, "")
}

// badParameter, badBody and the like mark an error with the FDS answer it
// gets.
type answered struct {
	status  int
	message string
	err     error
}

func (a *answered) Error() string { return a.err.Error() }
func (a *answered) Unwrap() error { return a.err }

func badParameter(err error) error {
	return &answered{http.StatusBadRequest, invalidParameter, err}
}

// failFDS answers with the FDS error object of an error.
func (a *API) failFDS(w *response, err error) {
	var e *keyholder.Error
	if !errors.As(err, &e) {
		writeFDSStatus(w, http.StatusInternalServerError, internalError, "reference "+a.reference(err))
		return
	}
	detail := e.Detail
	if e.Hint != "" {
		detail += "; " + e.Hint
	}
	var known *answered
	if errors.As(err, &known) {
		writeFDSStatus(w, known.status, known.message, detail)
		return
	}
	switch e.Code {
	case keyholder.Denied:
		a.refuseFDS(w, err)
	case keyholder.Invalid:
		writeFDSStatus(w, http.StatusBadRequest, invalidBody, detail)
	case keyholder.NotFound:
		writeFDSStatus(w, http.StatusNotFound, notFound, detail)
	case keyholder.Conflict:
		writeFDSStatus(w, http.StatusConflict, conflict, detail)
	default:
		a.refuseFDS(w, keyholder.Errorf(keyholder.Unavailable, "%s", e.Detail))
	}
}
