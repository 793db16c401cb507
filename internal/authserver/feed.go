package authserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
)

const (
	// feedPiece is how many endings are written at a time.
	feedPiece = 256
	// feedPatience is how long a follower may take to take one piece. One
	// that is slower is dropped and begins again; nothing is kept for it.
	feedPatience = 5 * time.Second

	maxFollowers          = 64
	maxFollowersPerClient = 8
)

// feed is who follows the endings. What they get is the ledger's list, in
// which each follower has a position of its own, so there is no queue.
type feed struct {
	epoch string        // of the ledger's positions: they are good for one run only
	over  chan struct{} // closed when the server closes

	mu        sync.Mutex // guards the rest
	closed    bool
	followers map[string]int // by client
	total     int
}

func newFeed() *feed {
	return &feed{epoch: rand.Text()[:12], over: make(chan struct{}), followers: map[string]int{}}
}

// enter takes a place for a follower, or says that there is none.
func (f *feed) enter(client string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.total >= maxFollowers || f.followers[client] >= maxFollowersPerClient {
		return false
	}
	f.total++
	f.followers[client]++
	return true
}

func (f *feed) leave(client string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.total--
	if f.followers[client]--; f.followers[client] == 0 {
		delete(f.followers, client)
	}
}

// Close ends the feeds, which would otherwise keep an HTTP server from
// shutting down in time.
func (s *Server) Close() {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if !s.feed.closed {
		s.feed.closed = true
		close(s.feed.over)
	}
}

// serveEndings tells a registered resource server what has ended, from the
// beginning or from where it broke off, for as long as it stays: Server-Sent
// Events (WHATWG HTML 9.2) of two types, "ending" with a [keyholder.Ending]
// and, once all is told and every second from then on, "beat".
func (s *Server) serveEndings(w http.ResponseWriter, r *http.Request) {
	ex := &exchange{endpoint: endpointEndings}
	refused := readFollower(ex, r)
	id, secret, _ := r.BasicAuth()
	admit := func() *refusal { return s.admitFollower(ex, id, secret) }
	if refused == nil {
		refused = admit()
	}
	if refused == nil && !s.feed.enter(ex.client) {
		w.Header().Set("Retry-After", "5")
		refused = &refusal{http.StatusTooManyRequests, "temporarily_unavailable", "there is no place for a further follower"}
	}
	if refused != nil {
		s.denials.record(r.Context(), ex, keyholder.EventDenied, refused.code, refused.description)
		s.writeRefusal(w, r, ex, refused)
		return
	}
	defer s.feed.leave(ex.client)
	s.log.InfoContext(r.Context(), "a resource server follows the endings", "client", ex.client)
	err := s.follow(w, r, s.feed.position(r.Header.Get("Last-Event-ID")), admit)
	s.log.InfoContext(r.Context(), "a resource server follows no more", "client", ex.client, "reason", err)
}

// readFollower checks the form of a request for the feed.
func readFollower(ex *exchange, r *http.Request) *refusal {
	if r.URL.RawQuery != "" {
		return &refusal{http.StatusBadRequest, string(goidc.ErrorCodeInvalidRequest), "this address takes no parameters"}
	}
	refused := readSecret(ex, r)
	ex.method = goidc.AuthnMethodSecretBasic // the only one here, so the challenge names it
	return refused
}

// admitFollower authenticates a follower and asks whether it may follow.
func (s *Server) admitFollower(ex *exchange, id, secret string) *refusal {
	if !s.ledger.VerifySecret(id, secret) {
		return &refusal{http.StatusUnauthorized, string(goidc.ErrorCodeInvalidClient), "the client could not be authenticated"}
	}
	s.authenticated(ex, id)
	if v := keyholder.PermitFollow(ex.role); !v.Allowed {
		return &refusal{http.StatusForbidden, string(goidc.ErrorCodeAccessDenied), v.Reason}
	}
	return nil
}

// position reads the ID of the last event that a follower has seen: 0, the
// beginning, unless it is one of this run.
func (f *feed) position(id string) int64 {
	epoch, n, _ := strings.Cut(id, ".")
	position, err := strconv.ParseInt(n, 10, 64)
	if epoch != f.epoch || err != nil {
		return 0
	}
	return position
}

// follow writes endings and beats until something ends it, and returns what.
// The right to follow is asked again with every beat, as the secret may have
// been withdrawn.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, position int64, admit func() *refusal) error {
	c := http.NewResponseController(w)
	if err := c.SetReadDeadline(time.Time{}); err != nil { // the server's is for requests, not for this
		return fmt.Errorf("lift the read deadline: %w", err)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	beat := time.NewTicker(keyholder.FeedBeat)
	defer beat.Stop()
	for {
		list, next, more := s.ledger.Endings(position, feedPiece)
		piece := s.feed.piece(list, next)
		if len(list) < feedPiece {
			s.feed.event(piece, "beat", next, beatNow{s.now()})
		}
		position = next
		if err := c.SetWriteDeadline(time.Now().Add(feedPatience)); err != nil {
			return fmt.Errorf("set a write deadline: %w", err)
		}
		if _, err := w.Write(piece.Bytes()); err != nil {
			return fmt.Errorf("write to the follower: %w", err)
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("write to the follower: %w", err)
		}
		if len(list) >= feedPiece {
			continue
		}
		select {
		case <-more:
		case <-beat.C:
			if refused := admit(); refused != nil {
				return errors.New(refused.description)
			}
		case <-s.feed.over:
			return errors.New("the server closes")
		case <-r.Context().Done():
			return context.Cause(r.Context())
		}
	}
}

// beatNow is the data of a beat.
type beatNow struct {
	At time.Time `json:"at"`
}

// piece writes endings as events; next is the position after the last.
func (f *feed) piece(list []keyholder.Ending, next int64) *bytes.Buffer {
	var b bytes.Buffer
	for i, e := range list {
		f.event(&b, "ending", next-int64(len(list)-1-i), e)
	}
	return &b
}

// event writes one event. data must be marshalable; its JSON is one line.
func (f *feed) event(b *bytes.Buffer, kind string, position int64, data any) {
	text, _ := json.Marshal(data)
	fmt.Fprintf(b, "event: %s\nid: %s.%d\ndata: %s\n\n", kind, f.epoch, position, text)
}
