package keyholder

import (
	"strings"
	"time"
)

// Consent is an owner's yes to one app under one agreement.
type Consent struct {
	ID        ConsentID   `json:"id"`
	Agreement AgreementID `json:"agreement"`
	App       AppID       `json:"app"`
	Scope     []Kind      `json:"scope"`    // kinds of items shared; empty means all
	GivenBy   UserID      `json:"given_by"` // empty: recorded by the administrator from the written agreement
	Given     time.Time   `json:"given"`
	Expires   time.Time   `json:"expires,omitzero"` // zero: as long as the agreement
	Cut       time.Time   `json:"cut,omitzero"`
}

// InForce says whether the consent gives rights at the time now.
func (c Consent) InForce(now time.Time) bool {
	return c.Cut.IsZero() && !now.Before(c.Given) && (c.Expires.IsZero() || now.Before(c.Expires))
}

// Renewed returns the consent that a user gives in place of c, the zero value
// if there is none: to no more kinds and for no longer.
func (c Consent) Renewed(a AgreementID, app AppID, by UserID) Consent {
	return Consent{Agreement: a, App: app, GivenBy: by, Scope: c.Scope, Expires: c.Expires}
}

// Narrowed says whether the consent is to some kinds only or ends by itself.
func (c Consent) Narrowed() bool { return len(c.Scope) > 0 || !c.Expires.IsZero() }

// Covers says whether items of kind k are within the consent's scope.
func (c Consent) Covers(k Kind) bool {
	if len(c.Scope) == 0 {
		return true
	}
	for _, s := range c.Scope {
		if s == k {
			return true
		}
	}
	return false
}

// CoversLevel says whether items at a topic level are within the consent's
// scope. The first level names the kind; one that names none is within a
// consent to everything only.
func (c Consent) CoversLevel(level string) bool {
	first, _, _ := strings.Cut(level, "/")
	return c.Covers(Kind(first))
}
