package keyholdertest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// Ensure that a fresh server hands out a token that reads, that this goes on
// over a restart, and that it ends with the cut.
func TestServer(t *testing.T) {
	s := keyholdertest.Start(t)
	provider, owner := s.AddProvider("Soap Inc"), s.AddOwner("northgate")
	app, secret := s.AddApp("Cleaner", keyholder.AuthSecret, "")
	sub := s.AddSubscription(s.AddAgreement(provider.ID, owner.ID), app.ID, "")

	form := url.Values{"grant_type": {"client_credentials"}, "scope": {keyholder.ScopeRead}, "subscription_id": {string(sub)}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(string(app.ID), secret)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	status, body := do(t, s.HTTP(), r)
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &token); err != nil || status != http.StatusOK {
		t.Fatalf("token endpoint answered %d", status)
	}
	read := func(want int) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.API+"/fds/v2/statuses", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token.AccessToken)
		if status, body := do(t, s.HTTP(), r); status != want {
			t.Errorf("the Web API answered %d %s, want %d", status, body, want)
		}
	}
	read(http.StatusOK)
	s.Restart()
	read(http.StatusOK)
	s.Cut(keyholder.CutSubscription, string(sub))
	read(http.StatusUnauthorized)
	s.Restart()
	read(http.StatusUnauthorized)
}

func do(t *testing.T, c *http.Client, r *http.Request) (int, string) {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
