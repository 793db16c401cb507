package guard_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// Ensure that every code has its status and that the body of an error shows
// detail and hint but never the cause, nor anything of an internal error.
func TestWriteError(t *testing.T) {
	secret := errors.New("secret cause")
	withCause := &keyholder.Error{Code: keyholder.Conflict, Detail: "it exists", Hint: "take another", Err: secret}
	tests := []struct {
		err    error
		status int
		body   string
	}{
		{keyholder.Errorf(keyholder.Invalid, "bad"), 400, `{"title":"Bad Request","status":400,"detail":"bad","code":"invalid"}`},
		{keyholder.Errorf(keyholder.Denied, "no"), 403, `{"title":"Forbidden","status":403,"detail":"no","code":"denied"}`},
		{keyholder.Errorf(keyholder.NotFound, "none"), 404, `{"title":"Not Found","status":404,"detail":"none","code":"not_found"}`},
		{fmt.Errorf("add a party: %w", withCause), 409, `{"title":"Conflict","status":409,"detail":"it exists","code":"conflict","hint":"take another"}`},
		{keyholder.Errorf(keyholder.Unavailable, "full"), 503, `{"title":"Service Unavailable","status":503,"detail":"full","code":"unavailable"}`},
		{secret, 500, `{"title":"Internal Server Error","status":500,"detail":"an internal error occurred","code":"internal","hint":"reference r-1"}`},
	}
	for _, tt := range tests {
		w := httptest.NewRecorder()
		guard.WriteError(w, tt.err, "r-1")
		if w.Code != tt.status || w.Body.String() != tt.body+"\n" || guard.StatusOf(tt.err) != tt.status {
			t.Errorf("%v: status %d (StatusOf %d), body %s", tt.err, w.Code, guard.StatusOf(tt.err), w.Body)
		}
		if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
			t.Errorf("content type %q", ct)
		}
		if retry := w.Header().Get("Retry-After"); (retry != "") != (tt.status == 503) {
			t.Errorf("status %d with Retry-After %q", tt.status, retry)
		}
	}
}

// Ensure that the default refusal tells missing keys from a missing right.
func TestRefuse(t *testing.T) {
	w := httptest.NewRecorder()
	guard.Refuse(w, nil, keyholder.Errorf(keyholder.Unavailable, "no keys"))
	if w.Code != 503 || w.Header().Get("Retry-After") == "" || w.Header().Get("WWW-Authenticate") != "" {
		t.Errorf("unavailable: status %d, headers %v", w.Code, w.Header())
	}
	w = httptest.NewRecorder()
	guard.Refuse(w, nil, keyholder.Errorf(keyholder.Denied, "the agreement was cut"))
	if want := `{"title":"Unauthorized","status":401,"detail":"the request is not authorized","code":"denied"}` + "\n"; w.Body.String() != want {
		t.Errorf("denied: body %s", w.Body)
	}
}
