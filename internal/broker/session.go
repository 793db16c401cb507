package broker

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// A consumer's session outlives its connection if the client asked for it:
// MQTT 5 by a session expiry interval, 3.1.1 by a clean session flag of 0. It
// is kept in the store and so also outlives the server: session present is
// answered truthfully after a restart, and the backlog flows before the
// client subscribes again. What was under way is known as long as the process
// lives; after a restart those messages are sent as new ones.

// lifetime is how long the session lives after the connection, in seconds.
func (s *subscriber) lifetime() int64 {
	switch t := &s.c.terms; {
	case t.version == 5:
		return int64(t.sessionExpiry)
	case t.clean:
		return 0
	}
	return int64(s.c.b.cfg.MaxSessionExpiry / time.Second)
}

// resumeSessions lets the sessions that a crash left connected expire from
// now on, and forgets those that have expired.
func (b *Broker) resumeSessions(ctx context.Context) error {
	now := b.cfg.Now().UnixMicro()
	err := b.cfg.Ledger.Store().Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec("UPDATE mqtt_sessions SET expires = ? + lifetime * 1000000 WHERE expires = 0", now); err != nil {
			return err
		}
		_, err := tx.Exec("DELETE FROM mqtt_sessions WHERE expires <= ?", now)
		return err
	})
	if err != nil {
		return fmt.Errorf("load the MQTT sessions: %w", err)
	}
	return nil
}

// open finds the session of the subscription, or discards it if the client
// wants a clean one. It returns whether there is one to go on with.
func (s *subscriber) open() (present bool, err error) {
	b := s.c.b
	b.mu.Lock()
	before := b.parked[s.c.subject]
	delete(b.parked, s.c.subject)
	b.mu.Unlock()
	stored, alive, err := b.storedSession(s.id)
	if err != nil {
		return false, err
	}
	present = stored && alive && !s.c.terms.clean
	s.opened, s.kept = true, present || s.lifetime() > 0
	if err := s.renew(stored && !present); err != nil {
		return false, err
	}
	if !present {
		return false, nil
	}
	filters, err := b.storedFilters(s.id)
	if err != nil {
		return false, err
	}
	s.filters, s.flight = filters, newFlight(before)
	return true, nil
}

func (b *Broker) storedSession(id keyholder.SubscriptionID) (stored, alive bool, err error) {
	var expires int64
	err = b.cfg.Ledger.Store().Read().QueryRow("SELECT expires FROM mqtt_sessions WHERE subscription = ?", id).Scan(&expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, false, nil
	case err != nil:
		return false, false, fmt.Errorf("read a session: %w", err)
	}
	return true, expires == 0 || b.cfg.Now().UnixMicro() < expires, nil
}

func (b *Broker) storedFilters(id keyholder.SubscriptionID) ([]filter, error) {
	rows, err := b.cfg.Ledger.Store().Read().Query("SELECT filter, qos, identifier FROM mqtt_filters WHERE subscription = ?", id)
	if err != nil {
		return nil, fmt.Errorf("read the filters of a session: %w", err)
	}
	defer rows.Close()
	var filters []filter
	for rows.Next() {
		var text string
		var f filter
		if err := rows.Scan(&text, &f.qos, &f.identifier); err != nil {
			return nil, fmt.Errorf("read the filters of a session: %w", err)
		}
		if f.Filter, err = keyholder.ParseFilter(text); err != nil || f.Subscription != id {
			return nil, fmt.Errorf("a stored filter is damaged: %w", errors.Join(err, errForeign))
		}
		filters = append(filters, f)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the filters of a session: %w", err)
	}
	return filters, nil
}

var errForeign = errors.New("it is not below its subscription")

// change runs a change of the session, unless the subscription has ended: a
// cut that came first leaves nothing behind.
func (s *subscriber) change(do func(tx *store.Tx) error) error {
	l := s.c.b.cfg.Ledger
	return l.Store().Write(context.Background(), func(tx *store.Tx) error {
		if err := l.Standing(s.id).Holds(s.c.b.cfg.Now()).Err(); err != nil {
			return err
		}
		return do(tx)
	})
}

// renew discards the stored session if told so and, if the new one outlives
// the connection, notes it as connected.
func (s *subscriber) renew(discard bool) error {
	lifetime := s.lifetime()
	if !discard && lifetime == 0 {
		return nil
	}
	return s.change(func(tx *store.Tx) error {
		if discard {
			if _, err := tx.Exec("DELETE FROM mqtt_sessions WHERE subscription = ?", s.id); err != nil {
				return fmt.Errorf("discard a session: %w", err)
			}
		}
		if lifetime == 0 {
			return nil
		}
		return s.keep(tx, lifetime, 0)
	})
}

// keep writes the session's row.
func (s *subscriber) keep(tx *store.Tx, lifetime, expires int64) error {
	if _, err := tx.Exec(`INSERT INTO mqtt_sessions (subscription, lifetime, expires) VALUES (?, ?, ?)
		ON CONFLICT (subscription) DO UPDATE SET lifetime = excluded.lifetime, expires = excluded.expires`, s.id, lifetime, expires); err != nil {
		return fmt.Errorf("store a session: %w", err)
	}
	return nil
}

// leaveSession leaves the session behind when its connection ends, or
// discards it if it does not outlive the connection.
func (b *Broker) leaveSession(s *subscriber, sent map[int64]uint16) {
	if !s.kept {
		return
	}
	lifetime := s.lifetime()
	err := s.change(func(tx *store.Tx) error {
		if lifetime > 0 {
			return s.keep(tx, lifetime, b.cfg.Now().UnixMicro()+lifetime*1_000_000)
		}
		_, err := tx.Exec("DELETE FROM mqtt_sessions WHERE subscription = ?", s.id)
		return err
	})
	switch {
	case err == nil && lifetime > 0 && len(sent) > 0:
		b.mu.Lock()
		b.parked[s.c.subject] = sent
		b.mu.Unlock()
	case err != nil && keyholder.CodeOf(err) != keyholder.Denied:
		b.cfg.Log.Error("a session could not be stored", s.c.attrs("error", err)...)
	}
}

// saveFilters makes filters durable if the session outlives the connection.
func (b *Broker) saveFilters(s *subscriber, added []filter) error {
	if s.lifetime() == 0 {
		return nil
	}
	return s.change(func(tx *store.Tx) error {
		for _, f := range added {
			if _, err := tx.Exec(`INSERT INTO mqtt_filters (subscription, filter, qos, identifier) VALUES (?, ?, ?, ?)
				ON CONFLICT (subscription, filter) DO UPDATE SET qos = excluded.qos, identifier = excluded.identifier`, s.id, f.String(), f.qos, f.identifier); err != nil {
				return fmt.Errorf("store a filter: %w", err)
			}
		}
		return nil
	})
}

// deleteFilters is the reverse of saveFilters.
func (b *Broker) deleteFilters(s *subscriber, removed []string) error {
	if s.lifetime() == 0 {
		return nil
	}
	return s.change(func(tx *store.Tx) error {
		for _, text := range removed {
			if _, err := tx.Exec("DELETE FROM mqtt_filters WHERE subscription = ? AND filter = ?", s.id, text); err != nil {
				return fmt.Errorf("delete a filter: %w", err)
			}
		}
		return nil
	})
}
