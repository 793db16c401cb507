package keyholder_test

import (
	"slices"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// The parties of the tests, and beside each a stranger of the same kind.
const (
	theSubscription = keyholder.SubscriptionID("11111111-1111-4111-8111-111111111111")
	aSubscription   = keyholder.SubscriptionID("aaaaaaaa-1111-4111-8111-111111111111")
	theProvider     = keyholder.ProviderID("22222222-2222-4222-8222-222222222222")
	aProvider       = keyholder.ProviderID("aaaaaaaa-2222-4222-8222-222222222222")
	theApp          = keyholder.AppID("33333333-3333-4333-8333-333333333333")
	anApp           = keyholder.AppID("aaaaaaaa-3333-4333-8333-333333333333")
	theOwner        = keyholder.OwnerID("44444444-4444-4444-8444-444444444444")
	anOwner         = keyholder.OwnerID("aaaaaaaa-4444-4444-8444-444444444444")
	theConsent      = keyholder.ConsentID("55555555-5555-4555-8555-555555555555")
	aConsent        = keyholder.ConsentID("aaaaaaaa-5555-4555-8555-555555555555")
	theAgreement    = keyholder.AgreementID("66666666-6666-4666-8666-666666666666")
	anAgreement     = keyholder.AgreementID("aaaaaaaa-6666-4666-8666-666666666666")
	theUser         = keyholder.UserID("77777777-7777-4777-8777-777777777777")
)

// now is the time of every decision in the tests. Rights are given by time
// down to the nanosecond, so the states around it differ by one.
var (
	now    = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	before = now.Add(-time.Nanosecond)
	after  = now.Add(time.Nanosecond)
	long   = now.Add(-1000 * time.Hour) // long ago
	far    = now.Add(1000 * time.Hour)  // far away
)

// standing is a state of the whole chain that carries a subscription.
type standing struct {
	name        string
	holds       bool
	requirement keyholder.Requirement // the one it rests on
	change      func(*keyholder.Standing)
}

// standings lists what may be the matter with each link of a chain. Start and
// giving count from their first moment on, end and expiry do not.
func standings() []standing {
	return []standing{
		{"whole", true, keyholder.W6, func(s *keyholder.Standing) {}},
		{"agreement-open-ended", true, keyholder.W6, func(s *keyholder.Standing) { s.Agreement.End = time.Time{} }},
		{"agreement-starts-now", true, keyholder.W6, func(s *keyholder.Standing) { s.Agreement.Start = now }},
		{"agreement-ends-after-now", true, keyholder.W6, func(s *keyholder.Standing) { s.Agreement.End = after }},
		{"consent-without-expiry", true, keyholder.W6, func(s *keyholder.Standing) { s.Consent.Expires = time.Time{} }},
		{"consent-given-now", true, keyholder.W6, func(s *keyholder.Standing) { s.Consent.Given = now }},
		{"consent-expires-after-now", true, keyholder.W6, func(s *keyholder.Standing) { s.Consent.Expires = after }},

		{"none", false, keyholder.W6, func(s *keyholder.Standing) { *s = keyholder.Standing{} }},
		{"subscription-cut", false, keyholder.W6, func(s *keyholder.Standing) { s.Subscription.Cut = long }},
		{"subscription-cut-now", false, keyholder.W6, func(s *keyholder.Standing) { s.Subscription.Cut = now }},
		{"provider-cut", false, keyholder.W6, func(s *keyholder.Standing) { s.Provider.Cut = long }},
		{"app-cut", false, keyholder.W4, func(s *keyholder.Standing) { s.App.Cut = long }},
		{"consent-cut", false, keyholder.W5, func(s *keyholder.Standing) { s.Consent.Cut = long }},
		{"consent-given-after-now", false, keyholder.W5, func(s *keyholder.Standing) { s.Consent.Given = after }},
		{"consent-expires-now", false, keyholder.W5, func(s *keyholder.Standing) { s.Consent.Expires = now }},
		{"consent-expired", false, keyholder.W5, func(s *keyholder.Standing) { s.Consent.Expires = before }},
		{"agreement-cut", false, keyholder.W5, func(s *keyholder.Standing) { s.Agreement.Cut = long }},
		{"agreement-starts-after-now", false, keyholder.W5, func(s *keyholder.Standing) { s.Agreement.Start = after }},
		{"agreement-ends-now", false, keyholder.W5, func(s *keyholder.Standing) { s.Agreement.End = now }},
		{"agreement-ended", false, keyholder.W5, func(s *keyholder.Standing) { s.Agreement.End = before }},

		{"other-consent", false, keyholder.W6, func(s *keyholder.Standing) { s.Subscription.Consent = aConsent }},
		{"other-agreement", false, keyholder.W6, func(s *keyholder.Standing) { s.Subscription.Agreement = anAgreement }},
		{"consent-to-other-agreement", false, keyholder.W6, func(s *keyholder.Standing) { s.Consent.Agreement = anAgreement }},
		{"other-provider", false, keyholder.W6, func(s *keyholder.Standing) { s.Subscription.Provider = aProvider }},
		{"agreement-of-other-provider", false, keyholder.W6, func(s *keyholder.Standing) { s.Agreement.Provider = aProvider }},
		{"other-app", false, keyholder.W6, func(s *keyholder.Standing) { s.Subscription.App = anApp }},
		{"consent-for-other-app", false, keyholder.W6, func(s *keyholder.Standing) { s.Consent.App = anApp }},
		{"other-owner", false, keyholder.W6, func(s *keyholder.Standing) { s.Subscription.Owner = anOwner }},
		{"agreement-of-other-owner", false, keyholder.W6, func(s *keyholder.Standing) { s.Agreement.Owner = anOwner }},

		{"no-consent", false, keyholder.W6, func(s *keyholder.Standing) { s.Consent = keyholder.Consent{} }},
		{"no-agreement", false, keyholder.W6, func(s *keyholder.Standing) { s.Agreement = keyholder.Agreement{} }},
		{"no-provider", false, keyholder.W6, func(s *keyholder.Standing) { s.Provider = keyholder.Provider{} }},
		{"no-app", false, keyholder.W6, func(s *keyholder.Standing) { s.App = keyholder.App{} }},
		{"bare-subscription", false, keyholder.W6, func(s *keyholder.Standing) {
			*s = keyholder.Standing{Subscription: keyholder.Subscription{ID: theSubscription}}
		}},
		// A link that is missing on both of its sides is missing all the same.
		{"consent-nowhere", false, keyholder.W6, func(s *keyholder.Standing) {
			s.Subscription.Consent, s.Consent.ID = "", ""
		}},
		{"agreement-nowhere", false, keyholder.W6, func(s *keyholder.Standing) {
			s.Subscription.Agreement, s.Consent.Agreement, s.Agreement.ID = "", "", ""
		}},
		{"provider-nowhere", false, keyholder.W6, func(s *keyholder.Standing) {
			s.Subscription.Provider, s.Agreement.Provider, s.Provider = "", "", keyholder.Provider{}
		}},
		{"app-nowhere", false, keyholder.W6, func(s *keyholder.Standing) {
			s.Subscription.App, s.Consent.App, s.App = "", "", keyholder.App{}
		}},
		{"owner-nowhere", false, keyholder.W6, func(s *keyholder.Standing) {
			s.Subscription.Owner, s.Agreement.Owner = "", ""
		}},
	}
}

// whole is a chain in which nothing is the matter.
func whole() keyholder.Standing {
	return keyholder.Standing{
		Subscription: keyholder.Subscription{
			ID: theSubscription, Consent: theConsent, Agreement: theAgreement,
			Provider: theProvider, Owner: theOwner, App: theApp, Created: long,
		},
		Consent:   keyholder.Consent{ID: theConsent, Agreement: theAgreement, App: theApp, Given: long, Expires: far},
		Agreement: keyholder.Agreement{ID: theAgreement, Provider: theProvider, Owner: theOwner, Start: long, End: far, Created: long},
		Provider:  keyholder.Provider{ID: theProvider, Created: long},
		App:       keyholder.App{ID: theApp, Created: long},
	}
}

// theStanding returns the chain in one of its states.
func theStanding(name string) keyholder.Standing {
	s := whole()
	changes[name](&s)
	return s
}

// changes are the standings by name.
var changes = func() map[string]func(*keyholder.Standing) {
	m := map[string]func(*keyholder.Standing){}
	for _, s := range standings() {
		m[s.name] = s.change
	}
	return m
}()

// standingAxis is the axis of all standings.
func standingAxis() axis {
	a := axis{name: "standing"}
	for _, s := range standings() {
		a.states = append(a.states, s.name)
	}
	return a
}

// holding is the cell of those that hold.
func holding() string {
	var names []string
	for _, s := range standings() {
		if s.holds {
			names = append(names, s.name)
		}
	}
	return "standing=" + strings.Join(names, "|")
}

// scopes are what a consent may cover.
func scopeAxis() axis { return axis{"scope", []string{"all", "statuses", "events", "other"}} }

// withScope narrows the consent of a chain.
func withScope(s keyholder.Standing, scope string) keyholder.Standing {
	switch scope {
	case "statuses":
		s.Consent.Scope = []keyholder.Kind{keyholder.Statuses}
	case "events":
		s.Consent.Scope = []keyholder.Kind{keyholder.Statistics, keyholder.Events}
	case "other":
		s.Consent.Scope = []keyholder.Kind{keyholder.Spaces}
	}
	return s
}

// Parties by state. "other" is a stranger of the same kind in force.
func partyAxis(name string) axis {
	return axis{name, []string{"good", "cut", "cut-now", "none", "other"}}
}

func provider(state string) keyholder.Provider {
	switch state {
	case "good":
		return keyholder.Provider{ID: theProvider}
	case "cut":
		return keyholder.Provider{ID: theProvider, Cut: long}
	case "cut-now":
		return keyholder.Provider{ID: theProvider, Cut: now}
	case "other":
		return keyholder.Provider{ID: aProvider}
	}
	return keyholder.Provider{}
}

func app(state string) keyholder.App {
	switch state {
	case "good":
		return keyholder.App{ID: theApp}
	case "cut":
		return keyholder.App{ID: theApp, Cut: long}
	case "cut-now":
		return keyholder.App{ID: theApp, Cut: now}
	case "other":
		return keyholder.App{ID: anApp}
	}
	return keyholder.App{}
}

// agreements are the states of an agreement beside a chain.
func agreementAxis() axis {
	return axis{"agreement", []string{
		"good", "open-ended", "starts-now", "ends-after-now",
		"none", "other-provider", "cut", "cut-now", "starts-after-now", "ends-now", "ended",
	}}
}

// inForce is the cell of the agreements that give rights.
const inForce = "agreement=good|open-ended|starts-now|ends-after-now"

func agreement(state string) keyholder.Agreement {
	a := whole().Agreement
	switch state {
	case "open-ended":
		a.End = time.Time{}
	case "starts-now":
		a.Start = now
	case "ends-after-now":
		a.End = after
	case "none":
		return keyholder.Agreement{}
	case "other-provider":
		a.Provider = aProvider
	case "cut":
		a.Cut = long
	case "cut-now":
		a.Cut = now
	case "starts-after-now":
		a.Start = after
	case "ends-now":
		a.End = now
	case "ended":
		a.End = before
	}
	return a
}

// Certificates.
func recordAxis() axis {
	return axis{"record", []string{"known", "no-serial", "no-thumbprint", "none"}}
}

func datesAxis() axis {
	return axis{"dates", []string{"good", "first", "last", "early", "late", "revoked", "revoked-later"}}
}

// valid is the cell of the dates at which a certificate proves something.
// Both its dates are within (RFC 5280 4.1.2.5).
const valid = "dates=good|first|last"

func useAxis() axis {
	return axis{"use", []string{"subscription", "provider", "app", "none", "server"}}
}

func subjectAxis() axis {
	return axis{"subject", []string{"subscription", "provider", "app", "other-subscription", "other-provider", "other-app", "empty"}}
}

func name(state string) string {
	switch state {
	case "subscription":
		return string(theSubscription)
	case "provider":
		return string(theProvider)
	case "app":
		return string(theApp)
	case "other-subscription":
		return string(aSubscription)
	case "other-provider":
		return string(aProvider)
	case "other-app":
		return string(anApp)
	case "upper-case":
		return strings.ToUpper(string(aSubscription))
	case "not-a-uuid":
		return "northgate"
	case "version-1":
		return "11111111-1111-1111-8111-111111111111"
	}
	return ""
}

// certificate returns a certificate of the given states.
func certificate(record, dates, use, subject string) keyholder.Certificate {
	c := keyholder.Certificate{
		Serial: "4d2", Thumbprint: keyholder.Thumbprint{1}, Use: keyholder.CertificateUse(use), Subject: name(subject),
		NotBefore: long, NotAfter: far, Issued: long,
	}
	if use == "none" {
		c.Use = ""
	}
	switch dates {
	case "first":
		c.NotBefore = now
	case "last":
		c.NotAfter = now
	case "early":
		c.NotBefore = after
	case "late":
		c.NotAfter = before
	case "revoked":
		c.Revoked = long
	case "revoked-later":
		c.Revoked = far
	}
	switch record {
	case "no-serial":
		c.Serial = ""
	case "no-thumbprint":
		c.Thumbprint = keyholder.Thumbprint{}
	case "none":
		return keyholder.Certificate{}
	}
	return c
}

// Tokens.
func tokenAxis() axis {
	return axis{"token", []string{
		"good", "bound", "expires-after-now", "expires-now", "expired", "no-expiry", "no-client", "bound-elsewhere", "bound-to-none",
		"bound-to-key", "bound-to-both", "key-unproved",
	}}
}

// usable is the cell of the tokens that may be used at all.
const usable = "token=good|bound|bound-to-key|bound-to-both|expires-after-now"

// grantedAxis is what a token is for.
func grantedAxis() axis {
	return axis{"granted", []string{"read", "ingest", "push", "nothing", "upper-case", "one-string"}}
}

func granted(state string) []string {
	switch state {
	case "read":
		return []string{"openid", keyholder.ScopeRead}
	case "ingest":
		return []string{keyholder.ScopeIngest}
	case "push":
		return []string{keyholder.ScopePush}
	case "upper-case":
		return []string{"FDS:READ", "FDS:INGEST", "FDS:PUSH"}
	case "one-string":
		return []string{"fds:read fds:ingest fds:push"}
	}
	return nil
}

// bearer returns a token and what was proved with it.
func bearer(state, client, subscription, grantedState string) (keyholder.Token, keyholder.Proof) {
	t := keyholder.Token{
		Issuer: "https://as.example.org", Subject: "x", ClientID: name(client), Subscription: keyholder.SubscriptionID(name(subscription)),
		Grant: "g", ID: "i", Scope: granted(grantedState), IssuedAt: long, Expires: far,
	}
	proof := keyholder.Proof{Certificate: keyholder.Thumbprint{1}}
	switch state {
	case "bound":
		t.Bound = proof
	case "bound-to-key":
		t.Bound.Key, proof.Key = keyholder.KeyThumbprint{1}, keyholder.KeyThumbprint{1}
	case "bound-to-both":
		proof.Key = keyholder.KeyThumbprint{1}
		t.Bound = proof
	case "expires-after-now":
		t.Expires = after
	case "expires-now":
		t.Expires = now
	case "expired":
		t.Expires = before
	case "no-expiry":
		t.Expires = time.Time{}
	case "no-client":
		t.ClientID = ""
	case "bound-elsewhere":
		t.Bound.Certificate = keyholder.Thumbprint{2}
	case "bound-to-none":
		t.Bound.Certificate, proof.Certificate = keyholder.Thumbprint{2}, keyholder.Thumbprint{}
	case "key-unproved":
		t.Bound.Key = keyholder.KeyThumbprint{1}
	}
	return t, proof
}

// without returns an axis without some of its states.
func without(a axis, states ...string) axis {
	a.states = slices.DeleteFunc(slices.Clone(a.states), func(s string) bool { return slices.Contains(states, s) })
	return a
}
