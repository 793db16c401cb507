package keyholdertest_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// tokenDoors is a server with every door that takes tokens, one of them a
// guard that follows the feed as a provider's own API does.
type tokenDoors struct {
	party
	t            *testing.T
	guard        http.Handler
	rs, rsSecret string
}

func openDoors(t *testing.T) *tokenDoors {
	t.Helper()
	d := &tokenDoors{party: onboarded(t), t: t}
	server, secret := d.AddResourceServer("API")
	d.rs, d.rsSecret = string(server.ID), secret
	follower, err := guard.Follow(t.Context(), guard.FollowConfig{Issuer: d.Issuer, ClientID: d.rs, Secret: secret, Client: d.HTTP()})
	if err != nil {
		t.Fatal(err)
	}
	g, err := guard.New(guard.Config{Issuer: d.Issuer, Audience: d.API, Keys: guard.FetchKeys(d.Issuer, d.HTTP()), Follower: follower})
	if err != nil {
		t.Fatal(err)
	}
	d.guard = g.Middleware(func(keyholder.Token, keyholder.Proof) keyholder.Verdict {
		return keyholder.Verdict{Allowed: true, Requirement: keyholder.W8}
	}, nil, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in") }))
	return d
}

func (d *tokenDoors) post(path, user, password string, form url.Values) (int, string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), http.MethodPost, d.Issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(user, password)
	return do(d.t, d.HTTP(), r)
}

// token returns an access token and the name of the key that signed it.
func (d *tokenDoors) token() (token, kid string) {
	d.t.Helper()
	status, body := d.post("/token", string(d.app.ID), d.secret, url.Values{"grant_type": {"client_credentials"},
		"scope": {keyholder.ScopeRead}, "subscription_id": {string(d.sub)}})
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
		d.t.Fatalf("the token endpoint answered %d %s", status, body)
	}
	var header struct{ Kid string }
	encoded, _, _ := strings.Cut(answer.Token, ".")
	if b, err := base64.RawURLEncoding.DecodeString(encoded); err != nil || json.Unmarshal(b, &header) != nil {
		d.t.Fatal("the token has no header")
	}
	return answer.Token, header.Kid
}

// taken says which doors take a token.
func (d *tokenDoors) taken(token string) map[string]bool {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, d.API+"/fds/v2/statuses", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	api, _ := do(d.t, d.HTTP(), r)
	a := httptest.NewRecorder()
	d.guard.ServeHTTP(a, r.Clone(d.t.Context()))
	_, introspection := d.post("/introspect", d.rs, d.rsSecret, url.Values{"token": {token}})
	return map[string]bool{"Web API": api == http.StatusOK, "guard elsewhere": a.Code == http.StatusOK,
		"introspection": strings.Contains(introspection, `"active":true`)}
}

// await polls until something is so, and fails after a time.
func await(t *testing.T, limit time.Duration, what string, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		if <-tick.C; time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// published returns the names of the published keys.
func (d *tokenDoors) published() string {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, d.Issuer+"/jwks", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	_, body := do(d.t, d.HTTP(), r)
	return body
}

func (d *tokenDoors) expect(what, token string, want bool) {
	d.t.Helper()
	for door, taken := range d.taken(token) {
		if taken != want {
			d.t.Errorf("%s: %s takes the token: %t, want %t", what, door, taken, want)
		}
	}
}

// Ensure that within a second of the retirement of a signing key no door
// takes what it signed, the key is not published any more, and the token of
// the next key, which was never published before, is taken by all as soon as
// they ask for it; the same after a restart.
func TestRetireKey(t *testing.T) {
	d := openDoors(t)
	old, kid := d.token()
	d.expect("before", old, true)

	began := time.Now()
	signs := d.RetireKey(kid)
	await(t, time.Second, "no door takes the token", func() bool {
		taken := d.taken(old)
		return !taken["Web API"] && !taken["guard elsewhere"] && !taken["introspection"]
	})
	t.Logf("refused everywhere %s after the command", time.Since(began).Round(time.Millisecond))
	check := func(when string) {
		t.Helper()
		d.expect(when+", old key", old, false)
		fresh, by := d.token()
		if by == kid || when == "at once" && by != signs {
			t.Errorf("%s: signed by %s, want %s", when, by, signs)
		}
		// A guard elsewhere asks for an unknown key every five seconds at most.
		await(t, 20*time.Second, when+": the new key is taken by every door", func() bool {
			taken := d.taken(fresh)
			return taken["Web API"] && taken["guard elsewhere"] && taken["introspection"]
		})
		if set := d.published(); strings.Contains(set, kid) || !strings.Contains(set, by) {
			t.Errorf("%s: published %s", when, set)
		}
	}
	check("at once")
	d.Restart()
	check("after a restart")
}
