package publisher

import (
	"errors"
	"fmt"

	"github.com/fds-keyholder/keyholder"
)

// What can become of an item. ErrRefused, ErrTooLarge and ErrInvalid are final
// and stand in an [*Error]; the same item would be answered the same way.
// ErrFull and ErrServer are not final: the item is sent again, later and later
// up to half a minute apart, and the error is only seen in the chain of that
// of a call whose context ended meanwhile.
var (
	// ErrRefused: the subscription has ended or is not the provider's, or its
	// consent does not cover the item; over HTTPS, there is no agreement with
	// the owner. The server does not say which.
	ErrRefused = errors.New("the server refused the destination: the right has ended, or is not the provider's")
	// ErrTooLarge: the server takes no item of this size.
	ErrTooLarge = errors.New("the item is larger than the server takes")
	// ErrInvalid: the server says that the item is malformed.
	ErrInvalid = errors.New("the server takes no such item")
	// ErrFull: there is no room for the destination now; its app is away or slow.
	ErrFull = errors.New("the server has no room for the destination now")
	// ErrServer: the server could not store the item.
	ErrServer = errors.New("the server could not store the item")
	// ErrClosed: the publisher was closed.
	ErrClosed = errors.New("the publisher is closed")
)

// Error says which items of a call were given up, and why. The others of the
// call are durable.
type Error struct {
	To    string // the destination: a subscription, or an owner
	Items []int  // indexes of the items
	Err   error  // why the first of them was; its chain holds one of the errors of this package
}

// Error names the destination and the cause.
func (e *Error) Error() string {
	return fmt.Sprintf("%d items for %s were not published: %v", len(e.Items), e.To, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// unavailable is the error of a wait that ended too early.
func unavailable(waiting int, cause error) error {
	return &keyholder.Error{Code: keyholder.Unavailable, Detail: fmt.Sprintf("%d items were not acknowledged in time", waiting), Err: cause}
}
