package conformance_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"testing"

	keyholder "github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/conformance"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// keyholderRig onboards two owners with an app each at a real Keyholder, and a
// webhook receiver written with the SDK, and describes them to the checker.
// Only the files and the receiver's authority come from the rig.
func keyholderRig(t *testing.T) *rig {
	t.Helper()
	s := keyholdertest.Start(t)
	r := &rig{t: t, dir: t.TempDir(), ca: newAuthority(t, "Receiver CA"), timeout: conformance.DefaultTimeout}
	provider, provider2 := s.AddProvider("Soap Inc"), s.AddProvider("Paper Inc")
	a, b := s.AddOwner("northgate"), s.AddOwner("st-anna")
	app1, secret := s.AddApp("App 1", keyholder.AuthSecret, "")
	app2, _ := s.AddApp("App 2", keyholder.AuthCertificate, "")
	subA := s.AddSubscription(s.AddAgreement(provider.ID, a.ID), app1.ID, "")
	subB := s.AddSubscription(s.AddAgreement(provider.ID, b.ID), app2.ID, "")
	server, serverSecret := s.AddResourceServer("Checker")

	pair := func(name string, use keyholder.CertificateUse, subject string) *conformance.KeyPair {
		certificate, key := s.CertificatePEM(use, subject)
		return &conformance.KeyPair{Certificate: r.save(name+".pem", certificate), Key: r.save(name+".key", key)}
	}
	revoked := pair("revoked", keyholder.ForSubscription, string(subA))
	loaded, err := tls.LoadX509KeyPair(revoked.Certificate, revoked.Key)
	if err != nil {
		t.Fatal(err)
	}
	s.Cut(keyholder.CutCertificate, loaded.Leaf.SerialNumber.Text(16))

	providerPair, provider2Pair := pair("provider", keyholder.ForProvider, string(provider.ID)), pair("provider2", keyholder.ForProvider, string(provider2.ID))
	appPair := pair("app2", keyholder.ForApp, string(app2.ID))
	ingest(t, s, provider.ID, "northgate", `{"device_id":"N1","generic":{}}`, `{"device_id":"N2","generic":{}}`)
	ingest(t, s, provider.ID, "st-anna", `{"device_id":"S1","generic":{}}`)

	machine := func(id string) *conformance.Credentials {
		return &conformance.Credentials{ClientID: id, Scope: keyholder.ScopeRead, SubscriptionParameter: "subscription_id"}
	}
	oauthA, oauthB, push := machine(string(app1.ID)), machine(string(app2.ID)), machine(string(provider.ID))
	oauthA.Secret = conformance.Secret(secret)
	oauthB.Certificate, oauthB.Key = appPair.Certificate, appPair.Key
	push.Certificate, push.Key, push.Scope = providerPair.Certificate, providerPair.Key, keyholder.ScopePush
	r.Target = conformance.Target{
		Issuer: s.Issuer, API: s.API, MQTT: s.MQTT,
		CA: r.save("ca.pem", append([]byte(s.RootPEM()), r.ca.pem()...)), ClientCA: r.save("client-ca.pem", []byte(s.RootPEM())),
		A:              &conformance.Consumer{SubscriptionID: string(subA), MQTT: pair("a", keyholder.ForSubscription, string(subA)), OAuth: oauthA},
		B:              &conformance.Consumer{SubscriptionID: string(subB), MQTT: pair("b", keyholder.ForSubscription, string(subB)), OAuth: oauthB},
		Provider:       &conformance.Publisher{ID: string(provider.ID), Certificate: providerPair.Certificate, Key: providerPair.Key},
		Provider2:      &conformance.Publisher{ID: string(provider2.ID), Certificate: provider2Pair.Certificate, Key: provider2Pair.Key},
		Revoked:        revoked,
		ResourceServer: &conformance.Credentials{ClientID: string(server.ID), Secret: conformance.Secret(serverSecret)},
		Webhook:        &conformance.Webhook{URL: r.receiver(s, subA), SubscriptionID: string(subA), OAuth: push},
	}
	return r
}

// ingest stores specifications and statuses for an owner.
func ingest(t *testing.T, s *keyholdertest.Server, provider keyholder.ProviderID, owner string, items ...string) {
	t.Helper()
	certificate := s.Certificate(keyholder.ForProvider, string(provider))
	p, err := client.NewProvider(client.Config{Issuer: s.Issuer, API: s.API, ClientID: string(provider), Certificate: &certificate, RootCAs: s.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	var list []json.RawMessage
	for _, i := range items {
		list = append(list, json.RawMessage(i))
	}
	for _, kind := range []keyholder.Kind{keyholder.Specifications, keyholder.Statuses} {
		if _, err := p.Ingest(t.Context(), owner, kind, list); err != nil {
			t.Fatal(err)
		}
	}
}

// receiver serves an app's webhook and returns its address.
func (r *rig) receiver(s *keyholdertest.Server, sub keyholder.SubscriptionID) string {
	r.t.Helper()
	g, err := guard.New(guard.Config{Issuer: s.Issuer, AudienceFor: keyholder.WebhookAudience, Keys: guard.FetchKeys(s.Issuer, s.HTTP())})
	if err != nil {
		r.t.Fatal(err)
	}
	h, err := client.NewReceiver(client.ReceiverConfig{
		Guard: func(id keyholder.SubscriptionID) *guard.Guard {
			if id != sub {
				return nil
			}
			return g
		},
		Deliver: func(context.Context, client.Push) error { return nil },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	c := keyholder.TLSStrict.Config()
	c.Certificates = []tls.Certificate{r.ca.issue(r.t, "127.0.0.1")}
	c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, s.Roots()
	r.serve(tls.NewListener(l, c), h)
	return "https://" + l.Addr().String() + "/push"
}

// Ensure that a real Keyholder, and a webhook written with its SDK, keep all
// sixteen requirements, with no probe left out but the one for which a token
// would have to get old.
func TestKeyholder(t *testing.T) {
	t.Parallel()
	report := keyholderRig(t).check()
	if !report.Holds {
		t.Errorf("not all hold:\n%s", table(t, report))
	}
	for _, q := range report.Requirements {
		for _, p := range q.Probes {
			want := conformance.Passed
			if p.ID == "W5.expired" {
				want = conformance.Skipped
			}
			if p.Status != want {
				t.Errorf("%s: %s (%s), want %s", p.ID, p.Status, p.Seen, want)
			}
		}
	}
}

// Ensure that after a cut the checker sees that the subscription has no
// rights any more: what must work does not.
func TestKeyholderAfterCut(t *testing.T) {
	t.Parallel()
	s := keyholdertest.Start(t)
	r := &rig{t: t, dir: t.TempDir(), timeout: conformance.DefaultTimeout}
	provider, owner := s.AddProvider("Soap Inc"), s.AddOwner("northgate")
	app, secret := s.AddApp("App", keyholder.AuthSecret, "")
	sub := s.AddSubscription(s.AddAgreement(provider.ID, owner.ID), app.ID, "")
	certificate, key := s.CertificatePEM(keyholder.ForSubscription, string(sub))
	r.Target = conformance.Target{
		Issuer: s.Issuer, API: s.API, MQTT: s.MQTT, CA: r.save("ca.pem", []byte(s.RootPEM())),
		A: &conformance.Consumer{SubscriptionID: string(sub), MQTT: &conformance.KeyPair{Certificate: r.save("a.pem", certificate), Key: r.save("a.key", key)},
			OAuth: &conformance.Credentials{ClientID: string(app.ID), Secret: conformance.Secret(secret), Scope: keyholder.ScopeRead, SubscriptionParameter: "subscription_id"}},
	}
	probes := []string{"W4.authenticated", "M6.own"}
	for _, id := range probes {
		if got := result(t, r.check(id), id); got.Status != conformance.Passed {
			t.Fatalf("before the cut, %s: %s (%s)", id, got.Status, got.Seen)
		}
	}
	s.Cut(keyholder.CutSubscription, string(sub))
	for _, id := range probes {
		if got := result(t, r.check(id), id); got.Status != conformance.Failed {
			t.Errorf("after the cut, %s: %s (%s)", id, got.Status, got.Seen)
		}
	}
}
