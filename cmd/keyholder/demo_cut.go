package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/conformance"
	"github.com/fds-keyholder/keyholder/internal/console"
)

// target describes the fabric to the checker, as a stranger would.
func (d *demo) target(ctx context.Context) (conformance.Target, error) {
	a, b := d.subs["A"], d.subs["B"]
	revokedCertificate, revokedKey := d.dir+"/revoked-consumer-A.pem", d.dir+"/revoked-consumer-A.key"
	expired, err := d.expiredToken(ctx, a)
	if err != nil {
		return conformance.Target{}, err
	}
	server, err := d.fabric.admin.AddResourceServer(ctx, console.NewResourceServer{Name: "Checker"})
	if err != nil {
		return conformance.Target{}, err
	}
	roots, err := d.bothRoots()
	if err != nil {
		return conformance.Target{}, err
	}
	consumer := func(s *demoSubscription) *conformance.Consumer {
		return &conformance.Consumer{SubscriptionID: string(s.id), MQTT: &conformance.KeyPair{Certificate: s.certFile, Key: s.keyFile},
			OAuth: &conformance.Credentials{ClientID: string(s.app.ID), Secret: conformance.Secret(s.app.secret),
				Certificate: s.app.certFile, Key: s.app.keyFile, Scope: keyholder.ScopeRead, SubscriptionParameter: "subscription_id"}}
	}
	publisher := func(p *demoProvider) *conformance.Publisher {
		return &conformance.Publisher{ID: string(p.ID), Certificate: p.certFile, Key: p.keyFile}
	}
	return conformance.Target{
		Name: "keyholder demo", Issuer: d.fabric.daemon.Issuer, API: d.fabric.daemon.API, MQTT: d.fabric.daemon.MQTT, CA: roots, ClientCA: d.fabric.caFile,
		A: consumer(a), B: consumer(b), Provider: publisher(d.provider), Provider2: publisher(d.provider2),
		Revoked:      &conformance.KeyPair{Certificate: revokedCertificate, Key: revokedKey},
		ExpiredToken: conformance.Secret(expired),
		Webhook: &conformance.Webhook{URL: d.receiver.url, Issuer: d.appSide.daemon.Issuer, SubscriptionID: string(d.subs["C"].id),
			OAuth: &conformance.Credentials{ClientID: d.receiver.provider, Secret: conformance.Secret(d.receiver.secret), Scope: keyholder.ScopePush, SubscriptionParameter: "subscription_id"}},
		ResourceServer: &conformance.Credentials{ClientID: string(server.ResourceServer.ID), Secret: conformance.Secret(server.Secret)},
	}, nil
}

// bothRoots is a file with the authorities of the provider and of the app.
func (d *demo) bothRoots() (string, error) {
	var both []byte
	for _, f := range []*fabric{d.fabric, d.appSide} {
		root, err := os.ReadFile(f.caFile)
		if err != nil {
			return "", err
		}
		both = append(both, root...)
	}
	return d.write("roots.pem", both)
}

// checkRequirements runs the black-box checker; its table ends the story.
func (d *demo) checkRequirements(ctx context.Context) error {
	d.story.chapter("Check: the black-box checker tests all of FDS 2.6.4")
	t, err := d.target(ctx)
	if err != nil {
		return err
	}
	total, done := len(conformance.Probes()), 0
	d.report, err = conformance.Run(ctx, t, conformance.Options{Progress: func(conformance.Result) {
		done++
		d.story.count("probes", done, total)
	}})
	if err != nil {
		return err
	}
	held := 0
	for _, r := range d.report.Requirements {
		if r.Verdict == conformance.Holds {
			held++
		}
	}
	d.story.check(d.report.Holds && held == 16, fmt.Sprintf("%d probes", done), fmt.Sprintf("%d of 16 requirements hold", held))
	return nil
}

// cut ends northgate's agreement while everything of it is live: an MQTT
// session, a webhook with a backlog, tokens, certificates.
func (d *demo) cut(ctx context.Context) error {
	d.story.chapter("Cut: northgate's agreement ends, everywhere")
	if err := d.connect(ctx, d.apps[0], "A"); err != nil {
		return err
	}
	if err := d.connect(ctx, d.apps[1], "B"); err != nil {
		return err
	}
	a, c := d.subs["A"], d.subs["C"]
	d.receiver.broken.Store(true) // so that messages are queued when the cut comes
	sentA, _ := a.tally.counts()
	backlog := d.facility.lastStatuses(northgate)[:10]
	if _, err := d.provider.backend.Ingest(ctx, northgate, keyholder.Statuses, backlog); err != nil {
		return err
	}
	a.tally.send(backlog...)
	a.tally.wait(patience)
	_, live := a.tally.counts()
	d.story.check(live == sentA+len(backlog), "before: App 1 receives live over MQTT", fmt.Sprintf("%d messages; as many wait for App 2's broken webhook", live-sentA))
	token, err := a.session.Token(ctx)
	if err != nil {
		return err
	}

	began := time.Now()
	receipt, err := d.fabric.admin.Cut(ctx, console.NewCut{Kind: string(keyholder.CutAgreement), ID: string(d.owners[northgate].agreement), Reason: "demo: contract ended"})
	if err != nil {
		return err
	}
	took := time.Since(began)
	e := receipt.Ended
	d.story.check(took < time.Second && len(e.Subscriptions) == 2 && e.Messages >= len(backlog) && len(e.Webhooks) == 1 && receipt.Signed != "",
		fmt.Sprintf("one transaction, %d ms", took.Milliseconds()),
		fmt.Sprintf("%d subscriptions, %d certificates, %d grants, %d webhook, %d queued messages", len(e.Subscriptions), len(e.Certificates), len(e.Grants), len(e.Webhooks), e.Messages))
	for _, p := range receipt.Planes {
		seen := fmt.Sprintf("%6.2f ms, %d live things ended", float64(p.Took.Microseconds())/1000, p.Ended)
		if p.Failed != "" {
			seen = p.Failed
		}
		d.story.check(p.Failed == "" && p.Took < time.Second, "plane "+p.Plane, seen)
	}
	return d.afterCut(ctx, token, c)
}

// afterCut tries every door with the credentials of the cut agreement, and
// looks that the other owner noticed nothing.
func (d *demo) afterCut(ctx context.Context, token string, c *demoSubscription) error {
	a, b := d.subs["A"], d.subs["B"]
	status, _, err := d.get(ctx, d.fabric.daemon.API+"/fds/v2/statuses", token)
	if err != nil {
		return err
	}
	d.story.check(status == http.StatusUnauthorized, "the unexpired access token", fmt.Sprintf("Web API answers %d", status))
	_, err = d.apps[0].client.ClientCredentials(ctx, a.id)
	d.story.check(err != nil, "a new token", errText(err))
	_, seen, err := d.refusedConnect(ctx, d.fabric.tls(a.certificate), &paho.Connect{ClientID: string(a.id)})
	if err != nil {
		return err
	}
	d.story.check(seen != "connected", "the certificate at the broker", seen)
	held, seen, err := d.refusedPublish(d.provider.certificate, string(d.provider.ID), keyholder.Topic{Subscription: a.id, Level: "events"}.String())(ctx)
	if err != nil {
		return err
	}
	d.story.check(held, "the provider publishes into it", seen)
	_, err = d.provider.backend.Ingest(ctx, northgate, keyholder.Statuses, d.facility.lastStatuses(northgate)[:1])
	d.story.check(err != nil, "the provider ingests for it", errText(err))

	d.receiver.broken.Store(false)
	last := []json.RawMessage{json.RawMessage(fmt.Sprintf(`{"device_id":%q,"generic":{"device_type":"dispenser","date_time":"2026-03-05T06:00:00Z"}}`,
		deviceOf(d.facility.items[stAnna][keyholder.Specifications][0])))}
	b.tally.send(last...)
	if _, err := d.provider.backend.Ingest(ctx, stAnna, keyholder.Statuses, last); err != nil {
		return err
	}
	b.tally.wait(patience)
	sent, received := b.tally.counts()
	d.story.check(sent == received, "st-anna, who was not cut, receives on", fmt.Sprintf("sent %d = received %d", sent, received))
	// Longer than the pause before the next try that the cut has called off.
	const watch = 3 * time.Second
	d.story.check(c.tally.quiet(watch), "App 2's webhook, mended, gets nothing more", fmt.Sprintf("watched for %s", watch))
	state, err := d.fabric.admin.VerifyAudit(ctx)
	if err != nil {
		return err
	}
	d.story.check(state.Rows > 0, "audit trail", fmt.Sprintf("%d rows, hash chain whole", state.Rows))
	return nil
}

func errText(err error) string {
	if err == nil {
		return "accepted"
	}
	return err.Error()
}
