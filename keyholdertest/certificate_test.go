package keyholdertest_test

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// Ensure that the cut of a certificate ends the tokens bound to it also on a
// connection that was open before, which no handshake ends.
func TestCutOfCertificateOnOpenConnection(t *testing.T) {
	s := keyholdertest.Start(t)
	provider, owner := s.AddProvider("Soap Inc"), s.AddOwner("northgate")
	app, _ := s.AddApp("Cleaner", keyholder.AuthCertificate, "")
	sub := s.AddSubscription(s.AddAgreement(provider.ID, owner.ID), app.ID, "")
	certificate := s.Certificate(keyholder.ForApp, string(app.ID))
	client := s.HTTP(certificate)
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {string(app.ID)}, "scope": {keyholder.ScopeRead}, "subscription_id": {string(sub)}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	status, body := do(t, client, r)
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &token); err != nil || status != http.StatusOK {
		t.Fatalf("token endpoint answered %d", status)
	}
	read := func(reused bool, want int) {
		t.Helper()
		var got httptrace.GotConnInfo
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { got = i }})
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.API+"/fds/v2/statuses", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token.AccessToken)
		if status, body := do(t, client, r); status != want || got.Reused != reused {
			t.Errorf("the Web API answered %d %s, want %d; connection reused: %t, want %t", status, body, want, got.Reused, reused)
		}
	}
	read(false, http.StatusOK)
	read(true, http.StatusOK)
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	s.Cut(keyholder.CutCertificate, keyholder.Serial(leaf.SerialNumber))
	read(true, http.StatusUnauthorized)
}
