package keyholder

import (
	"slices"
	"time"
)

// Factor is one way in which a user has proved who they are.
type Factor string

const (
	// FactorPassword is something the user knows.
	FactorPassword Factor = "password"
	// FactorTOTP is a code of the user's authenticator app (RFC 6238).
	FactorTOTP Factor = "totp"
	// FactorRecovery is one of the codes for the day on which the app or the
	// passkey is lost. Each is good once.
	FactorRecovery Factor = "recovery"
	// FactorPasskey is a WebAuthn credential that never leaves its device, used
	// after the device has verified the user by PIN or biometrics: two factors
	// in one.
	FactorPasskey Factor = "passkey"
	// FactorSyncedPasskey is a passkey that its maker copies between the
	// user's devices.
	FactorSyncedPasskey Factor = "synced_passkey"
	// FactorFederated is a sign-in at the owner's own OpenID provider, in the
	// place of the password.
	FactorFederated Factor = "federated"
	// FactorFederatedTwo is one for which that provider has asked for two
	// factors (see [FederatedFactor]).
	FactorFederatedTwo Factor = "federated_two"
)

// IsPasskey says whether the factor is a passkey of either kind.
func (f Factor) IsPasskey() bool { return f == FactorPasskey || f == FactorSyncedPasskey }

// FactorPolicy says whether the users of an owner must present a second factor
// before they can share anything.
type FactorPolicy string

const (
	// FactorOptional asks for a second factor those who have set one up.
	FactorOptional FactorPolicy = "optional"
	// FactorRequired asks everybody for one.
	FactorRequired FactorPolicy = "required"
)

// ParseFactorPolicy returns the policy of that name. Errors: Invalid.
func ParseFactorPolicy(s string) (FactorPolicy, error) {
	switch p := FactorPolicy(s); p {
	case FactorOptional, FactorRequired:
		return p, nil
	}
	return "", Errorf(Invalid, "unknown policy of second factors").WithHint("use %s or %s", FactorOptional, FactorRequired)
}

// Factors is what a user has set up to sign in with besides the password.
type Factors struct {
	TOTP          time.Time `json:"totp,omitzero"` // since when; zero: not set up
	Passkeys      int       `json:"passkeys"`
	RecoveryCodes int       `json:"recovery_codes"` // unused ones
}

// Any says whether there is a second factor. Recovery codes alone are none:
// they stand in for one.
func (f Factors) Any() bool { return !f.TOTP.IsZero() || f.Passkeys > 0 }

// methodMultiple is the amr value for several factors (RFC 8176).
const methodMultiple = "mfa"

// multiple says whether what was presented is more than one factor.
func multiple(presented []Factor) bool {
	return len(presented) > 1 || slices.Contains(presented, FactorFederatedTwo) || slices.ContainsFunc(presented, Factor.IsPasskey)
}

// SignInMethods names the factors of a sign-in as the amr claim of an ID token
// does (RFC 8176), which has no name for a sign-in elsewhere.
func SignInMethods(presented []Factor) []string {
	names := map[Factor]string{FactorPassword: "pwd", FactorTOTP: "otp", FactorRecovery: "otp", FactorPasskey: "hwk", FactorSyncedPasskey: "swk"}
	out := []string{}
	for _, f := range presented {
		if name := names[f]; name != "" {
			out = append(out, name)
		}
	}
	if multiple(presented) {
		out = append(out, methodMultiple)
	}
	return out
}

// Values of the acr claim, none of them invented here: of SAML 2.0, of the
// REFEDS MFA profile, and of OpenID's Extended Authentication Profile.
const (
	ACRPassword          = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"
	ACRTwoFactors        = "https://refeds.org/profile/mfa"
	ACRPhishingResistant = "phr"
	ACRUnspecified       = "urn:oasis:names:tc:SAML:2.0:ac:classes:unspecified" // a sign-in elsewhere
)

// SignInClass is the acr claim of a sign-in (OpenID Connect Core 2).
func SignInClass(presented []Factor) string {
	switch {
	case slices.ContainsFunc(presented, Factor.IsPasskey):
		return ACRPhishingResistant
	case multiple(presented):
		return ACRTwoFactors
	case slices.Contains(presented, FactorFederated):
		return ACRUnspecified
	}
	return ACRPassword
}
