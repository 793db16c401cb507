package client_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/google/go-cmp/cmp"
)

// Ensure that the code flow sends what RFC 6749, 7636 and 8705 ask for, with a
// secret as well as with a certificate, and ends with saved tokens.
func TestSignIn(t *testing.T) {
	certificate, sum := selfSigned(t)
	for name, byCertificate := range map[string]bool{"secret": false, "certificate": true} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			var saved saver
			cfg := p.config()
			cfg.OnTokens = saved.save
			if byCertificate {
				cfg.Secret, cfg.Certificate = "", certificate
			}
			s, err := newClient(t, cfg).SignIn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			asked := u.Query()
			want := url.Values{
				"response_type": {"code"}, "client_id": {testClient}, "redirect_uri": {redirect}, "scope": {"fds:read"},
				"state": {s.State}, "code_challenge": asked["code_challenge"], "code_challenge_method": {"S256"},
			}
			if d := cmp.Diff(want, asked); d != "" {
				t.Errorf("authorization request differs (-want +got):\n%s", d)
			}
			p.set(func() {
				p.token = func(w http.ResponseWriter, r *http.Request) {
					checkCodeRequest(t, r, asked.Get("code_challenge"), byCertificate, sum)
					p.issue(w, "access-1", "refresh-1")
				}
			})
			session, err := s.Finish(t.Context(), callback(t, url.Values{"state": {s.State}, "code": {"code-1"}, "iss": {p.srv.URL}}))
			if err != nil {
				t.Fatal(err)
			}
			if session.Subscription() != testSub {
				t.Errorf("subscription %q", session.Subscription())
			}
			tokens := client.Tokens{Subscription: testSub, Access: jwt("access-1"), Refresh: "refresh-1", Expires: p.clock.now().Add(5 * time.Minute)}
			if d := cmp.Diff([]client.Tokens{tokens}, saved.saved); d != "" {
				t.Errorf("saved tokens differ (-want +got):\n%s", d)
			}
			if access, err := session.Token(t.Context()); access != jwt("access-1") || err != nil {
				t.Errorf("token %q, error %v", access, err)
			}
		})
	}
}

func checkCodeRequest(t *testing.T, r *http.Request, challenge string, byCertificate bool, sum keyholder.Thumbprint) {
	t.Helper()
	verified := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	if base64.RawURLEncoding.EncodeToString(verified[:]) != challenge {
		t.Error("the verifier does not fit the challenge")
	}
	want := url.Values{
		"grant_type": {"authorization_code"}, "code": {"code-1"}, "redirect_uri": {redirect},
		"code_verifier": r.PostForm["code_verifier"],
	}
	id, secret, basic := r.BasicAuth()
	if byCertificate {
		want.Set("client_id", testClient)
		if basic || len(r.TLS.PeerCertificates) != 1 || sha256.Sum256(r.TLS.PeerCertificates[0].Raw) != sum {
			t.Error("the client did not authenticate by its certificate alone")
		}
	} else {
		// RFC 6749 2.3.1 has both form-encoded.
		id, errID := url.QueryUnescape(id)
		secret, errSecret := url.QueryUnescape(secret)
		if errors.Join(errID, errSecret) != nil || id != testClient || secret != testSecret {
			t.Errorf("client %q with another secret", id)
		}
	}
	if d := cmp.Diff(want, r.PostForm); d != "" {
		t.Errorf("token request differs (-want +got):\n%s", d)
	}
}

// Ensure that a callback that does not belong to the sign-in, or is an error,
// ends it without a code being redeemed.
func TestFinishRefuses(t *testing.T) {
	good := func(s *client.SignIn, p *peer) url.Values {
		return url.Values{"state": {s.State}, "code": {"code-1"}, "iss": {p.srv.URL}}
	}
	tests := map[string]struct {
		change func(v url.Values, p *peer)
		denied bool
		oauth  string
	}{
		"wrong state":       {func(v url.Values, _ *peer) { v.Set("state", "x") }, true, ""},
		"no state":          {func(v url.Values, _ *peer) { v.Del("state") }, true, ""},
		"two states":        {func(v url.Values, _ *peer) { v.Add("state", "x") }, true, ""},
		"wrong issuer":      {func(v url.Values, _ *peer) { v.Set("iss", "https://other.example.com") }, true, ""},
		"no issuer":         {func(v url.Values, _ *peer) { v.Del("iss") }, true, ""},
		"two issuers":       {func(v url.Values, _ *peer) { v.Add("iss", v.Get("iss")) }, true, ""},
		"two codes":         {func(v url.Values, _ *peer) { v.Add("code", "code-2") }, true, ""},
		"too late":          {func(_ url.Values, p *peer) { p.clock.add(16 * time.Minute) }, true, ""},
		"no code":           {func(v url.Values, _ *peer) { v.Del("code") }, false, ""},
		"user said no":      {func(v url.Values, _ *peer) { v.Del("code"); v.Set("error", "access_denied") }, false, "access_denied"},
		"error and code":    {func(v url.Values, _ *peer) { v.Set("error", "server_error") }, false, "server_error"},
		"error, odd letter": {func(v url.Values, _ *peer) { v.Set("error", "bad\x1b[31m\n") }, false, "bad[31m"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			s, err := newClient(t, p.config()).SignIn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			v := good(s, p)
			tt.change(v, p)
			session, err := s.Finish(t.Context(), callback(t, v))
			if session != nil || err == nil {
				t.Fatalf("session %v, error %v", session, err)
			}
			var oauth *client.OAuthError
			switch {
			case tt.denied && keyholder.CodeOf(err) != keyholder.Denied:
				t.Errorf("error %v, want a denial", err)
			case tt.oauth != "" && (!errors.As(err, &oauth) || oauth.Code != tt.oauth):
				t.Errorf("error %v, want the OAuth error %q", err, tt.oauth)
			}
			noSecrets(t, err)
			if n := p.tokenCalls.Load(); n != 0 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}

// Ensure that an issuer that is named must be right even where it is not
// promised, that a stranger's callback does not spoil the sign-in, and that a
// code is redeemed once.
func TestFinishOnce(t *testing.T) {
	p := newPeer(t)
	p.promises = false
	s, err := newClient(t, p.config()).SignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []url.Values{
		{"state": {"guess"}, "code": {"code-2"}},
		{"state": {s.State}, "code": {"code-2"}, "iss": {"https://other.example.com"}},
	} {
		if _, err := s.Finish(t.Context(), callback(t, v)); keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("stranger's callback: error %v, want a denial", err)
		}
	}
	good := callback(t, url.Values{"state": {s.State}, "code": {"code-1"}})
	if _, err := s.Finish(t.Context(), good); err != nil {
		t.Errorf("the right callback: %v", err)
	}
	if _, err := s.Finish(t.Context(), good); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("again: error %v, want a denial", err)
	}
	if n := p.tokenCalls.Load(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// Ensure that a refused or lost code is not sent again, and one is that the
// server was too busy to look at.
func TestRedeem(t *testing.T) {
	tests := map[string]struct {
		answers []func(w http.ResponseWriter)
		want    string // OAuth error; empty: signed in, "-": unavailable
	}{
		"refused":            {[]func(http.ResponseWriter){func(w http.ResponseWriter) { refuse(w, 400, "invalid_grant") }}, "invalid_grant"},
		"client unknown":     {[]func(http.ResponseWriter){func(w http.ResponseWriter) { refuse(w, 401, "invalid_client") }}, "invalid_client"},
		"connection broken":  {[]func(http.ResponseWriter){func(http.ResponseWriter) { panic(http.ErrAbortHandler) }}, "-"},
		"error without code": {[]func(http.ResponseWriter){func(w http.ResponseWriter) { w.WriteHeader(500) }}, "-"},
		"busy, then good": {[]func(http.ResponseWriter){
			func(w http.ResponseWriter) { w.Header().Set("Retry-After", "0"); w.WriteHeader(503) }, nil}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			s, err := newClient(t, p.config()).SignIn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.set(func() {
				p.token = func(w http.ResponseWriter, _ *http.Request) {
					if answer := tt.answers[min(int(p.tokenCalls.Load()), len(tt.answers))-1]; answer != nil {
						answer(w)
						return
					}
					p.issue(w, "access-1", "refresh-1")
				}
			})
			_, err = s.Finish(t.Context(), callback(t, url.Values{"state": {s.State}, "code": {"code-1"}, "iss": {p.srv.URL}}))
			var oauth *client.OAuthError
			switch {
			case tt.want == "" && err != nil, tt.want == "-" && keyholder.CodeOf(err) != keyholder.Unavailable,
				len(tt.want) > 1 && (!errors.As(err, &oauth) || oauth.Code != tt.want):
				t.Errorf("error %v, want %q", err, tt.want)
			}
			noSecrets(t, err)
			if n := int(p.tokenCalls.Load()); n != len(tt.answers) {
				t.Errorf("%d token requests, want %d", n, len(tt.answers))
			}
		})
	}
}

// Ensure that an unsafe or incomplete configuration is refused before anybody
// is contacted.
func TestNewRefuses(t *testing.T) {
	certificate, _ := selfSigned(t)
	tests := map[string]func(*client.Config){
		"http issuer":            func(c *client.Config) { c.Issuer = "http://as.example.com" },
		"no issuer":              func(c *client.Config) { c.Issuer = "" },
		"http API":               func(c *client.Config) { c.API = "http://api.example.com" },
		"API with query":         func(c *client.Config) { c.API += "?x=1" },
		"no client ID":           func(c *client.Config) { c.ClientID = "" },
		"no credential":          func(c *client.Config) { c.Secret = "" },
		"two credentials":        func(c *client.Config) { c.Certificate = certificate },
		"negative time":          func(c *client.Config) { c.RenewBefore = -1 },
		"negative answer length": func(c *client.Config) { c.MaxResponse = -1 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := client.Config{Issuer: "https://as.example.com", API: "https://api.example.com", ClientID: testClient, Secret: testSecret}
			change(&cfg)
			if _, err := client.New(cfg); keyholder.CodeOf(err) != keyholder.Invalid {
				t.Errorf("error %v, want code invalid", err)
			}
		})
	}
	p := newPeer(t)
	cfg := p.config()
	cfg.RedirectURI = "/callback"
	if _, err := newClient(t, cfg).SignIn(t.Context()); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("relative redirect URI: error %v, want code invalid", err)
	}
}

// FuzzFinish checks that no callback without the right state and issuer
// redeems a code.
func FuzzFinish(f *testing.F) {
	f.Add("state=x&code=y")
	f.Add("state=&code=&iss=")
	f.Add("%zz")
	f.Add("error=access_denied&state=x")
	var s *client.SignIn
	f.Fuzz(func(t *testing.T, query string) {
		if s == nil {
			p := newPeer(t)
			var err error
			if s, err = newClient(t, p.config()).SignIn(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		session, err := s.Finish(t.Context(), &url.URL{Scheme: "https", Host: "app.example.com", RawQuery: query})
		if session != nil || err == nil {
			t.Errorf("%q was taken", query)
		}
	})
}
