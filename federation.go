package keyholder

import (
	"net/url"
	"slices"
	"strings"
	"time"
)

// IdentityProvider is an OpenID provider of an owner, at which users of that
// owner sign in instead of presenting a password here.
type IdentityProvider struct {
	Owner        OwnerID   `json:"owner"`
	Issuer       string    `json:"issuer"`           // exactly as its metadata say it
	ClientID     string    `json:"client_id"`        // of us there
	Scopes       []string  `json:"scopes,omitempty"` // asked for beside openid
	Hosts        []string  `json:"hosts,omitempty"`  // on which its endpoints are, beside the issuer's own
	Name         string    `json:"name,omitempty"`   // on its button; empty: no button, its users type the owner's key
	TrustFactors bool      `json:"trust_factors"`    // a sign-in there counts as two factors, whatever its ID tokens say
	Set          time.Time `json:"set"`
}

// Check says what is wrong with a provider that is to be registered. Errors:
// Invalid.
func (p IdentityProvider) Check() error {
	issuer, err := url.Parse(p.Issuer)
	switch {
	case err != nil || issuer.Scheme != "https" || issuer.Hostname() == "" || issuer.User != nil || strings.ContainsAny(p.Issuer, "?#"):
		return Errorf(Invalid, "the issuer is not an https address without user, query and fragment").WithHint("write it exactly as the provider's metadata do")
	case p.ClientID == "" || len(p.ClientID) > maxClientID:
		return Errorf(Invalid, "the client ID has no byte, or more than %d", maxClientID)
	case len(p.Name) > maxProviderName:
		return Errorf(Invalid, "the name on the button has more than %d bytes", maxProviderName)
	}
	for _, s := range p.Scopes {
		if s == "" || strings.ContainsAny(s, " \t\r\n\"\\") {
			return Errorf(Invalid, "a scope is empty or holds a blank").WithHint("give each by itself")
		}
	}
	for _, h := range p.Hosts {
		if u, err := url.Parse("https://" + h); err != nil || h == "" || u.Host != h {
			return Errorf(Invalid, "a host is not of the form host or host:port")
		}
	}
	return nil
}

// Bounds of what an administrator registers, in bytes.
const (
	maxClientID     = 500
	maxProviderName = 60
)

// RedirectURI is our address to which the provider sends the browser back;
// issuer is ours. There is one for each owner, so that the answer of one
// provider cannot pass for that of another (RFC 9700 4.4.2).
func (p IdentityProvider) RedirectURI(issuer string) string {
	return issuer + "/federation/" + url.PathEscape(string(p.Owner)) + "/callback"
}

// Reaches says whether the server may call an address of the provider: one by
// https, on the issuer's host or one that the administrator has named. What
// the provider's metadata say is no reason to call anything else.
func (p IdentityProvider) Reaches(address *url.URL) bool {
	issuer, err := url.Parse(p.Issuer)
	return err == nil && address.Scheme == "https" && address.User == nil && (address.Host == issuer.Host || slices.Contains(p.Hosts, address.Host))
}

// FederatedFactor says what a sign-in at an owner's provider counts as. It is
// two factors only if the provider says so in its ID token (amr, RFC 8176), or
// if the administrator trusts it to ask for two always.
func FederatedFactor(p IdentityProvider, amr []string) Factor {
	if p.TrustFactors || slices.Contains(amr, methodMultiple) {
		return FactorFederatedTwo
	}
	return FactorFederated
}

// PermitFederated decides whether somebody whom a provider calls subject is
// the user. Only issuer and subject say who somebody is: names and e-mail
// addresses are given anew (OpenID Connect Core 5.7).
func PermitFederated(u User, p IdentityProvider, issuer, subject string) Verdict {
	switch {
	case u.ID == "" || !u.Disabled.IsZero():
		return deny(W5, "no user in force")
	case p.Owner == "" || p.Owner != u.Owner:
		return deny(W5, "the provider is not of the user's owner")
	case issuer == "" || issuer != p.Issuer || issuer != u.Issuer:
		return deny(W5, "the user is not bound to this issuer")
	case subject == "" || subject != u.Subject:
		return deny(W5, "the user is not bound to this subject")
	}
	return allow(W5)
}
