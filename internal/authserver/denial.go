package authserver

import (
	"context"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// denials writes refusals to the audit trail, within limits.
type denials struct {
	*ledger.Denials
	ledger *ledger.Ledger
}

// record notes a refusal. The party is the authenticated client, or the one
// the request names if the ledger knows it; all others share one limit.
func (d *denials) record(ctx context.Context, ex *exchange, kind keyholder.EventKind, code, reason string) {
	if ex.fault != nil {
		return // nothing was refused, and the ledger may be what does not answer
	}
	actor, subject := ledger.System, ex.client
	if ex.client != "" {
		actor = ex.client
	} else if id := ex.form.Get("client_id"); d.known(id) {
		subject = id
	}
	detail := map[string]string{"endpoint": string(ex.endpoint), "error": code, "reason": reason}
	if ex.grant.ID != "" {
		detail["grant"] = string(ex.grant.ID)
	}
	d.Record(ctx, kind, actor, subject, detail)
}

func (d *denials) known(id string) bool {
	return d.ledger.App(keyholder.AppID(id)).ID != "" || d.ledger.Provider(keyholder.ProviderID(id)).ID != "" ||
		d.ledger.ResourceServer(keyholder.ResourceServerID(id)).ID != ""
}
