package keyholdertest_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// Ensure that a whole server lives on PostgreSQL as on SQLite: an owner's user
// signs in, the app reads and receives by MQTT, all of it outlives a restart,
// and a cut ends it everywhere within a second.
func TestServerOnPostgres(t *testing.T) {
	s := keyholdertest.Start(t, keyholdertest.OnPostgres(storetest.NewDSN(t, storetest.Postgres(t))))
	provider, owner := s.AddProvider("Soap Inc"), s.AddOwner("northgate")
	password := s.AddUser(owner.ID, "facility")
	s.AddAgreement(provider.ID, owner.ID)
	app, _ := s.AddApp("Cleaner", keyholder.AuthCertificate, redirectURI)
	backend, err := client.NewProvider(client.Config{Issuer: s.Issuer, API: s.API, ClientID: string(provider.ID), Secret: s.AddSecret(string(provider.ID)), RootCAs: s.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Close)
	certificate := s.Certificate(keyholder.ForApp, string(app.ID))
	var tokens client.Tokens
	late := false // the app's clock is then ahead, so that it renews its token
	cfg := client.Config{Issuer: s.Issuer, API: s.API, ClientID: string(app.ID), Certificate: &certificate, RedirectURI: redirectURI, RootCAs: s.Roots(),
		OnTokens: func(_ context.Context, changed client.Tokens) error { tokens = changed; return nil },
		Now: func() time.Time {
			if late {
				return time.Now().Add(290 * time.Second)
			}
			return time.Now()
		}}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	signIn, err := c.SignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	back, err := url.Parse(s.SignIn(signIn.URL, redirectURI, "facility", password))
	if err != nil {
		t.Fatal(err)
	}
	session, err := signIn.Finish(t.Context(), back)
	if err != nil {
		t.Fatal(err)
	}

	received := receive(t, s, session.Subscription())
	ingest := func(device string, pushed int) {
		t.Helper()
		item := json.RawMessage(`{"device_id":"` + device + `","generic":{}}`)
		if done, err := backend.Ingest(t.Context(), owner.Key, keyholder.Statuses, []json.RawMessage{item}); err != nil || done.Stored != 1 || done.Pushed != pushed {
			t.Fatalf("ingest: %+v, error %v", done, err)
		}
		if pushed == 0 {
			return
		}
		select {
		case m := <-received:
			if string(m.Payload) != string(item) {
				t.Errorf("received %s, want %s", m.Payload, item)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("no push came")
		}
	}
	read := func(items int) {
		t.Helper()
		if list, err := session.Items(t.Context(), keyholder.Statuses); err != nil || len(list) != items {
			t.Errorf("got %d items, error %v, want %d", len(list), err, items)
		}
	}
	ingest("A", 1)
	read(1)
	s.Restart()
	late = true
	before := tokens.Access
	read(1)
	if tokens.Access == before {
		t.Error("the token was not renewed")
	}
	ingest("B", 1)

	receipt := s.Cut(keyholder.CutSubscription, string(session.Subscription()))
	for _, p := range receipt.Planes {
		if p.Failed != "" || p.Took > time.Second {
			t.Errorf("plane %s took %s: %s", p.Plane, p.Took, p.Failed)
		}
	}
	var refused *client.APIError
	if _, err := session.Items(t.Context(), keyholder.Statuses); !errors.As(err, &refused) || refused.HTTPStatus != http.StatusUnauthorized {
		t.Errorf("after the cut: error %v, want 401", err)
	}
	ingest("C", 0)
}

// receive connects the app's MQTT consumer and hands on what comes.
func receive(t *testing.T, s *keyholdertest.Server, sub keyholder.SubscriptionID) <-chan mqttpool.Message {
	t.Helper()
	received := make(chan mqttpool.Message, 100)
	pool, err := mqttpool.New(mqttpool.Config{Broker: s.MQTT, RootCAs: s.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close(context.Background()) })
	certificate := s.Certificate(keyholder.ForSubscription, string(sub))
	if err := pool.Add(mqttpool.Subscription{ID: sub, Certificate: func() (*tls.Certificate, error) { return &certificate, nil },
		Handler: func(_ context.Context, m mqttpool.Message) error { received <- m; return nil }}); err != nil {
		t.Fatal(err)
	}
	return received
}
