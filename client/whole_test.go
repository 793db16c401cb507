package client_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// shift is a clock that can be put forward, so that tokens seem used up.
type shift struct {
	mu sync.Mutex
	by time.Duration
}

func (s *shift) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.by)
}

func (s *shift) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.by += d
}

// statuses makes items of devices.
func statuses(devices ...string) []json.RawMessage {
	var items []json.RawMessage
	for _, d := range devices {
		items = append(items, json.RawMessage(fmt.Sprintf(`{"device_id":%q,"generic":{}}`, d)))
	}
	return items
}

func same(t *testing.T, what string, got []json.RawMessage, err error, want []json.RawMessage) {
	t.Helper()
	if err != nil || !slices.EqualFunc(got, want, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
		t.Errorf("%s: %s, error %v, want %s", what, got, err, want)
	}
}

// Ensure that an app of either kind of authentication lives its life against a
// real Keyholder: an owner's user signs in once, items and tags go through,
// tokens are renewed and survive restarts of both sides, and the cut ends it.
func TestWholeLife(t *testing.T) {
	s := keyholdertest.Start(t)
	provider := s.AddProvider("Soap Inc")
	backend, err := client.NewProvider(client.Config{Issuer: s.Issuer, API: s.API, ClientID: string(provider.ID),
		Secret: s.AddSecret(string(provider.ID)), RootCAs: s.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Close)
	for name, method := range map[string]keyholder.AuthMethod{"secret": keyholder.AuthSecret, "certificate": keyholder.AuthCertificate} {
		t.Run(name, func(t *testing.T) {
			owner := s.AddOwner("owner-" + name)
			password := s.AddUser(owner.ID, "user-"+name)
			s.AddAgreement(provider.ID, owner.ID)
			app, secret := s.AddApp("App "+name, method, redirect)
			var clock shift
			var saved saver
			cfg := client.Config{Issuer: s.Issuer, API: s.API, ClientID: string(app.ID), Secret: secret, RedirectURI: redirect,
				RootCAs: s.Roots(), OnTokens: saved.save, Now: clock.now}
			if method == keyholder.AuthCertificate {
				certificate := s.Certificate(keyholder.ForApp, string(app.ID))
				cfg.Secret, cfg.Certificate = "", &certificate
			}
			signIn, err := newClient(t, cfg).SignIn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			back, err := url.Parse(s.SignIn(signIn.URL, redirect, "user-"+name, password))
			if err != nil {
				t.Fatal(err)
			}
			session, err := signIn.Finish(t.Context(), back)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := keyholder.ParseID[keyholder.SubscriptionID](string(session.Subscription())); err != nil {
				t.Errorf("subscription %q: %v", session.Subscription(), err)
			}
			items := statuses("A", "B,C", "D")
			done, err := backend.Ingest(t.Context(), owner.Key, keyholder.Statuses, items)
			if err != nil || done.Stored != 3 || done.Pushed != 3 {
				t.Fatalf("ingest: %+v, error %v", done, err)
			}
			got, err := session.Items(t.Context(), keyholder.Statuses)
			same(t, "all", got, err, items)
			got, err = session.Items(t.Context(), keyholder.Statuses, "D", "A")
			same(t, "by ID", got, err, statuses("A", "D"))
			useTags(t, session)

			s.Restart()
			clock.add(4*time.Minute + 30*time.Second)
			first := saved.last()
			got, err = session.Items(t.Context(), keyholder.Statuses)
			same(t, "renewed", got, err, items)
			if saved.last().Access == first.Access {
				t.Error("the tokens were not renewed")
			}
			restored, err := newClient(t, cfg).Restore(saved.last())
			if err != nil {
				t.Fatal(err)
			}
			clock.add(4*time.Minute + 30*time.Second)
			got, err = restored.Items(t.Context(), keyholder.Statuses)
			same(t, "restored", got, err, items)

			s.Cut(keyholder.CutSubscription, string(session.Subscription()))
			clock.add(20 * time.Second)
			if _, err := restored.Items(t.Context(), keyholder.Statuses); !errors.Is(err, client.ErrSignInAgain) {
				t.Errorf("after the cut: error %v, want %v", err, client.ErrSignInAgain)
			}
		})
	}
}

func useTags(t *testing.T, s *client.Session) {
	t.Helper()
	created, err := s.CreateTag(t.Context(), json.RawMessage(`{"generic":{"name":"night shift"}}`))
	if err != nil {
		t.Fatal(err)
	}
	var tag struct {
		ID       string   `json:"tag_id"`
		Entities []string `json:"entities"`
	}
	if err := json.Unmarshal(created, &tag); err != nil {
		t.Fatal(err)
	}
	if err := s.SetTagEntities(t.Context(), tag.ID, []string{"A", "D"}); err != nil {
		t.Error(err)
	}
	list, err := s.Tags(t.Context())
	if err != nil || len(list) != 1 || json.Unmarshal(list[0], &tag) != nil || !slices.Equal(tag.Entities, []string{"A", "D"}) {
		t.Errorf("tags %s, error %v", list, err)
	}
	if err := s.DeleteTag(t.Context(), tag.ID); err != nil {
		t.Error(err)
	}
	list, err = s.Tags(t.Context())
	same(t, "no tags", list, err, nil)
}

// Ensure that machine calls work where that grant was negotiated, for the own
// subscription only, and that the API's errors come back typed.
func TestWholeClientCredentials(t *testing.T) {
	s := keyholdertest.Start(t)
	provider, owner := s.AddProvider("Soap Inc"), s.AddOwner("northgate")
	agreement := s.AddAgreement(provider.ID, owner.ID)
	mine, secret := s.AddApp("Mine", keyholder.AuthSecret, "")
	other, _ := s.AddApp("Other", keyholder.AuthSecret, "")
	sub, foreign := s.AddSubscription(agreement, mine.ID, "", keyholder.Statuses), s.AddSubscription(agreement, other.ID, "")
	cfg := client.Config{Issuer: s.Issuer, API: s.API, ClientID: string(mine.ID), Secret: secret, RootCAs: s.Roots()}
	c := newClient(t, cfg)
	session, err := c.ClientCredentials(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	got, err := session.Items(t.Context(), keyholder.Statuses)
	same(t, "nothing yet", got, err, nil)
	var api *client.APIError
	if _, err := session.Items(t.Context(), keyholder.Events); !errors.As(err, &api) || api.HTTPStatus != 401 || api.Message != "unauthorized_request" {
		t.Errorf("kind outside the consent: error %v", err)
	}
	var oauth *client.OAuthError
	if _, err := c.ClientCredentials(t.Context(), foreign); !errors.As(err, &oauth) {
		t.Errorf("subscription of another app: error %v", err)
	}
	cfg.Secret = "khs_wrong"
	if _, err := newClient(t, cfg).ClientCredentials(t.Context(), sub); !errors.As(err, &oauth) || oauth.Code != "invalid_client" {
		t.Errorf("wrong secret: error %v", err)
	}
}

// Ensure that what a real Keyholder sends to a webhook is taken by the
// receiver, in order, each item once, and that nothing arrives after the cut.
func TestWholeWebhook(t *testing.T) {
	s := keyholdertest.Start(t)
	provider, owner := s.AddProvider("Soap Inc"), s.AddOwner("northgate")
	app, _ := s.AddApp("Cleaner", keyholder.AuthSecret, "")
	sub := s.AddSubscription(s.AddAgreement(provider.ID, owner.ID), app.ID, "")
	secret := s.AddSecret(string(provider.ID))
	g, err := guard.New(guard.Config{Issuer: s.Issuer, AudienceFor: keyholder.WebhookAudience,
		Keys: guard.FetchKeys(s.Issuer, guard.HTTPClient(s.Roots(), keyholder.TLSStrict))})
	if err != nil {
		t.Fatal(err)
	}
	pushes := make(chan client.Push, 100)
	refused := make(chan struct{}, 1) // takes one token: the second item fails once
	h, err := client.NewReceiver(client.ReceiverConfig{
		Guard: func(id keyholder.SubscriptionID) *guard.Guard {
			if id != sub {
				return nil
			}
			return g
		},
		Deliver: func(_ context.Context, p client.Push) error {
			if string(p.Payload) == string(statuses("B")[0]) {
				select {
				case refused <- struct{}{}:
					return errors.New("not the first time")
				default:
				}
			}
			pushes <- p
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /webhook/{subscription}", h)
	srv := httptest.NewUnstartedServer(mux)
	srv.TLS = keyholder.TLSStrict.Config()
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})) + s.RootPEM()
	s.AddWebhook(sub, srv.URL+"/webhook/"+string(sub), s.Issuer, string(provider.ID), secret, ca)

	backend, err := client.NewProvider(client.Config{Issuer: s.Issuer, API: s.API, ClientID: string(provider.ID), Secret: secret, RootCAs: s.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Close)
	items := statuses("A", "B", "C")
	if _, err := backend.Ingest(t.Context(), owner.Key, keyholder.Statuses, items); err != nil {
		t.Fatal(err)
	}
	for i, want := range items {
		select {
		case p := <-pushes:
			if p.Subscription != sub || p.Level != "statuses" || string(p.Payload) != string(want) || p.Key == "" {
				t.Errorf("push %d: %+v", i, p)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("push %d did not arrive", i)
		}
	}
	s.Cut(keyholder.CutSubscription, string(sub))
	if done, err := backend.Ingest(t.Context(), owner.Key, keyholder.Statuses, statuses("A", "B", "C", "D")); err != nil || done.Pushed != 0 {
		t.Errorf("after the cut: %+v, error %v", done, err)
	}
	if n := len(pushes); n != 0 {
		t.Errorf("%d pushes more", n)
	}
}
