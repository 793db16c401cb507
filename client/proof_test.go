package client_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

func dpopKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Ensure that an app and a provider with a DPoP key live on tokens bound to
// it, against a real Keyholder: nobody else can use code or token, and a
// session goes on with another key after a restart, but not without one.
func TestDPoPLife(t *testing.T) {
	s := keyholdertest.Start(t)
	provider := s.AddProvider("Soap Inc")
	backend, err := client.NewProvider(client.Config{Issuer: s.Issuer, API: s.API, ClientID: string(provider.ID),
		Secret: s.AddSecret(string(provider.ID)), RootCAs: s.Roots(), DPoPKey: dpopKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Close)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ecdsa": dpopKey(t), "ed25519": edwards} {
		t.Run(name, func(t *testing.T) {
			owner := s.AddOwner("owner-" + name)
			password := s.AddUser(owner.ID, "user-"+name)
			s.AddAgreement(provider.ID, owner.ID)
			app, secret := s.AddApp("App "+name, keyholder.AuthSecret, redirect)
			items := statuses("A", "B")
			if _, err := backend.Ingest(t.Context(), owner.Key, keyholder.Statuses, items); err != nil {
				t.Fatal(err)
			}
			var saved saver
			cfg := client.Config{Issuer: s.Issuer, API: s.API, ClientID: string(app.ID), Secret: secret, RedirectURI: redirect,
				RootCAs: s.Roots(), OnTokens: saved.save, DPoPKey: key}
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
			got, err := session.Items(t.Context(), keyholder.Statuses)
			same(t, "all", got, err, items)
			got, err = session.Items(t.Context(), keyholder.Statuses, "B")
			same(t, "by ID", got, err, statuses("B"))
			useTags(t, session)

			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.API+"/fds/v2/statuses", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+saved.last().Access)
			resp, err := s.HTTP().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("the token without its key: status %d", resp.StatusCode)
			}

			other := cfg
			other.DPoPKey = dpopKey(t)
			before := saved.last()
			restored, err := newClient(t, other).Restore(before)
			if err != nil {
				t.Fatal(err)
			}
			got, err = restored.Items(t.Context(), keyholder.Statuses)
			same(t, "another key", got, err, items)
			if after := saved.last(); after.Key == before.Key || after.Access == before.Access {
				t.Error("the tokens are still bound to the key of before")
			}
			none := cfg
			none.DPoPKey = nil
			if restored, err = newClient(t, none).Restore(saved.last()); err != nil {
				t.Fatal(err)
			}
			var refused *client.OAuthError
			if _, err := restored.Items(t.Context(), keyholder.Statuses); !errors.As(err, &refused) || refused.Code != "invalid_request" {
				t.Errorf("without a key: error %v, want invalid_request", err)
			}
		})
	}
}

// Ensure that whatever is sent again has a proof of its own, at the token
// endpoint as on the Web API, and that a refused proof costs no token.
func TestDPoPRetries(t *testing.T) {
	p := newPeer(t)
	ids := map[string]bool{}
	proofs := func(r *http.Request, path, access string) {
		proof, err := guard.ReadDPoP(r.Header)
		if err == nil {
			err = proof.Check(r.Method, p.srv.URL+path, p.clock.now())
		}
		if err != nil || ids[proof.ID] || (proof.TokenHash != "") != (access != "") {
			t.Errorf("%s: proof %+v, used before %v: %v", path, proof, ids[proof.ID], err)
		}
		ids[proof.ID] = true
	}
	busy, refusedOnce := 2, false
	p.set(func() {
		p.token = func(w http.ResponseWriter, r *http.Request) {
			proofs(r, "/token", "")
			if busy--; busy >= 0 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token":"access-2","token_type":"DPoP","expires_in":300,"refresh_token":"refresh-2"}`)
		}
		p.api = func(w http.ResponseWriter, r *http.Request, token string) {
			proofs(r, "/fds/v2/statuses", "access-2")
			if !refusedOnce {
				refusedOnce = true
				w.Header().Add("WWW-Authenticate", "Bearer")
				w.Header().Add("WWW-Authenticate", `DPoP error="invalid_dpop_proof", algs="ES256"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprint(w, "[]")
		}
	})
	cfg := p.config()
	cfg.DPoPKey = dpopKey(t)
	session := p.restored(cfg)
	if _, err := session.Items(t.Context(), keyholder.Statuses); err != nil {
		t.Fatal(err)
	}
	if got := p.tokenCalls.Load(); got != 3 {
		t.Errorf("%d requests for tokens, want 3", got)
	}
	if len(ids) != 5 {
		t.Errorf("%d proofs, want 5", len(ids))
	}
}

// Ensure that a client with a DPoP key takes no token that is not bound, and
// that keys with which no proof can be made are refused at once.
func TestDPoPConfig(t *testing.T) {
	p := newPeer(t)
	cfg := p.config()
	cfg.DPoPKey = dpopKey(t)
	if _, err := p.restored(cfg).Items(t.Context(), keyholder.Statuses); keyholder.CodeOf(err) != keyholder.Invalid || p.apiCalls.Load() != 0 {
		t.Errorf("an unbound token: error %v after %d calls, want invalid and none", err, p.apiCalls.Load())
	}
	large, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DPoPKey = large
	if _, err := client.New(cfg); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("a key on P-384: error %v, want invalid", err)
	}
}
