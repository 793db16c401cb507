package keyholder

import "time"

// EventKind names what happened, as recorded in the audit trail and carried
// by the feed.
type EventKind string

// The kinds of events. Their names are part of the audit trail and never
// change.
const (
	EventPartyAdded          EventKind = "party.added"
	EventUserAdded           EventKind = "user.added"
	EventAgreementAdded      EventKind = "agreement.added"
	EventConsentGiven        EventKind = "consent.given"
	EventConsentRefused      EventKind = "consent.refused"
	EventSubscriptionCreated EventKind = "subscription.created"
	EventCertificateIssued   EventKind = "certificate.issued"
	EventCertificateRecorded EventKind = "certificate.recorded" // one that was not issued here
	EventAppKeysReplaced     EventKind = "app.keys_replaced"
	EventRevocationLists     EventKind = "app.revocation_lists_replaced" // of the authority pinned for the app
	EventSecretIssued        EventKind = "secret.issued"
	EventSignedIn            EventKind = "signin.succeeded"
	EventSignInFailed        EventKind = "signin.failed"
	EventSignedOut           EventKind = "signin.ended"
	EventFactorAdded         EventKind = "factor.added"
	EventFactorRemoved       EventKind = "factor.removed"
	EventFactorCloned        EventKind = "factor.clone_suspected"
	EventRecoveryCodesDrawn  EventKind = "factor.recovery_codes_drawn"
	EventFactorPolicySet     EventKind = "factor.policy_set"
	EventIDPSet              EventKind = "idp.set"
	EventIDPRemoved          EventKind = "idp.removed"
	EventUserBound           EventKind = "user.bound" // to a subject of the owner's provider, or to none
	EventPasswordChanged     EventKind = "user.password_changed"
	EventUserReset           EventKind = "user.reset"
	EventRecoveryBegun       EventKind = "user.recovery_begun"
	EventUserRecovered       EventKind = "user.recovered"
	EventUserUnlocked        EventKind = "user.unlocked"
	EventUserDisabled        EventKind = "user.disabled"
	EventUserEnabled         EventKind = "user.enabled"
	EventGrantCreated        EventKind = "grant.created"
	EventGrantRefreshed      EventKind = "grant.refreshed"
	EventGrantEnded          EventKind = "grant.ended"
	EventTokenReused         EventKind = "grant.reuse_detected"
	EventTokenDenied         EventKind = "token.denied"
	EventWebhookAdded        EventKind = "webhook.added"
	EventMessagesExpired     EventKind = "mailbox.expired"
	EventMessageDamaged      EventKind = "mailbox.damaged"
	EventKeyRotated          EventKind = "key.rotated"
	EventKeyEnded            EventKind = "key.ended"
	EventKeyRetired          EventKind = "key.retired"
	EventCut                 EventKind = "cut"
	EventCutUnfinished       EventKind = "cut.unfinished"
	EventCutFinished         EventKind = "cut.finished"
	EventDenied              EventKind = "denied"
)

// Event is a committed fact: one row of the audit trail. Details hold
// identifiers and reasons, never a secret, token, key or payload.
type Event struct {
	Seq     int64             `json:"seq"`
	At      time.Time         `json:"at"`
	Kind    EventKind         `json:"kind"`
	Actor   string            `json:"actor"`   // who did it: an ID, "administrator" or "system"
	Subject string            `json:"subject"` // what it concerns: an ID
	Detail  map[string]string `json:"detail,omitempty"`
}
