package main

import (
	"errors"
	"fmt"

	"github.com/fds-keyholder/keyholder"
)

// Exit codes.
const (
	exitFine        = 0
	exitNo          = 1 // the answer is no: refused, not there, a check failed, something expires
	exitUsage       = 2 // the command line or what it names is wrong
	exitUnavailable = 3 // no answer: no server, or it failed
)

// errNo means that the answer is no and has been printed.
var errNo = errors.New("the answer is no")

// errHelp means that help was asked for and has been printed.
var errHelp = errors.New("help was printed")

// usageError is a command line that cannot be understood.
type usageError struct {
	detail, hint string
}

func (e *usageError) Error() string { return e.detail }

// report prints an error, and what to do about it, and returns the exit code.
func report(env *environment, err error) int {
	var wrong *usageError
	var known *keyholder.Error
	switch {
	case err == nil, errors.Is(err, errHelp):
		return exitFine
	case errors.Is(err, errNo):
		return exitNo
	case errors.As(err, &wrong):
		complain(env, wrong.detail, wrong.hint)
		return exitUsage
	case errors.As(err, &known):
		complain(env, known.Detail, known.Hint)
		switch known.Code {
		case keyholder.Invalid:
			return exitUsage
		case keyholder.Denied, keyholder.NotFound, keyholder.Conflict:
			return exitNo
		}
		return exitUnavailable
	}
	complain(env, err.Error(), "")
	return exitUnavailable
}

func complain(env *environment, detail, hint string) {
	fmt.Fprintf(env.stderr, "keyholder: %s\n", detail)
	if hint != "" {
		fmt.Fprintf(env.stderr, "hint: %s\n", hint)
	}
}

// guess returns the known word that a person may have meant, as a hint, or
// otherwise.
func guess(s string, known []string, otherwise string) string {
	meant := keyholder.Nearest(s, known)
	if meant == "" {
		return otherwise
	}
	return fmt.Sprintf("did you mean %s? %s", meant, otherwise)
}
