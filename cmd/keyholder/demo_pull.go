package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/visitor"
)

// signIn sends each owner's user through the real pages, once for each app.
func (d *demo) signIn(ctx context.Context) error {
	d.story.chapter("Sign in: each owner's user shares the agreement, once per app")
	for _, s := range []struct {
		name, owner string
		app         int
	}{{"A", northgate, 0}, {"B", stAnna, 1}, {"C", northgate, 1}, {"D", stAnna, 0}} {
		sub := &demoSubscription{owner: d.owners[s.owner], app: d.apps[s.app]}
		began := time.Now()
		if err := d.signInOnce(ctx, sub); err != nil {
			return fmt.Errorf("%s signs in to %s: %w", s.owner, sub.app.Name, err)
		}
		sub.id = sub.session.Subscription()
		var err error
		sub.certificate, sub.certFile, sub.keyFile, err = d.certificate(ctx, d.fabric, keyholder.ForSubscription, string(sub.id), "consumer-"+s.name)
		if err != nil {
			return err
		}
		d.subs[s.name] = sub
		d.story.check(true, fmt.Sprintf("%s shares with %s", s.owner, sub.app.Name),
			fmt.Sprintf("subscription %s %s, %d ms", s.name, sub.id, time.Since(began).Milliseconds()))
	}
	return nil
}

// signInOnce is the authorization code flow with PKCE: the app sends the user
// away, the user fills in two pages, the app redeems what comes back.
func (d *demo) signInOnce(ctx context.Context, s *demoSubscription) error {
	attempt, err := s.app.client.SignIn(ctx)
	if err != nil {
		return err
	}
	v, err := visitor.New(d.fabric.http().Transport, redirectURI)
	if err != nil {
		return err
	}
	back, err := v.SignIn(ctx, attempt.URL, s.owner.login, s.owner.password)
	if err != nil {
		return err
	}
	s.session, err = attempt.Finish(ctx, back)
	return err
}

// ingest stores the facility over HTTPS. Statuses are pushed as well: they
// wait in the mailboxes until the consumers come.
func (d *demo) ingest(ctx context.Context) error {
	d.story.chapter("Ingest: the provider's back end stores the facility")
	if err := d.openWebhook(ctx); err != nil {
		return err
	}
	for _, owner := range []string{northgate, stAnna} {
		stored, pushed := 0, 0
		put := func(kind keyholder.Kind, items []json.RawMessage) error {
			if len(items) == 0 {
				return nil
			}
			done, err := d.provider.backend.Ingest(ctx, owner, kind, items)
			if err != nil {
				return fmt.Errorf("ingest %s of %s: %w", kind, owner, err)
			}
			stored, pushed = stored+done.Stored, pushed+done.Pushed
			return nil
		}
		for _, kind := range []keyholder.Kind{keyholder.Spaces, keyholder.Specifications, keyholder.Diagnostics, keyholder.EventSpecifications} {
			items := d.facility.items[owner][kind]
			if kind == keyholder.EventSpecifications {
				items = d.facility.items[""][kind]
			}
			if err := put(kind, items); err != nil {
				return err
			}
		}
		statuses := d.facility.lastStatuses(owner)
		d.sent(owner, statuses...)
		if err := put(keyholder.Statuses, statuses); err != nil {
			return err
		}
		d.story.check(pushed == 2*len(statuses), owner, fmt.Sprintf("%d items stored, %d pushes queued durably", stored, pushed))
	}
	return nil
}

// sent remembers items that the provider gave Keyholder for an owner over
// HTTPS: every subscription of the owner must get them.
func (d *demo) sent(owner string, items ...json.RawMessage) {
	for _, s := range d.subs {
		if s.owner.Key == owner {
			s.tally.send(items...)
		}
	}
}

// pull reads every endpoint with every app and compares with what was stored.
func (d *demo) pull(ctx context.Context) error {
	d.story.chapter("Pull: each app reads its owner's data, and nothing else")
	kinds := []keyholder.Kind{keyholder.Specifications, keyholder.Statuses, keyholder.Diagnostics, keyholder.Spaces, keyholder.EventSpecifications}
	for _, name := range []string{"A", "B", "C", "D"} {
		s := d.subs[name]
		total, crossed, wrong := 0, 0, ""
		for _, kind := range kinds {
			items, err := s.session.Items(ctx, kind)
			if err != nil {
				return fmt.Errorf("pull %s by %s: %w", kind, name, err)
			}
			total += len(items)
			for _, item := range items {
				if id := deviceOf(item); id != "" && d.facility.owner[id] != s.owner.Key {
					crossed++
				}
			}
			want := len(d.facility.items[s.owner.Key][kind])
			switch kind {
			case keyholder.Statuses:
				want = len(d.facility.lastStatuses(s.owner.Key))
			case keyholder.EventSpecifications:
				want = len(d.facility.items[""][kind])
			}
			if len(items) != want {
				wrong = fmt.Sprintf("; %s: %d of %d", kind, len(items), want)
			}
		}
		d.story.check(wrong == "" && crossed == 0, fmt.Sprintf("%s reads %s", s.app.Name, s.owner.Key),
			fmt.Sprintf("%d items pulled, crossed %d%s", total, crossed, wrong))
	}
	one := deviceOf(d.facility.items[northgate][keyholder.Specifications][0])
	items, err := d.subs["A"].session.Items(ctx, keyholder.Specifications, one)
	if err != nil {
		return err
	}
	d.story.check(len(items) == 1 && deviceOf(items[0]) == one, "one device by ids", fmt.Sprintf("%d item", len(items)))
	return nil
}
