package webapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/webapi"
)

// Ensure that the API does not start without its parts.
func TestNewNeedsItsParts(t *testing.T) {
	if _, err := webapi.New(webapi.Config{}); err == nil {
		t.Error("an API of nothing was opened")
	}
}

// Ensure that the answer for devices whose type has no such endpoint is the
// error object of FDS, under a status that can carry it.
func TestNotImplemented(t *testing.T) {
	b := open(t, limits{})
	b.put("northgate", keyholder.Specifications, `{"device_id":"D","generic":{"device_type":"dispenser"}}`, `{"device_id":"P","generic":{"device_type":"people_counter"}}`)
	b.put("st-anna", keyholder.Specifications, `{"device_id":"Q","generic":{"device_type":"dispenser"}}`)
	for path, want := range map[string]answer{
		"/fds/v2/statistics?ids=D":    {status: 501, body: `{"status":204,"message":"not_implemented"}`},
		"/fds/v2/diagnostics?ids=P":   {status: 501, body: `{"status":204,"message":"not_implemented"}`},
		"/fds/v2/statistics":          {status: 200, body: `[]`},
		"/fds/v2/statistics?ids=D,P":  {status: 200, body: `[]`},
		"/fds/v2/statistics?ids=Q":    {status: 200, body: `[]`},
		"/fds/v2/statistics?ids=none": {status: 200, body: `[]`},
		"/fds/v2/statuses?ids=D":      {status: 200, body: `[]`},
	} {
		if a := b.get(path, b.reader("northgate", 0)); a.status != want.status || a.body != want.body {
			t.Errorf("%s: %d %s; want %d %s", path, a.status, a.body, want.status, want.body)
		}
	}
}

// Ensure that a consent limited to some kinds opens only their endpoints and
// pushes only their items, and that tags stay open.
func TestConsentScope(t *testing.T) {
	b := open(t, limits{})
	b.consent("northgate", 1, keyholder.Events, keyholder.Spaces) // renews the subscription of app 2
	token := b.reader("northgate", 1)
	for _, kind := range keyholder.Kinds() {
		want := http.StatusUnauthorized
		if kind == keyholder.Events || kind == keyholder.Spaces {
			want = http.StatusOK
		}
		if a := b.get("/fds/v2/"+string(kind), token); a.status != want {
			t.Errorf("%s: %d %s; want %d", kind, a.status, a.body, want)
		}
	}
	if a := b.get("/fds/v2/tag", token); a.status != http.StatusOK {
		t.Errorf("tags: %d %s", a.status, a.body)
	}
	event := `{"generic":{"message_code":"m","device_id":"D"}}`
	if n, pushed := b.put("northgate", keyholder.Statuses, `{"device_id":"D","generic":{}}`); n != 1 || pushed != 1 {
		t.Errorf("statuses: %d stored, %d pushed; want 1 and 1", n, pushed)
	}
	if n, pushed := b.put("northgate", keyholder.Events, event); n != 1 || pushed != 2 {
		t.Errorf("events: %d stored, %d pushed; want 1 and 2", n, pushed)
	}
	// A repeated request, because its answer was lost, is not pushed again.
	if n, pushed := b.put("northgate", keyholder.Events, event); n != 0 || pushed != 0 {
		t.Errorf("repeated: %d stored, %d pushed; want none", n, pushed)
	}
	m := b.drain(b.subs["northgate"][1].ID, 1)
	if m[0].Level != "events" || string(m[0].Payload) != event {
		t.Errorf("pushed %+v", m[0])
	}
}

// Ensure that the three forms of a body store the same, byte for byte.
func TestIngestionForms(t *testing.T) {
	b := open(t, limits{})
	one, two := `{ "device_id":"D1", "generic":{}, "n":1.50 }`, `{"device_id":"D2","generic":{},"s":"\u00fc\/"}`
	for _, c := range []struct{ method, contentType, body string }{
		{"POST", "application/json", "[\n " + one + " ,\t" + two + "\n]\n"},
		{"PUT", "application/x-ndjson", one + "\r\n\n" + two + "\n"},
		{"PUT", "application/json; charset=UTF-8", "[" + one + "," + two + "]"},
	} {
		a := b.do(c.method, "/ingest/v1/owners/northgate/diagnostics", b.ingester(), c.contentType, c.body)
		if a.status != http.StatusAccepted || a.body != `{"stored":2,"pushed":0}` {
			t.Errorf("%s: %d %s", c.contentType, a.status, a.body)
		}
		if d := cmp.Diff([]string{one, two}, array(t, b.get("/fds/v2/diagnostics", b.reader("northgate", 0)))); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.contentType, d)
		}
	}
	pretty := "{\n  \"device_id\": \"D1\",\n  \"generic\": {}\n}"
	if a := b.do("PUT", "/ingest/v1/owners/northgate/diagnostics", b.ingester(), "application/json", " "+pretty+"\n"); a.status != http.StatusAccepted {
		t.Errorf("one object: %d %s", a.status, a.body)
	}
	if got := array(t, b.get("/fds/v2/diagnostics?ids=D1", b.reader("northgate", 0))); !slices.Equal(got, []string{pretty}) {
		t.Errorf("one object: %q", got)
	}
	if a := b.do("HEAD", "/fds/v2/diagnostics?ids=D1", b.reader("northgate", 0), "", ""); a.status != 200 || a.body != "" || a.header.Get("Content-Length") != fmt.Sprint(len(pretty)+2) {
		t.Errorf("HEAD: %d %q %v", a.status, a.body, a.header)
	}
}

// Ensure that tags live through their whole life over HTTP.
func TestTagLife(t *testing.T) {
	b := open(t, limits{})
	token := b.reader("northgate", 0)
	a := b.do("POST", "/fds/v2/tag", token, "application/json", `{"generic":{"name":"night"}}`)
	place := a.header.Get("Location")
	id := strings.TrimPrefix(place, "/fds/v2/tag/")
	if a.status != http.StatusCreated || a.body != `{"tag_id":"`+id+`","entities":[],"generic":{"name":"night"}}` {
		t.Fatalf("create: %d %s", a.status, a.body)
	}
	if a := b.do("PUT", place+"/entities", token, "application/json", ` ["D1","S1"]`); a.status != http.StatusNoContent || a.body != "" {
		t.Errorf("entities: %d %s", a.status, a.body)
	}
	want := []string{`{"tag_id":"` + id + `","entities":["D1","S1"],"generic":{"name":"night"}}`}
	for _, query := range []string{"", "?ids=" + id} {
		if got := array(t, b.get("/fds/v2/tag"+query, token)); !slices.Equal(got, want) {
			t.Errorf("tag%s: %q", query, got)
		}
	}
	if got := array(t, b.get("/fds/v2/tag", b.reader("northgate", 1))); len(got) != 0 {
		t.Errorf("the other app sees %q", got)
	}
	if a := b.do("DELETE", place, token, "", ""); a.status != http.StatusNoContent {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	if got := array(t, b.get("/fds/v2/tag", token)); len(got) != 0 {
		t.Errorf("after the end: %q", got)
	}
}

// Ensure that a full mailbox of one app holds up neither the provider nor the
// other app, and that the provider is told.
func TestFullMailbox(t *testing.T) {
	b := open(t, limits{mailbox: mailbox.Config{MaxMessages: 3}})
	event := func(n int) string { return fmt.Sprintf(`{"generic":{"message_code":"m","device_id":"D%d"}}`, n) }
	b.put("northgate", keyholder.Events, event(1), event(2))
	b.drain(b.subs["northgate"][1].ID, 2)
	waitEmpty(t, b, b.subs["northgate"][1].ID)
	a := b.do("POST", "/ingest/v1/owners/northgate/events", b.ingester(), "application/json", "["+event(3)+","+event(4)+"]")
	want := fmt.Sprintf(`{"stored":2,"pushed":3,"full":["%s"]}`, b.subs["northgate"][0].ID)
	if a.status != http.StatusAccepted || a.body != want {
		t.Errorf("%d %s; want %s", a.status, a.body, want)
	}
	b.drain(b.subs["northgate"][0].ID, 3)
	b.drain(b.subs["northgate"][1].ID, 2)
	if got := array(t, b.get("/fds/v2/events", b.reader("northgate", 0))); len(got) != 4 {
		t.Errorf("%d events can be pulled, want 4", len(got))
	}
}

// waitEmpty waits until the acknowledgements of a mailbox are written.
func waitEmpty(t *testing.T, b *bench, sub keyholder.SubscriptionID) {
	t.Helper()
	eventually(t, func() bool {
		depths := must(b.mailbox.Depths(context.Background()))
		return depths[sub].Messages == 0
	})
}

// Ensure that a panic becomes an error object or a problem document with a
// reference that the log has, and that the server goes on.
func TestPanic(t *testing.T) {
	var bad string
	b := open(t, limits{ended: func(tok keyholder.Token) bool {
		if tok.ID == bad {
			panic("CANARY in a part behind the API")
		}
		return false
	}})
	bad = must(keyholder.NewID[string](nil))
	set := func(c claims) { c["jti"] = bad }
	a := b.get("/fds/v2/statuses", b.token(string(b.apps[0].ID), keyholder.ScopeRead, b.subs["northgate"][0].ID, set))
	reference, found := strings.CutPrefix(a.header.Get("Keyholder-Detail"), "reference ")
	if a.status != 500 || a.body != `{"status":500,"message":"internal_error"}` || !found || !strings.Contains(b.log.String(), reference) {
		t.Errorf("%d %s %v", a.status, a.body, a.header)
	}
	a = b.do("POST", "/ingest/v1/owners/northgate/events", b.token(string(b.provider.ID), keyholder.ScopeIngest, "", set), "application/json", "{}")
	var problem struct{ Code, Hint string }
	if err := json.Unmarshal([]byte(a.body), &problem); err != nil || a.status != 500 || problem.Code != "internal" ||
		!strings.Contains(b.log.String(), strings.TrimPrefix(problem.Hint, "reference ")) || strings.Contains(a.body, "CANARY") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := b.get("/fds/v2/statuses", b.reader("northgate", 0)); a.status != 200 {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}

// Ensure that a cut ends an answer that is on its way: the client does not get
// the rest, and sees that it does not.
func TestCutInTheMiddleOfAnAnswer(t *testing.T) {
	b := open(t, limits{})
	const n = 400
	filler := strings.Repeat("x", 100<<10)
	for i := 0; i < n; i += 40 {
		var items []string
		for j := range 40 {
			items = append(items, fmt.Sprintf(`{"device_id":"D%d","generic":{},"x":"%s"}`, i+j, filler))
		}
		b.put("northgate", keyholder.Diagnostics, items...)
	}
	req := must(http.NewRequest("GET", b.url+"/fds/v2/diagnostics", nil))
	req.Header.Set("Authorization", "Bearer "+b.reader("northgate", 0))
	res, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	target := keyholder.Target{Kind: keyholder.CutSubscription, ID: string(b.subs["northgate"][0].ID)}
	if _, err := b.ledger.Cut(context.Background(), ledger.Administrator, target, "test"); err != nil {
		t.Fatal(err)
	}
	rest, err := io.Copy(io.Discard, res.Body)
	if err == nil || rest > n/2*int64(len(filler)) {
		t.Errorf("%d more bytes came after the cut; error %v", rest, err)
	}
	if a := b.get("/fds/v2/diagnostics", b.reader("northgate", 1)); a.status != 200 || len(array(t, a)) != n {
		t.Errorf("the other app: %d", a.status)
	}
}

// Ensure that nothing but the two roots is served.
func TestElsewhere(t *testing.T) {
	b := open(t, limits{})
	for _, path := range []string{"/", "/fds/v1/statuses", "/ingest", "/metrics", "/debug/pprof/", "/.well-known/openid-configuration"} {
		if a := b.get(path, b.reader("northgate", 0)); a.status != 404 || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
