package external

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// unfinished is what is left to do for a client whose right has ended.
type unfinished struct {
	receipt keyholder.ReceiptID // of the cut; empty: the right ended by itself
	failed  bool                // the last try failed; otherwise it is done once more, to be sure
}

// End is the plane of a cut: it closes the connections of everything that was
// cut and removes the queues of the clients that will not come back. What
// could not be ended in time is in the error, and so in the receipt, and is
// tried again until it is done.
func (b *Broker) End(ctx context.Context, c keyholder.Cut) (int, error) {
	clients := b.door.clientsOf(c)
	if len(clients) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, cutLimit)
	defer cancel()
	n, err := b.end(ctx, clients)
	b.mu.Lock()
	for _, id := range clients {
		// A connection that was permitted just before the cut may open just
		// after it: everything is ended a second time.
		b.undone[id] = unfinished{receipt: c.Receipt, failed: err != nil}
	}
	b.mu.Unlock()
	if err == nil {
		return n, nil
	}
	why := "not ended at the broker " + b.name + ", tried again until it is: " + reason(err)
	b.record(context.WithoutCancel(ctx), keyholder.EventCutUnfinished, c.Receipt, clients, why)
	return n, &keyholder.Error{Code: keyholder.Unavailable, Detail: why, Err: err}
}

// clientsOf lists the client IDs that a cut concerns: of subscriptions and
// providers, and of the certificates' subjects.
func (d *Door) clientsOf(c keyholder.Cut) []string {
	clients := map[string]bool{}
	for _, id := range c.Ended.Subscriptions {
		clients[string(id)] = true
	}
	for _, id := range c.Ended.Providers {
		clients[string(id)] = true
	}
	if c.Target.Kind == keyholder.CutCertificate {
		for _, cert := range d.ledger.ListRevoked() {
			if cert.Use != keyholder.ForApp && slices.Contains(c.Ended.Certificates, cert.Serial) {
				clients[cert.Subject] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(clients))
}

// end ends clients at the broker. Only those that the ledger gives no right to
// lose what is queued.
func (b *Broker) end(ctx context.Context, clients []string) (int, error) {
	gone := map[string]bool{}
	for _, id := range clients {
		if !b.door.remains(id) {
			gone[id] = true
		}
	}
	return b.driver.end(ctx, clients, gone)
}

// remains says whether a client can come back, perhaps with another
// certificate.
func (d *Door) remains(id string) bool {
	p := d.ledger.Provider(keyholder.ProviderID(id))
	return d.ledger.Standing(keyholder.SubscriptionID(id)).Holds(d.now()).Allowed || p.ID != "" && p.Cut.IsZero()
}

// retry does once more what has been left.
func (b *Broker) retry(ctx context.Context) {
	b.mu.Lock()
	todo := maps.Clone(b.undone)
	b.mu.Unlock()
	if len(todo) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	clients := slices.Sorted(maps.Keys(todo))
	if _, err := b.end(ctx, clients); errors.Is(err, context.Canceled) {
		return // Keyholder stops
	} else if err != nil {
		b.door.log.Error("an external broker did not end what was cut", "broker", b.name, "clients", len(clients), "error", reason(err))
		for id, u := range todo {
			u.failed = true
			todo[id] = u
		}
		b.settle(todo, false)
		return
	}
	finished := map[keyholder.ReceiptID][]string{}
	for _, id := range clients {
		if todo[id].failed {
			finished[todo[id].receipt] = append(finished[todo[id].receipt], id)
		}
	}
	b.settle(todo, true)
	for receipt, ids := range finished {
		b.record(ctx, keyholder.EventCutFinished, receipt, ids, "")
	}
}

// settle notes the outcome of a try, but for clients that were cut again in
// the meantime.
func (b *Broker) settle(todo map[string]unfinished, done bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, u := range todo {
		switch {
		case b.undone[id].receipt != u.receipt:
		case done:
			delete(b.undone, id)
		default:
			b.undone[id] = u
		}
	}
}

// sweep ends the clients at the broker whose right has ended, by whatever way.
func (b *Broker) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	present, err := b.driver.clients(ctx)
	if err != nil {
		b.door.log.Error("an external broker does not say who is connected", "broker", b.name, "error", reason(err))
		return
	}
	var ended []string
	for id, connected := range present {
		if _, err := keyholder.ParseID[string](id); err != nil {
			continue // nobody of ours
		}
		if !b.door.remains(id) || connected && !b.door.peer(id).Permit(b.door.now()).Allowed {
			ended = append(ended, id)
		}
	}
	if len(ended) == 0 {
		return
	}
	b.mu.Lock()
	for _, id := range ended {
		if _, known := b.undone[id]; !known {
			b.undone[id] = unfinished{failed: true}
		}
	}
	b.mu.Unlock()
	b.retry(ctx)
}

// record puts the fate of a cut on the audit trail, for each client.
func (b *Broker) record(ctx context.Context, kind keyholder.EventKind, receipt keyholder.ReceiptID, clients []string, why string) {
	for _, id := range clients {
		detail := map[string]string{"broker": b.name}
		if receipt != "" {
			detail["receipt"] = string(receipt)
		}
		if why != "" {
			detail["reason"] = why
		}
		if err := b.door.ledger.Record(ctx, kind, ledger.System, id, detail); err != nil {
			b.door.log.Error("the fate of a cut could not be recorded", "broker", b.name, "error", err)
			return
		}
	}
}
