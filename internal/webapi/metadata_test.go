package webapi_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder/internal/webapi"
)

// Ensure that a client that knows only the API is told, without a token and
// with every 401, where its authorization server is (RFC 9728).
func TestMetadata(t *testing.T) {
	b := open(t, limits{issuer: "https://as.example:8443", base: "https://api.example"})
	a := b.do("GET", "/.well-known/oauth-protected-resource", "", "", "")
	want := `{
  "resource": "https://api.example",
  "authorization_servers": [
    "https://as.example:8443"
  ],
  "scopes_supported": [
    "fds:read",
    "fds:ingest"
  ],
  "bearer_methods_supported": [
    "header"
  ],
  "tls_client_certificate_bound_access_tokens": true,
  "dpop_signing_alg_values_supported": [
    "ES256",
    "EdDSA",
    "PS256"
  ],
  "dpop_bound_access_tokens_required": false
}
`
	if d := cmp.Diff(want, a.body); a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" || d != "" {
		t.Errorf("status %d, %v, document (-want +got):\n%s", a.status, a.header, d)
	}
	if a := b.do("HEAD", "/.well-known/oauth-protected-resource", "", "", ""); a.status != http.StatusOK || a.body != "" {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
	if a := b.do("POST", "/.well-known/oauth-protected-resource", "", "application/json", "{}"); a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %v", a.status, a.header)
	}
	if a := b.do("GET", "/.well-known/oauth-protected-resource/fds", "", "", ""); a.status != http.StatusNotFound {
		t.Errorf("below it: %d", a.status)
	}

	const pointer = `resource_metadata="https://api.example/.well-known/oauth-protected-resource"`
	for name, c := range map[string]struct{ path, token, code string }{
		"pull, no token":           {"/fds/v2/statuses", "", ""},
		"pull, nonsense":           {"/fds/v2/statuses", "nonsense", `error="invalid_token", `},
		"pull, token of ingestion": {"/fds/v2/statuses", b.ingester(), ""},
		"ingestion, no token":      {"/ingest/v1/owners/northgate/events", "", ""},
		"ingestion, nonsense":      {"/ingest/v1/owners/northgate/events", "nonsense", `error="invalid_token", `},
	} {
		want := []string{"Bearer " + c.code + pointer, "DPoP " + c.code + `algs="ES256 EdDSA PS256", ` + pointer}
		if a := b.do("GET", c.path, c.token, "", ""); a.status != http.StatusUnauthorized || cmp.Diff(want, a.header["Www-Authenticate"]) != "" {
			t.Errorf("%s: %d %q; want %q", name, a.status, a.header["Www-Authenticate"], want)
		}
	}
	if a := b.get("/fds/v2/statuses", b.reader("northgate", 0)); a.status != http.StatusOK || a.header.Get("WWW-Authenticate") != "" {
		t.Errorf("with a token: %d %v", a.status, a.header)
	}
}

// Ensure that an API that was not told its addresses tells none, and that
// wrong ones are refused.
func TestMetadataNeedsAddresses(t *testing.T) {
	b := open(t, limits{})
	if a := b.do("GET", "/.well-known/oauth-protected-resource", "", "", ""); a.status != http.StatusNotFound {
		t.Errorf("status %d, body %s", a.status, a.body)
	}
	if a := b.do("GET", "/fds/v2/statuses", "", "", ""); a.header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("challenge %q", a.header.Get("WWW-Authenticate"))
	}
	for name, pair := range map[string][2]string{
		"no issuer": {"", "https://api.example"}, "no base": {"https://as.example", ""},
		"plain issuer": {"http://as.example", "https://api.example"}, "plain base": {"https://as.example", "http://api.example"},
		"base with a path": {"https://as.example", "https://api.example/v2"}, "base with a quote": {"https://as.example", `https://a"b`},
	} {
		if _, err := webapi.New(webapi.Config{Ledger: b.ledger, Facility: b.facility, Mailbox: b.mailbox, Guard: b.guard, Issuer: pair[0], BaseURL: pair[1]}); err == nil {
			t.Errorf("%s: it starts", name)
		}
	}
}
