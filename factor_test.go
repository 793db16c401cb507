package keyholder_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// presented turns a state like "password+totp" into factors.
func presented(state string) []keyholder.Factor {
	var out []keyholder.Factor
	for s := range strings.SplitSeq(state, "+") {
		if s != "none" {
			out = append(out, keyholder.Factor(s))
		}
	}
	return out
}

// Ensure that a passkey signs in by itself, as does a sign-in elsewhere with
// two factors; a password, or one elsewhere, only with a second factor where
// one is set up or required; and a second factor never alone (W5).
func TestPermitSignIn(t *testing.T) {
	sets := map[string]keyholder.Factors{"none": {}, "recovery": {RecoveryCodes: 8}, "totp": {TOTP: long}, "passkey": {Passkeys: 1},
		"both": {TOTP: long, Passkeys: 2, RecoveryCodes: 8}}
	tt := truth{
		axes: []axis{
			{"user", []string{"good", "disabled", "disabled-later", "none"}},
			{"presented", []string{"none", "password", "totp", "recovery", "totp+recovery", "passkey", "synced_passkey", "password+totp", "password+recovery",
				"password+passkey", "password+synced_passkey", "otp", "password+Passkey",
				"federated", "federated+totp", "federated+recovery", "federated_two", "federated+federated", "Federated_two"}},
			{"set", []string{"none", "recovery", "totp", "passkey", "both"}},
			{"policy", []string{"optional", "required", "", "Optional"}},
		},
		allowed: []string{
			"user=good presented=passkey|synced_passkey|password+passkey|password+synced_passkey",
			"user=good presented=password+totp|password+recovery",
			"user=good presented=password|password+Passkey set=none|recovery policy=optional",
			"user=good presented=federated_two|federated+totp|federated+recovery",
			"user=good presented=federated|federated+federated set=none|recovery policy=optional",
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
			}
			return keyholder.PermitSignIn(u, presented(c.at("presented")), sets[c.at("set")], keyholder.FactorPolicy(c.at("policy")))
		},
	}
	tt.check(t)
	tt.requirements(t, "user=good presented=password set=none policy=optional", keyholder.W5,
		fault{"user=disabled", keyholder.W5},
		fault{"user=none", keyholder.W5},
		fault{"presented=none", keyholder.W5},
		fault{"set=totp", keyholder.W5},
		fault{"set=passkey", keyholder.W5},
		fault{"policy=required", keyholder.W5},
	)
}

// Ensure that a sign-in ends with the user and with the password it was made
// by (W5).
func TestPermitSession(t *testing.T) {
	times := map[string]time.Time{"never": {}, "before": now.Add(-time.Microsecond), "at": now, "after": now.Add(time.Microsecond)}
	tt := truth{
		axes: []axis{
			{"user", []string{"good", "disabled", "none"}},
			{"renewed", []string{"never", "at"}},
			{"signed", []string{"never", "before", "at", "after"}},
		},
		allowed: []string{"user=good renewed=never signed=before|at|after", "user=good signed=at|after"},
		decide: func(c combination) keyholder.Verdict {
			u := keyholder.User{ID: theUser, Renewed: times[c.at("renewed")]}
			switch c.at("user") {
			case "disabled":
				u.Disabled = long
			case "none":
				u = keyholder.User{}
			}
			return keyholder.PermitSession(u, times[c.at("signed")])
		},
	}
	tt.check(t)
}

// Ensure that a code for a new password is good until it ends, for a user in
// force (W5).
func TestPermitRecovery(t *testing.T) {
	for _, c := range []struct {
		name    string
		user    keyholder.User
		expires time.Time
		want    bool
	}{
		{"good", keyholder.User{ID: theUser}, now.Add(time.Microsecond), true},
		{"at its end", keyholder.User{ID: theUser}, now, false},
		{"never given", keyholder.User{ID: theUser}, time.Time{}, false},
		{"disabled", keyholder.User{ID: theUser, Disabled: long}, now.Add(time.Hour), false},
		{"nobody", keyholder.User{}, now.Add(time.Hour), false},
	} {
		if v := keyholder.PermitRecovery(c.user, c.expires, now); v.Allowed != c.want || v.Requirement != keyholder.W5 {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}

// Ensure that an ID token says how the user signed in, in registered words.
func TestSignInClaims(t *testing.T) {
	for state, want := range map[string]struct {
		amr []string
		acr string
	}{
		"password":          {[]string{"pwd"}, keyholder.ACRPassword},
		"password+totp":     {[]string{"pwd", "otp", "mfa"}, keyholder.ACRTwoFactors},
		"password+recovery": {[]string{"pwd", "otp", "mfa"}, keyholder.ACRTwoFactors},
		"passkey":           {[]string{"hwk", "mfa"}, keyholder.ACRPhishingResistant},
		"synced_passkey":    {[]string{"swk", "mfa"}, keyholder.ACRPhishingResistant},
		"federated":         {[]string{}, keyholder.ACRUnspecified},
		"federated+totp":    {[]string{"otp", "mfa"}, keyholder.ACRTwoFactors},
		"federated_two":     {[]string{"mfa"}, keyholder.ACRTwoFactors},
		"password+passkey":  {[]string{"pwd", "hwk", "mfa"}, keyholder.ACRPhishingResistant},
	} {
		if amr, acr := keyholder.SignInMethods(presented(state)), keyholder.SignInClass(presented(state)); !slices.Equal(amr, want.amr) || acr != want.acr {
			t.Errorf("%s: %v %s, want %v", state, amr, acr, want)
		}
	}
}

// Ensure that the two policies and no other name are known.
func TestParseFactorPolicy(t *testing.T) {
	for _, s := range []string{"optional", "required"} {
		if p, err := keyholder.ParseFactorPolicy(s); err != nil || string(p) != s {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "Required", "required ", "off", "none"} {
		if p, err := keyholder.ParseFactorPolicy(s); p != "" || keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
}
