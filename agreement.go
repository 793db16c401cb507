package keyholder

import "time"

// Agreement binds a provider and an owner for a purpose and a period. It is
// the root of every right: nothing outlives it.
type Agreement struct {
	ID       AgreementID `json:"id"`
	Provider ProviderID  `json:"provider"`
	Owner    OwnerID     `json:"owner"`
	Purpose  string      `json:"purpose"`
	Start    time.Time   `json:"start"`
	End      time.Time   `json:"end,omitzero"` // zero: open-ended
	Created  time.Time   `json:"created"`
	Cut      time.Time   `json:"cut,omitzero"`
}

// InForce says whether the agreement gives rights at the time now: it has
// started, not ended and not been cut. The end itself is outside.
func (a Agreement) InForce(now time.Time) bool {
	return a.Cut.IsZero() && !now.Before(a.Start) && (a.End.IsZero() || now.Before(a.End))
}
