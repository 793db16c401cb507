package keyholder

import (
	"slices"
	"time"
)

// Verdict is the answer of a Permit function: yes or no, the requirement it
// rests on, and on a no the reason, for logs, the audit trail and the
// administrator. A door never shows the reason to a stranger where it would
// tell what exists. The zero Verdict is a no.
type Verdict struct {
	Allowed     bool
	Requirement Requirement
	Reason      string // empty on a yes
}

func allow(r Requirement) Verdict               { return Verdict{Allowed: true, Requirement: r} }
func deny(r Requirement, reason string) Verdict { return Verdict{Requirement: r, Reason: reason} }

// Err returns nil on a yes, and on a no an [Error] of code [Denied].
func (v Verdict) Err() error {
	if v.Allowed {
		return nil
	}
	return Errorf(Denied, "refused (%s): %s", v.Requirement, v.Reason)
}

// Connection is what the broker knows of an MQTT client when it connects.
type Connection struct {
	TLSVersion  uint16
	Certificate Certificate // zero: none was presented, or the ledger does not know it
	Standing    Standing    // of the certificate's subscription, if it names one
	Provider    Provider    // of the certificate's provider, if it names one
	ClientID    string
	Holder      Thumbprint // of the certificate whose connection has the client ID now; zero: none
	Will        bool
}

// PermitCertificate decides whether a certificate proves an identity at the
// time now: the ledger knows it, it is within its dates and not revoked, and
// its subject is still in force. It is asked in every TLS handshake, resumed
// ones included, and again by [PermitConnect].
func PermitCertificate(c Certificate, s Standing, p Provider, a App, now time.Time) Verdict {
	switch {
	case c.Serial == "" || c.Thumbprint == Thumbprint{}:
		return deny(M2, "no certificate that this certificate authority has on record")
	case !c.Revoked.IsZero():
		return deny(M3, "the certificate is revoked")
	case !c.Valid(now):
		return deny(M3, "the certificate is outside its dates")
	}
	switch c.Use {
	case ForSubscription:
		if string(s.Subscription.ID) != c.Subject {
			return deny(M2, "the certificate names no known subscription")
		}
		if v := s.Holds(now); !v.Allowed {
			return v
		}
		return allow(M2)
	case ForProvider:
		if p.ID == "" || string(p.ID) != c.Subject || !p.Cut.IsZero() {
			return deny(M2, "the certificate names no provider in force")
		}
		return allow(M2)
	case ForApp:
		if a.ID == "" || string(a.ID) != c.Subject || !a.Cut.IsZero() {
			return deny(W4, "the certificate names no app in force")
		}
		return permitOrigin(c.Origin, a)
	}
	return deny(M2, "the certificate has no known use")
}

// permitOrigin decides who may vouch for an app: this Keyholder's authority
// for any; nobody, or an authority of others, only where the app is
// registered so.
func permitOrigin(o CertificateOrigin, a App) Verdict {
	switch {
	case o == OriginIssued,
		o == OriginSelfSigned && a.Authentication == AuthSelfSigned,
		o == OriginPinned && a.Authentication == AuthCertificate && a.Pinned != (PinnedAuthority{}):
		return allow(W4)
	}
	return deny(W4, "the app is not registered for a certificate of this origin")
}

// PermitRecord decides whether a certificate may come on record: one that is
// issued here as [PermitCertify] says, one of another origin for an app that
// is registered for it.
func PermitRecord(c Certificate, s Standing, p Provider, a App, now time.Time) Verdict {
	if v := PermitCertify(c.Use, s, p, a, now); !v.Allowed {
		return v
	}
	switch {
	case c.Origin == OriginIssued:
		return allow(M3)
	case c.Use != ForApp:
		return deny(M3, "only apps may bring certificates of their own")
	case now.After(c.NotAfter):
		return deny(M3, "the certificate has ended")
	}
	return permitOrigin(c.Origin, a)
}

// PermitConnect decides whether an MQTT client may connect. It must be asked
// before any session takeover, so that a stranger with the right client ID
// and the wrong certificate disturbs nobody.
func PermitConnect(c Connection, now time.Time) Verdict {
	if !tlsAllowed(c.TLSVersion) {
		return deny(M1, "the connection is not protected by TLS 1.2")
	}
	if v := PermitCertificate(c.Certificate, c.Standing, c.Provider, App{}, now); !v.Allowed {
		return v
	}
	switch {
	case c.Certificate.Use != ForSubscription && c.Certificate.Use != ForProvider:
		return deny(M2, "the certificate is not for the broker")
	case c.ClientID != c.Certificate.Subject && c.Certificate.Use == ForSubscription:
		return deny(M5, "the client ID is not the subscription ID of the certificate")
	case c.ClientID != c.Certificate.Subject:
		return deny(M5, "the client ID is not the provider ID of the certificate")
	case c.Will:
		// A will is published without an acknowledgement: it could be
		// neither durable nor, from a consumer, allowed.
		return deny(M7, "a last will is a publish, and nothing here is published unacknowledged")
	case c.Holder != Thumbprint{} && c.Holder != c.Certificate.Thumbprint:
		// A session goes on only with the certificate it began with: of two
		// that are in use at once, one may be a copy.
		return deny(M5, "the connection of another certificate has the client ID")
	}
	return allow(M5)
}

// PermitPublish decides whether a connected MQTT client, known by its
// certificate, may publish into a subscription. The target is the standing of
// the topic's subscription, zero if there is none.
func PermitPublish(c Certificate, t Topic, target Standing, now time.Time) Verdict {
	switch {
	case c.Use != ForProvider || !c.Valid(now):
		return deny(M7, "only information providers publish")
	case target.Subscription.ID == "" || target.Subscription.ID != t.Subscription || string(target.Subscription.Provider) != c.Subject:
		return deny(M7, "the provider issued no such subscription")
	}
	if v := target.Holds(now); !v.Allowed {
		return v
	}
	if !target.Consent.CoversLevel(t.Level) {
		return deny(W5, "the consent does not cover this kind of item")
	}
	return allow(M7)
}

// PermitSubscribe decides whether a connected MQTT client, known by its
// certificate, may subscribe to a filter.
func PermitSubscribe(c Certificate, f Filter, s Standing, now time.Time) Verdict {
	switch {
	case c.Use != ForSubscription || !c.Valid(now):
		return deny(M8, "only consumers subscribe")
	case string(f.Subscription) != c.Subject || f.Subscription != s.Subscription.ID:
		return deny(M6, "the filter is not below the client's own subscription ID")
	}
	if v := s.Holds(now); !v.Allowed {
		return v
	}
	return allow(M6)
}

// PermitDeliver decides whether a queued item may leave for the app of a
// subscription, by MQTT or by webhook. level is the topic level of the item.
func PermitDeliver(s Standing, level string, now time.Time) Verdict {
	if v := s.Holds(now); !v.Allowed {
		return v
	}
	if !s.Consent.CoversLevel(level) {
		return deny(W5, "the consent does not cover this kind of item")
	}
	return allow(W6)
}

// PermitToken decides whether a verified access token may be used at all at
// the time now, by who has given that proof. A token bound to a certificate
// and a key needs both. A proof with a key that the token is not bound to is
// refused as well: who sends one takes the token for bound, and it is not
// (RFC 9449 7.1).
func PermitToken(t Token, proof Proof, now time.Time) Verdict {
	switch {
	case t.ClientID == "":
		return deny(W4, "the token names no client")
	case !now.Before(t.Expires):
		return deny(W5, "the token has expired")
	case t.Bound.Certificate != Thumbprint{} && t.Bound.Certificate != proof.Certificate:
		return deny(W4, "the token is bound to another certificate")
	case t.Bound.Key != KeyThumbprint{} && proof.Key == KeyThumbprint{}:
		return deny(W4, "the token is bound to a key, and nothing proves that its holder has it")
	case t.Bound.Key != proof.Key:
		return deny(W4, "the token is not bound to the key of the proof")
	}
	return allow(W5)
}

// permitSubscriptionToken is what every use of a subscription's token begins
// with: the token may be used, names a subscription and has the scope.
func permitSubscriptionToken(t Token, proof Proof, scope string, now time.Time) Verdict {
	if v := PermitToken(t, proof, now); !v.Allowed {
		return v
	}
	switch {
	case t.Subscription == "":
		return deny(W8, "the token includes no subscription ID")
	case uuidProblem(string(t.Subscription)) != "":
		return deny(W7, "the subscription ID is not a UUID version 4")
	case !slices.Contains(t.Scope, scope):
		return deny(W5, "the token has not the scope "+scope)
	}
	return allow(W8)
}

// PermitRead decides whether a token may read items of kind k, or use the
// tags of the subscription if k is [Tags]. s is the standing of the token's
// subscription, zero if there is none.
func PermitRead(t Token, proof Proof, s Standing, k Kind, now time.Time) Verdict {
	if v := permitSubscriptionToken(t, proof, ScopeRead, now); !v.Allowed {
		return v
	}
	switch {
	case s.Subscription.ID != t.Subscription:
		return deny(W6, "no such subscription")
	case string(s.Subscription.App) != t.ClientID:
		return deny(W4, "the subscription belongs to another app")
	}
	if v := s.Holds(now); !v.Allowed {
		return v
	}
	if k != Tags && !s.Consent.Covers(k) {
		return deny(W5, "the consent does not cover this kind of item")
	}
	return allow(W8)
}

// PermitIngest decides whether a provider's token may store items for the
// owner of an agreement. a is an agreement of provider and owner, zero if
// there is none.
func PermitIngest(t Token, proof Proof, p Provider, a Agreement, now time.Time) Verdict {
	if v := PermitToken(t, proof, now); !v.Allowed {
		return v
	}
	switch {
	case !slices.Contains(t.Scope, ScopeIngest):
		return deny(W5, "the token is not for ingestion")
	case p.ID == "" || string(p.ID) != t.ClientID || !p.Cut.IsZero():
		return deny(W4, "the token is not of a provider in force")
	case a.Provider != p.ID || !a.InForce(now):
		return deny(W5, "the provider has no agreement in force with the owner")
	}
	return allow(W5)
}

// PermitPush decides whether a webhook receiver takes a push: the token is
// for pushing and names the subscription that the push is for. expected is
// the subscription the receiver serves at the called address.
func PermitPush(t Token, proof Proof, expected SubscriptionID, now time.Time) Verdict {
	if v := permitSubscriptionToken(t, proof, ScopePush, now); !v.Allowed {
		return v
	}
	if expected == "" || t.Subscription != expected {
		return deny(W6, "the token is for another subscription")
	}
	return allow(W8)
}

// PermitSignIn decides whether the factors that a user has presented sign them
// in (FDS 2.6.5.1: the owner's user signs in once). A passkey is enough: the
// device has verified the user before it signed; so is a sign-in at the
// owner's provider that has asked for two factors. A password, or a sign-in
// there with one, is enough only where no second factor is set up and none is
// required.
func PermitSignIn(u User, presented []Factor, set Factors, policy FactorPolicy) Verdict {
	has := func(f Factor) bool { return slices.Contains(presented, f) }
	switch {
	case u.ID == "" || !u.Disabled.IsZero():
		return deny(W5, "no user in force")
	case slices.ContainsFunc(presented, Factor.IsPasskey), has(FactorFederatedTwo):
		return allow(W5)
	case !has(FactorPassword) && !has(FactorFederated):
		return deny(W5, "neither a password, nor a passkey, nor a sign-in at the owner's provider was presented")
	case has(FactorTOTP), has(FactorRecovery):
		return allow(W5)
	case set.Any():
		return deny(W5, "the user has a second factor and did not present it")
	case policy != FactorOptional:
		return deny(W5, "the owner requires a second factor and the user has none")
	}
	return allow(W5)
}

// PermitSession decides whether a user who signed in at a time is still signed
// in: until they are disabled or their password is replaced.
func PermitSession(u User, signedIn time.Time) Verdict {
	switch {
	case u.ID == "" || !u.Disabled.IsZero():
		return deny(W5, "no user in force")
	case signedIn.IsZero() || signedIn.Before(u.Renewed):
		return deny(W5, "the password was replaced after the sign-in")
	}
	return allow(W5)
}

// RecoveryLife is for how long a code of the administrator is good with which
// a user sets a password that they have forgotten.
const RecoveryLife = time.Hour

// PermitRecovery decides whether the right code, which ends at expires, sets a
// user's password.
func PermitRecovery(u User, expires, now time.Time) Verdict {
	switch {
	case u.ID == "" || !u.Disabled.IsZero():
		return deny(W5, "no user in force")
	case !now.Before(expires):
		return deny(W5, "the code has ended")
	}
	return allow(W5)
}

// PermitConsent decides whether a signed-in user may share an agreement with
// an app.
func PermitConsent(u User, a Agreement, p Provider, app App, now time.Time) Verdict {
	switch {
	case u.ID == "" || !u.Disabled.IsZero():
		return deny(W5, "no user in force")
	case a.ID == "" || u.Owner == "" || a.Owner != u.Owner:
		return deny(W5, "the agreement is not of the user's owner")
	case !a.InForce(now):
		return deny(W5, "the agreement is not in force")
	case p.ID == "" || a.Provider != p.ID || !p.Cut.IsZero():
		return deny(W5, "the provider is not in force")
	case app.ID == "" || !app.Cut.IsZero():
		return deny(W4, "the app is not in force")
	}
	return allow(W5)
}

// PermitRenewal decides whether a consent may take the place of an earlier one
// between the same agreement and app. What an administrator has narrowed, to
// some kinds or to a time, a user's new consent does not widen: the user sees,
// and gives, what is left (see [Consent.Renewed]).
func PermitRenewal(earlier, next Consent, now time.Time) Verdict {
	if next.GivenBy == "" || earlier.ID == "" {
		return allow(W5)
	}
	if end := earlier.Expires; !end.IsZero() {
		switch {
		case !now.Before(end):
			return deny(W5, "the consent has expired, and only an administrator prolongs it")
		case next.Expires.IsZero() || next.Expires.After(end):
			return deny(W5, "the consent must not last longer by being given anew")
		}
	}
	switch {
	case len(earlier.Scope) == 0:
		return allow(W5)
	case len(next.Scope) == 0:
		return deny(W5, "the consent was narrowed and must not be widened by being given anew")
	}
	for _, k := range next.Scope {
		if !earlier.Covers(k) {
			return deny(W5, "the consent was narrowed to other kinds")
		}
	}
	return allow(W5)
}

// Issuance is a request for an access token after the authorization server
// has authenticated the client.
type Issuance struct {
	Grant    GrantType
	App      App      // the client, if it is an app
	Provider Provider // the client, if it is a provider
	Scope    string
	Standing Standing // of the subscription that the grant or the request names
}

// PermitIssue decides whether the authorization server may issue a token. An
// app gets tokens for its own subscriptions by the grants negotiated with it;
// a provider gets, by client credentials only, a token for ingestion, which
// names no subscription, or one for the webhook of a subscription it issued.
func PermitIssue(i Issuance, now time.Time) Verdict {
	isApp, isProvider := i.App.ID != "", i.Provider.ID != ""
	if isApp == isProvider {
		return deny(W4, "the client is not registered for tokens")
	}
	if isProvider {
		return permitProviderToken(i, now)
	}
	switch {
	case !i.App.Cut.IsZero():
		return deny(W4, "the app was cut")
	case !slices.Contains(i.App.Grants, i.Grant):
		return deny(W5, "this grant was not negotiated with the app")
	case i.Scope != ScopeRead:
		return deny(W5, "an app gets tokens for reading only")
	case i.Standing.Subscription.ID == "" || i.Standing.Subscription.App != i.App.ID:
		return deny(W6, "no such subscription")
	}
	if v := i.Standing.Holds(now); !v.Allowed {
		return v
	}
	return allow(W8)
}

func permitProviderToken(i Issuance, now time.Time) Verdict {
	sub := i.Standing.Subscription
	switch {
	case !i.Provider.Cut.IsZero():
		return deny(W4, "the provider was cut")
	case i.Grant != GrantClientCredentials:
		return deny(W5, "a provider gets tokens by client credentials only")
	case i.Scope == ScopeIngest && sub.ID == "":
		return allow(W4)
	case i.Scope == ScopeIngest:
		return deny(W5, "a token for ingestion names no subscription")
	case i.Scope != ScopePush:
		return deny(W5, "a provider gets tokens for ingestion and for pushing only")
	case sub.ID == "" || sub.Provider != i.Provider.ID:
		return deny(W6, "no such subscription")
	}
	if v := i.Standing.Holds(now); !v.Allowed {
		return v
	}
	return allow(W8)
}

// PermitCertify decides whether the certificate authority may issue a client
// certificate for a subject. Exactly the standing, provider or app that the
// use asks for is looked at.
func PermitCertify(use CertificateUse, s Standing, p Provider, a App, now time.Time) Verdict {
	switch use {
	case ForSubscription:
		if v := s.Holds(now); !v.Allowed {
			return v
		}
		return allow(M3)
	case ForProvider:
		if p.ID == "" || !p.Cut.IsZero() {
			return deny(M3, "no provider in force")
		}
		return allow(M3)
	case ForApp:
		if a.ID == "" || !a.Cut.IsZero() {
			return deny(M3, "no app in force")
		}
		return allow(M3)
	}
	return deny(M3, "no such use of a certificate")
}

// PermitIntrospect decides whether an authenticated client may ask what a
// token is worth (RFC 7662): registered resource servers may.
func PermitIntrospect(r Role) Verdict {
	if r != RoleResourceServer {
		return deny(W3, "only registered resource servers introspect tokens")
	}
	return allow(W3)
}

// PermitFollow decides whether an authenticated client may follow the feed of
// endings: registered resource servers may, as they may introspect. The feed
// tells of all parties, but nothing that a token could be made of.
func PermitFollow(r Role) Verdict {
	if r != RoleResourceServer {
		return deny(W3, "only registered resource servers follow the feed of endings")
	}
	return allow(W3)
}
