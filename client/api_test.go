package client_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/google/go-cmp/cmp"
)

// Ensure that each call is the request FDS has for it, with the token in the
// header, and that the answer comes back as sent.
func TestCalls(t *testing.T) {
	var many []string
	for n := range 250 {
		many = append(many, fmt.Sprint("D", n))
	}
	list := func(items []json.RawMessage, err error) (any, error) { return items, err }
	none := func(err error) (any, error) { return nil, err }
	items := []json.RawMessage{json.RawMessage(`{"device_id": "A",  "x":1.0}`), json.RawMessage(`{"device_id":"B"}`)}
	text := `[{"device_id": "A",  "x":1.0},{"device_id":"B"}]`
	tests := map[string]struct {
		call   func(*client.Session) (any, error)
		answer string
		want   any
		asked  []string // method, path with query, content type, body
	}{
		"all": {func(s *client.Session) (any, error) { return list(s.Items(t.Context(), keyholder.Statuses)) }, text, items, []string{"GET /fds/v2/statuses  "}},
		"by IDs": {func(s *client.Session) (any, error) {
			return list(s.Items(t.Context(), keyholder.Events, "A", "B&ids=C"))
		}, text, items, []string{"GET /fds/v2/events?ids=A%2CB%26ids%3DC  "}},
		"none": {func(s *client.Session) (any, error) { return list(s.Items(t.Context(), keyholder.Spaces)) }, " []", []json.RawMessage{}, []string{"GET /fds/v2/spaces  "}},
		"many IDs": {func(s *client.Session) (any, error) { return list(s.Items(t.Context(), keyholder.Spaces, many...)) }, `[1]`,
			[]json.RawMessage{json.RawMessage("1"), json.RawMessage("1"), json.RawMessage("1")}, []string{
				"GET /fds/v2/spaces?ids=" + strings.Join(many[:100], "%2C") + "  ",
				"GET /fds/v2/spaces?ids=" + strings.Join(many[100:200], "%2C") + "  ",
				"GET /fds/v2/spaces?ids=" + strings.Join(many[200:], "%2C") + "  "}},
		"tags": {func(s *client.Session) (any, error) { return list(s.Tags(t.Context())) }, text, items, []string{"GET /fds/v2/tag  "}},
		"create a tag": {func(s *client.Session) (any, error) {
			return s.CreateTag(t.Context(), json.RawMessage(`{"generic":{}}`))
		}, `{"tag_id":"x"}`, json.RawMessage(`{"tag_id":"x"}`), []string{`POST /fds/v2/tag application/json {"generic":{}}`}},
		"delete a tag": {func(s *client.Session) (any, error) { return none(s.DeleteTag(t.Context(), "a/b")) }, "", nil, []string{"DELETE /fds/v2/tag/a%2Fb  "}},
		"entities":     {func(s *client.Session) (any, error) { return none(s.SetTagEntities(t.Context(), "a", []string{"A"})) }, "", nil, []string{`PUT /fds/v2/tag/a/entities application/json ["A"]`}},
		"no entities":  {func(s *client.Session) (any, error) { return none(s.SetTagEntities(t.Context(), "a", nil)) }, "", nil, []string{`PUT /fds/v2/tag/a/entities application/json []`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			var asked []string
			p.api = func(w http.ResponseWriter, r *http.Request, token string) {
				body, err := io.ReadAll(r.Body)
				if err != nil || token != jwt("access-1") {
					t.Errorf("token %q, error %v", token, err)
				}
				asked = append(asked, fmt.Sprintf("%s %s %s %s", r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), body))
				io.WriteString(w, tt.answer)
			}
			got, err := tt.call(p.restored(p.config()))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("answer differs (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.asked, asked); d != "" {
				t.Errorf("requests differ (-want +got):\n%s", d)
			}
		})
	}
}

// Ensure that errors of the API come back typed, and that answers that make
// no sense are refused: too long ones, other ones than arrays, redirects.
func TestCallFails(t *testing.T) {
	fds := func(status int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(status); io.WriteString(w, body) }
	}
	tests := map[string]struct {
		answer func(http.ResponseWriter)
		want   client.APIError // zero: an error of code
		code   keyholder.Code
	}{
		"bad parameter":   {fds(400, `{"status":400,"message":"invalid_parameter"}`), client.APIError{HTTPStatus: 400, Status: 400, Message: "invalid_parameter"}, ""},
		"not implemented": {fds(501, `{"status":204,"message":"not_implemented"}`), client.APIError{HTTPStatus: 501, Status: 204, Message: "not_implemented"}, ""},
		"problem": {fds(409, `{"status":409,"title":"Conflict","code":"conflict","detail":"it exists","hint":"take another"}`),
			client.APIError{HTTPStatus: 409, Status: 409, Message: "conflict", Detail: "it exists", Hint: "take another"}, ""},
		"not JSON":  {fds(502, `<html>`), client.APIError{HTTPStatus: 502, Status: 502}, ""},
		"control":   {fds(400, `{"status":400,"message":"a\u001b[1mb\n"}`), client.APIError{HTTPStatus: 400, Status: 400, Message: "a[1mb"}, ""},
		"very long": {fds(400, `{"status":400,"message":"`+strings.Repeat("x", 500)+`"}`), client.APIError{HTTPStatus: 400, Status: 400, Message: strings.Repeat("x", 300)}, ""},
		"redirect": {func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://other.example.com/")
			w.WriteHeader(307)
		}, client.APIError{HTTPStatus: 307, Status: 307}, ""},
		"busy for long": {func(w http.ResponseWriter) { w.Header().Set("Retry-After", "600"); w.WriteHeader(503) }, client.APIError{HTTPStatus: 503, Status: 503, RetryAfter: 10 * time.Minute}, ""},
		"busy, no word": {fds(503, ""), client.APIError{HTTPStatus: 503, Status: 503}, ""},
		"object":        {fds(200, `{"a":1}`), client.APIError{}, keyholder.Invalid},
		"null":          {fds(200, `null`), client.APIError{}, keyholder.Invalid},
		"broken array":  {fds(200, `[1,`), client.APIError{}, keyholder.Invalid},
		"empty":         {fds(200, ``), client.APIError{}, keyholder.Invalid},
		"too long":      {fds(200, `[`+strings.Repeat(" ", 2000)+`]`), client.APIError{}, keyholder.Invalid},
		"broken off": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "[1")
			panic(http.ErrAbortHandler)
		}, client.APIError{}, keyholder.Unavailable},
		"no answer": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, client.APIError{}, keyholder.Unavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			p.api = func(w http.ResponseWriter, _ *http.Request, _ string) { tt.answer(w) }
			cfg := p.config()
			cfg.MaxResponse = 1000
			items, err := p.restored(cfg).Items(t.Context(), keyholder.Statuses)
			if items != nil || err == nil {
				t.Fatalf("items %s, error %v", items, err)
			}
			noSecrets(t, err)
			var api *client.APIError
			if tt.code != "" {
				if keyholder.CodeOf(err) != tt.code {
					t.Errorf("error %v, want code %q", err, tt.code)
				}
				return
			}
			if !errors.As(err, &api) {
				t.Fatalf("error %v is no APIError", err)
			}
			if d := cmp.Diff(tt.want, *api); d != "" {
				t.Errorf("error differs (-want +got):\n%s", d)
			}
		})
	}
}

// Ensure that wrong arguments do not leave the house.
func TestArguments(t *testing.T) {
	p := newPeer(t)
	s := p.restored(p.config())
	calls := map[string]func() error{
		"unknown kind": func() error { _, err := s.Items(t.Context(), "../tag"); return err },
		"comma in ID":  func() error { _, err := s.Items(t.Context(), keyholder.Spaces, "a,b"); return err },
		"empty ID":     func() error { _, err := s.Items(t.Context(), keyholder.Spaces, ""); return err },
	}
	for name, call := range calls {
		if err := call(); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: error %v, want invalid", name, err)
		}
	}
	if p.apiCalls.Load()+p.tokenCalls.Load() != 0 {
		t.Error("somebody was asked")
	}
}

// Ensure that a refused access token is renewed and the call repeated, once,
// and that after a cut the caller learns that the session is over.
func TestCallUnauthorized(t *testing.T) {
	p := newPeer(t)
	p.rotate()
	s := p.restored(p.config())
	var tokens []string
	accepted := "access-2"
	p.api = func(w http.ResponseWriter, _ *http.Request, token string) {
		tokens = append(tokens, token)
		if token != jwt(accepted) {
			w.WriteHeader(401)
			io.WriteString(w, `{"status":401,"message":"unauthorized_request"}`)
			return
		}
		io.WriteString(w, "[]")
	}
	var api *client.APIError
	if _, err := s.Items(t.Context(), keyholder.Statuses); !errors.As(err, &api) || api.Message != "unauthorized_request" {
		t.Errorf("a token got a moment ago: error %v, want 401", err)
	}
	p.clock.add(time.Minute)
	if _, err := s.Items(t.Context(), keyholder.Statuses); err != nil {
		t.Errorf("with a new token: %v", err)
	}
	if want := []string{jwt("access-1"), jwt("access-1"), jwt("access-2")}; !slices.Equal(tokens, want) {
		t.Errorf("tokens %q, want %q", tokens, want)
	}
	p.set(func() {
		accepted = ""
		p.token = func(w http.ResponseWriter, _ *http.Request) { refuse(w, 400, "invalid_grant") }
	})
	p.clock.add(time.Minute)
	for range 2 {
		if _, err := s.Items(t.Context(), keyholder.Statuses); !errors.Is(err, client.ErrSignInAgain) {
			t.Errorf("after a cut: error %v, want %v", err, client.ErrSignInAgain)
		}
	}
}

// Ensure that a busy API is asked again if it says when.
func TestCallBusy(t *testing.T) {
	p := newPeer(t)
	p.api = func(w http.ResponseWriter, _ *http.Request, _ string) {
		if p.apiCalls.Load() < 3 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(503)
			return
		}
		io.WriteString(w, "[1]")
	}
	items, err := p.restored(p.config()).Items(t.Context(), keyholder.Statuses)
	if err != nil || len(items) != 1 || p.apiCalls.Load() != 3 {
		t.Errorf("%d items, error %v, %d calls", len(items), err, p.apiCalls.Load())
	}
}

// Ensure that a provider's items arrive one a line, in order, in requests of
// bounded size, with a token for ingestion, and that the answers are summed.
func TestIngest(t *testing.T) {
	p := newPeer(t)
	p.token = func(w http.ResponseWriter, r *http.Request) {
		if got := r.PostForm.Encode(); got != "grant_type=client_credentials&scope=fds%3Aingest" {
			t.Errorf("token request %s", got)
		}
		p.issue(w, "access-1", "")
	}
	var lines []string
	p.api = func(w http.ResponseWriter, r *http.Request, _ string) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.RequestURI() != "/ingest/v1/owners/north%2Fgate/events" || r.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("request %s %s of %s: %v", r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), err)
		}
		if len(body) > 5<<20 {
			t.Errorf("%d bytes in one request", len(body))
		}
		got := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
		lines = append(lines, got...)
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"stored":%d,"pushed":%d,"full":["%s"]}`, len(got), 2*len(got), otherSub)
	}
	provider, err := client.NewProvider(p.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(provider.Close)
	var items []json.RawMessage
	var want []string
	for n := range 5003 {
		items = append(items, json.RawMessage(fmt.Sprintf("{\"n\":\n %d}", n)))
		want = append(want, fmt.Sprintf(`{"n":%d}`, n))
	}
	for range 3 {
		long := fmt.Sprintf(`%q`, strings.Repeat("x", 3<<20))
		items, want = append(items, json.RawMessage(long)), append(want, long)
	}
	sum, err := provider.Ingest(t.Context(), "north/gate", keyholder.Events, items)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(client.Ingested{Stored: 5006, Pushed: 10012, Full: []keyholder.SubscriptionID{otherSub}}, sum); d != "" {
		t.Errorf("sum differs (-want +got):\n%s", d)
	}
	if !slices.Equal(want, lines) {
		t.Errorf("%d lines arrived, want %d in order", len(lines), len(want))
	}
	if n := p.apiCalls.Load(); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
	for name, bad := range map[string]func() error{
		"not JSON": func() error {
			_, err := provider.Ingest(t.Context(), "north", keyholder.Events, []json.RawMessage{json.RawMessage("{")})
			return err
		},
		"no owner": func() error { _, err := provider.Ingest(t.Context(), "", keyholder.Events, items); return err },
		"no kind":  func() error { _, err := provider.Ingest(t.Context(), "north", "x", items); return err },
	} {
		if err := bad(); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: error %v, want invalid", name, err)
		}
	}
}
