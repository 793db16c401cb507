package keyholder_test

import (
	"net/url"
	"testing"

	"github.com/fds-keyholder/keyholder"
)

const theIssuer = "https://login.example/realms/one"

// Ensure that a provider is registered only with an exact https issuer and
// sound fields.
func TestCheckIdentityProvider(t *testing.T) {
	good := keyholder.IdentityProvider{Issuer: theIssuer, ClientID: "keyholder", Scopes: []string{"profile"}, Hosts: []string{"keys.example:8443"}, Name: "One"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*keyholder.IdentityProvider){
		"no issuer":      func(p *keyholder.IdentityProvider) { p.Issuer = "" },
		"http":           func(p *keyholder.IdentityProvider) { p.Issuer = "http://login.example" },
		"no host":        func(p *keyholder.IdentityProvider) { p.Issuer = "https:///realms" },
		"port only":      func(p *keyholder.IdentityProvider) { p.Issuer = "https://:443" },
		"user":           func(p *keyholder.IdentityProvider) { p.Issuer = "https://a@login.example" },
		"query":          func(p *keyholder.IdentityProvider) { p.Issuer += "?a=b" },
		"empty query":    func(p *keyholder.IdentityProvider) { p.Issuer += "?" },
		"fragment":       func(p *keyholder.IdentityProvider) { p.Issuer += "#" },
		"no client":      func(p *keyholder.IdentityProvider) { p.ClientID = "" },
		"long name":      func(p *keyholder.IdentityProvider) { p.Name = string(make([]byte, 61)) },
		"two scopes":     func(p *keyholder.IdentityProvider) { p.Scopes = []string{"a b"} },
		"host with path": func(p *keyholder.IdentityProvider) { p.Hosts = []string{"keys.example/a"} },
		"host with user": func(p *keyholder.IdentityProvider) { p.Hosts = []string{"a@keys.example"} },
		"empty host":     func(p *keyholder.IdentityProvider) { p.Hosts = []string{""} },
	} {
		p := good
		change(&p)
		if err := p.Check(); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Ensure that the server calls nothing but the issuer's host and the hosts
// that were named.
func TestIdentityProviderReaches(t *testing.T) {
	p := keyholder.IdentityProvider{Issuer: theIssuer, Hosts: []string{"keys.example:8443"}}
	for address, want := range map[string]bool{
		"https://login.example/token": true, "https://keys.example:8443/jwks": true,
		"http://login.example/token": false, "https://login.example:444/token": false, "https://keys.example/jwks": false,
		"https://169.254.169.254/latest": false, "https://login.example.evil/": false, "https://a:b@login.example/": false, "ftp://login.example/": false,
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Reaches(u); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

// Ensure that a sign-in elsewhere counts as two factors only where the
// provider says so or is trusted to ask for two.
func TestFederatedFactor(t *testing.T) {
	for _, c := range []struct {
		trust bool
		amr   []string
		want  keyholder.Factor
	}{
		{false, nil, keyholder.FactorFederated},
		{false, []string{"pwd"}, keyholder.FactorFederated},
		{false, []string{"pwd", "otp"}, keyholder.FactorFederated},
		{false, []string{"MFA"}, keyholder.FactorFederated},
		{false, []string{"pwd", "mfa"}, keyholder.FactorFederatedTwo},
		{true, nil, keyholder.FactorFederatedTwo},
		{true, []string{"pwd"}, keyholder.FactorFederatedTwo},
	} {
		if got := keyholder.FederatedFactor(keyholder.IdentityProvider{TrustFactors: c.trust}, c.amr); got != c.want {
			t.Errorf("trusted %v, amr %q: %s", c.trust, c.amr, got)
		}
	}
}

// Ensure that somebody is a user only by issuer and subject together, at the
// provider of the user's owner (W5).
func TestPermitFederated(t *testing.T) {
	tt := truth{
		axes: []axis{
			{"user", []string{"good", "disabled", "unbound", "other-issuer", "other-owner", "none"}},
			{"provider", []string{"good", "replaced", "removed"}},
			{"issuer", []string{"good", "other", "none"}},
			{"subject", []string{"good", "other", "login", "none"}},
		},
		allowed: []string{"user=good provider=good issuer=good subject=good"},
		decide: func(c combination) keyholder.Verdict {
			u := keyholder.User{ID: theUser, Owner: theOwner, Login: "facility@northgate.example", Issuer: theIssuer, Subject: "248289761001"}
			switch c.at("user") {
			case "disabled":
				u.Disabled = long
			case "unbound":
				u.Issuer, u.Subject = "", ""
			case "other-issuer":
				u.Issuer = "https://other.example"
			case "other-owner":
				u.Owner = "another"
			case "none":
				u = keyholder.User{}
			}
			p := keyholder.IdentityProvider{Owner: theOwner, Issuer: theIssuer}
			switch c.at("provider") {
			case "replaced":
				p.Issuer = "https://new.example"
			case "removed":
				p = keyholder.IdentityProvider{}
			}
			issuer := map[string]string{"good": theIssuer, "other": "https://other.example"}[c.at("issuer")]
			subject := map[string]string{"good": "248289761001", "other": "1", "login": "facility@northgate.example"}[c.at("subject")]
			return keyholder.PermitFederated(u, p, issuer, subject)
		},
	}
	tt.check(t)
	tt.requirements(t, "user=good provider=good issuer=good subject=good", keyholder.W5,
		fault{"user=disabled", keyholder.W5}, fault{"user=other-owner", keyholder.W5}, fault{"issuer=other", keyholder.W5}, fault{"subject=other", keyholder.W5})
}
