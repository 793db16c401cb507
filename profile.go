package keyholder

import (
	"slices"
	"strings"
	"time"
)

// Profile names a set of rules that an app is held to. It is chosen at
// registration as a whole; there is no way to take a rule out of it.
type Profile string

const (
	// ProfileFDS is what FDS 2.6.4.1 and RFC 9700 ask of every app.
	ProfileFDS Profile = "fds"
	// ProfileFAPI2 is the FAPI 2.0 Security Profile on top of it: the app
	// authenticates by a private key, pushes its authorization requests, gets
	// tokens that are bound to a key of its own, and addresses its assertions
	// to the issuer alone.
	ProfileFAPI2 Profile = "fapi2"
)

// CheckRegistration says what is wrong with an app as it is to be registered:
// whether the way it authenticates is complete and nothing stands beside it,
// and whether the whole is what its profile asks for. Errors are [Error] of
// code [Invalid].
func CheckRegistration(a App) error {
	if err := checkAuthentication(a); err != nil {
		return err
	}
	if a.PushedOnly && !slices.Contains(a.Grants, GrantAuthorizationCode) {
		return Errorf(Invalid, "pushed requests are for the authorization_code grant, which the app does not use")
	}
	switch a.Profile {
	case ProfileFDS:
		return nil
	case ProfileFAPI2:
		return checkFAPI2(a)
	}
	return Errorf(Invalid, "unknown profile of an app").WithHint("the profiles are %s and %s", ProfileFDS, ProfileFAPI2)
}

func checkAuthentication(a App) error {
	if a.Authentication != AuthSecret && !a.Authentication.Asymmetric() {
		return Errorf(Invalid, "unknown authentication method of an app").
			WithHint("use %s (recommended by FDS 2.6.5.1), %s, %s or %s", AuthCertificate, AuthSelfSigned, AuthKey, AuthSecret)
	}
	if (a.Authentication == AuthKey) != (len(a.Keys) > 0) {
		return Errorf(Invalid, "an app has public keys if, and only if, it authenticates by %s", AuthKey)
	}
	if a.Pinned != (PinnedAuthority{}) && a.Authentication != AuthCertificate {
		return Errorf(Invalid, "an authority is pinned for an app that authenticates by %s only", AuthCertificate)
	}
	if form, name, _ := strings.Cut(a.Pinned.Subject, ":"); a.Pinned != (PinnedAuthority{}) &&
		(a.Pinned.PEM == "" || name == "" || !slices.Contains([]string{"dn", "dns", "uri"}, form)) {
		return Errorf(Invalid, "a pinned authority and the subject it may name belong together").
			WithHint("write the subject as dns:NAME, uri:URI or dn:DISTINGUISHED-NAME")
	}
	return checkKeys(a.Keys)
}

func checkFAPI2(a App) error {
	if !a.Authentication.Asymmetric() {
		return Errorf(Invalid, "the profile %s has no client secrets", ProfileFAPI2).
			WithHint("use %s, %s or %s", AuthCertificate, AuthSelfSigned, AuthKey)
	}
	if slices.ContainsFunc(a.Keys, func(k ClientKey) bool { return k.Algorithm == "RS256" }) {
		return Errorf(Invalid, "the profile %s does not allow the algorithm RS256", ProfileFAPI2).
			WithHint("use ES256, EdDSA or PS256")
	}
	return nil
}

// PermitAuthorization decides whether an app's authorization request may
// begin a sign-in: pushed says whether it was pushed by the authenticated app
// (RFC 9126) or came by the browser, where anybody could have written it.
func PermitAuthorization(a App, pushed bool) Verdict {
	switch {
	case a.ID == "" || !a.Cut.IsZero():
		return deny(W4, "no app in force")
	case !pushed && a.MustPush():
		return deny(W3, "the app must push its authorization requests (RFC 9126)")
	}
	return allow(W3)
}

// MustPush says whether the app's authorization requests count only if they
// were pushed: its profile or its registration says so.
func (a App) MustPush() bool { return a.PushedOnly || a.Profile != ProfileFDS }

// PermitBearer decides whether a client may be given a token that is not
// bound to a key of its own, so that whoever holds it can use it.
func PermitBearer(a App) Verdict {
	if a.ID != "" && a.Profile != ProfileFDS {
		return deny(W4, "the profile of the app requires tokens bound to its certificate or to a DPoP key")
	}
	return allow(W4)
}

// Assertion is what a client that authenticates by [AuthKey] has signed
// (RFC 7523 3). Its signature is verified elsewhere, with the key it names.
type Assertion struct {
	Algorithm string // alg
	KeyID     string // kid; empty: the header names none
	Issuer    string
	Subject   string
	ID        string // jti
	Audience  []string
	List      bool // the audience is a JSON array, be it of one
	Issued    time.Time
	NotBefore time.Time
	Expires   time.Time
}

const (
	// AssertionLife is how far ahead an assertion may expire.
	AssertionLife = 10 * time.Minute
	// AssertionSkew is how much the clocks of client and server may differ.
	AssertionSkew = 10 * time.Second
)

// PermitAssertion decides whether an assertion is one by which the app may
// authenticate at the time now. endpoints are the addresses of the
// authorization server that, beside the issuer, an app of the profile fds may
// have named as the audience. One that is for anybody else too is refused,
// because they could use it here.
func PermitAssertion(as Assertion, a App, issuer string, endpoints []string, now time.Time) Verdict {
	switch {
	case a.ID == "" || !a.Cut.IsZero() || a.Authentication != AuthKey:
		return deny(W4, "no app in force that authenticates by an assertion")
	case as.Issuer != string(a.ID) || as.Subject != string(a.ID):
		return deny(W4, "the assertion is not the app's about itself")
	case as.ID == "":
		return deny(W4, "the assertion has no jti")
	case as.Expires.IsZero() || !now.Before(as.Expires.Add(AssertionSkew)):
		return deny(W4, "the assertion has expired, or never does")
	case as.Expires.After(now.Add(AssertionLife)):
		return deny(W4, "the assertion lives too long")
	case as.NotBefore.After(now.Add(AssertionSkew)) || as.Issued.After(now.Add(AssertionSkew)):
		return deny(W4, "the assertion is not valid yet")
	}
	ours := append([]string{issuer}, endpoints...)
	if a.Profile != ProfileFDS {
		if as.Algorithm == "RS256" {
			return deny(W4, "the profile of the app does not allow the algorithm of the assertion")
		}
		if ours = ours[:1]; as.List {
			return deny(W4, "the profile of the app requires the issuer as the audience, as a string")
		}
	}
	if len(as.Audience) == 0 || slices.ContainsFunc(as.Audience, func(s string) bool { return !slices.Contains(ours, s) }) {
		return deny(W4, "the assertion is not for this server alone")
	}
	return permitAssertionKey(as, a)
}

// permitAssertionKey decides whether the app has the key that an assertion
// names, for the algorithm it is signed with.
func permitAssertionKey(as Assertion, a App) Verdict {
	if !slices.ContainsFunc(a.Keys, func(k ClientKey) bool {
		return (k.ID == as.KeyID || as.KeyID == "" && k.Algorithm != "") && k.verifies(as.Algorithm)
	}) {
		return deny(W4, "the app has no such key")
	}
	return allow(W4)
}
