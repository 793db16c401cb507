package webapi_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

const unauthorized = `{"status":401,"message":"unauthorized_request"}`

// Ensure that everything that is not authorized gets the one answer FDS
// defines for it, on every endpoint and method, and tells nothing more.
func TestUnauthorized(t *testing.T) {
	b := open(t, limits{})
	ctx := context.Background()
	app, sub := string(b.apps[0].ID), b.subs["northgate"][0].ID
	cut := b.subs["st-anna"][0].ID
	if _, err := b.ledger.Cut(ctx, ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(cut)}, "test"); err != nil {
		t.Fatal(err)
	}
	set := func(name string, v any) func(claims) { return func(c claims) { c[name] = v } }
	read := keyholder.ScopeRead
	tokens := map[string]string{
		"none":                  "",
		"garbage":               "abc",
		"no signature":          strings.Join(strings.Split(b.token(app, read, sub), ".")[:2], ".") + ".",
		"other signature":       b.token(app, read, sub)[:20] + b.token(app, read, sub)[20:] + "AA",
		"expired":               b.token(app, read, sub, set("exp", time.Now().Add(-time.Minute).Unix()), set("iat", time.Now().Add(-time.Hour).Unix())),
		"other issuer":          b.token(app, read, sub, set("iss", "https://evil.example")),
		"other audience":        b.token(app, read, sub, set("aud", "https://other.example")),
		"no subscription":       b.token(app, read, ""),
		"two subscriptions":     b.token(app, read, sub, set("subscription_id", []string{string(sub), string(cut)})),
		"upper-case ID":         b.token(app, read, sub, set("subscription_id", strings.ToUpper(string(sub)))),
		"unknown subscription":  b.token(app, read, "00000000-0000-4000-8000-000000000000"),
		"cut subscription":      b.token(app, read, cut),
		"another app's":         b.token(string(b.apps[1].ID), read, sub),
		"for ingestion":         b.token(string(b.provider.ID), keyholder.ScopeIngest, ""),
		"for pushing":           b.token(string(b.provider.ID), keyholder.ScopePush, sub),
		"no scope":              b.token(app, "", sub),
		"bound, no certificate": b.token(app, read, sub, set("cnf", map[string]string{"x5t#S256": strings.Repeat("A", 42) + "E"})),
	}
	for name, token := range tokens {
		for _, kind := range keyholder.Kinds() {
			refused(t, name, b.get("/fds/v2/"+string(kind), token))
		}
		refused(t, name, b.get("/fds/v2/statuses?ids=X&bad=1", token))
		refused(t, name, b.do("POST", "/fds/v2/tag", token, "application/json", `{"generic":{}}`))
		refused(t, name, b.do("DELETE", "/fds/v2/tag/00000000-0000-4000-8000-000000000000", token, "", ""))
		refused(t, name, b.do("PUT", "/fds/v2/tag/x/entities", token, "application/json", `[]`))
	}
	for _, name := range []string{"none", "garbage", "expired", "bound, no certificate"} {
		refused(t, name, b.get("/fds/v2/nothing", tokens[name]))
		refused(t, name, b.get("/fds/v2", tokens[name]))
		refused(t, name, b.do("DELETE", "/fds/v2/statuses", tokens[name], "", ""))
	}
	if a := b.get("/fds/v2/statuses", b.reader("northgate", 0)); a.status != http.StatusOK {
		t.Errorf("a good token afterwards: %d %s", a.status, a.body)
	}
	for name, token := range tokens {
		if len(token) > 3 && strings.Contains(b.log.String(), token) {
			t.Errorf("the log holds the token %q", name)
		}
	}

	// Two headers, another scheme, and the token in the query.
	good := b.reader("northgate", 0)
	req := must(http.NewRequest("GET", b.url+"/fds/v2/statuses", nil))
	req.Header["Authorization"] = []string{"Bearer " + good, "Bearer " + good}
	refused(t, "two headers", b.send(req))
	req.Header["Authorization"] = []string{"Basic " + good}
	refused(t, "other scheme", b.send(req))
	refused(t, "in the query", b.get("/fds/v2/statuses?access_token="+good, ""))
	if strings.Contains(b.log.String(), good) {
		t.Error("the log holds a token")
	}
}

// Ensure that a token bound to a certificate (RFC 8705) works with that
// certificate, and with no other.
func TestBoundToken(t *testing.T) {
	b := open(t, limits{})
	pair := func() (tls.Certificate, string) {
		key := must(pki.NewKey())
		request := must(pki.ParseRequest(must(pki.NewRequest(key, "app"))))
		pem, _, err := b.authority.Sign(request, keyholder.ForApp, string(b.apps[0].ID), time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		c := must(tls.X509KeyPair(pem, key))
		sum := sha256.Sum256(c.Certificate[0])
		return c, base64.RawURLEncoding.EncodeToString(sum[:])
	}
	right, thumbprint := pair()
	wrong, _ := pair()
	bind := func(c claims) { c["cnf"] = map[string]string{"x5t#S256": thumbprint} }
	for name, c := range map[string]struct {
		certificates []tls.Certificate
		status       int
	}{"its certificate": {[]tls.Certificate{right}, 200}, "another": {[]tls.Certificate{wrong}, 401}, "none": {nil, 401}} {
		transport := b.client.Transport.(*http.Transport).Clone()
		transport.TLSClientConfig.Certificates = c.certificates
		client := &http.Client{Transport: transport}
		for path, token := range map[string]string{
			"/fds/v2/statuses":                     b.token(string(b.apps[0].ID), keyholder.ScopeRead, b.subs["northgate"][0].ID, bind),
			"/ingest/v1/owners/northgate/statuses": b.token(string(b.provider.ID), keyholder.ScopeIngest, "", bind),
		} {
			req := must(http.NewRequest("GET", b.url+path, nil))
			want := c.status
			if strings.HasPrefix(path, "/ingest/") && want == 200 {
				want = 405 // known and let in, by the wrong method
			}
			req.Header.Set("Authorization", "Bearer "+token)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("%s with %s: %d, want %d", path, name, res.StatusCode, want)
			}
		}
		transport.CloseIdleConnections()
	}
}

func refused(t *testing.T, name string, a answer) {
	t.Helper()
	if a.status != http.StatusUnauthorized || a.body != unauthorized || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") ||
		a.header.Get("Keyholder-Detail") != "" || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("%s: %d %s %v", name, a.status, a.body, a.header)
	}
}

// Ensure that a malformed request gets the FDS error object of its fault and
// words for its developer, and that the server goes on.
func TestBadReads(t *testing.T) {
	b := open(t, limits{})
	long := strings.Repeat("x", 257)
	tag := "00000000-0000-4000-8000-000000000000"
	for _, c := range []struct {
		method, path, contentType, body string
		status                          int
		message, detail                 string
	}{
		{"GET", "/fds/v2/statuses?id=1", "", "", 400, "invalid_parameter", "unknown parameter; this endpoint takes only: ids"},
		{"GET", "/fds/v2/statuses?IDS=1", "", "", 400, "invalid_parameter", "unknown parameter"},
		{"GET", "/fds/v2/statuses?ids=1&ids=2", "", "", 400, "invalid_parameter", "ids is given more than once"},
		{"GET", "/fds/v2/statuses?ids=1&ids=1&x=2", "", "", 400, "invalid_parameter", "more than once"},
		{"GET", "/fds/v2/statuses?ids=1&limit=2", "", "", 400, "invalid_parameter", "unknown parameter"},
		{"GET", "/fds/v2/statuses?", "", "", 200, "", ""},
		{"GET", "/fds/v2/statuses?ids=", "", "", 400, "invalid_parameter", "the ID is empty"},
		{"GET", "/fds/v2/statuses?ids", "", "", 400, "invalid_parameter", "the ID is empty"},
		{"GET", "/fds/v2/statuses?ids=a,,b", "", "", 400, "invalid_parameter", "the ID is empty"},
		{"GET", "/fds/v2/statuses?ids=a%2C%2Cb", "", "", 400, "invalid_parameter", "the ID is empty"},
		{"GET", "/fds/v2/statuses?ids=" + long, "", "", 400, "invalid_parameter", "longer than 256"},
		{"GET", "/fds/v2/statuses?ids=a%00", "", "", 400, "invalid_parameter", "control character"},
		{"GET", "/fds/v2/statuses?ids=%ff", "", "", 400, "invalid_parameter", "UTF-8"},
		{"GET", "/fds/v2/statuses?ids=%zz", "", "", 400, "invalid_parameter", "not well formed"},
		{"GET", "/fds/v2/statuses?ids=a;b", "", "", 400, "invalid_parameter", "not well formed"},
		{"GET", "/fds/v2/statuses?ids=" + strings.Repeat("a,", 1000) + "a", "", "", 400, "invalid_parameter", "1001 IDs"},
		{"GET", "/fds/v2/statuses?ids=" + strings.Repeat("a", 40_000), "", "", 400, "invalid_parameter", "the query is longer"},
		{"GET", "/fds/v2/statuses?access_token=x", "", "", 400, "invalid_parameter", "unknown parameter"},

		{"GET", "/fds/v2/", "", "", 404, "not_found", ""},
		{"GET", "/fds/v2", "", "", 404, "not_found", ""},
		{"GET", "/fds/v2/status", "", "", 404, "not_found", ""},
		{"GET", "/fds/v2/Statuses", "", "", 404, "not_found", ""},
		{"GET", "/fds/v2/statuses/", "", "", 404, "not_found", ""},
		{"GET", "/fds/v2//statuses", "", "", 404, "not_found", ""},
		{"GET", "/fds/v2/statuses/../spaces", "", "", 404, "not_found", ""},
		{"GET", "/fds/v2/%2e%2e/v2/statuses", "", "", 404, "not_found", ""},
		{"GET", "/fds/v2/tag/" + tag + "/entities/x", "", "", 404, "not_found", ""},
		{"POST", "/fds/v2/statuses", "application/json", "{}", 405, "method_not_allowed", ""},
		{"OPTIONS", "/fds/v2/statuses", "", "", 405, "method_not_allowed", ""},
		{"FOO", "/fds/v2/statuses", "", "", 405, "method_not_allowed", ""},
		{"PUT", "/fds/v2/tag", "application/json", "{}", 405, "method_not_allowed", ""},
		{"GET", "/fds/v2/tag/" + tag, "", "", 405, "method_not_allowed", ""},
		{"POST", "/fds/v2/tag/" + tag + "/entities", "application/json", "[]", 405, "method_not_allowed", ""},

		{"POST", "/fds/v2/tag", "", `{"generic":{}}`, 415, "unsupported_media_type", "exactly one Content-Type"},
		{"POST", "/fds/v2/tag", "text/plain", `{"generic":{}}`, 415, "unsupported_media_type", "application/json"},
		{"POST", "/fds/v2/tag", "application/json; charset=latin1", `{"generic":{}}`, 415, "unsupported_media_type", "parameter"},
		{"POST", "/fds/v2/tag", "application/json;;", `{"generic":{}}`, 415, "unsupported_media_type", ""},
		{"POST", "/fds/v2/tag", "application/x-ndjson", `{"generic":{}}`, 415, "unsupported_media_type", ""},
		{"POST", "/fds/v2/tag", "application/json", ``, 400, "invalid_body", "not valid JSON"},
		{"POST", "/fds/v2/tag", "application/json", `[]`, 400, "invalid_body", "not a JSON object"},
		{"POST", "/fds/v2/tag", "application/json", `{"generic":{},"generic":{}}`, 400, "invalid_body", "twice"},
		{"POST", "/fds/v2/tag", "application/json", `{"generic":{},"tag_id":"x"}`, 400, "invalid_body", "set by the server"},
		{"POST", "/fds/v2/tag", "application/json", `{"generic":{},"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, 400, "invalid_body", "nested deeper"},
		{"POST", "/fds/v2/tag", "application/json", `{"generic":{},"x":"` + strings.Repeat("x", 20_000) + `"}`, 413, "body_too_large", "16384"},
		{"POST", "/fds/v2/tag?x=1", "application/json", `{"generic":{}}`, 400, "invalid_parameter", "no parameters"},
		{"GET", "/fds/v2/tag?ids=7", "", "", 400, "invalid_parameter", "not a UUID version 4"},
		{"DELETE", "/fds/v2/tag/7", "", "", 400, "invalid_parameter", "not a UUID version 4"},
		{"DELETE", "/fds/v2/tag/" + strings.ToUpper(strings.Replace(tag, "0", "a", 1)), "", "", 400, "invalid_parameter", "lower-case"},
		{"DELETE", "/fds/v2/tag/" + tag + "?ids=x", "", "", 400, "invalid_parameter", "no parameters"},
		{"PUT", "/fds/v2/tag/" + tag + "/entities", "application/json", `{}`, 400, "invalid_body", "array of strings"},
		{"PUT", "/fds/v2/tag/" + tag + "/entities", "application/json", `[1]`, 400, "invalid_body", "array of strings"},
		{"PUT", "/fds/v2/tag/" + tag + "/entities", "application/json", `[null]`, 400, "invalid_body", "array of strings"},
		{"PUT", "/fds/v2/tag/" + tag + "/entities", "application/json", `null`, 400, "invalid_body", "array of strings"},
		{"PUT", "/fds/v2/tag/" + tag + "/entities", "application/json", `["a","a"]`, 400, "invalid_body", "item 1: the ID stands twice"},
		{"PUT", "/fds/v2/tag/" + tag + "/entities", "application/json", `[""]`, 400, "invalid_body", "item 0: the ID is empty"},
	} {
		a := b.do(c.method, c.path, b.reader("northgate", 0), c.contentType, c.body)
		want := fmt.Sprintf(`{"status":%d,"message":"%s"}`, c.status, c.message)
		if c.status == 200 {
			want = "[]"
		}
		if a.status != c.status || a.body != want || !strings.Contains(a.header.Get("Keyholder-Detail"), c.detail) {
			t.Errorf("%s %.80s %.40s: %d %s %q; want %s %q", c.method, c.path, c.body, a.status, a.body, a.header.Get("Keyholder-Detail"), want, c.detail)
		}
		if a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %.80s: headers %v", c.method, c.path, a.header)
		}
		if a.status == 405 && a.header.Get("Allow") == "" {
			t.Errorf("%s %.80s: no Allow header", c.method, c.path)
		}
	}
	if a := b.get("/fds/v2/statuses", b.reader("northgate", 0)); a.body != "[]" {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
	if strings.Contains(b.log.String(), "access_token") || strings.Contains(b.log.String(), "ids=") {
		t.Error("the log holds a query")
	}
}

// Ensure that a bad ingestion gets a problem document that says what is wrong
// and where, stores and pushes nothing, and that the server goes on.
func TestBadIngestion(t *testing.T) {
	b := open(t, limits{})
	ok := `{"device_id":"D","generic":{}}`
	path := "/ingest/v1/owners/northgate/statuses"
	big := `{"device_id":"D","generic":{},"x":"` + strings.Repeat("x", 256<<10) + `"}`
	for _, c := range []struct {
		method, path, contentType, body string
		status                          int
		detail                          string
	}{
		{"GET", path, "", "", 405, "PUT or POST"},
		{"DELETE", path, "", "", 405, "PUT or POST"},
		{"POST", "/ingest/v1/owners/northgate/nothing", "application/json", ok, 404, "unknown kind of item"},
		{"POST", "/ingest/v1/owners/northgate/tag", "application/json", ok, 404, "unknown kind of item"},
		{"POST", "/ingest/v1/owners/northgate/statuses/x", "application/json", ok, 404, "nothing is served"},
		{"POST", "/ingest/v1/", "application/json", ok, 404, "nothing is served"},
		{"POST", path + "?x=1", "application/json", ok, 400, "unknown parameter"},
		{"POST", path, "", ok, 415, "exactly one Content-Type"},
		{"POST", path, "text/json", ok, 415, "application/json or application/x-ndjson"},
		{"POST", path, "application/json", "", 400, "no item"},
		{"POST", path, "application/json", "[]", 400, "no item"},
		{"POST", path, "application/x-ndjson", "\n \r\n", 400, "no item"},
		{"POST", path, "application/json", `{"device_id":`, 400, "item 0: not valid JSON"},
		{"POST", path, "application/json", `[` + ok + `,{"device_id":]`, 400, "not valid JSON"},
		{"POST", path, "application/json", `[` + ok + `] [`, 400, "not valid JSON"},
		{"POST", path, "application/json", ok + ok, 400, "item 0: not valid JSON"},
		{"POST", path, "application/json", `[` + ok + `,7]`, 400, "item 1: not a JSON object"},
		{"POST", path, "application/json", `[` + ok + `,[` + ok + `]]`, 400, "item 1: not a JSON object"},
		{"POST", path, "application/x-ndjson", ok + "\n" + ok + "\n{\n", 400, "item 2: not valid JSON"},
		{"POST", path, "application/x-ndjson", ok + "\n" + `{"device_id":5,"generic":{}}`, 400, `item 1: member \"device_id\" is not a string`},
		{"POST", path, "application/json", `{"device_id":"D"}`, 400, `item 0: no member \"generic\"`},
		{"POST", path, "application/json", "{\"device_id\":\"D\",\"generic\":{},\"x\":\"\xc3\x28\"}", 400, "not valid UTF-8"},
		{"POST", path, "application/json", `{"device_id":"D","generic":{},"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, 400, "nested deeper"},
		{"POST", path, "application/json", strings.Repeat("[", 1<<20), 400, "not valid JSON"},
		{"POST", path, "application/json", "[" + ok + "," + big + "]", 400, "item 1: longer than 262144 bytes"},
		{"POST", path, "application/json", "[" + strings.Repeat("1,", 10_000) + "1]", 400, "more than 10000 items"},
		{"POST", path, "application/x-ndjson", strings.Repeat("1\n", 10_001), 400, "more than 10000 items"},
		{"POST", path, "application/json", strings.Repeat(" ", 16<<20+1), 413, "16777216"},
	} {
		a := b.do(c.method, c.path, b.ingester(), c.contentType, c.body)
		if a.status != c.status || !strings.Contains(a.body, c.detail) || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s %.40q: %d %s; want %d %s", c.method, c.path, c.body, a.status, a.body, c.status, c.detail)
		}
	}
	req := must(http.NewRequest("POST", b.url+path, strings.NewReader(ok)))
	req.Header.Set("Authorization", "Bearer "+b.ingester())
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	if a := b.send(req); a.status != http.StatusUnsupportedMediaType {
		t.Errorf("an encoded body: %d %s", a.status, a.body)
	}
	if a := b.get("/fds/v2/statuses", b.reader("northgate", 0)); a.body != "[]" {
		t.Errorf("something was stored: %s", a.body)
	}
	b.drain(b.subs["northgate"][0].ID, 0)
	if n, pushed := b.put("northgate", keyholder.Statuses, ok); n != 1 || pushed != 2 {
		t.Errorf("afterwards: %d stored, %d pushed", n, pushed)
	}
}

// Ensure that only the provider of an agreement in force ingests, and that an
// owner without one and an owner that does not exist give one answer.
func TestIngestionIsPermitted(t *testing.T) {
	b := open(t, limits{})
	ctx := context.Background()
	lone := must(b.ledger.AddOwner(ctx, ledger.Administrator, "lone", "Lone"))
	ok := `{"device_id":"D","generic":{}}`
	post := func(owner, token string) answer {
		return b.do("POST", "/ingest/v1/owners/"+owner+"/statuses", token, "application/json", ok)
	}
	for name, c := range map[string]struct {
		owner, token string
		status       int
		detail       string
	}{
		"no token":          {"northgate", "", 401, "no access token"},
		"an app's token":    {"northgate", b.reader("northgate", 0), 403, "not for ingestion"},
		"an app's, widened": {"northgate", b.token(string(b.apps[0].ID), keyholder.ScopeIngest, ""), 403, "not of a provider"},
		"for pushing":       {"northgate", b.token(string(b.provider.ID), keyholder.ScopePush, b.subs["northgate"][0].ID), 403, "not for ingestion"},
		"the rival's":       {"northgate", b.token(string(b.rival.ID), keyholder.ScopeIngest, ""), 403, "no agreement"},
		"no agreement":      {"lone", b.ingester(), 403, "no agreement"},
		"by key":            {"northgate", b.ingester(), 202, ""},
		"by ID":             {string(b.owners["northgate"].ID), b.ingester(), 202, ""},
	} {
		if a := post(c.owner, c.token); a.status != c.status || !strings.Contains(a.body, c.detail) {
			t.Errorf("%s: %d %s; want %d %s", name, a.status, a.body, c.status, c.detail)
		}
	}
	want := post("lone", b.ingester())
	for _, owner := range []string{"nobody", "00000000-0000-4000-8000-000000000000", string(lone.ID), "%2e%2e"} {
		if a := post(owner, b.ingester()); a.status != want.status || a.body != want.body {
			t.Errorf("owner %s: %d %s; want %d %s", owner, a.status, a.body, want.status, want.body)
		}
	}
	if _, err := b.ledger.Cut(ctx, ledger.Administrator, keyholder.Target{Kind: keyholder.CutAgreement, ID: string(b.agreements["northgate"].ID)}, "test"); err != nil {
		t.Fatal(err)
	}
	if a := post("northgate", b.ingester()); a.status != http.StatusForbidden {
		t.Errorf("after the cut: %d %s", a.status, a.body)
	}
}
