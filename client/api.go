package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
)

const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
	// maxIDs is how many IDs stand in one request; more take several.
	maxIDs = 100
	// callWithin bounds a call whose context has no deadline, with all tries.
	callWithin = 5 * time.Minute
	// maxErrorBody bounds what is read of an error answer, in bytes.
	maxErrorBody = 64 << 10
)

// APIError is an error answer of a Web API: an FDS error object, or a problem
// document (RFC 9457) where the API answers with one.
type APIError struct {
	HTTPStatus int    // of the response
	Status     int    // in the body; it differs for "not_implemented", where FDS wants 204
	Message    string // for example "unauthorized_request" or "invalid_parameter"
	Detail     string // of a problem document; may be empty
	Hint       string // what to do about it; may be empty
	// RetryAfter is for how long the API asks to wait; 0: it does not say.
	RetryAfter time.Duration
}

// Error returns status, message and detail.
func (e *APIError) Error() string {
	s := fmt.Sprintf("the Web API answered %d", e.HTTPStatus)
	for _, part := range []string{e.Message, e.Detail} {
		if part != "" {
			s += ": " + part
		}
	}
	return s
}

// call is one request to the Web API.
type call struct {
	method, path string
	query        url.Values
	contentType  string
	body         []byte
}

// Items returns the owner's items of a kind, all of them or those of the
// given device or space IDs, as the provider sent them (FDS 2.6.5.1, pull).
// An ID with a comma cannot be asked for.
func (s *Session) Items(ctx context.Context, kind keyholder.Kind, ids ...string) ([]json.RawMessage, error) {
	if _, err := keyholder.ParseKind(string(kind)); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if id == "" || strings.Contains(id, ",") {
			return nil, keyholder.Errorf(keyholder.Invalid, "an ID is empty or holds a comma")
		}
	}
	if len(ids) == 0 {
		return s.list(ctx, call{method: http.MethodGet, path: "/fds/v2/" + string(kind)})
	}
	var all []json.RawMessage
	for len(ids) > 0 {
		n := min(len(ids), maxIDs)
		items, err := s.list(ctx, call{method: http.MethodGet, path: "/fds/v2/" + string(kind), query: url.Values{"ids": {strings.Join(ids[:n], ",")}}})
		if err != nil {
			return nil, err
		}
		all, ids = append(all, items...), ids[n:]
	}
	return all, nil
}

// CreateTag creates a tag of the subscription, a JSON object, and returns it
// as the provider keeps it, with its ID.
func (s *Session) CreateTag(ctx context.Context, tag json.RawMessage) (json.RawMessage, error) {
	return s.call(ctx, call{method: http.MethodPost, path: "/fds/v2/tag", contentType: typeJSON, body: tag})
}

// Tags returns the tags of the subscription.
func (s *Session) Tags(ctx context.Context) ([]json.RawMessage, error) {
	return s.list(ctx, call{method: http.MethodGet, path: "/fds/v2/tag"})
}

// DeleteTag removes a tag.
func (s *Session) DeleteTag(ctx context.Context, id string) error {
	_, err := s.call(ctx, call{method: http.MethodDelete, path: "/fds/v2/tag/" + url.PathEscape(id)})
	return err
}

// SetTagEntities puts a tag on devices and spaces, in place of those it was
// on before.
func (s *Session) SetTagEntities(ctx context.Context, id string, entities []string) error {
	body, err := json.Marshal(append([]string{}, entities...)) // never null
	if err != nil {
		return fmt.Errorf("write the entities of a tag: %w", err)
	}
	_, err = s.call(ctx, call{method: http.MethodPut, path: "/fds/v2/tag/" + url.PathEscape(id) + "/entities", contentType: typeJSON, body: body})
	return err
}

// list is a call whose answer is a JSON array.
func (s *Session) list(ctx context.Context, c call) ([]json.RawMessage, error) {
	body, err := s.call(ctx, c)
	if err != nil {
		return nil, err
	}
	items := []json.RawMessage{}
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")) || json.Unmarshal(body, &items) != nil {
		return nil, keyholder.Errorf(keyholder.Invalid, "the Web API did not answer with a JSON array")
	}
	return items, nil
}

// call sends a request with the session's token: again with a new token if
// the API refuses the old one, and again after a pause if it is busy and says
// for how long.
func (s *Session) call(ctx context.Context, c call) ([]byte, error) {
	if s.c.cfg.API == "" {
		return nil, keyholder.Errorf(keyholder.Invalid, "the address of the Web API is missing")
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callWithin)
		defer cancel()
	}
	renewed, reproved := false, false
	for try := 1; ; try++ {
		access, err := s.Token(ctx)
		if err != nil {
			return nil, err
		}
		resp, err := s.send(ctx, c, access)
		if err != nil {
			return nil, unavailable("the Web API cannot be asked now", err)
		}
		if resp.StatusCode/100 == 2 {
			return s.read(resp)
		}
		refused := refusal(resp)
		pause := retryAfter(resp.Header, -1, s.c.cfg.Now())
		refused.RetryAfter = max(pause, 0)
		switch {
		case resp.StatusCode == http.StatusUnauthorized && !reproved && proofRefused(resp.Header):
			reproved = true
		case resp.StatusCode == http.StatusUnauthorized && !renewed && s.discard(access):
			renewed = true
		case busy(resp.StatusCode) && pause >= 0 && pause <= maxWait && try < maxTries && sleep(ctx, max(pause, firstWait)):
		default:
			return nil, refused
		}
	}
}

// send sends one request. The address in the error of the HTTP client holds
// IDs of items at most.
func (s *Session) send(ctx context.Context, c call, access string) (*http.Response, error) {
	address := s.c.cfg.API + c.path
	if len(c.query) > 0 {
		address += "?" + c.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, c.method, address, bytes.NewReader(c.body))
	if err != nil {
		return nil, err
	}
	if err := s.c.authorize(req, access); err != nil {
		return nil, err
	}
	req.Header.Set("Accept", typeJSON)
	if c.contentType != "" {
		req.Header.Set("Content-Type", c.contentType)
	}
	return s.c.http.Do(req)
}

// read reads the body of a good answer.
func (s *Session) read(resp *http.Response) ([]byte, error) {
	defer resp.Body.Close() //nolint:errcheck // only read from
	limit := s.c.cfg.MaxResponse
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, unavailable("the Web API broke off its answer", err)
	}
	if int64(len(body)) > limit {
		return nil, keyholder.Errorf(keyholder.Invalid, "the answer of the Web API is longer than %d bytes", limit)
	}
	return body, nil
}

// refusal reads an error answer.
func refusal(resp *http.Response) *APIError {
	defer resp.Body.Close() //nolint:errcheck // only read from
	e := &APIError{HTTPStatus: resp.StatusCode, Status: resp.StatusCode}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return e
	}
	var b struct {
		Status                             int
		Message, Code, Title, Detail, Hint string
	}
	if json.Unmarshal(body, &b) != nil {
		return e
	}
	if b.Status != 0 {
		e.Status = b.Status
	}
	for _, s := range []string{b.Message, b.Code, b.Title} {
		if e.Message == "" {
			e.Message = printable(s)
		}
	}
	e.Detail, e.Hint = printable(b.Detail), printable(b.Hint)
	return e
}
