package interop_test

import (
	"encoding/json"
	"errors"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// Ensure that a user of an owner signs in at the certified oidc-provider and
// shares, is known there by the subject alone, and is told kindly what did not
// work.
func TestFederation(t *testing.T) {
	node, dir := keyholdertest.NodePackage(t, "provider/package.json", "provider/package-lock.json", "provider/identity-provider.mjs")
	s := keyholdertest.Start(t)
	owner := s.AddOwner("northgate")
	s.AddAgreement(s.AddProvider("Soap Inc").ID, owner.ID)
	const back = "https://app.example/back"
	app, secret := s.AddApp("Cleaner", keyholder.AuthSecret, back, keyholder.GrantAuthorizationCode)
	p := keyholder.IdentityProvider{Owner: owner.ID, ClientID: "keyholder", Name: "Northgate"}

	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := s.ServerCertificatePEM("127.0.0.1")
	settings, err := json.Marshal(map[string]any{"cert": file("server.pem", cert), "key": file("server.key", key), "client": p.ClientID, "secret": foreignSecret,
		"redirect": p.RedirectURI(s.Issuer), "subject": file("subject", []byte("248289761001")), "amr": []string{"pwd", "mfa"}})
	if err != nil {
		t.Fatal(err)
	}
	p.Issuer = serveScript(t, node, dir, "identity-provider.mjs", string(settings))
	s.SetIdentityProvider(p, foreignSecret, file("ca.pem", []byte(s.RootPEM())))
	user := s.AddFederatedUser(owner.ID, "facility", "248289761001")

	ctx := oidc.ClientContext(t.Context(), s.HTTP())
	ours, err := oidc.NewProvider(ctx, s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	conf := oauth2.Config{ClientID: string(app.ID), ClientSecret: secret, RedirectURL: back, Endpoint: ours.Endpoint(), Scopes: []string{oidc.ScopeOpenID, keyholder.ScopeRead}}
	verifier := oauth2.GenerateVerifier()
	v := &stroller{t: t, back: back, http: s.HTTP()}
	signIn := func() int {
		t.Helper()
		if v.http.Jar, err = cookiejar.New(nil); err != nil {
			t.Fatal(err)
		}
		v.get(conf.AuthCodeURL("a state", oauth2.S256ChallengeOption(verifier)))
		return v.get(v.found(`href="(/federation/[^"]*)"`))
	}
	if status := signIn(); status != http.StatusOK || !strings.Contains(v.page, `value="share"`) {
		t.Fatalf("status %d:\n%s", status, v.page)
	}
	v.post(v.found(`action="([^"]*)"`), url.Values{"csrf": {v.found(`name="csrf" value="([^"]*)"`)}, "agreement": {v.found(`name="agreement" value="([^"]*)"`)}, "action": {"share"}})
	token, err := conf.Exchange(ctx, v.at.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := ours.Verifier(&oidc.Config{ClientID: conf.ClientID}).Verify(ctx, raw)
	if err != nil || id.Subject != string(user) {
		t.Errorf("the ID token is of %+v, %v", id, err)
	}
	var claims struct {
		Methods []string `json:"amr"`
	}
	if err := id.Claims(&claims); err != nil || len(claims.Methods) != 1 || claims.Methods[0] != "mfa" {
		t.Errorf("its amr is %v, %v", claims.Methods, err)
	}

	file("subject", []byte("somebody else"))
	if status := signIn(); status != http.StatusForbidden || !strings.Contains(v.page, "not registered here") {
		t.Errorf("a stranger: status %d:\n%s", status, v.page)
	}
	file("subject", nil)
	if status := signIn(); status != http.StatusForbidden || !strings.Contains(v.page, "You did not sign in") {
		t.Errorf("declined: status %d:\n%s", status, v.page)
	}
}

// stroller is a browser that follows what it is told between two servers until
// it is sent back to the app.
type stroller struct {
	t    *testing.T
	http *http.Client
	back string
	at   *url.URL
	page string
}

func (v *stroller) get(address string) int               { return v.do(http.MethodGet, address, nil) }
func (v *stroller) post(address string, form url.Values) { v.do(http.MethodPost, address, form) }

func (v *stroller) do(method, address string, form url.Values) int {
	v.t.Helper()
	if v.at != nil && strings.HasPrefix(address, "/") {
		u, err := v.at.Parse(address)
		if err != nil {
			v.t.Fatal(err)
		}
		address = u.String()
	}
	home := errors.New("back at the app")
	v.http.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if v.at = r.URL; strings.HasPrefix(r.URL.String(), v.back) {
			return home
		}
		return nil
	}
	r, err := http.NewRequestWithContext(v.t.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		v.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	resp, err := v.http.Do(r)
	if errors.Is(err, home) {
		return 0
	}
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	v.page, v.at = string(page), resp.Request.URL
	return resp.StatusCode
}

// found returns what a pattern finds on the page.
func (v *stroller) found(pattern string) string {
	v.t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(v.page)
	if m == nil {
		v.t.Fatalf("no %s at %s:\n%s", pattern, v.at, v.page)
	}
	return html.UnescapeString(m[1])
}
