package keyholder

import (
	"errors"
	"fmt"
)

// Code says what kind of failure an [Error] is. Each door has one small table
// that turns it into a status of its protocol.
type Code string

const (
	// Invalid means that the request is malformed: the caller must change it.
	Invalid Code = "invalid"
	// Denied means that the caller has no such right. "Not yours" and "does
	// not exist" are both Denied where the difference would tell a stranger
	// what exists.
	Denied Code = "denied"
	// NotFound means that a named thing does not exist, said only to those
	// who may know.
	NotFound Code = "not_found"
	// Conflict means that the request contradicts the present state.
	Conflict Code = "conflict"
	// Unavailable means that a part is down or full; the same request may
	// succeed later.
	Unavailable Code = "unavailable"
)

// Error is the one error type that may be shown to a caller. Every other
// error is internal: doors log it and answer with a reference only.
type Error struct {
	Code   Code
	Detail string // what was wrong, in words for the caller; holds no secret
	Hint   string // what to do about it; may be empty
	Err    error  // cause, for the log only; may be nil
}

// Error returns the detail, without the cause.
func (e *Error) Error() string { return e.Detail }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an [Error] of the given code with a formatted detail.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy of e that also says what to do.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// CodeOf returns the code of the first [Error] in err's chain, or "" if there
// is none, which means that the failure is internal.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
