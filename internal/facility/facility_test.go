package facility_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/facility"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

const (
	forkInc   = keyholder.ProviderID("7d1c1c3e-6f7e-4d0c-9a41-0e9b1b0a5a01")
	soapInc   = keyholder.ProviderID("7d1c1c3e-6f7e-4d0c-9a41-0e9b1b0a5a02")
	northgate = keyholder.OwnerID("7d1c1c3e-6f7e-4d0c-9a41-0e9b1b0a5b01")
	stAnna    = keyholder.OwnerID("7d1c1c3e-6f7e-4d0c-9a41-0e9b1b0a5b02")
	subA      = keyholder.SubscriptionID("7d1c1c3e-6f7e-4d0c-9a41-0e9b1b0a5c01")
	subB      = keyholder.SubscriptionID("7d1c1c3e-6f7e-4d0c-9a41-0e9b1b0a5c02")
)

// Ensure that what holds of a facility on SQLite holds on PostgreSQL.
func TestOnPostgres(t *testing.T) { storetest.RunOnPostgres(t, "^Test") }

// open returns a facility on a real database that knows two providers, two
// owners and a subscription of each owner.
func open(t testing.TB, keep int) *facility.Facility {
	t.Helper()
	s, err := storetest.New(t).Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	err = s.Write(context.Background(), func(tx *store.Tx) error {
		var all []string
		for _, p := range []keyholder.ProviderID{forkInc, soapInc} {
			all = append(all, fmt.Sprintf("INSERT INTO providers (id, name, created) VALUES ('%s', 'p', 1)", p))
		}
		for _, o := range []keyholder.OwnerID{northgate, stAnna} {
			all = append(all, fmt.Sprintf("INSERT INTO owners (id, key, name, created) VALUES ('%s', '%[1]s', 'o', 1)", o))
		}
		all = append(all, "INSERT INTO apps (id, name, profile, grants, authentication, keys, pinned_pem, pinned_subject, pinned_lists, redirect_uris, pushed_only, created) VALUES ('app', 'a', 'fds', '[]', '', '[]', '', '', '', '[]', 0, 1)")
		for i, sub := range []keyholder.SubscriptionID{subA, subB} {
			owner := []keyholder.OwnerID{northgate, stAnna}[i]
			all = append(all,
				fmt.Sprintf("INSERT INTO agreements (id, provider, owner, purpose, starts, created) VALUES ('agreement%d', '%s', '%s', '', 1, 1)", i, forkInc, owner),
				fmt.Sprintf("INSERT INTO consents (id, agreement, app, scope, given_by, given) VALUES ('consent%d', 'agreement%[1]d', 'app', '[]', '', 1)", i),
				fmt.Sprintf("INSERT INTO subscriptions (id, consent, agreement, provider, owner, app, created) VALUES ('%s', 'consent%d', 'agreement%[2]d', '%s', '%s', 'app', 1)", sub, i, forkInc, owner))
		}
		for _, q := range all {
			if _, err := tx.Exec(q); err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := facility.Open(facility.Config{Store: s, Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func raws(items ...string) []json.RawMessage {
	out := []json.RawMessage{}
	for _, s := range items {
		out = append(out, json.RawMessage(s))
	}
	return out
}

func put(t *testing.T, f *facility.Facility, p keyholder.ProviderID, o keyholder.OwnerID, k keyholder.Kind, items ...string) int {
	t.Helper()
	n, err := f.Put(t.Context(), p, o, k, raws(items...))
	if err != nil {
		t.Fatalf("put %s: %v", k, err)
	}
	return n
}

func list(t *testing.T, f *facility.Facility, p keyholder.ProviderID, o keyholder.OwnerID, k keyholder.Kind, ids ...string) []string {
	t.Helper()
	items, err := f.List(t.Context(), p, o, k, ids)
	if err != nil {
		t.Fatalf("list %s: %v", k, err)
	}
	out := []string{}
	for _, i := range items {
		out = append(out, string(i))
	}
	return out
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// Ensure that each kind keeps what its sense asks for: the latest state per
// entity, one statistic per period, every event once; and that bytes come back
// as they went in, in the order of arrival.
func TestKeepsByKind(t *testing.T) {
	f := open(t, 0)
	status := func(dev, rest string) string {
		return fmt.Sprintf(`{ "device_id":%q, "generic":{"device_type":"dispenser"}, "unknown": [1e400, "ü", {"x":null}],%s "device_type_specific":{} }`, dev, rest)
	}
	for _, k := range []keyholder.Kind{keyholder.Statuses, keyholder.Specifications, keyholder.Diagnostics} {
		put(t, f, forkInc, northgate, k, status("D1", ""), status("D2", ""), status("D1", `"later":true,`))
		same(t, string(k), list(t, f, forkInc, northgate, k), status("D1", `"later":true,`), status("D2", ""))
		same(t, string(k)+" by id", list(t, f, forkInc, northgate, k, "D2", "D2", "nobody"), status("D2", ""))
	}

	stat := func(from, count string) string {
		return fmt.Sprintf(`{"device_id":"P1","generic":{%s},"device_type_specific":{"count":%s}}`, from, count)
	}
	morning, noon := `"date_time_start":"06:00","date_time_end":"06:30"`, `"date_time_start":"12:00","date_time_end":"12:30"`
	put(t, f, forkInc, northgate, keyholder.Statistics, stat(morning, "1"), stat(noon, "2"), stat(morning, "3"), stat("", "4"), stat("", "5"), stat("", "4"))
	same(t, "statistics", list(t, f, forkInc, northgate, keyholder.Statistics), stat(morning, "3"), stat(noon, "2"), stat("", "4"), stat("", "5"))

	event := func(code, at string) string {
		return fmt.Sprintf(`{"message_id":"m","generic":{"message_code":%q,"date_time":%q,"device_id":"D1"}}`, code, at)
	}
	beside := `{"message_code":"moved","space_id":"S1","generic":{}}`
	if n := put(t, f, forkInc, northgate, keyholder.Events, event("low", "1"), event("low", "2"), beside, event("low", "1")); n != 3 {
		t.Errorf("events stored: %d, want 3", n)
	}
	if n := put(t, f, forkInc, northgate, keyholder.Events, event("low", "2")); n != 0 {
		t.Errorf("a repeated event was stored again: %d", n)
	}
	same(t, "events", list(t, f, forkInc, northgate, keyholder.Events), event("low", "1"), event("low", "2"), beside)
	same(t, "events by space", list(t, f, forkInc, northgate, keyholder.Events, "S1"), beside)

	put(t, f, forkInc, northgate, keyholder.Spaces, `{"space_id":"S1","generic":{}}`)
	put(t, f, forkInc, northgate, keyholder.EventSpecifications, `{"message_code":"low","generic":{}}`)
	same(t, "spaces", list(t, f, forkInc, northgate, keyholder.Spaces, "S1"), `{"space_id":"S1","generic":{}}`)
	same(t, "event specifications", list(t, f, forkInc, northgate, keyholder.EventSpecifications, "low"), `{"message_code":"low","generic":{}}`)
}

// Ensure that neither another owner nor another provider sees an item, also
// when they ask for it by its ID or use the same ID.
func TestSeparatesOwnersAndProviders(t *testing.T) {
	f := open(t, 0)
	for _, k := range keyholder.Kinds() {
		of := func(who string) string {
			return fmt.Sprintf(`{"device_id":"X","space_id":"X","message_code":"X","generic":{},"whose":%q}`, who)
		}
		put(t, f, forkInc, northgate, k, of("fork northgate"))
		put(t, f, forkInc, stAnna, k, of("fork st-anna"))
		put(t, f, soapInc, northgate, k, of("soap northgate"))
		same(t, string(k), list(t, f, forkInc, northgate, k, "X"), of("fork northgate"))
		same(t, string(k), list(t, f, forkInc, northgate, k), of("fork northgate"))
		same(t, string(k), list(t, f, forkInc, stAnna, k), of("fork st-anna"))
		same(t, string(k), list(t, f, soapInc, stAnna, k, "X"))
	}
}

// Ensure that an answer longer than a page is whole and in order, by ID and
// without, while items are replaced between the pages.
func TestListsManyPages(t *testing.T) {
	f := open(t, 0)
	const n = 1234
	var ids, want []string
	for i := range n {
		id := fmt.Sprintf("D%04d", i)
		ids = append(ids, id)
		want = append(want, fmt.Sprintf(`{"device_id":%q,"generic":{},"n":%d}`, id, i))
	}
	put(t, f, forkInc, northgate, keyholder.Statuses, want...)
	put(t, f, forkInc, stAnna, keyholder.Statuses, want...)
	same(t, "all", list(t, f, forkInc, northgate, keyholder.Statuses), want...)
	same(t, "by ID", list(t, f, forkInc, northgate, keyholder.Statuses, ids...), want...)

	var got []string
	err := f.Each(t.Context(), forkInc, northgate, keyholder.Statuses, nil, func(m json.RawMessage) error {
		got = append(got, string(m))
		if len(got) == 10 {
			put(t, f, forkInc, northgate, keyholder.Statuses, `{"device_id":"D0003","generic":{},"new":1}`, `{"device_id":"D1000","generic":{},"new":1}`)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want[1000] = `{"device_id":"D1000","generic":{},"new":1}`
	same(t, "while it changes", got, want...)

	stop := errors.New("enough")
	if err := f.Each(t.Context(), forkInc, northgate, keyholder.Statuses, nil, func(json.RawMessage) error { return stop }); err != stop {
		t.Errorf("Each returned %v, want the caller's error", err)
	}
}

// Ensure that a page ends at its bound of bytes too, by ID and without, and
// that nothing is lost or doubled there.
func TestListsLargeItems(t *testing.T) {
	f := open(t, 0)
	var ids, want []string
	for i := range 60 {
		id := fmt.Sprintf("D%02d", i)
		ids = append(ids, id)
		want = append(want, fmt.Sprintf(`{"device_id":%q,"generic":{},"x":"%s"}`, id, strings.Repeat("x", i%7*40_000)))
	}
	put(t, f, forkInc, northgate, keyholder.Diagnostics, want...)
	for what, got := range map[string][]string{
		"all": list(t, f, forkInc, northgate, keyholder.Diagnostics), "by ID": list(t, f, forkInc, northgate, keyholder.Diagnostics, ids...),
	} {
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d items, not those that were put", what, len(got))
		}
	}
}

// Ensure that one bad item keeps the whole batch out and is named.
func TestBadBatchStoresNothing(t *testing.T) {
	f := open(t, 0)
	_, err := f.Put(t.Context(), forkInc, northgate, keyholder.Statuses, raws(`{"device_id":"D1","generic":{}}`, `{"device_id":"D2"}`))
	if keyholder.CodeOf(err) != keyholder.Invalid || !strings.Contains(err.Error(), `item 1: no member "generic"`) {
		t.Errorf("got %v", err)
	}
	same(t, "stored", list(t, f, forkInc, northgate, keyholder.Statuses))
	if _, err := f.Put(t.Context(), "nobody", northgate, keyholder.Statuses, raws(`{"device_id":"D1","generic":{}}`)); err == nil {
		t.Error("an unknown provider's item was stored")
	}
	if _, err := f.Put(t.Context(), forkInc, northgate, keyholder.Tags, raws(`{"device_id":"D1","generic":{}}`)); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("tags as items: %v", err)
	}
}

// Ensure that a history loses its oldest items beyond the bound and no other.
func TestHistoryIsBounded(t *testing.T) {
	const keep = 80
	f := open(t, keep)
	event := func(owner keyholder.OwnerID, n int) string {
		return fmt.Sprintf(`{"generic":{"message_code":"m","device_id":"D"},"n":"%s %d"}`, owner, n)
	}
	put(t, f, forkInc, stAnna, keyholder.Events, event(stAnna, 0))
	for n := range 400 {
		put(t, f, forkInc, northgate, keyholder.Events, event(northgate, n))
	}
	got := list(t, f, forkInc, northgate, keyholder.Events)
	if len(got) < keep || len(got) > keep+keep/8+1 {
		t.Errorf("%d events are kept, want %d to %d", len(got), keep, keep+keep/8+1)
	}
	if got[len(got)-1] != event(northgate, 399) {
		t.Errorf("the newest event is %s", got[len(got)-1])
	}
	same(t, "the other owner's", list(t, f, forkInc, stAnna, keyholder.Events), event(stAnna, 0))
}

// Ensure that an endpoint counts as undefined only if every device asked for
// is known to be of a type without it.
func TestUndefined(t *testing.T) {
	f := open(t, 0)
	put(t, f, forkInc, northgate, keyholder.Specifications,
		`{"device_id":"D1","generic":{"device_type":"dispenser"}}`, `{"device_id":"D2","generic":{"device_type":"dispenser"}}`,
		`{"device_id":"P1","generic":{"device_type":"people_counter"}}`, `{"device_id":"O1","generic":{"device_type":7}}`)
	put(t, f, forkInc, stAnna, keyholder.Specifications, `{"device_id":"D9","generic":{"device_type":"dispenser"}}`)
	for _, c := range []struct {
		kind keyholder.Kind
		ids  []string
		want bool
	}{
		{keyholder.Statistics, []string{"D1"}, true},
		{keyholder.Statistics, []string{"D1", "D2"}, true},
		{keyholder.Statistics, []string{"D1", "P1"}, false},
		{keyholder.Statistics, []string{"D1", "nobody"}, false},
		{keyholder.Statistics, []string{"D9"}, false}, // another owner's: as if unknown
		{keyholder.Statistics, []string{"O1"}, false},
		{keyholder.Statistics, nil, false},
		{keyholder.Diagnostics, []string{"P1"}, true},
		{keyholder.Diagnostics, []string{"D1"}, false},
		{keyholder.Statuses, []string{"D1"}, false},
	} {
		got, err := f.Undefined(t.Context(), forkInc, northgate, c.kind, c.ids)
		if err != nil || got != c.want {
			t.Errorf("%s of %v: %v, %v; want %v", c.kind, c.ids, got, err, c.want)
		}
	}
}
