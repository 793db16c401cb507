package webapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// caller is who sent a request: a verified token, and what its holder has
// proved.
type caller struct {
	token keyholder.Token
	proof keyholder.Proof
}

// identify verifies the token of a request, before anything else of it is
// looked at: without a token no endpoint tells even whether it exists.
func (a *API) identify(w *response, r *http.Request) (caller, error) {
	t, proof, err := a.guard.Token(r)
	if err != nil {
		return caller{}, err
	}
	w.subscription, w.client = t.Subscription, t.ClientID
	return caller{t, proof}, keyholder.PermitToken(t, proof, a.now()).Err()
}

// permit asks whether the caller may read a kind now, and returns the
// subscription that says whose data the answer is made of.
func (a *API) permit(c caller, kind keyholder.Kind) (keyholder.Subscription, error) {
	s := a.ledger.Standing(c.token.Subscription)
	if err := keyholder.PermitRead(c.token, c.proof, s, kind, a.now()).Err(); err != nil {
		return keyholder.Subscription{}, err
	}
	return s.Subscription, nil
}

// fds serves the endpoints of FDS version 2. path is what follows /fds/v2/.
func (a *API) fds(w *response, r *http.Request, path string) {
	w.route = fdsRoot + "*"
	c, err := a.identify(w, r)
	if err != nil {
		a.refuseFDS(w, err)
		return
	}
	parts := strings.Split(path, "/")
	switch {
	case len(parts) == 1 && parts[0] == string(keyholder.Tags):
		w.route = fdsRoot + "tag"
		a.tags(w, r, c)
	case len(parts) == 2 && parts[0] == string(keyholder.Tags):
		w.route = fdsRoot + "tag/{id}"
		a.tag(w, r, c, parts[1])
	case len(parts) == 3 && parts[0] == string(keyholder.Tags) && parts[2] == "entities":
		w.route = fdsRoot + "tag/{id}/entities"
		a.entities(w, r, c, parts[1])
	default:
		kind, err := keyholder.ParseKind(path)
		if err != nil {
			writeFDSStatus(w, http.StatusNotFound, notFound, "FDS version 2 has no such endpoint")
			return
		}
		w.route = fdsRoot + string(kind)
		a.read(w, r, c, kind)
	}
}

// allow says whether the method is one of those given, and answers if not.
func allow(w *response, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	writeFDSStatus(w, http.StatusMethodNotAllowed, methodNotAllowed, "")
	return false
}

// read answers GET /fds/v2/<kind> with the array of the owner's items.
func (a *API) read(w *response, r *http.Request, c caller, kind keyholder.Kind) {
	if !allow(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	sub, err := a.permit(c, kind)
	if err != nil {
		a.refuseFDS(w, err)
		return
	}
	ids, err := parseIDs(r.URL.RawQuery)
	if err != nil {
		a.failFDS(w, badParameter(err))
		return
	}
	undefined, err := a.facility.Undefined(r.Context(), sub.Provider, sub.Owner, kind, ids)
	if err != nil {
		a.failFDS(w, err)
		return
	}
	if undefined {
		// FDS demands an error object with status 204 inside; HTTP 204 could
		// not carry it.
		writeFDS(w, http.StatusNotImplemented, fdsError{Status: http.StatusNoContent, Message: notImplemented}, "")
		return
	}
	out := arrayWriter{w: w, now: a.now}
	err = a.facility.Each(r.Context(), sub.Provider, sub.Owner, kind, ids, func(item json.RawMessage) error {
		// A long answer must not outlive the right to it.
		if _, err := a.permit(c, kind); err != nil {
			return err
		}
		return out.add(item)
	})
	if err == nil {
		err = out.end()
	}
	a.finish(w, err)
}

// finish deals with the error of an answer that may have begun.
func (a *API) finish(w *response, err error) {
	if err == nil {
		return
	}
	if !w.sent {
		a.failFDS(w, err)
		return
	}
	w.reason = "the answer was broken off"
	if keyholder.CodeOf(err) != keyholder.Denied {
		a.log.Warn("answer broken off", "route", w.route, "error", err.Error())
	}
	panic(http.ErrAbortHandler)
}

const (
	// flushAt is how much of an array is gathered before it is sent.
	flushAt = 64 << 10
	// flushWithin is how long a client may take for that much.
	flushWithin = 30 * time.Second
)

// arrayWriter sends a JSON array piece by piece. As long as nothing is sent
// an error can still become an answer of its own.
type arrayWriter struct {
	w   *response
	now func() time.Time
	buf []byte
}

func (o *arrayWriter) add(item []byte) error {
	if o.buf == nil {
		o.buf = append(make([]byte, 0, 4096), '[')
	} else {
		o.buf = append(o.buf, ',')
	}
	o.buf = append(o.buf, item...)
	if len(o.buf) < flushAt {
		return nil
	}
	return o.flush()
}

func (o *arrayWriter) end() error {
	if o.buf == nil {
		o.buf = []byte{'['}
	}
	o.buf = append(o.buf, ']')
	if !o.w.sent {
		o.w.Header().Set("Content-Length", strconv.Itoa(len(o.buf)))
	}
	return o.flush()
}

func (o *arrayWriter) flush() error {
	if !o.w.sent {
		o.w.Header().Set("Content-Type", "application/json")
	}
	// A server in a test may have no deadline to set.
	_ = http.NewResponseController(o.w).SetWriteDeadline(time.Now().Add(flushWithin))
	_, err := o.w.Write(o.buf)
	o.buf = o.buf[:0]
	return err
}
