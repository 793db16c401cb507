// Package webapi is the door of the pull model: the FDS endpoints under
// /fds/v2/ for apps, and ingestion under /ingest/v1/ for providers that keep
// their data here.
//
// It decides nothing. The guard verifies the token, the Permit functions of
// package keyholder decide with the ledger's view, the facility answers; this
// package translates between them and HTTP. Errors under /fds/v2/ are FDS
// error objects, all others RFC 9457 problem documents.
package webapi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/facility"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
)

// Config holds what the Web API is made of. Ledger, Facility, Mailbox and
// Guard are required.
type Config struct {
	Ledger   *ledger.Ledger
	Facility *facility.Facility
	Mailbox  *mailbox.Mailbox
	Guard    *guard.Guard
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: slog.Default

	// Issuer is the URL of the authorization server, and BaseURL that of this
	// API as the parties reach it, without a path; both https. With them a
	// client that knows only this API finds its authorization server
	// (RFC 9728). Both empty: nothing is told.
	Issuer, BaseURL string
}

// API is the Web API. It is safe for concurrent use.
type API struct {
	ledger   *ledger.Ledger
	facility *facility.Facility
	mailbox  *mailbox.Mailbox
	guard    *guard.Guard
	now      func() time.Time
	log      *slog.Logger
	denials  *ledger.Denials

	metadata    []byte // RFC 9728 document; nil: none
	metadataURL string // where it is; empty: nowhere
}

// New returns the Web API.
func New(c Config) (*API, error) {
	if c.Ledger == nil || c.Facility == nil || c.Mailbox == nil || c.Guard == nil {
		return nil, errors.New("open the web api: a ledger, a facility, a mailbox and a guard are needed")
	}
	a := &API{ledger: c.Ledger, facility: c.Facility, mailbox: c.Mailbox, guard: c.Guard, now: c.Now, log: c.Log}
	if a.now == nil {
		a.now = time.Now
	}
	if a.log == nil {
		a.log = slog.Default()
	}
	a.denials = ledger.NewDenials(c.Ledger, a.log)
	if err := a.describe(c.Issuer, c.BaseURL); err != nil {
		return nil, err
	}
	return a, nil
}

// Handler returns the handler of the API's listener. Limits of the connection
// (TLS, header size, read and idle timeouts) are the server's.
func (a *API) Handler() http.Handler { return http.HandlerFunc(a.serve) }

const (
	fdsRoot    = "/fds/v2/"
	ingestRoot = "/ingest/v1/"
)

// serve is around every request: headers, the access log, and a panic that
// must not reach the client as anything but a reference.
func (a *API) serve(rw http.ResponseWriter, r *http.Request) {
	began := a.now()
	w := &response{ResponseWriter: rw, route: "*", metadataURL: a.metadataURL}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	defer func() {
		p := recover()
		// Part of an answer is out: the client must see that it ends badly.
		broken := p != nil && w.sent
		if p != nil && !broken {
			a.fail(w, r, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
		if broken && p != http.ErrAbortHandler {
			a.reference(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
		a.access(w, r, began)
		a.audit(w, r)
		if broken {
			panic(http.ErrAbortHandler)
		}
	}()
	switch path := r.URL.Path; {
	case path+"/" == fdsRoot, strings.HasPrefix(path, fdsRoot):
		a.fds(w, r, strings.TrimPrefix(path, fdsRoot))
	case strings.HasPrefix(path, ingestRoot):
		a.ingest(w, r, strings.TrimPrefix(path, ingestRoot))
	case path == metadataPath && a.metadata != nil:
		a.serveMetadata(w, r)
	default:
		guard.WriteProblem(w, http.StatusNotFound, string(keyholder.NotFound), "nothing is served at this address",
			"the FDS endpoints are under "+fdsRoot)
	}
}

// fail answers with an error in the form of the called part of the API. Of an
// internal error only a reference is shown, under which it is logged.
func (a *API) fail(w *response, r *http.Request, err error) {
	if r.URL.Path+"/" == fdsRoot || strings.HasPrefix(r.URL.Path, fdsRoot) {
		a.failFDS(w, err)
		return
	}
	reference := ""
	if keyholder.CodeOf(err) == "" {
		reference = a.reference(err)
	}
	guard.WriteError(w, err, reference)
}

// reference logs an internal error and returns the ID it is logged under.
func (a *API) reference(err error) string {
	id, idErr := keyholder.NewID[string](nil)
	if idErr != nil {
		id = "none"
	}
	a.log.Error("request failed", "reference", id, "error", err.Error())
	return id
}

// access writes the access log line. It holds no token, no query and no path
// beyond the pattern that was served.
func (a *API) access(w *response, r *http.Request, began time.Time) {
	method := r.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch:
	default:
		method = "OTHER"
	}
	attrs := []any{"method", method, "route", w.route, "status", w.status, "duration", a.now().Sub(began)}
	if w.subscription != "" {
		attrs = append(attrs, "subscription", string(w.subscription))
	}
	if w.client != "" {
		attrs = append(attrs, "client", w.client)
	}
	if w.reason != "" {
		attrs = append(attrs, "reason", w.reason)
	}
	a.log.Info("request", attrs...)
}

// audit puts a refusal on the audit trail, before the answer leaves. A party is
// whom a verified token names; all others share one limit.
func (a *API) audit(w *response, r *http.Request) {
	if !w.denied {
		return
	}
	actor := ledger.System
	if w.client != "" {
		actor = w.client
	}
	detail := map[string]string{"door": "webapi", "route": w.route, "reason": w.reason}
	if w.subscription != "" {
		detail["subscription"] = string(w.subscription)
	}
	a.denials.Record(r.Context(), keyholder.EventDenied, actor, w.client, detail)
}

// response remembers what the access log says of a request.
type response struct {
	http.ResponseWriter
	route        string
	status       int
	sent         bool
	subscription keyholder.SubscriptionID
	client       string
	reason       string // why it was refused, in our words
	denied       bool   // a right was asked for, and there is none
	metadataURL  string // told with every 401
}

// refused notes why a request is not answered. Who presented no token asked for
// no right, but for where to get one.
func (w *response) refused(err error) {
	w.reason = err.Error()
	w.denied = keyholder.CodeOf(err) == keyholder.Denied && !errors.Is(err, guard.ErrNoToken)
}

// WriteHeader notes the status.
func (w *response) WriteHeader(status int) {
	if !w.sent {
		w.status, w.sent = status, true
		if status == http.StatusUnauthorized {
			w.pointToMetadata()
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write sends the status 200 if none was sent.
func (w *response) Write(b []byte) (int, error) {
	if !w.sent {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
