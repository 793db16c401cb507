package keyholder_test

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that a certificate proves an identity only if it is on record, within
// its dates, not revoked, and its subject is in force (M2, M3).
func TestPermitCertificate(t *testing.T) {
	tt := truth{
		axes: []axis{
			recordAxis(), datesAxis(), useAxis(), without(subjectAxis(), "other-app"), standingAxis(),
			partyAxis("provider"), without(partyAxis("app"), "cut-now"),
		},
		allowed: []string{
			"record=known use=subscription subject=subscription " + valid + " " + holding(),
			"record=known use=provider subject=provider provider=good " + valid,
			"record=known use=provider subject=other-provider provider=other " + valid,
			"record=known use=app subject=app app=good " + valid,
		},
		decide: func(c combination) keyholder.Verdict {
			return keyholder.PermitCertificate(certificate(c.at("record"), c.at("dates"), c.at("use"), c.at("subject")),
				theStanding(c.at("standing")), provider(c.at("provider")), app(c.at("app")), now)
		},
	}
	tt.check(t)
	tt.requirements(t, "record=known dates=good use=subscription subject=subscription standing=whole provider=none app=none", keyholder.M2,
		fault{"record=none", keyholder.M2},
		fault{"record=no-thumbprint", keyholder.M2},
		fault{"dates=revoked", keyholder.M3},
		fault{"dates=late", keyholder.M3},
		fault{"subject=other-subscription", keyholder.M2},
		fault{"standing=none", keyholder.M2},
		fault{"standing=subscription-cut", keyholder.W6},
		fault{"standing=agreement-ended", keyholder.W5},
		fault{"use=none", keyholder.M2},
	)
	tt.requirements(t, "record=known dates=good use=provider subject=provider standing=none provider=good app=none", keyholder.M2,
		fault{"provider=cut", keyholder.M2},
		fault{"provider=none subject=empty", keyholder.M2},
	)
	tt.requirements(t, "record=known dates=good use=app subject=app standing=none provider=none app=good", keyholder.W4,
		fault{"app=cut", keyholder.W4},
		fault{"app=none subject=empty", keyholder.W4},
	)
}

// Ensure that only a holder of a good certificate connects to the broker, over
// TLS 1.2 or better, under the ID of the certificate and without a will, and
// only while no other certificate has that ID (M1, M2, M5).
func TestPermitConnect(t *testing.T) {
	versions := map[string]uint16{
		"none": 0, "ssl3": 0x0300, "1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13, "1.4": 0x0305,
	}
	clients := map[string]string{
		"subscription": string(theSubscription), "provider": string(theProvider), "app": string(theApp), "other": string(aSubscription), "empty": "",
		"urn": "urn:uuid:" + string(theSubscription), "longer": string(theSubscription) + "x", "upper": strings.ToUpper(string(aSubscription)),
	}
	tt := truth{
		axes: []axis{
			{"tls", []string{"none", "ssl3", "1.0", "1.1", "1.2", "1.3", "1.4"}},
			without(recordAxis(), "no-serial"), without(datesAxis(), "first", "last", "revoked-later"), useAxis(),
			without(subjectAxis(), "other-app", "other-provider", "other-subscription"),
			{"standing", []string{"whole", "none", "subscription-cut", "agreement-ends-now", "app-cut", "no-consent"}},
			{"provider", []string{"good", "cut", "none"}},
			{"client", []string{"subscription", "provider", "app", "other", "empty", "urn", "longer", "upper"}},
			{"will", []string{"no", "yes"}},
			{"holder", []string{"none", "same", "other"}},
		},
		allowed: []string{
			"tls=1.2|1.3 record=known dates=good use=subscription subject=subscription standing=whole client=subscription will=no holder=none|same",
			"tls=1.2|1.3 record=known dates=good use=provider subject=provider provider=good client=provider will=no holder=none|same",
		},
		decide: func(c combination) keyholder.Verdict {
			presented := certificate(c.at("record"), c.at("dates"), c.at("use"), c.at("subject"))
			return keyholder.PermitConnect(keyholder.Connection{
				TLSVersion:  versions[c.at("tls")],
				Certificate: presented,
				Holder:      map[string]keyholder.Thumbprint{"same": presented.Thumbprint, "other": {9}}[c.at("holder")],
				Standing:    theStanding(c.at("standing")),
				Provider:    provider(c.at("provider")),
				ClientID:    clients[c.at("client")],
				Will:        c.at("will") == "yes",
			}, now)
		},
	}
	tt.check(t)
	tt.requirements(t, "tls=1.2 record=known dates=good use=subscription subject=subscription standing=whole provider=none client=subscription will=no holder=none", keyholder.M5,
		fault{"holder=other", keyholder.M5},
		fault{"tls=1.1", keyholder.M1},
		fault{"tls=none", keyholder.M1},
		fault{"record=none", keyholder.M2},
		fault{"dates=revoked", keyholder.M3},
		fault{"dates=late", keyholder.M3},
		fault{"client=other", keyholder.M5},
		fault{"client=empty", keyholder.M5},
		fault{"client=urn", keyholder.M5},
		fault{"will=yes", keyholder.M7},
		fault{"standing=subscription-cut", keyholder.W6},
	)
	tt.requirements(t, "tls=1.2 record=known dates=good use=provider subject=provider standing=none provider=good client=provider will=no holder=same", keyholder.M5,
		fault{"holder=other", keyholder.M5},
		fault{"client=subscription", keyholder.M5},
		fault{"will=yes", keyholder.M7},
		fault{"provider=cut", keyholder.M2},
	)
}

// levels are the topic levels behind a subscription ID.
func levelAxis() axis {
	return axis{"level", []string{"statuses", "events", "statuses/", "custom", "upper", "tag"}}
}

func level(state string) string {
	switch state {
	case "statuses/":
		return "statuses/FORKINC_S1_1223"
	case "upper":
		return "Statuses"
	}
	return state
}

// covered is what a consent lets through: without a scope everything, with one
// nothing but its kinds and what is below them.
var covered = []string{
	"scope=all",
	"scope=statuses level=statuses|statuses/",
	"scope=events level=events",
}

// Ensure that only a provider publishes, and only into a subscription of its
// own that holds and covers the kind (M7).
func TestPermitPublish(t *testing.T) {
	tt := truth{
		axes: []axis{
			without(datesAxis(), "revoked-later"), useAxis(), without(subjectAxis(), "other-app"),
			{"topic", []string{"own", "other"}}, levelAxis(), standingAxis(), scopeAxis(),
		},
		decide: func(c combination) keyholder.Verdict {
			topic := keyholder.Topic{Subscription: theSubscription, Level: level(c.at("level"))}
			if c.at("topic") == "other" {
				topic.Subscription = aSubscription
			}
			return keyholder.PermitPublish(certificate("known", c.at("dates"), c.at("use"), c.at("subject")), topic,
				withScope(theStanding(c.at("standing")), c.at("scope")), now)
		},
	}
	for _, row := range covered {
		tt.allowed = append(tt.allowed, "use=provider subject=provider topic=own "+valid+" "+holding()+" "+row)
	}
	tt.check(t)
	tt.requirements(t, "dates=good use=provider subject=provider topic=own level=statuses standing=whole scope=all", keyholder.M7,
		fault{"use=subscription subject=subscription", keyholder.M7},
		fault{"use=app subject=app", keyholder.M7},
		fault{"dates=revoked", keyholder.M7},
		fault{"subject=other-provider", keyholder.M7},
		fault{"topic=other", keyholder.M7},
		fault{"standing=none", keyholder.M7},
		fault{"standing=agreement-cut", keyholder.W5},
		fault{"standing=subscription-cut", keyholder.W6},
		fault{"scope=events", keyholder.W5},
		fault{"scope=events level=statuses/", keyholder.W5},
		fault{"scope=events level=custom", keyholder.W5},
	)
}

// Ensure that "the subscription does not exist" and "it is not yours" are one
// answer to a provider, in every word (position 4, SR-28).
func TestPermitPublishTellsNothing(t *testing.T) {
	topic := keyholder.Topic{Subscription: theSubscription, Level: "statuses"}
	c := certificate("known", "good", "provider", "other-provider")
	missing, foreign := keyholder.PermitPublish(c, topic, keyholder.Standing{}, now), keyholder.PermitPublish(c, topic, whole(), now)
	if missing != foreign || missing.Allowed {
		t.Errorf("missing: %+v; foreign: %+v", missing, foreign)
	}
}

// Ensure that only a consumer subscribes, and only below its own ID (M6, M8).
func TestPermitSubscribe(t *testing.T) {
	tt := truth{
		axes: []axis{
			without(datesAxis(), "revoked-later"), useAxis(), subjectAxis(),
			{"filter", []string{"own", "other", "empty"}}, {"pattern", []string{"statuses", "#", "+/+"}}, standingAxis(),
		},
		allowed: []string{"use=subscription subject=subscription filter=own " + valid + " " + holding()},
		decide: func(c combination) keyholder.Verdict {
			f := keyholder.Filter{Subscription: theSubscription, Pattern: c.at("pattern")}
			switch c.at("filter") {
			case "other":
				f.Subscription = aSubscription
			case "empty":
				f.Subscription = ""
			}
			return keyholder.PermitSubscribe(certificate("known", c.at("dates"), c.at("use"), c.at("subject")), f, theStanding(c.at("standing")), now)
		},
	}
	tt.check(t)
	tt.requirements(t, "dates=good use=subscription subject=subscription filter=own pattern=# standing=whole", keyholder.M6,
		fault{"use=provider subject=provider", keyholder.M8},
		fault{"use=app subject=app", keyholder.M8},
		fault{"dates=late", keyholder.M8},
		fault{"filter=other", keyholder.M6},
		fault{"filter=empty", keyholder.M6},
		fault{"subject=other-subscription", keyholder.M6},
		fault{"standing=none", keyholder.M6},
		fault{"standing=consent-expired", keyholder.W5},
	)
}

// Ensure that a queued item leaves only while the chain holds and only if the
// consent covers it.
func TestPermitDeliver(t *testing.T) {
	tt := truth{
		axes: []axis{levelAxis(), standingAxis(), scopeAxis()},
		decide: func(c combination) keyholder.Verdict {
			return keyholder.PermitDeliver(withScope(theStanding(c.at("standing")), c.at("scope")), level(c.at("level")), now)
		},
	}
	for _, row := range covered {
		tt.allowed = append(tt.allowed, holding()+" "+row)
	}
	tt.check(t)
	tt.requirements(t, "level=statuses standing=whole scope=all", keyholder.W6,
		fault{"standing=none", keyholder.W6},
		fault{"standing=agreement-ended", keyholder.W5},
		fault{"scope=events", keyholder.W5},
	)
}

// Ensure that a token is of use before its expiry only, and if it is bound to
// a certificate only with that (W4, W5, RFC 8705 3).
func TestPermitToken(t *testing.T) {
	tt := truth{
		axes:    []axis{tokenAxis(), {"client", []string{"app", "provider", "none"}}},
		allowed: []string{usable + " client=app|provider"},
		decide: func(c combination) keyholder.Verdict {
			tok, proof := bearer(c.at("token"), c.at("client"), "subscription", "read")
			return keyholder.PermitToken(tok, proof, now)
		},
	}
	tt.check(t)
	tt.requirements(t, "token=good client=app", keyholder.W5,
		fault{"client=none", keyholder.W4},
		fault{"token=expires-now", keyholder.W5},
		fault{"token=no-expiry", keyholder.W5},
		fault{"token=bound-elsewhere", keyholder.W4},
		fault{"token=bound-to-none", keyholder.W4},
		fault{"token=key-unproved", keyholder.W4},
	)
}

// Ensure that a token is of use to exactly who proves what it is bound to: a
// certificate, a key, both or nothing, and that a key proved for a token that
// is not bound to it helps nobody (W4, RFC 8705 3, RFC 9449 7.1).
func TestPermitTokenBinding(t *testing.T) {
	states := []string{"none", "one", "other"}
	tt := truth{
		axes: []axis{{"bound-certificate", states}, {"bound-key", states}, {"certificate", states}, {"key", states}},
		allowed: []string{
			"bound-certificate=none bound-key=none key=none",
			"bound-certificate=none bound-key=one key=one", "bound-certificate=none bound-key=other key=other",
			"bound-certificate=one certificate=one bound-key=none key=none", "bound-certificate=other certificate=other bound-key=none key=none",
			"bound-certificate=one certificate=one bound-key=one key=one", "bound-certificate=other certificate=other bound-key=one key=one",
			"bound-certificate=one certificate=one bound-key=other key=other", "bound-certificate=other certificate=other bound-key=other key=other",
		},
		decide: func(c combination) keyholder.Verdict {
			tok, _ := bearer("good", "app", "subscription", "read")
			sum := map[string]byte{"one": 1, "other": 2}
			tok.Bound = keyholder.Proof{Certificate: keyholder.Thumbprint{sum[c.at("bound-certificate")]}, Key: keyholder.KeyThumbprint{sum[c.at("bound-key")]}}
			return keyholder.PermitToken(tok, keyholder.Proof{Certificate: keyholder.Thumbprint{sum[c.at("certificate")]}, Key: keyholder.KeyThumbprint{sum[c.at("key")]}}, now)
		},
	}
	tt.check(t)
	tt.requirements(t, "bound-certificate=one certificate=one bound-key=one key=one", keyholder.W5,
		fault{"certificate=none", keyholder.W4},
		fault{"certificate=other", keyholder.W4},
		fault{"key=none", keyholder.W4},
		fault{"key=other", keyholder.W4},
		fault{"bound-key=none", keyholder.W4},
	)
}

// claimAxis is the subscription that a token names.
func claimAxis() axis {
	return axis{"claim", []string{"subscription", "other-subscription", "empty", "upper-case", "not-a-uuid", "version-1"}}
}

// Ensure that an app reads with its own token, for its own subscription, what
// the consent covers, and nothing else (W5 to W8).
func TestPermitRead(t *testing.T) {
	kinds := axis{"kind", []string{"statuses", "events", "spaces", "tag"}}
	tt := truth{
		axes: []axis{
			tokenAxis(), {"client", []string{"app", "other-app", "provider", "subscription"}}, claimAxis(), grantedAxis(),
			standingAxis(), scopeAxis(), kinds,
		},
		decide: func(c combination) keyholder.Verdict {
			tok, proof := bearer(c.at("token"), c.at("client"), c.at("claim"), c.at("granted"))
			return keyholder.PermitRead(tok, proof, withScope(theStanding(c.at("standing")), c.at("scope")), keyholder.Kind(c.at("kind")), now)
		},
	}
	for _, row := range []string{"scope=all", "scope=statuses kind=statuses|tag", "scope=events kind=events|tag", "scope=other kind=spaces|tag"} {
		tt.allowed = append(tt.allowed, "client=app claim=subscription granted=read "+usable+" "+holding()+" "+row)
	}
	tt.check(t)
	tt.requirements(t, "token=good client=app claim=subscription granted=read standing=whole scope=all kind=statuses", keyholder.W8,
		fault{"token=expired", keyholder.W5},
		fault{"token=bound-elsewhere", keyholder.W4},
		fault{"client=other-app", keyholder.W4},
		fault{"claim=empty", keyholder.W8},
		fault{"claim=not-a-uuid", keyholder.W7},
		fault{"claim=upper-case", keyholder.W7},
		fault{"claim=version-1", keyholder.W7},
		fault{"claim=other-subscription", keyholder.W6},
		fault{"granted=push", keyholder.W5},
		fault{"granted=ingest", keyholder.W5},
		fault{"standing=none", keyholder.W6},
		fault{"standing=subscription-cut", keyholder.W6},
		fault{"standing=consent-cut", keyholder.W5},
		fault{"scope=events", keyholder.W5},
	)
}

// Ensure that a provider stores items only for owners with whom it has an
// agreement in force (W5).
func TestPermitIngest(t *testing.T) {
	tt := truth{
		axes: []axis{
			tokenAxis(), {"client", []string{"provider", "other-provider", "app"}}, grantedAxis(), partyAxis("provider"), agreementAxis(),
		},
		allowed: []string{
			"client=provider granted=ingest provider=good " + usable + " " + inForce,
			"client=other-provider granted=ingest provider=other agreement=other-provider " + usable,
		},
		decide: func(c combination) keyholder.Verdict {
			tok, proof := bearer(c.at("token"), c.at("client"), "empty", c.at("granted"))
			return keyholder.PermitIngest(tok, proof, provider(c.at("provider")), agreement(c.at("agreement")), now)
		},
	}
	tt.check(t)
	tt.requirements(t, "token=good client=provider granted=ingest provider=good agreement=good", keyholder.W5,
		fault{"granted=read", keyholder.W5},
		fault{"client=app", keyholder.W4},
		fault{"provider=cut", keyholder.W4},
		fault{"provider=none", keyholder.W4},
		fault{"agreement=none", keyholder.W5},
		fault{"agreement=ends-now", keyholder.W5},
		fault{"token=bound-to-none", keyholder.W4},
	)
}

// Ensure that a webhook takes a push only with a token for pushing that names
// the subscription it serves (W6 to W8).
func TestPermitPush(t *testing.T) {
	tt := truth{
		axes: []axis{tokenAxis(), claimAxis(), grantedAxis(), {"expected", []string{"subscription", "other-subscription", "empty", "not-a-uuid"}}},
		allowed: []string{
			"claim=subscription expected=subscription granted=push " + usable,
			"claim=other-subscription expected=other-subscription granted=push " + usable,
		},
		decide: func(c combination) keyholder.Verdict {
			tok, proof := bearer(c.at("token"), "provider", c.at("claim"), c.at("granted"))
			return keyholder.PermitPush(tok, proof, keyholder.SubscriptionID(name(c.at("expected"))), now)
		},
	}
	tt.check(t)
	tt.requirements(t, "token=good claim=subscription granted=push expected=subscription", keyholder.W8,
		fault{"claim=empty", keyholder.W8},
		fault{"claim=not-a-uuid expected=not-a-uuid", keyholder.W7},
		fault{"granted=read", keyholder.W5},
		fault{"expected=other-subscription", keyholder.W6},
		fault{"expected=empty", keyholder.W6},
		fault{"token=expired", keyholder.W5},
	)
}

// Ensure that a user shares only agreements of their own owner, in force, with
// apps in force (W5).
func TestPermitConsent(t *testing.T) {
	tt := truth{
		axes: []axis{
			{"user", []string{"good", "disabled", "disabled-later", "none", "other-owner", "no-owner"}},
			agreementAxis(), partyAxis("provider"), partyAxis("app"),
		},
		allowed: []string{
			"user=good provider=good app=good|other " + inForce,
			"user=good agreement=other-provider provider=other app=good|other",
		},
		decide: func(c combination) keyholder.Verdict {
			u := keyholder.User{ID: theUser, Owner: theOwner, Created: long}
			switch c.at("user") {
			case "disabled":
				u.Disabled = long
			case "disabled-later":
				u.Disabled = far
			case "none":
				u = keyholder.User{}
			case "other-owner":
				u.Owner = anOwner
			case "no-owner":
				u.Owner = ""
			}
			return keyholder.PermitConsent(u, agreement(c.at("agreement")), provider(c.at("provider")), app(c.at("app")), now)
		},
	}
	tt.check(t)
	tt.requirements(t, "user=good agreement=good provider=good app=good", keyholder.W5,
		fault{"user=none", keyholder.W5},
		fault{"user=other-owner", keyholder.W5},
		fault{"agreement=ends-now", keyholder.W5},
		fault{"provider=cut", keyholder.W5},
		fault{"app=cut", keyholder.W4},
		fault{"app=none", keyholder.W4},
	)
	// An agreement whose parties are not known binds nobody.
	nobodys := agreement("good")
	nobodys.Provider = ""
	if v := keyholder.PermitConsent(keyholder.User{ID: theUser, Owner: theOwner}, nobodys, keyholder.Provider{}, app("good"), now); v.Allowed {
		t.Error("an agreement without a provider was shared")
	}
	nobodys = agreement("good")
	nobodys.ID = ""
	if v := keyholder.PermitConsent(keyholder.User{ID: theUser, Owner: theOwner}, nobodys, provider("good"), app("good"), now); v.Allowed {
		t.Error("an agreement without an ID was shared")
	}
	nobodys = agreement("good")
	nobodys.Owner = ""
	if v := keyholder.PermitConsent(keyholder.User{ID: theUser}, nobodys, provider("good"), app("good"), now); v.Allowed {
		t.Error("an agreement without an owner was shared")
	}
}

// Ensure that a consent given anew by a user is never wider than an
// administrator left it.
func TestPermitRenewal(t *testing.T) {
	some := []keyholder.Kind{keyholder.Statuses, keyholder.Events}
	never, soon, later, past := time.Time{}, now.Add(time.Hour), now.Add(2*time.Hour), now.Add(-time.Hour)
	for _, c := range []struct {
		name                  string
		earlier, next         []keyholder.Kind
		earlierEnds, nextEnds time.Time
		user                  bool // may it; an administrator may anything
	}{
		{name: "all after all", user: true},
		{name: "some after all", next: some, user: true},
		{name: "the same", earlier: some, next: some, user: true},
		{name: "fewer", earlier: some, next: some[:1], user: true},
		{name: "all after some", earlier: some},
		{name: "one more", earlier: some[:1], next: some},
		{name: "others", earlier: some, next: []keyholder.Kind{keyholder.Spaces}},
		{name: "as long", earlierEnds: soon, nextEnds: soon, user: true},
		{name: "shorter", earlierEnds: later, nextEnds: soon, user: true},
		{name: "short after open", earlierEnds: never, nextEnds: soon, user: true},
		{name: "longer", earlierEnds: soon, nextEnds: later},
		{name: "open after short", earlierEnds: soon, nextEnds: never},
		{name: "after it has expired", earlierEnds: past, nextEnds: past},
		{name: "at the moment it expires", earlierEnds: now, nextEnds: now},
		{name: "longer, of fewer", earlier: some, next: some[:1], earlierEnds: soon, nextEnds: later},
	} {
		for by, want := range map[keyholder.UserID]bool{"": true, theUser: c.user} {
			v := keyholder.PermitRenewal(keyholder.Consent{ID: theConsent, Scope: c.earlier, Expires: c.earlierEnds},
				keyholder.Consent{GivenBy: by, Scope: c.next, Expires: c.nextEnds}, now)
			if v.Allowed != want || v.Requirement != keyholder.W5 {
				t.Errorf("%s, by %q: %+v", c.name, by, v)
			}
		}
	}
	if v := keyholder.PermitRenewal(keyholder.Consent{}, keyholder.Consent{GivenBy: theUser}, now); !v.Allowed {
		t.Errorf("a first consent: %+v", v)
	}
}

// Ensure that tokens are issued to an app for its own subscriptions by the
// grants negotiated with it, and to a provider by client credentials for
// ingestion or for pushing to its own subscriptions (W3 to W8).
func TestPermitIssue(t *testing.T) {
	all := []keyholder.GrantType{keyholder.GrantAuthorizationCode, keyholder.GrantRefreshToken, keyholder.GrantClientCredentials}
	negotiated := map[string][]keyholder.GrantType{"all": all, "code": all[:2], "machine": all[2:], "none": nil}
	tt := truth{
		axes: []axis{
			{"client", []string{"app", "app-cut", "other-app", "provider", "provider-cut", "other-provider", "both", "none"}},
			{"negotiated", []string{"all", "code", "machine", "none"}},
			{"grant", []string{"authorization_code", "refresh_token", "client_credentials", "implicit", "password", "none"}},
			{"asked", []string{"fds:read", "fds:ingest", "fds:push", "both", "upper", "openid", "none"}},
			standingAxis(),
		},
		allowed: []string{
			"client=app negotiated=all grant=authorization_code|refresh_token|client_credentials asked=fds:read " + holding(),
			"client=app negotiated=code grant=authorization_code|refresh_token asked=fds:read " + holding(),
			"client=app negotiated=machine grant=client_credentials asked=fds:read " + holding(),
			"client=provider grant=client_credentials asked=fds:push " + holding(),
			"client=provider|other-provider grant=client_credentials asked=fds:ingest standing=none",
		},
		decide: func(c combination) keyholder.Verdict {
			i := keyholder.Issuance{Grant: keyholder.GrantType(c.at("grant")), Scope: c.at("asked"), Standing: theStanding(c.at("standing"))}
			switch c.at("client") {
			case "app":
				i.App = app("good")
			case "app-cut":
				i.App = app("cut")
			case "other-app":
				i.App = app("other")
			case "provider":
				i.Provider = provider("good")
			case "provider-cut":
				i.Provider = provider("cut")
			case "other-provider":
				i.Provider = provider("other")
			case "both":
				i.App, i.Provider = app("good"), provider("good")
			}
			i.App.Grants = negotiated[c.at("negotiated")]
			switch c.at("asked") {
			case "both":
				i.Scope = keyholder.ScopeRead + " " + keyholder.ScopePush
			case "upper":
				i.Scope = "FDS:READ"
			case "none":
				i.Scope = ""
			}
			if c.at("grant") == "none" {
				i.Grant = ""
			}
			return keyholder.PermitIssue(i, now)
		},
	}
	tt.check(t)
	tt.requirements(t, "client=app negotiated=code grant=authorization_code asked=fds:read standing=whole", keyholder.W8,
		fault{"client=none", keyholder.W4},
		fault{"client=both", keyholder.W4},
		fault{"client=app-cut", keyholder.W4},
		fault{"client=other-app", keyholder.W6},
		fault{"grant=client_credentials", keyholder.W5},
		fault{"grant=implicit", keyholder.W5},
		fault{"grant=password", keyholder.W5},
		fault{"asked=fds:ingest", keyholder.W5},
		fault{"asked=fds:push", keyholder.W5},
		fault{"standing=none", keyholder.W6},
		fault{"standing=subscription-cut", keyholder.W6},
		fault{"standing=agreement-ended", keyholder.W5},
	)
	tt.requirements(t, "client=provider negotiated=none grant=client_credentials asked=fds:ingest standing=none", keyholder.W4,
		fault{"client=provider-cut", keyholder.W4},
		fault{"standing=whole", keyholder.W5},
		fault{"asked=fds:push", keyholder.W6},
		fault{"asked=fds:read", keyholder.W5},
	)
	tt.requirements(t, "client=provider negotiated=none grant=client_credentials asked=fds:push standing=whole", keyholder.W8,
		fault{"client=other-provider", keyholder.W6},
		fault{"grant=authorization_code negotiated=all", keyholder.W5},
		fault{"grant=refresh_token negotiated=all", keyholder.W5},
		fault{"standing=consent-cut", keyholder.W5},
	)
	// The grants that RFC 9700 forbids cannot be negotiated either.
	for _, g := range all {
		if g == "implicit" || g == "password" {
			t.Errorf("the grant %q exists", g)
		}
	}
}

// Ensure that certificates are issued only to what exists and is in force, by
// the one of the three that the use asks for (M3).
func TestPermitCertify(t *testing.T) {
	tt := truth{
		axes: []axis{useAxis(), standingAxis(), partyAxis("provider"), partyAxis("app")},
		allowed: []string{
			"use=subscription " + holding(),
			"use=provider provider=good|other",
			"use=app app=good|other",
		},
		decide: func(c combination) keyholder.Verdict {
			return keyholder.PermitCertify(certificate("known", "good", c.at("use"), "empty").Use,
				theStanding(c.at("standing")), provider(c.at("provider")), app(c.at("app")), now)
		},
	}
	tt.check(t)
	tt.requirements(t, "use=subscription standing=whole provider=none app=none", keyholder.M3,
		fault{"standing=none", keyholder.W6},
		fault{"standing=agreement-ended", keyholder.W5},
		fault{"use=provider", keyholder.M3},
		fault{"use=app", keyholder.M3},
		fault{"use=server", keyholder.M3},
		fault{"use=none", keyholder.M3},
	)
}

// Ensure that nobody but a registered resource server introspects tokens or
// follows the feed of endings (W3).
func TestPermitResourceServer(t *testing.T) {
	for name, permit := range map[string]func(keyholder.Role) keyholder.Verdict{
		"introspect": keyholder.PermitIntrospect, "follow": keyholder.PermitFollow,
	} {
		for _, r := range []keyholder.Role{
			"", "unknown", "RESOURCE_SERVER", keyholder.RoleProvider, keyholder.RoleOwner, keyholder.RoleApp, keyholder.RoleAdministrator,
		} {
			if v := permit(r); v.Allowed || v.Requirement != keyholder.W3 || v.Reason == "" {
				t.Errorf("%s, %q: %+v", name, r, v)
			}
		}
		if v := permit(keyholder.RoleResourceServer); !v.Allowed || v.Requirement != keyholder.W3 {
			t.Errorf("%s, a resource server: %+v", name, v)
		}
	}
}

// Ensure that a yes is no error, and a no, also the zero verdict, is a Denied
// that names the requirement and the reason.
func TestVerdictErr(t *testing.T) {
	if err := (keyholder.Verdict{Allowed: true, Requirement: keyholder.W5}).Err(); err != nil {
		t.Errorf("a yes: %v", err)
	}
	if err := (keyholder.Verdict{}).Err(); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("the zero verdict: %v", err)
	}
	err := keyholder.Verdict{Requirement: keyholder.M6, Reason: "because"}.Err()
	var e *keyholder.Error
	if !errors.As(err, &e) || e.Code != keyholder.Denied || !strings.Contains(e.Detail, "M6") || !strings.Contains(e.Detail, "because") {
		t.Errorf("a no: %v", err)
	}
}
