package keyholder

import "time"

// TargetKind is what a cut names.
type TargetKind string

// The kinds of things that can be cut. All but a certificate are named by
// their UUID.
const (
	CutSubscription TargetKind = "subscription"
	CutConsent      TargetKind = "consent"
	CutAgreement    TargetKind = "agreement"
	CutApp          TargetKind = "app"
	CutProvider     TargetKind = "provider"
	CutCertificate  TargetKind = "cert"
)

// Target names one thing to cut.
type Target struct {
	Kind TargetKind `json:"kind"`
	ID   string     `json:"id"` // a UUID; for a certificate its serial
}

// ParseTarget checks a kind and an ID as given by a person. It returns an
// [Error] of code [Invalid].
func ParseTarget(kind, id string) (Target, error) {
	t := Target{Kind: TargetKind(kind), ID: id}
	switch t.Kind {
	case CutSubscription, CutConsent, CutAgreement, CutApp, CutProvider:
		if _, err := ParseID[string](id); err != nil {
			return Target{}, err
		}
	case CutCertificate:
		if id == "" || len(id) > 2*len(Thumbprint{}) || !isHex(id) {
			return Target{}, Errorf(Invalid, "not a certificate serial").
				WithHint("give the serial as lower-case hexadecimal digits, as `keyholder cert list` prints it")
		}
	default:
		return Target{}, Errorf(Invalid, "nothing of that kind can be cut").
			WithHint("cut a subscription, consent, agreement, app, provider or cert")
	}
	return t, nil
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Ended lists what one cut brought to its end. It is what every plane is told
// and what the receipt states.
type Ended struct {
	Subscriptions []SubscriptionID `json:"subscriptions"`
	Consents      []ConsentID      `json:"consents"`
	Agreements    []AgreementID    `json:"agreements"`
	Apps          []AppID          `json:"apps"`
	Providers     []ProviderID     `json:"providers"`
	Certificates  []string         `json:"certificates"` // serials
	Grants        []GrantID        `json:"grants"`
	Webhooks      []WebhookID      `json:"webhooks"`
	Messages      int              `json:"messages"` // queued messages removed
}

// Cut is one committed cut: the one operation that ends a right everywhere.
type Cut struct {
	Receipt ReceiptID `json:"receipt"`
	Target  Target    `json:"target"`
	Reason  string    `json:"reason"`
	Actor   string    `json:"actor"`
	At      time.Time `json:"at"` // when the transaction committed
	Audit   int64     `json:"audit"`
	Ended   Ended     `json:"ended"`
}

// PlaneReport says when one plane had ended the rights.
type PlaneReport struct {
	Plane  string        `json:"plane"`
	Took   time.Duration `json:"took_ns"` // since the commit
	Ended  int           `json:"ended"`   // live things closed there: sessions, cached tokens, workers
	Failed string        `json:"failed,omitempty"`
}

// ReceiptType is the typ header of a signed receipt (RFC 7515 4.1.9), so that
// no other signature of the same key passes for one.
const ReceiptType = "keyholder-receipt+jws"

// Receipt is the proof of a cut: signed, verifiable offline with the
// published keys.
type Receipt struct {
	Cut
	Planes []PlaneReport `json:"planes"`
	Signed string        `json:"signed"` // compact JWS (RFC 7515) over the receipt without this member
}
