package ledger_test

import (
	"crypto/sha256"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

func hashed(s string) ledger.Digest { return sha256.Sum256([]byte(s)) }

// newGrant stores a grant of the parties with a code and a sealed token.
func (b *bench) newGrant(p parties, code string) ledger.Grant {
	b.t.Helper()
	g := ledger.Grant{ID: must(keyholder.NewID[keyholder.GrantID](nil)), Client: string(p.app.ID), Subscription: p.sub.ID, Scope: keyholder.ScopeRead,
		Body: []byte("{}"), Code: hashed(code), Sealed: []byte("sealed")}
	if err := b.CreateGrant(b.t.Context(), string(p.user.ID), g); err != nil {
		b.t.Fatal(err)
	}
	stored := must(b.GrantByCode(b.t.Context(), hashed(code)))
	stored.Scope = keyholder.ScopeRead
	return stored
}

// Ensure that a grant goes from code to refresh token to refresh token, that
// each is found by what it is found by, and that a used one is told apart.
func TestGrantLife(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx := t.Context()
	g := b.newGrant(p, "code")
	if g.Version != 1 || string(g.Sealed) != "sealed" || g.Refresh != (ledger.Digest{}) || !g.Created.Equal(b.Now()) || !g.Ended.IsZero() {
		t.Errorf("stored as %+v", g)
	}
	g.Refresh, g.Body = hashed("first"), []byte("redeemed")
	if err := b.RedeemGrant(ctx, g); err != nil {
		t.Fatal(err)
	}
	redeemed := must(b.GrantByCode(ctx, hashed("code"))) // the tombstone stays
	if redeemed.Sealed != nil || string(redeemed.Body) != "redeemed" || redeemed.Version != 2 {
		t.Errorf("redeemed as %+v", redeemed)
	}
	redeemed.Scope, redeemed.Refresh = keyholder.ScopeRead, hashed("second")
	if err := b.RefreshGrant(ctx, redeemed); err != nil {
		t.Fatal(err)
	}
	for token, used := range map[string]bool{"first": true, "second": false} {
		got, wasUsed, err := b.GrantByRefreshToken(ctx, hashed(token))
		if err != nil || got.ID != g.ID || !wasUsed.IsZero() != used {
			t.Errorf("%s: grant %s, used %v, %v; want used %v", token, got.ID, wasUsed, err, used)
		}
	}
	for name, err := range map[string]error{
		"unknown token": dropTwo(b.GrantByRefreshToken(ctx, hashed("third"))),
		"unknown code":  drop(b.GrantByCode(ctx, hashed("third"))),
		"unknown grant": drop(b.Grant(ctx, "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30")),
	} {
		if keyholder.CodeOf(err) != keyholder.NotFound {
			t.Errorf("%s: got %v, want not found", name, err)
		}
	}
	// Long after, a used token is merely unknown, and its row is gone.
	b.clock.add(8 * 24 * time.Hour)
	again := must(b.Grant(ctx, g.ID))
	again.Scope, again.Refresh = keyholder.ScopeRead, hashed("fourth")
	if err := b.RefreshGrant(ctx, again); err != nil {
		t.Fatal(err)
	}
	if err := dropTwo(b.GrantByRefreshToken(ctx, hashed("first"))); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("a token used long ago: %v", err)
	}
	if _, used, err := b.GrantByRefreshToken(ctx, hashed("second")); err != nil || used.IsZero() {
		t.Errorf("a token used just now: used %v, %v", used, err)
	}
}

func drop[T any](_ T, err error) error            { return err }
func dropTwo[T, U any](_ T, _ U, err error) error { return err }

// Ensure that of many who change the same version of a grant exactly one
// succeeds, for redemption and for refresh, and the rest are told Conflict.
func TestGrantChangeIsCompareAndSwap(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	const n = 64
	for round := range 5 {
		g := b.newGrant(p, "code "+string(rune('a'+round)))
		for step, change := range []func(ledger.Grant) error{
			func(g ledger.Grant) error { return b.RedeemGrant(t.Context(), g) },
			func(g ledger.Grant) error { return b.RefreshGrant(t.Context(), g) },
		} {
			var wg sync.WaitGroup
			errs := make(chan error, n)
			for i := range n {
				wg.Go(func() {
					mine := g
					mine.Refresh = hashed(string(g.ID) + string(rune('A'+i)) + string(rune('0'+step)))
					errs <- change(mine)
				})
			}
			wg.Wait()
			won := 0
			for range n {
				switch err := <-errs; keyholder.CodeOf(err) {
				case keyholder.Conflict:
				case "":
					if err != nil {
						t.Fatal(err)
					}
					won++
				default:
					t.Fatal(err)
				}
			}
			if won != 1 {
				t.Fatalf("step %d: %d of %d won, want 1", step, won, n)
			}
			g = must(b.Grant(t.Context(), g.ID))
			g.Scope = keyholder.ScopeRead
		}
	}
}

// Ensure that a refresh that keeps its token changes the grant's record only,
// while that very token is in force, and that what is sealed stays.
func TestRenewGrant(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx := t.Context()
	g := b.newGrant(p, "code")
	g.Refresh = hashed("first")
	if err := b.RedeemGrant(ctx, g); err != nil {
		t.Fatal(err)
	}
	g.Version, g.Refresh, g.Sealed = 2, hashed("second"), []byte("under the first")
	if err := b.RefreshGrant(ctx, g); err != nil {
		t.Fatal(err)
	}
	g.Version, g.Sealed, g.Body = 1, nil, []byte("renewed")
	if err := b.RenewGrant(ctx, g); err != nil {
		t.Fatal(err)
	}
	got, used, err := b.GrantByRefreshToken(ctx, hashed("second"))
	if err != nil || !used.IsZero() || string(got.Body) != "renewed" || string(got.Sealed) != "under the first" || got.Version != 4 {
		t.Errorf("got %+v, used %v, %v", got, used, err)
	}
	if _, used, err := b.GrantByRefreshToken(ctx, hashed("first")); err != nil || !used.Equal(b.Now()) {
		t.Errorf("the first is used since %v, %v; want %v", used, err, b.Now())
	}
	g.Refresh = hashed("first")
	if err := b.RenewGrant(ctx, g); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("renewing with a used token: %v", err)
	}
	if err := b.EndGrant(ctx, ledger.System, g.ID, "test"); err != nil {
		t.Fatal(err)
	}
	g.Refresh = hashed("second")
	if err := b.RenewGrant(ctx, g); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("renewing an ended grant: %v", err)
	}
}

// Ensure that nothing is stored for a right that does not hold, and that an
// end wins over every change made from an earlier reading.
func TestGrantNeedsStanding(t *testing.T) {
	b := open(t)
	p, other := b.onboard("northgate"), b.onboard("st-anna")
	ctx := t.Context()
	fresh := func(client, scope string, sub keyholder.SubscriptionID) ledger.Grant {
		return ledger.Grant{ID: must(keyholder.NewID[keyholder.GrantID](nil)), Client: client, Subscription: sub, Scope: scope, Body: []byte("{}")}
	}
	for name, g := range map[string]ledger.Grant{
		"another's subscription": fresh(string(p.app.ID), keyholder.ScopeRead, other.sub.ID),
		"no subscription":        fresh(string(p.app.ID), keyholder.ScopeRead, ""),
		"unknown client":         fresh("6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30", keyholder.ScopeRead, p.sub.ID),
		"provider by code":       fresh(string(p.provider.ID), keyholder.ScopePush, p.sub.ID),
		"scope of a provider":    fresh(string(p.app.ID), keyholder.ScopePush, p.sub.ID),
	} {
		if err := b.CreateGrant(ctx, "user", g); keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("%s: got %v, want denied", name, err)
		}
		if err := drop(b.Grant(ctx, g.ID)); keyholder.CodeOf(err) != keyholder.NotFound {
			t.Errorf("%s: something was stored (%v)", name, err)
		}
	}
	// The apps here have no client credentials; a provider needs none negotiated.
	if err := b.RecordMachineGrant(ctx, fresh(string(p.app.ID), keyholder.ScopeRead, p.sub.ID)); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("a grant that was not negotiated: %v", err)
	}
	if err := b.RecordMachineGrant(ctx, fresh(string(p.provider.ID), keyholder.ScopeIngest, "")); err != nil {
		t.Errorf("ingestion: %v", err)
	}

	g := b.newGrant(p, "code")
	if err := b.EndGrant(ctx, ledger.System, g.ID, "test"); err != nil {
		t.Fatal(err)
	}
	g.Refresh = hashed("token")
	if err := b.RedeemGrant(ctx, g); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("redeeming an ended grant: %v", err)
	}
	g.Version++ // as if it had been read after its end
	if err := b.RefreshGrant(ctx, g); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("refreshing an ended grant: %v", err)
	}
	cut := b.newGrant(p, "other code")
	must(b.Cut(ctx, ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(p.sub.ID)}, "over"))
	if err := b.RedeemGrant(ctx, cut); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("redeeming after the cut: %v", err)
	}
	if err := dropTwo(b.GrantByRefreshToken(ctx, hashed("token"))); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("a refused change left its refresh token: %v", err)
	}
}

// Ensure that grants without a future are swept away in time, with their used
// tokens, and living ones are not.
func TestGrantsAreSwept(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx := t.Context()
	give := func(name string, refreshes int) ledger.Grant {
		g := b.newGrant(p, name)
		for i := range refreshes {
			g.Scope, g.Refresh = keyholder.ScopeRead, hashed(name+string(rune('0'+i)))
			change := b.RefreshGrant
			if i == 0 {
				change = b.RedeemGrant
			}
			if err := change(ctx, g); err != nil {
				t.Fatal(err)
			}
			g.Version++
		}
		return g
	}
	living, unredeemed, ended := give("living", 2), give("unredeemed", 0), give("ended", 3)
	if err := b.EndGrant(ctx, ledger.System, ended.ID, "test"); err != nil {
		t.Fatal(err)
	}
	b.clock.add(6 * 24 * time.Hour)
	give("in between", 1)
	for name, g := range map[string]ledger.Grant{"unredeemed": unredeemed, "ended": ended} {
		if err := drop(b.Grant(ctx, g.ID)); err != nil {
			t.Errorf("after six days the %s grant is gone: %v", name, err)
		}
	}
	b.clock.add(2 * 24 * time.Hour)
	give("new", 1)
	for name, g := range map[string]ledger.Grant{"unredeemed": unredeemed, "ended": ended} {
		if err := drop(b.Grant(ctx, g.ID)); keyholder.CodeOf(err) != keyholder.NotFound {
			t.Errorf("after eight days the %s grant is there: %v", name, err)
		}
	}
	if _, used, err := b.GrantByRefreshToken(ctx, hashed("living0")); err != nil || used.IsZero() {
		t.Errorf("a used token of a living grant: used %v, %v", used, err)
	}
	if got := must(b.Grant(ctx, living.ID)); !got.Ended.IsZero() {
		t.Errorf("the living grant has ended: %+v", got)
	}
	var rows int
	if err := b.store.Read().QueryRow("SELECT count(*) FROM used_refresh_tokens WHERE grant_id = ?", ended.ID).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("%d used tokens of the swept grant are left, %v", rows, err)
	}
}

// Ensure that the end of a grant by client credentials is remembered, also
// after a restart, and audited once.
func TestEndMachineGrant(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	g := ledger.Grant{ID: must(keyholder.NewID[keyholder.GrantID](nil)), Client: string(p.provider.ID), Created: b.Now()}
	for range 2 {
		if err := b.EndMachineGrant(t.Context(), g.Client, g, "revoked"); err != nil {
			t.Fatal(err)
		}
	}
	b.close()
	b.open()
	if !b.GrantEnded(g.ID) {
		t.Error("the end was forgotten")
	}
	var ends []keyholder.Event
	for _, e := range must(b.Audit(t.Context(), 0, 1000)) {
		if e.Kind == keyholder.EventGrantEnded {
			ends = append(ends, e)
		}
	}
	if len(ends) != 1 || ends[0].Subject != string(g.ID) || ends[0].Actor != g.Client {
		t.Errorf("audited as %+v, want once", ends)
	}
}

// Ensure that a session changes only while it is pending and only from its
// newest version, ends by time, and can be forgotten by client.
func TestSession(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	s := ledger.Session{ID: hashed("session"), Client: "app", Body: []byte("one"), Pending: true, Expires: b.Now().Add(10 * time.Minute)}
	if err := b.SaveSession(ctx, s); err != nil {
		t.Fatal(err)
	}
	got := must(b.PendingSession(ctx, s.ID))
	s.Version = 1
	if diff := cmp.Diff(s, got); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	stale := got
	got.Body = []byte("two")
	if err := b.SaveSession(ctx, got); err != nil {
		t.Fatal(err)
	}
	if err := b.SaveSession(ctx, stale); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("saving a stale session: %v", err)
	}
	got = must(b.PendingSession(ctx, s.ID))
	got.Pending = false
	if err := b.SaveSession(ctx, got); err != nil {
		t.Fatal(err)
	}
	if err := drop(b.PendingSession(ctx, s.ID)); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("a finished session: %v", err)
	}
	got.Version, got.Pending = 3, true
	if err := b.SaveSession(ctx, got); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("reviving a finished session: %v", err)
	}

	for name, client := range map[string]string{"a": "app", "b": "app", "c": "other"} {
		if err := b.SaveSession(ctx, ledger.Session{ID: hashed(name), Client: client, Body: []byte("x"), Pending: true, Expires: b.Now().Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := b.ForgetSessions(ctx, "app"); n != 2 || err != nil {
		t.Errorf("forgot %d, %v; want 2", n, err)
	}
	must(b.PendingSession(ctx, hashed("c")))
	b.clock.add(time.Minute)
	if err := drop(b.PendingSession(ctx, hashed("c"))); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("an expired session: %v", err)
	}
	// The next one sweeps what has expired.
	b.clock.add(time.Hour)
	if err := b.SaveSession(ctx, ledger.Session{ID: hashed("d"), Client: "app", Body: []byte("x"), Pending: true, Expires: b.Now().Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	var rows int
	if err := b.store.Read().QueryRow("SELECT count(*) FROM sessions").Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d rows after the sweep, %v; want 1", rows, err)
	}
}

// Ensure that an identifier of an assertion works once, also of many at once
// and after a restart, and is forgotten after its time.
func TestConsumeJTI(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	until := b.Now().Add(15 * time.Minute)
	const n = 32
	errs := make(chan error, n)
	for range n {
		go func() { errs <- b.ConsumeJTI(ctx, hashed("jti"), until) }()
	}
	won := 0
	for range n {
		if err := <-errs; err == nil {
			won++
		} else if keyholder.CodeOf(err) != keyholder.Conflict {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d could use it, want 1", won, n)
	}
	b.close()
	b.open()
	if err := b.ConsumeJTI(ctx, hashed("jti"), until); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("after a restart: %v", err)
	}
	b.clock.add(16 * time.Minute)
	if err := b.ConsumeJTI(ctx, hashed("another"), b.Now().Add(time.Minute)); err != nil {
		t.Error(err)
	}
	var rows int
	if err := b.store.Read().QueryRow("SELECT count(*) FROM jtis").Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d rows kept, %v; want 1", rows, err)
	}
}
