package conformance_test

import (
	"testing"

	"github.com/fds-keyholder/keyholder/conformance"
)

// mutants are deployments with one fault each, and the probes that must find
// it. The fault's meaning is where the rig asks for it.
var mutants = []struct {
	fault string
	found []string
}{
	{"web: plain text", []string{"W1.plain"}},
	{"web: certificate for another name", []string{"W1.https", "W2.tls12"}},
	{"web: TLS 1.1", []string{"W2.weak"}},
	{"web: weak suite", []string{"W2.weak"}},

	{"metadata: http address", []string{"W1.https"}},
	{"metadata: another issuer", []string{"W3.metadata", "W4.authenticated"}},
	{"metadata: private key", []string{"W3.metadata"}},

	{"authorization server: no authentication", []string{"W4.wrong"}},
	{"authorization server: trusts any certificate", []string{"W4.copied"}},
	{"authorization server: refuses everybody", []string{"W4.authenticated", "W5.right"}},
	{"authorization server: refuses everybody else", []string{"W4.authenticated"}},
	{"authorization server: open introspection", []string{"W4.introspection"}},
	{"authorization server: any subscription", []string{"W6.token", "W7.token"}},
	{"authorization server: normalises IDs", []string{"W7.token"}},

	{"token: no subscription", []string{"W7.form", "W8.claim"}},
	{"token: two subscriptions", []string{"W8.claim"}},
	{"ids of version 1", []string{"W7.form"}},

	{"api: no signature check", []string{"W3.forged", "W8.tampered"}},
	{"api: alg none", []string{"W3.forged"}},
	{"api: takes the token's own key", []string{"W3.forged"}},
	{"api: takes the public key as secret", []string{"W3.forged"}},
	{"api: no binding check", []string{"W4.unbound"}},
	{"api: refuses everybody", []string{"W5.right"}},
	{"api: refuses B", []string{"W6.own"}},
	{"api: no array", []string{"W5.right"}},
	{"api: no token needed", []string{"W3.forged", "W5.none", "W5.malformed"}},
	{"api: writing needs no token", []string{"W5.none"}},
	{"api: wrong error object", []string{"W5.none", "W5.malformed"}},
	{"api: no expiry check", []string{"W5.expired"}},
	{"api: every owner's data", []string{"W6.disjoint"}},
	{"api: ids reach everybody's data", []string{"W6.ids"}},
	{"api: takes the subscription from the request", []string{"W6.named"}},

	{"webhook: refuses everybody", []string{"W5.webhook"}},
	{"webhook: no token needed", []string{"W5.webhook-none"}},
	{"webhook: no signature check", []string{"W5.webhook-none"}},
	{"webhook: no audience check", []string{"W6.webhook"}},

	{"broker: plain text", []string{"M1.plain"}},
	{"broker: certificate for another name", []string{"M1.tls12"}},
	{"broker: TLS 1.1", []string{"M1.weak"}},
	{"broker: weak suite", []string{"M1.weak"}},
	{"broker: no certificate needed", []string{"M2.none"}},
	{"broker: any certificate", []string{"M2.self", "M3.foreign", "M3.leaf"}},
	{"broker: refuses providers", []string{"M2.right"}},
	{"broker: trusts the CA's name", []string{"M3.foreign"}},
	{"broker: any chain end", []string{"M3.leaf"}},
	{"broker: no revocation check", []string{"M3.revoked"}},
	{"client certificates of another CA", []string{"M3.chain"}},
	{"broker: refuses everybody", []string{"M2.right", "M3.chain", "M5.own", "M6.own", "M8.consumer"}},
	{"broker: refuses B", []string{"M4.two", "M5.own"}},
	{"broker: any client ID", []string{"M5.other", "M5.victim", "W7.mqtt"}},
	{"broker: ignores case of client IDs", []string{"M5.other", "W7.mqtt"}},
	{"broker: takeover before identity", []string{"M5.victim"}},
	{"broker: every filter", []string{"M4.mixed", "M6.foreign", "M8.provider"}},
	{"broker: filter contains the ID", []string{"M6.foreign"}},
	{"broker: bare parent", []string{"M6.foreign"}},
	{"broker: no wildcards", []string{"M6.own"}},
	{"broker: nobody subscribes", []string{"M6.own", "M8.consumer"}},
	{"broker: providers subscribe", []string{"M8.provider"}},
	{"broker: crosses messages", []string{"M4.two", "M4.mixed"}},
	{"broker: loses messages", []string{"M4.two", "M7.provider", "M8.consumer"}},
	{"broker: nobody publishes", []string{"M4.two", "M7.provider"}},
	{"broker: consumers publish", []string{"M7.consumer", "M7.unacknowledged", "M7.retained"}},
	{"broker: wills", []string{"M7.will"}},
	{"broker: any provider", []string{"M7.provider2"}},
}

// Ensure that each fault is found by the probes meant for it, and makes their
// requirements fail.
func TestMutants(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		t.Run(m.fault, func(t *testing.T) {
			t.Parallel()
			report := newRig(t, m.fault).check(m.found...)
			for _, id := range m.found {
				r := result(t, report, id)
				if r.Status != conformance.Failed {
					t.Errorf("%s: %s (%s), want fail", id, r.Status, r.Seen)
				}
				t.Logf("%s: %s", id, r.Seen)
				if r.Status == conformance.Failed && (r.Seen == "" || r.Todo == "") {
					t.Errorf("%s fails without saying what was seen and what to do", id)
				}
			}
			if report.Holds {
				t.Error("the report says that all hold")
			}
			for _, q := range report.Requirements {
				if q.Verdict != conformance.Fails {
					t.Errorf("%s: %s, want fails", q.ID, q.Verdict)
				}
			}
		})
	}
}

// Ensure that no probe is without a deployment that makes it fail: a check
// that cannot fail shows nothing.
func TestEveryProbeCanFail(t *testing.T) {
	found := map[string]bool{}
	for _, m := range mutants {
		for _, id := range m.found {
			found[id] = true
		}
	}
	for _, p := range conformance.Probes() {
		if !found[p.ID] {
			t.Errorf("no mutant makes %s (%s) fail", p.ID, p.Kind)
		}
	}
}
