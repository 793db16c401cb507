package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// planeLimit is how long a plane may take to end rights before the receipt
// says that it failed. The promise is one second.
const planeLimit = time.Second

// plane is a part of Keyholder that holds live rights: sessions, cached
// tokens, workers.
type plane struct {
	name string
	end  func(context.Context, keyholder.Cut) (int, error)
}

// AddPlane registers a plane. end is called after each committed cut,
// concurrently with the other planes, and returns how many live things it
// closed; it must heed its context. Planes are added before serving.
func (l *Ledger) AddPlane(name string, end func(ctx context.Context, c keyholder.Cut) (int, error)) {
	l.planes = append(l.planes, plane{name, end})
}

// Cut ends a right and everything that hangs on it: in one transaction the
// subscriptions, consents, certificates, webhooks, grants and queued messages
// below the target, with the audit row and the receipt; then the planes drop
// what they hold. It returns the signed receipt with the time of each plane.
// Errors: NotFound, Conflict if the target was cut before.
func (l *Ledger) Cut(ctx context.Context, actor string, t keyholder.Target, reason string) (keyholder.Receipt, error) {
	if err := checkName("reason of the cut", reason); err != nil {
		return keyholder.Receipt{}, err
	}
	id, err := keyholder.NewID[keyholder.ReceiptID](l.random)
	if err != nil {
		return keyholder.Receipt{}, err
	}
	c := keyholder.Cut{Receipt: id, Target: t, Reason: reason, Actor: actor}
	if err := l.store.WriteAlone(ctx, func(tx *store.Tx) error { return l.cutTx(tx, &c) }); err != nil {
		return keyholder.Receipt{}, err
	}
	// From here on every new request is refused, because doors ask the view.
	reports := l.endPlanes(ctx, c, time.Now())
	return l.signReceipt(ctx, keyholder.Receipt{Cut: c, Planes: reports})
}

// cutTx is the transaction of a cut. It reads the view, which is exact
// because changes of rights run alone.
func (l *Ledger) cutTx(tx *store.Tx, c *keyholder.Cut) error {
	c.At = l.Now()
	ended, err := l.below(c.Target)
	if err != nil {
		return err
	}
	if err := endRows(tx, &ended, c.At); err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	c.Ended = ended
	if err := l.Append(tx, keyholder.EventCut, c.Actor, c.Target.ID, detail{
		"target": string(c.Target.Kind), "reason": c.Reason, "receipt": string(c.Receipt),
		"subscriptions": fmt.Sprint(len(ended.Subscriptions)), "certificates": fmt.Sprint(len(ended.Certificates)),
		"grants": fmt.Sprint(len(ended.Grants)), "messages": fmt.Sprint(ended.Messages),
	}); err != nil {
		return err
	}
	if err := tx.QueryRow("SELECT max(seq) FROM audit").Scan(&c.Audit); err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	body, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	if _, err := tx.Exec("INSERT INTO receipts (id, at, body) VALUES (?, ?, ?)", c.Receipt, micros(c.At), string(body)); err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	tx.After(func() { l.endView(ended, c.At) })
	return nil
}

// below lists what hangs on a target and has not ended yet, the target
// included. Grants and messages are found by endRows.
func (l *Ledger) below(t keyholder.Target) (keyholder.Ended, error) {
	v := &l.view
	v.mu.RLock()
	defer v.mu.RUnlock()
	if t.Kind == keyholder.CutCertificate {
		return v.belowCertificate(t.ID)
	}
	var e keyholder.Ended
	found, cut := v.target(t)
	if !found {
		return e, keyholder.Errorf(keyholder.NotFound, "no %s of that ID", t.Kind)
	}
	if !cut.IsZero() {
		return e, keyholder.Errorf(keyholder.Conflict, "the %s was cut at %s", t.Kind, cut.Format(time.RFC3339)).
			WithHint("`keyholder receipt list` shows the receipt")
	}
	switch t.Kind {
	case keyholder.CutProvider:
		e.Providers = []keyholder.ProviderID{keyholder.ProviderID(t.ID)}
	case keyholder.CutApp:
		e.Apps = []keyholder.AppID{keyholder.AppID(t.ID)}
	}
	for _, a := range v.agreements {
		if a.Cut.IsZero() && (string(a.ID) == t.ID || string(a.Provider) == t.ID) {
			e.Agreements = append(e.Agreements, a.ID)
		}
	}
	for _, s := range v.subscriptions {
		if s.Cut.IsZero() && slices.Contains([]string{string(s.ID), string(s.Consent), string(s.Agreement), string(s.App), string(s.Provider)}, t.ID) {
			e.Subscriptions = append(e.Subscriptions, s.ID)
			e.Consents = append(e.Consents, s.Consent)
		}
	}
	for _, c := range v.certificates {
		if c.Revoked.IsZero() && (c.Subject == t.ID || c.Use == keyholder.ForSubscription && slices.Contains(e.Subscriptions, keyholder.SubscriptionID(c.Subject))) {
			e.Certificates = append(e.Certificates, c.Serial)
		}
	}
	for _, w := range v.webhooks {
		if w.Ended.IsZero() && slices.Contains(e.Subscriptions, w.Subscription) {
			e.Webhooks = append(e.Webhooks, w.ID)
		}
	}
	return sorted(e), nil
}

// target says whether a target exists and when it was cut.
func (v *view) target(t keyholder.Target) (bool, time.Time) {
	switch t.Kind {
	case keyholder.CutSubscription:
		s, ok := v.subscriptions[keyholder.SubscriptionID(t.ID)]
		return ok, s.Cut
	case keyholder.CutConsent:
		c, ok := v.consents[keyholder.ConsentID(t.ID)]
		return ok, c.Cut
	case keyholder.CutAgreement:
		a, ok := v.agreements[keyholder.AgreementID(t.ID)]
		return ok, a.Cut
	case keyholder.CutApp:
		a, ok := v.apps[keyholder.AppID(t.ID)]
		return ok, a.Cut
	case keyholder.CutProvider:
		p, ok := v.providers[keyholder.ProviderID(t.ID)]
		return ok, p.Cut
	}
	return false, time.Time{}
}

func (v *view) belowCertificate(serial string) (keyholder.Ended, error) {
	for _, c := range v.certificates {
		if c.Serial != serial {
			continue
		}
		if !c.Revoked.IsZero() {
			return keyholder.Ended{}, keyholder.Errorf(keyholder.Conflict, "the certificate was revoked at %s", c.Revoked.Format(time.RFC3339))
		}
		return sorted(keyholder.Ended{Certificates: []string{serial}}), nil
	}
	return keyholder.Ended{}, keyholder.Errorf(keyholder.NotFound, "no certificate of that serial").
		WithHint("`keyholder cert list` shows the serials")
}

// sorted gives the lists a fixed order and turns nil into empty, so that a
// receipt reads the same everywhere.
func sorted(e keyholder.Ended) keyholder.Ended {
	return keyholder.Ended{
		Subscriptions: sortedList(e.Subscriptions), Consents: sortedList(e.Consents), Agreements: sortedList(e.Agreements),
		Apps: sortedList(e.Apps), Providers: sortedList(e.Providers), Certificates: sortedList(e.Certificates),
		Grants: sortedList(e.Grants), Webhooks: sortedList(e.Webhooks), Messages: e.Messages,
	}
}

func sortedList[T ~string](s []T) []T {
	if s == nil {
		return []T{}
	}
	slices.Sort(s)
	return s
}

// endRows writes the end of everything listed, and adds the grants and
// messages that end with it.
func endRows(tx *store.Tx, e *keyholder.Ended, at time.Time) error {
	us := micros(at)
	for _, u := range []struct {
		query string
		ids   []string
	}{
		{"UPDATE providers SET cut = ? WHERE id = ?", texts(e.Providers)},
		{"UPDATE apps SET cut = ? WHERE id = ?", texts(e.Apps)},
		{"UPDATE agreements SET cut = ? WHERE id = ?", texts(e.Agreements)},
		{"UPDATE consents SET cut = ? WHERE id = ?", texts(e.Consents)},
		{"UPDATE subscriptions SET cut = ? WHERE id = ?", texts(e.Subscriptions)},
		{"UPDATE certificates SET revoked = ? WHERE serial = ?", e.Certificates},
		{"UPDATE webhooks SET ended = ? WHERE id = ?", texts(e.Webhooks)},
	} {
		for _, id := range u.ids {
			if _, err := tx.Exec(u.query, us, id); err != nil {
				return err
			}
		}
	}
	for column, ids := range map[string][]string{"subscription": texts(e.Subscriptions), "client": append(texts(e.Apps), texts(e.Providers)...)} {
		for _, id := range ids {
			grants, err := endGrants(tx, column, id, us)
			if err != nil {
				return err
			}
			e.Grants = append(e.Grants, grants...)
		}
	}
	slices.Sort(e.Grants)
	for _, id := range e.Subscriptions {
		result, err := tx.Exec("DELETE FROM messages WHERE subscription = ?", id)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return err
		}
		e.Messages += int(n)
		// The mailbox row stays: its counter keeps numbers from repeating.
		for _, table := range []string{"cursors", "mqtt_filters", "tags"} {
			if _, err := tx.Exec("DELETE FROM "+table+" WHERE subscription = ?", id); err != nil {
				return err
			}
		}
	}
	return nil
}

// endGrants ends the grants whose column (subscription or client) is id.
// Their codes and tokens are forgotten with them.
func endGrants(tx *store.Tx, column, id string, at int64) ([]keyholder.GrantID, error) {
	rows, err := tx.Query("UPDATE grants SET ended = ?, version = version + 1, sealed = NULL WHERE "+column+" = ? AND ended = 0 RETURNING id", at, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ended []keyholder.GrantID
	for rows.Next() {
		var g keyholder.GrantID
		if err := rows.Scan(&g); err != nil {
			return nil, err
		}
		ended = append(ended, g)
	}
	return ended, rows.Err()
}

func texts[T ~string](s []T) []string {
	out := make([]string, len(s))
	for i, v := range s {
		out[i] = string(v)
	}
	return out
}

// endView brings the view up to date with a committed cut.
func (l *Ledger) endView(e keyholder.Ended, at time.Time) {
	v := &l.view
	v.set(func() {
		mark(v.providers, e.Providers, func(p *keyholder.Provider) { p.Cut = at })
		mark(v.apps, e.Apps, func(a *keyholder.App) { a.Cut = at })
		mark(v.agreements, e.Agreements, func(a *keyholder.Agreement) { a.Cut = at })
		mark(v.consents, e.Consents, func(c *keyholder.Consent) { c.Cut = at })
		mark(v.subscriptions, e.Subscriptions, func(s *keyholder.Subscription) { s.Cut = at })
		mark(v.webhooks, e.Webhooks, func(w *Webhook) { w.Ended = at })
		for thumbprint, c := range v.certificates {
			if slices.Contains(e.Certificates, c.Serial) {
				c.Revoked = at
				v.certificates[thumbprint] = c
			}
		}
		for _, client := range append(texts(e.Apps), texts(e.Providers)...) {
			delete(v.secrets, client)
		}
		l.addEndings(at, v.endingsOf(e, at))
	})
}

// mark changes the named values of a map of the view.
func mark[K comparable, V any](m map[K]V, ids []K, change func(*V)) {
	for _, id := range ids {
		value := m[id]
		change(&value)
		m[id] = value
	}
}

// EndGrant ends one grant: its refresh tokens at once, its access tokens at
// every guard that asks GrantEnded. Ending an unknown or ended grant does
// nothing.
func (l *Ledger) EndGrant(ctx context.Context, actor string, id keyholder.GrantID, reason string) error {
	return l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		at := l.Now()
		ended, err := endGrants(tx, "id", string(id), micros(at))
		if err != nil || len(ended) == 0 {
			return err
		}
		tx.After(func() { l.endGrantsView(ended, at) })
		return l.Append(tx, keyholder.EventGrantEnded, actor, string(id), detail{"reason": reason})
	})
}

// endPlanes runs all planes and reports when each was done, counted from the
// commit.
func (l *Ledger) endPlanes(ctx context.Context, c keyholder.Cut, committed time.Time) []keyholder.PlaneReport {
	// The cut is committed: a caller that goes away must not keep a session alive.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), planeLimit)
	defer cancel()
	reports := make([]keyholder.PlaneReport, len(l.planes))
	var wg sync.WaitGroup
	for i, p := range l.planes {
		wg.Go(func() {
			n, err := p.end(ctx, c)
			reports[i] = keyholder.PlaneReport{Plane: p.name, Took: time.Since(committed), Ended: n}
			if err != nil {
				reports[i].Failed = unconfirmed(err)
				l.log.Error("a plane did not end what was cut", "plane", p.name, "receipt", c.Receipt, "error", err)
			}
		})
	}
	wg.Wait()
	return reports
}

// unconfirmed says in a receipt why a plane did not confirm: only what may be
// shown to a caller.
func unconfirmed(err error) string {
	var e *keyholder.Error
	if errors.As(err, &e) {
		return e.Detail
	}
	return "the plane did not confirm in time"
}
