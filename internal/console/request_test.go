package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// Ensure that whatever is sent gets a clear problem document and the server
// goes on.
func TestBadRequests(t *testing.T) {
	b := open(t)
	const j = "application/json"
	unknown := "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"
	for _, tt := range []struct {
		name, method, path, contentType, body string
		status                                int
		words                                 string
	}{
		{"no path", "GET", "/", "", "", 404, "/admin/v1/"},
		{"unknown path", "GET", "/admin/v1/planets", "", "", 404, "no such path"},
		{"method", "DELETE", "/admin/v1/providers", "", "", 405, "GET, POST"},
		{"method of one", "PUT", "/admin/v1/providers/" + unknown, j, "{}", 405, "GET"},
		{"unknown parameter", "GET", "/admin/v1/providers?verbose=1", "", "", 400, `\"verbose\"`},
		{"repeated parameter", "GET", "/admin/v1/audit?limit=1&limit=2", "", "", 400, "more than once"},
		{"malformed query", "GET", "/admin/v1/audit?limit=%zz", "", "", 400, "malformed"},
		{"limit", "GET", "/admin/v1/audit?limit=0", "", "", 400, "limit"},
		{"after", "GET", "/admin/v1/audit?after=x", "", "", 400, "after"},
		{"bad UUID", "GET", "/admin/v1/providers/x", "", "", 400, "UUID"},
		{"upper case", "GET", "/admin/v1/apps/" + strings.ToUpper(unknown), "", "", 400, "lower-case"},
		{"bad serial", "GET", "/admin/v1/certificates/XYZ", "", "", 400, "serial"},
		{"unknown ID", "GET", "/admin/v1/subscriptions/" + unknown, "", "", 404, "no subscription"},
		{"unknown owner", "GET", "/admin/v1/owners/nobody", "", "", 404, "owner list"},
		{"slash in ID", "GET", "/admin/v1/owners/a%2Fb", "", "", 404, "no owner"},
		{"no type", "POST", "/admin/v1/providers", "", `{"name":"x"}`, 400, "application/json"},
		{"form", "POST", "/admin/v1/providers", "application/x-www-form-urlencoded", `name=x`, 400, "application/json"},
		{"empty", "POST", "/admin/v1/providers", j, "", 400, "not a JSON object"},
		{"null", "POST", "/admin/v1/providers", j, "null", 400, "not a JSON object"},
		{"list", "POST", "/admin/v1/providers", j, `[{"name":"x"}]`, 400, "not a JSON object"},
		{"cut off", "POST", "/admin/v1/providers", j, `{"name":"x"`, 400, "ends too early"},
		{"syntax", "POST", "/admin/v1/providers", j, `{"name":x}`, 400, "not valid JSON"},
		{"two values", "POST", "/admin/v1/providers", j, `{"name":"x"}{"name":"y"}`, 400, "follows"},
		{"unknown field", "POST", "/admin/v1/providers", j, `{"name":"x","id":"y"}`, 400, "known here: name"},
		{"repeated field", "POST", "/admin/v1/providers", j, `{"name":"x","name":"y"}`, 400, "more than once"},
		{"repeated in another case", "POST", "/admin/v1/providers", j, `{"name":"x","Name":"y"}`, 400, "more than once"},
		{"wrong type", "POST", "/admin/v1/providers", j, `{"name":7}`, 400, "must be a string"},
		{"wrong list", "POST", "/admin/v1/apps", j, `{"grants":"x"}`, 400, "must be a list"},
		{"bad time", "POST", "/admin/v1/agreements", j, `{"start":"tomorrow"}`, 400, "2027-01-31T00:00:00Z"},
		{"UTF-8", "POST", "/admin/v1/providers", j, "{\"name\":\"\xff\"}", 400, "UTF-8"},
		{"deep", "POST", "/admin/v1/providers", j, `{"name":` + strings.Repeat("[", 100_000), 400, "nested deeper"},
		{"oversize", "POST", "/admin/v1/providers", j, `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 400, "larger than"},
		{"empty name", "POST", "/admin/v1/providers", j, `{"name":" "}`, 400, "empty"},
		{"control character", "POST", "/admin/v1/providers", j, `{"name":"a\u001bb"}`, 400, "printed"},
		{"body with a query", "POST", "/admin/v1/providers?x=1", j, `{"name":"x"}`, 400, "takes none"},
		{"bad party", "POST", "/admin/v1/agreements", j, `{"provider":"x","owner":"y","purpose":"z"}`, 400, "provider: not a UUID"},
		{"unknown agreement", "POST", "/admin/v1/subscriptions", j, `{"agreement":"` + unknown + `","app":"` + unknown + `"}`, 404, "agreement"},
	} {
		status, header, body := b.raw(tt.method, tt.path, tt.contentType, tt.body)
		if status != tt.status || !strings.Contains(body, tt.words) || header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s %s, want %d with %q", tt.name, status, header.Get("Content-Type"), body, tt.status, tt.words)
		}
	}
	if providers := must[[]keyholder.Provider](t)(b.Providers(context.Background())); len(providers) != 0 {
		t.Errorf("a refused request added %+v", providers)
	}
}

// Ensure that an internal failure is logged in full and shown as a reference
// only.
func TestInternalFailure(t *testing.T) {
	b := open(t)
	err := b.store.Write(context.Background(), func(tx *store.Tx) error {
		_, err := tx.Exec("DROP TABLE receipts")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	status, _, body := b.raw("GET", "/admin/v1/receipts", "", "")
	if status != 500 || strings.Contains(body, "receipts") || !strings.Contains(body, "reference ") {
		t.Errorf("%d %s", status, body)
	}
	_, reference, _ := strings.Cut(body, "reference ")
	if !strings.Contains(b.log.String(), reference[:12]) || !strings.Contains(b.log.String(), "no such table") {
		t.Errorf("the log does not explain %s:\n%s", reference, b.log)
	}
	_, err = b.Receipts(context.Background())
	if err == nil || keyholder.CodeOf(err) != "" || !strings.Contains(err.Error(), "reference") {
		t.Errorf("the client got %v", err)
	}
}

// FuzzDecode: no request makes the decoder panic, every refusal is an error
// of code invalid, and what is accepted means the same when written again.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"name":"x"}`, `{"grants":["a","b"],"redirect_uris":[]}`, `{"name":"x","name":"y"}`, `{"name":null}`, `[`, `{"a":{"b":[1,2,{"c":"\ud800"}]}}`, "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var first, second console.NewApp
		if err := console.Decode(body, &first); err != nil {
			if keyholder.CodeOf(err) != keyholder.Invalid {
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := console.Decode(again, &second); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if fmt.Sprint(first) != fmt.Sprint(second) {
			t.Fatalf("%+v became %+v", first, second)
		}
	})
}
