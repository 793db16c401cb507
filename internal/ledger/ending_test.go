package ledger_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// endings reads the whole list of endings, two at a time.
func (b *bench) endings() (all []keyholder.Ending, next int64) {
	for {
		list, after, _ := b.Endings(next, 2)
		if len(list) == 0 {
			return all, after
		}
		all, next = append(all, list...), after
	}
}

// Ensure that tokens of all that a cut ended are refused from the cut on and
// after a restart, and that the memory of it goes when none of them can live.
func TestEndingsOfCut(t *testing.T) {
	for _, kind := range []keyholder.TargetKind{keyholder.CutSubscription, keyholder.CutApp, keyholder.CutProvider, keyholder.CutCertificate} {
		t.Run(string(kind), func(t *testing.T) {
			b := open(t)
			p, other := b.onboard("northgate"), b.onboard("st-anna")
			target := keyholder.Target{Kind: kind, ID: map[keyholder.TargetKind]string{keyholder.CutSubscription: string(p.sub.ID), keyholder.CutApp: string(p.app.ID),
				keyholder.CutProvider: string(p.provider.ID), keyholder.CutCertificate: p.certs[keyholder.ForApp].Serial}[kind]}
			tokens := map[string]keyholder.Token{
				"subscription": {Subscription: p.sub.ID}, "grant": {Grant: p.grant}, "app": {ClientID: string(p.app.ID)}, "provider": {ClientID: string(p.provider.ID)},
				"app's certificate": {Bound: keyholder.Proof{Certificate: p.certs[keyholder.ForApp].Thumbprint}}, "provider's certificate": {Bound: keyholder.Proof{Certificate: p.certs[keyholder.ForProvider].Thumbprint}},
			}
			want := map[keyholder.TargetKind][]string{
				keyholder.CutSubscription: {"grant", "subscription"},
				keyholder.CutApp:          {"app", "app's certificate", "grant", "subscription"},
				keyholder.CutProvider:     {"grant", "provider", "provider's certificate", "subscription"},
				keyholder.CutCertificate:  {"app's certificate"},
			}[kind]
			ended := func() (names []string) {
				for name, token := range tokens {
					if b.TokenEnded(token) {
						names = append(names, name)
					}
				}
				slices.Sort(names)
				return names
			}
			if got := ended(); got != nil {
				t.Fatalf("before the cut %v have ended", got)
			}
			_, next, more := b.Endings(0, 100)
			if _, err := b.Cut(t.Context(), ledger.Administrator, target, "test"); err != nil {
				t.Fatal(err)
			}
			select {
			case <-more:
			default:
				t.Error("nobody is told that there is more")
			}
			if list, _, _ := b.Endings(next, 100); len(list) == 0 {
				t.Error("nothing is listed after the position before the cut")
			}
			if d := cmp.Diff(want, ended()); d != "" {
				t.Errorf("ended (-want +got):\n%s", d)
			}
			if b.TokenEnded(keyholder.Token{Grant: other.grant, Subscription: other.sub.ID, ClientID: string(other.app.ID), Bound: keyholder.Proof{Certificate: other.certs[keyholder.ForApp].Thumbprint}}) ||
				b.TokenEnded(keyholder.Token{}) {
				t.Error("another's token has ended")
			}
			list, _ := b.endings()
			b.clock.add(9 * time.Minute)
			b.close()
			b.open()
			if d := cmp.Diff(want, ended()); d != "" {
				t.Errorf("ended after a restart (-want +got):\n%s", d)
			}
			again, _ := b.endings()
			sorted := func(l []keyholder.Ending) []keyholder.Ending {
				return slices.SortedFunc(slices.Values(l), func(a, b keyholder.Ending) int { return strings.Compare(a.ID, b.ID) })
			}
			if d := cmp.Diff(sorted(list), sorted(again)); d != "" {
				t.Errorf("the list after a restart (-before +after):\n%s", d)
			}
			b.clock.add(2 * time.Minute)
			if err := b.EndGrant(t.Context(), ledger.System, other.grant, "test"); err != nil {
				t.Fatal(err)
			}
			if got := ended(); got != nil {
				t.Errorf("after eleven minutes %v are remembered", got)
			}
			if list, _ := b.endings(); len(list) != 1 || list[0].ID != string(other.grant) {
				t.Errorf("after eleven minutes the list holds %v", list)
			}
			b.close()
			b.open()
			if got := ended(); got != nil {
				t.Errorf("after eleven minutes and a restart %v are remembered", got)
			}
		})
	}
}

// Ensure that a reader of the list who is behind gets each ending once and in
// order, whatever has been forgotten meanwhile.
func TestEndingsInOrder(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	end := func() string {
		g := ledger.Grant{ID: must(keyholder.NewID[keyholder.GrantID](nil)), Client: string(p.provider.ID), Created: b.Now()}
		if err := b.EndMachineGrant(t.Context(), g.Client, g, "revoked"); err != nil {
			t.Fatal(err)
		}
		return string(g.ID)
	}
	var want, got []string
	var next int64
	read := func() {
		list, after, _ := b.Endings(next, 3)
		for _, e := range list {
			got = append(got, e.ID)
		}
		next = after
	}
	for i := range 40 {
		want = append(want, end())
		b.clock.add(time.Minute)
		if i%2 == 0 {
			read()
		}
	}
	read()
	if list, _ := b.endings(); len(list) > 11 {
		t.Errorf("%d endings are kept, want those of ten minutes", len(list))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what the reader got (-want +got):\n%s", d)
	}
}

// Ensure that the end of a signing key is never forgotten and always told
// first, and audited once.
func TestEndKey(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	for range 2 {
		if err := b.EndKey(t.Context(), ledger.Administrator, "stolen", "test"); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		if !b.TokenEnded(keyholder.Token{Key: "stolen"}) || b.TokenEnded(keyholder.Token{Key: "sound"}) {
			t.Errorf("%s: the wrong keys have ended", when)
		}
		if list, _, _ := b.Endings(0, 1); len(list) == 0 || list[0].Kind != keyholder.EndedKey || list[0].ID != "stolen" {
			t.Errorf("%s: told first %v", when, list)
		}
	}
	check("at once")
	b.clock.add(365 * 24 * time.Hour)
	if err := b.EndGrant(t.Context(), ledger.System, p.grant, "test"); err != nil { // forgets what is old
		t.Fatal(err)
	}
	check("after a year")
	if list, next := b.endings(); len(list) != 2 {
		t.Errorf("all there is: %v", list)
	} else if more, _, _ := b.Endings(next, 10); len(more) != 0 {
		t.Errorf("told again: %v", more)
	}
	b.close()
	b.open()
	check("after a restart")
	n := 0
	for _, e := range must(b.Audit(t.Context(), 0, 1000)) {
		if e.Kind == keyholder.EventKeyEnded && e.Subject == "stolen" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d audit rows, want 1", n)
	}
}
