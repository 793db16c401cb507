package keyholder_test

import (
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that a chain holds only if every link of it does: every combination
// of the states of its links and of one break between them.
func TestStandingHolds(t *testing.T) {
	set := func(s *keyholder.Standing, state string) {
		if change, ok := changes[state]; ok {
			change(s)
		}
	}
	tt := truth{
		axes: []axis{
			{"subscription", []string{"good", "subscription-cut", "subscription-cut-now"}},
			{"consent", []string{
				"good", "consent-without-expiry", "consent-given-now", "consent-expires-after-now",
				"consent-cut", "consent-given-after-now", "consent-expires-now", "consent-expired",
			}},
			{"agreement", []string{
				"good", "agreement-open-ended", "agreement-starts-now", "agreement-ends-after-now",
				"agreement-cut", "agreement-starts-after-now", "agreement-ends-now", "agreement-ended",
			}},
			{"provider", []string{"good", "provider-cut"}},
			{"app", []string{"good", "app-cut"}},
			{"links", []string{
				"good", "none", "other-consent", "other-agreement", "consent-to-other-agreement", "other-provider", "agreement-of-other-provider",
				"other-app", "consent-for-other-app", "other-owner", "agreement-of-other-owner", "no-consent", "no-agreement", "no-provider", "no-app",
				"bare-subscription", "consent-nowhere", "agreement-nowhere", "provider-nowhere", "app-nowhere", "owner-nowhere",
			}},
		},
		allowed: []string{
			"subscription=good provider=good app=good links=good" +
				" consent=good|consent-without-expiry|consent-given-now|consent-expires-after-now" +
				" agreement=good|agreement-open-ended|agreement-starts-now|agreement-ends-after-now",
		},
		decide: func(c combination) keyholder.Verdict {
			s := whole()
			for _, a := range c.axes {
				set(&s, c.at(a.name))
			}
			return s.Holds(now)
		},
	}
	tt.check(t)
	for _, st := range standings() {
		s := whole()
		st.change(&s)
		if v := s.Holds(now); v.Allowed != st.holds || v.Requirement != st.requirement {
			t.Errorf("%s: got %+v, want %v resting on %s", st.name, v, st.holds, st.requirement)
		}
	}
	if v := (keyholder.Standing{}).Holds(now); v.Allowed {
		t.Error("the zero standing holds")
	}
}

// Ensure that rights begin with the first moment of an agreement or consent
// and end just before its last, that a cut ends them whenever it was, and
// that a certificate counts on both of its dates.
func TestBoundariesInTime(t *testing.T) {
	end := now.Add(time.Hour)
	for _, tt := range []struct {
		name                  string
		at                    time.Time
		halfOpen, openEnd, ct bool // agreement and consent; the same without an end; certificate
	}{
		{"long before", long, false, false, false},
		{"just before the start", before, false, false, false},
		{"start", now, true, true, true},
		{"just after the start", after, true, true, true},
		{"just before the end", end.Add(-time.Nanosecond), true, true, true},
		{"end", end, false, true, true},
		{"just after the end", end.Add(time.Nanosecond), false, true, false},
		{"long after", far, false, true, false},
		{"start in another zone", now.In(time.FixedZone("", 3*3600)), true, true, true},
		{"end in another zone", end.In(time.FixedZone("", -7*3600)), false, true, true},
	} {
		a := keyholder.Agreement{Start: now, End: end}
		c := keyholder.Consent{Given: now, Expires: end}
		x := keyholder.Certificate{NotBefore: now, NotAfter: end}
		if a.InForce(tt.at) != tt.halfOpen || c.InForce(tt.at) != tt.halfOpen || x.Valid(tt.at) != tt.ct {
			t.Errorf("%s: agreement %v, consent %v, certificate %v", tt.name, a.InForce(tt.at), c.InForce(tt.at), x.Valid(tt.at))
		}
		a.End, c.Expires = time.Time{}, time.Time{}
		if a.InForce(tt.at) != tt.openEnd || c.InForce(tt.at) != tt.openEnd {
			t.Errorf("%s without an end: agreement %v, consent %v", tt.name, a.InForce(tt.at), c.InForce(tt.at))
		}
		for _, cut := range []time.Time{long, now, far} {
			a.Cut, c.Cut, x.Revoked = cut, cut, cut
			if a.InForce(tt.at) || c.InForce(tt.at) || x.Valid(tt.at) {
				t.Errorf("%s: something cut or revoked at %s gives rights", tt.name, cut)
			}
		}
	}
}

// Ensure that a chain ends by itself with the earlier of agreement and consent.
func TestStandingUntil(t *testing.T) {
	var never time.Time
	for _, tt := range []struct{ agreement, consent, want time.Time }{
		{never, never, never},
		{now, never, now},
		{never, now, now},
		{now, far, now},
		{far, now, now},
		{now, now, now},
	} {
		s := whole()
		s.Agreement.End, s.Consent.Expires = tt.agreement, tt.consent
		if got := s.Until(); !got.Equal(tt.want) {
			t.Errorf("agreement %s, consent %s: until %s", tt.agreement, tt.consent, got)
		}
	}
}

// Ensure that a consent without kinds covers all of them, one with kinds
// nothing else, and that what is below a kind belongs to it.
func TestConsentCovers(t *testing.T) {
	everything := keyholder.Consent{}
	some := keyholder.Consent{Scope: []keyholder.Kind{keyholder.Statuses, keyholder.Events}}
	for _, k := range append(keyholder.Kinds(), keyholder.Tags, "unknown", "") {
		if !everything.Covers(k) || !everything.CoversLevel(string(k)+"/x") {
			t.Errorf("a consent to everything does not cover %q", k)
		}
		want := k == keyholder.Statuses || k == keyholder.Events
		if some.Covers(k) != want || some.CoversLevel(string(k)) != want || some.CoversLevel(string(k)+"/x/y") != want {
			t.Errorf("a consent to statuses and events covers %q: %v, %v, %v", k, some.Covers(k), some.CoversLevel(string(k)), some.CoversLevel(string(k)+"/x/y"))
		}
	}
	for _, level := range []string{"Statuses", "statuses ", "x/statuses", "statusesx", "/statuses", "eventsx/statuses"} {
		if some.CoversLevel(level) {
			t.Errorf("%q is covered", level)
		}
	}
}
