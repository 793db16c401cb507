package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

const (
	// HeaderTopic names the topic of a pushed item.
	HeaderTopic = "Fds-Topic"
	// HeaderMessage names a message: a repeated delivery has the same value.
	HeaderMessage = "Keyholder-Message"

	defaultMaxPush  = 1 << 20
	defaultRemember = 1 << 16
	maxKey          = 256
	// readWithin is how long a permitted provider may take to send an item.
	readWithin = 30 * time.Second
)

// Push is one item that a provider pushed.
type Push struct {
	Subscription keyholder.SubscriptionID
	Level        string          // of the topic, for example "statuses"
	Key          string          // the same if the message comes again; empty if the provider gives none
	Payload      json.RawMessage // one JSON value
}

// ReceiverConfig says what a webhook receiver takes.
type ReceiverConfig struct {
	// Guard returns the guard for the pushes of a subscription, or nil if the
	// app has no such subscription. The guard trusts the authorization server
	// that the provider gets its push tokens from; its AudienceFor is
	// [keyholder.WebhookAudience], so that a token opens the webhook of its own
	// subscription only. Required.
	Guard func(keyholder.SubscriptionID) *guard.Guard

	// Deliver takes an item. On nil the provider is told that it arrived and
	// does not send it again, so it must be kept safely by then; on an error
	// the provider sends it again later. It is called concurrently, but never
	// twice at once for the same key. Required.
	Deliver func(ctx context.Context, p Push) error

	// MaxBody bounds an item, in bytes. Zero means 1 MiB.
	MaxBody int64

	// Remember is how many keys of delivered messages are remembered to
	// recognise repetitions. Zero means 65,536. After a restart, or beyond
	// that many messages, an item may be delivered again.
	Remember int

	// Log gets one line for each failed delivery; nil means slog.Default.
	Log *slog.Logger

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// receiver is the handler behind NewReceiver.
type receiver struct {
	cfg  ReceiverConfig
	seen *memory
}

// NewReceiver returns the handler of an app's webhook (FDS 2.6.4.1). It takes
// POST requests with one JSON item each, whose token [keyholder.PermitPush]
// permits for the subscription of the topic, and answers 204 once Deliver has
// taken the item. If the handler is registered under a pattern with the
// wildcard {subscription}, as in "POST /webhook/{subscription}", the address
// must name that subscription too.
//
// Refused requests leave nothing behind: 401 without a valid token for the
// subscription, 405, 413, 415 or 400 for malformed ones, 503 if Deliver
// failed. The server around it should be of the strict TLS profile and, for
// tokens bound to a certificate, ask for client certificates.
//
// The error is an [keyholder.Error] of code Invalid if the configuration is
// incomplete.
func NewReceiver(cfg ReceiverConfig) (http.Handler, error) {
	if cfg.Guard == nil || cfg.Deliver == nil {
		return nil, keyholder.Errorf(keyholder.Invalid, "the receiver needs a guard and a function that takes what is delivered")
	}
	if cfg.MaxBody < 0 || cfg.Remember < 0 {
		return nil, keyholder.Errorf(keyholder.Invalid, "a bound of the receiver is negative")
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultMaxPush
	}
	if cfg.Remember == 0 {
		cfg.Remember = defaultRemember
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &receiver{cfg: cfg, seen: newMemory(cfg.Remember)}, nil
}

// ServeHTTP takes one push. Rights are looked at before anything of the body
// is read.
func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		guard.WriteProblem(w, http.StatusMethodNotAllowed, string(keyholder.Invalid), "only POST is supported", "")
		return
	}
	topic, err := rc.permit(r)
	if err != nil {
		rc.refuse(w, r, err)
		return
	}
	// A server in a test may have no deadline to set.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readWithin))
	push, status, err := rc.read(w, r, topic)
	if err != nil {
		var e *keyholder.Error
		errors.As(err, &e)
		guard.WriteProblem(w, status, string(e.Code), e.Detail, e.Hint)
		return
	}
	if err := rc.deliver(r.Context(), push); err != nil {
		rc.cfg.Log.Warn("a push was not taken", "subscription", string(push.Subscription), "level", push.Level, "error", err.Error())
		w.Header().Set("Retry-After", "5")
		guard.WriteProblem(w, http.StatusServiceUnavailable, string(keyholder.Unavailable), "the item could not be taken", "send it again later")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// refuse answers a request without a right. Every refusal looks the same, so
// that a stranger does not learn which subscriptions the app has; the reason
// goes to the log.
func (rc *receiver) refuse(w http.ResponseWriter, r *http.Request, err error) {
	rc.cfg.Log.Info("a push was refused", "reason", err.Error(), "remote", r.RemoteAddr)
	if keyholder.CodeOf(err) != keyholder.Unavailable {
		err = keyholder.Errorf(keyholder.Denied, "the request is not authorized")
	}
	guard.Refuse(w, r, err)
}

// permit decides on a request by its headers.
func (rc *receiver) permit(r *http.Request) (keyholder.Topic, error) {
	none := func(reason string) (keyholder.Topic, error) {
		return keyholder.Topic{}, keyholder.Errorf(keyholder.Denied, "%s", reason)
	}
	values := r.Header.Values(HeaderTopic)
	if len(values) != 1 {
		return none("there is not exactly one header " + HeaderTopic)
	}
	topic, err := keyholder.ParseTopic(values[0])
	if err != nil {
		return none("the header " + HeaderTopic + " holds no topic")
	}
	if named := r.PathValue("subscription"); named != "" && named != string(topic.Subscription) {
		return none("the topic is not of the subscription of the address")
	}
	g := rc.cfg.Guard(topic.Subscription)
	if g == nil {
		return none("the app has no such subscription")
	}
	t, proof, err := g.Token(r)
	if err != nil {
		return keyholder.Topic{}, err
	}
	return topic, keyholder.PermitPush(t, proof, topic.Subscription, rc.cfg.Now()).Err()
}

// read reads a permitted request; with an error comes the status it gets.
func (rc *receiver) read(w http.ResponseWriter, r *http.Request, topic keyholder.Topic) (Push, int, error) {
	bad := func(status int, detail string) (Push, int, error) {
		return Push{}, status, keyholder.Errorf(keyholder.Invalid, "%s", detail)
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != typeJSON || r.Header.Get("Content-Encoding") != "" {
		return bad(http.StatusUnsupportedMediaType, "the content type must be application/json")
	}
	keys := r.Header.Values(HeaderMessage)
	if len(keys) > 1 || len(keys) == 1 && (keys[0] == "" || len(keys[0]) > maxKey) {
		return bad(http.StatusBadRequest, "the header "+HeaderMessage+" is repeated, empty or too long")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, rc.cfg.MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return bad(http.StatusRequestEntityTooLarge, "the item is too long")
	case err != nil:
		return bad(http.StatusBadRequest, "the item did not arrive whole")
	case !json.Valid(body):
		return bad(http.StatusBadRequest, "the body is not one JSON value")
	}
	push := Push{Subscription: topic.Subscription, Level: topic.Level, Payload: body}
	if len(keys) == 1 {
		push.Key = keys[0]
	}
	return push, 0, nil
}

// deliver gives an item to Deliver unless that has taken it before.
func (rc *receiver) deliver(ctx context.Context, p Push) error {
	if p.Key == "" {
		return rc.cfg.Deliver(ctx, p)
	}
	// A key means something within its subscription only, so that nobody can
	// suppress another subscription's messages.
	id := string(p.Subscription) + " " + p.Key
	done, err := rc.seen.begin(ctx, id)
	if err != nil || done {
		return err
	}
	taken := false
	defer func() { rc.seen.end(id, taken) }()
	if err := rc.cfg.Deliver(ctx, p); err != nil {
		return err
	}
	taken = true
	return nil
}

// memory remembers the keys of delivered messages, and which are being
// delivered.
type memory struct {
	mu      sync.Mutex // guards the fields below
	done    map[string]bool
	ring    []string // the keys of done, oldest at next
	next    int
	running map[string]chan struct{} // closed at the end of the delivery
}

func newMemory(size int) *memory {
	return &memory{done: make(map[string]bool), ring: make([]string, size), running: make(map[string]chan struct{})}
}

// begin says whether a message was delivered before; if not, the caller must
// deliver it and call end. It waits for a delivery of the same message that is
// under way.
func (m *memory) begin(ctx context.Context, id string) (bool, error) {
	for {
		m.mu.Lock()
		running := m.running[id]
		if running == nil {
			defer m.mu.Unlock()
			if m.done[id] {
				return true, nil
			}
			m.running[id] = make(chan struct{})
			return false, nil
		}
		m.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// end tells how the delivery of a message ended.
func (m *memory) end(id string, taken bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.running[id])
	delete(m.running, id)
	if !taken {
		return
	}
	delete(m.done, m.ring[m.next])
	m.ring[m.next], m.done[id] = id, true
	m.next = (m.next + 1) % len(m.ring)
}
