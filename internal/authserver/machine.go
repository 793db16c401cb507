package authserver

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// maxMachineGrants bounds the grants by client credentials held in memory. At
// five minutes each it serves more than 400 tokens a second; beyond that the
// oldest are forgotten and introspection calls their tokens inactive.
const maxMachineGrants = 1 << 17

// machineGrants holds the grants by client credentials. They have no refresh
// token and end with their one access token, so after a restart nothing of
// them is needed but the audit row; introspection then says inactive.
type machineGrants struct {
	mu    sync.Mutex // guards everything below
	byID  map[keyholder.GrantID]machineGrant
	order []keyholder.GrantID // oldest first, from head on
	head  int
	limit int
}

type machineGrant struct {
	ledger.Grant
	expires time.Time
}

func newMachineGrants(limit int) *machineGrants {
	return &machineGrants{byID: map[keyholder.GrantID]machineGrant{}, limit: limit}
}

// addMachineGrant decides on a new grant by client credentials in the ledger
// and holds it in memory.
func (m *manager) addMachineGrant(ctx context.Context, ex *exchange, g *goidc.Grant) error {
	row := ledger.Grant{ID: keyholder.GrantID(g.ID), Client: g.ClientID, Subscription: subscriptionOf(g), Scope: g.Scopes, Created: m.now()}
	if err := m.ledger.RecordMachineGrant(ctx, row); err != nil {
		return settle(ex, err)
	}
	m.machines.add(row, m.now())
	return nil
}

func (m *machineGrants) add(g ledger.Grant, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.head < len(m.order) {
		oldest, ok := m.byID[m.order[m.head]]
		if ok && now.Before(oldest.expires) && len(m.byID) < m.limit {
			break
		}
		delete(m.byID, m.order[m.head])
		m.head++
	}
	if m.head > len(m.order)/2 {
		m.order = slices.Delete(m.order, 0, m.head)
		m.head = 0
	}
	m.byID[g.ID] = machineGrant{g, now.Add(tokenLifetime)}
	m.order = append(m.order, g.ID)
}

func (m *machineGrants) get(id keyholder.GrantID, now time.Time) (ledger.Grant, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok := m.byID[id]
	return g.Grant, ok && now.Before(g.expires)
}

// end forgets the grants of what a cut ended and returns how many.
func (m *machineGrants) end(e keyholder.Ended) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.byID)
	for id, g := range m.byID {
		if slices.Contains(e.Subscriptions, g.Subscription) || slices.Contains(e.Apps, keyholder.AppID(g.Client)) ||
			slices.Contains(e.Providers, keyholder.ProviderID(g.Client)) {
			delete(m.byID, id)
		}
	}
	return before - len(m.byID)
}
