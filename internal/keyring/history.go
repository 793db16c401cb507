package keyring

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// HistoricalKey is a public key with its end, for those who verify what was
// signed long ago. In JSON it is a JWK with the member revoked of OpenID
// Federation 1.0 (8.7.2).
type HistoricalKey struct {
	Key         jose.JSONWebKey
	Retired     time.Time // zero: in use
	Compromised bool      // retired because others may have it
}

// historicalEnd is the member revoked.
type historicalEnd struct {
	At     int64  `json:"revoked_at"` // Unix seconds
	Reason string `json:"reason"`
}

// Reasons of OpenID Federation 1.0.
const (
	reasonCompromised = "compromised"
	reasonSuperseded  = "superseded"
)

// MarshalJSON implements [json.Marshaler].
func (h HistoricalKey) MarshalJSON() ([]byte, error) {
	b, err := h.Key.MarshalJSON()
	if err != nil || h.Retired.IsZero() {
		return b, err
	}
	end := historicalEnd{h.Retired.Unix(), reasonSuperseded}
	if h.Compromised {
		end.Reason = reasonCompromised
	}
	member, err := json.Marshal(map[string]historicalEnd{"revoked": end})
	if err != nil {
		return nil, fmt.Errorf("write a retired key: %w", err)
	}
	return slices.Concat(b[:len(b)-1], []byte(","), member[1:]), nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (h *HistoricalKey) UnmarshalJSON(b []byte) error {
	var end struct {
		Revoked *historicalEnd `json:"revoked"`
	}
	*h = HistoricalKey{}
	if err := json.Unmarshal(b, &end); err != nil {
		return fmt.Errorf("read a retired key: %w", err)
	}
	if end.Revoked != nil {
		h.Retired, h.Compromised = time.Unix(end.Revoked.At, 0).UTC(), end.Revoked.Reason != reasonSuperseded
	}
	return h.Key.UnmarshalJSON(b)
}

// History returns every public key there ever was: those in use, the signing
// one first, then the retired ones in the order of their end.
func (r *Ring) History() []HistoricalKey {
	var all []HistoricalKey
	for _, k := range r.JWKS().Keys {
		all = append(all, HistoricalKey{Key: k})
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	ended := slices.SortedFunc(slices.Values(r.retired), func(a, b HistoricalKey) int { return a.Retired.Compare(b.Retired) })
	return append(all, ended...)
}
