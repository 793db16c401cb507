package guard_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// Ensure that a guard that introspects uses an answer for ten seconds and no
// longer, takes no token that is not for it, and none if it cannot ask.
func TestIntrospection(t *testing.T) {
	f := newFabric(t)
	var ahead atomic.Int64
	client := f.HTTP()
	transport(client).DialContext = f.line.dial
	config := guard.Config{
		Issuer: f.Issuer, Audience: f.API, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		Introspection: &guard.Introspection{ClientID: string(f.server.ID), Secret: f.password, HTTP: client},
	}
	g, err := guard.New(config)
	if err != nil {
		t.Fatal(err)
	}
	want := func(token string, code keyholder.Code) {
		t.Helper()
		got, err := g.Verify(t.Context(), token)
		if keyholder.CodeOf(err) != code || (err == nil) != (code == "") {
			t.Errorf("error %v, want code %q", err, code)
		}
		if err == nil && (got.ClientID != string(f.app.ID) || got.Subscription == "" || len(got.Scope) != 1) {
			t.Errorf("read as %+v", got)
		}
	}
	for _, token := range f.tokens {
		want(token, "")
	}
	want("", keyholder.Denied)
	want("made-up", keyholder.Denied)
	f.Cut(keyholder.CutSubscription, string(f.subs[0]))
	want(f.tokens[0], "") // remembered: what was cut is the caller's question
	ahead.Store(int64(11 * time.Second))
	want(f.tokens[0], keyholder.Denied)
	want(f.tokens[1], "")
	f.line.cut()
	want(f.tokens[1], "")
	ahead.Store(int64(22 * time.Second))
	want(f.tokens[1], keyholder.Unavailable)

	config.Audience = "https://other.example.com"
	f.line.mend()
	if g, err = guard.New(config); err != nil {
		t.Fatal(err)
	}
	want(f.tokens[1], keyholder.Denied)
}

// Ensure that introspection is either set up in full or refused.
func TestIntrospectionConfig(t *testing.T) {
	i := newIssuer(t)
	for name, change := range map[string]func(*guard.Config){
		"keys too":        func(c *guard.Config) { c.Keys = i.keys },
		"no client":       func(c *guard.Config) { c.Introspection.ClientID = "" },
		"plain issuer":    func(c *guard.Config) { c.Issuer = "http://as.example.com" },
		"a dialect":       func(c *guard.Config) { c.Dialect = guard.Keycloak },
		"unknown dialect": func(c *guard.Config) { c.Keys, c.Introspection, c.Dialect = i.keys, nil, "saml" },
		"claim in use": func(c *guard.Config) {
			c.Keys, c.Introspection, c.Dialect, c.SubscriptionClaim = i.keys, nil, guard.Entra, "roles"
		},
	} {
		c := i.config()
		c.Keys, c.Introspection = nil, &guard.Introspection{ClientID: "server", Secret: "secret"}
		change(&c)
		if _, err := guard.New(c); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
