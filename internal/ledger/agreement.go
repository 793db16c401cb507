package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// AddAgreement records an agreement of a provider and an owner; its ID and
// creation time are filled in, and a zero start means now. Errors: Invalid,
// NotFound for an unknown party.
func (l *Ledger) AddAgreement(ctx context.Context, actor string, a keyholder.Agreement) (keyholder.Agreement, error) {
	if err := checkName("purpose of the agreement", a.Purpose); err != nil {
		return keyholder.Agreement{}, err
	}
	id, err := keyholder.NewID[keyholder.AgreementID](l.random)
	if err != nil {
		return keyholder.Agreement{}, err
	}
	a.ID, a.Created, a.Cut = id, l.Now(), time.Time{}
	if a.Start.IsZero() {
		a.Start = a.Created
	}
	a.Start, a.End = storable(a.Start), storable(a.End)
	if !a.End.IsZero() && !a.End.After(a.Start) {
		return keyholder.Agreement{}, keyholder.Errorf(keyholder.Invalid, "the agreement ends before it starts")
	}
	return a, l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if p := l.Provider(a.Provider); p.ID == "" || !p.Cut.IsZero() {
			return keyholder.Errorf(keyholder.NotFound, "no such provider in force")
		}
		if l.Owner(a.Owner).ID == "" {
			return keyholder.Errorf(keyholder.NotFound, "no such owner")
		}
		if _, err := tx.Exec("INSERT INTO agreements (id, provider, owner, purpose, starts, ends, created) VALUES (?, ?, ?, ?, ?, ?, ?)",
			a.ID, a.Provider, a.Owner, a.Purpose, micros(a.Start), micros(a.End), micros(a.Created)); err != nil {
			return fmt.Errorf("add an agreement: %w", err)
		}
		tx.After(func() { l.view.set(func() { l.view.agreements[a.ID] = a }) })
		return l.Append(tx, keyholder.EventAgreementAdded, actor, string(a.ID),
			detail{"provider": string(a.Provider), "owner": string(a.Owner)})
	})
}

// storable gives a time the resolution and zone it is stored in.
func storable(t time.Time) time.Time { return fromMicros(micros(t)) }

func (l *Ledger) loadAgreements(ctx context.Context) error {
	return l.each(ctx, "SELECT id, provider, owner, purpose, starts, ends, created, cut FROM agreements", func(scan scanner) error {
		var a keyholder.Agreement
		var starts, ends, created, cut int64
		err := scan(&a.ID, &a.Provider, &a.Owner, &a.Purpose, &starts, &ends, &created, &cut)
		a.Start, a.End, a.Created, a.Cut = fromMicros(starts), fromMicros(ends), fromMicros(created), fromMicros(cut)
		l.view.agreements[a.ID] = a
		return err
	})
}
