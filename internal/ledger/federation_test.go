package ledger_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Ensure that a user is found by the issuer and subject they are bound to and
// by nothing else, also after a restart, and that the secret of the provider
// is sealed.
func TestFederatedUser(t *testing.T) {
	b := open(t)
	one, two := b.onboard("northgate"), b.onboard("st-anna")
	ctx := t.Context()
	const secret, issuer = "secret-of-the-provider", "https://login.example"
	set := func(owner keyholder.OwnerID, issuer string) keyholder.IdentityProvider {
		t.Helper()
		return must(b.SetIdentityProvider(ctx, administrator, keyholder.IdentityProvider{Owner: owner, Issuer: issuer, ClientID: "keyholder",
			Scopes: []string{"profile"}, Hosts: []string{"keys.example"}, Name: "Northgate", TrustFactors: true}, secret))
	}
	if _, err := b.BindUser(ctx, administrator, one.user.ID, "7"); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("bound without a provider: %v", err)
	}
	p := set(one.owner.ID, issuer)
	set(two.owner.ID, issuer)
	if u := must(b.BindUser(ctx, administrator, one.user.ID, "7")); u.Issuer != issuer || u.Subject != "7" || u.Renewed.IsZero() {
		t.Errorf("bound to %+v", u)
	}
	other := must(b.AddFederatedUser(ctx, administrator, two.owner.ID, "other", "7", ""))
	if _, err := b.AddFederatedUser(ctx, administrator, one.owner.ID, "again", "7", ""); keyholder.CodeOf(err) != keyholder.Conflict || b.UserByLogin("again").ID != "" {
		t.Errorf("a second user of that subject: %v", err)
	}
	for _, password := range []string{"", "some other password"} {
		if _, err := b.CheckPassword(ctx, ledger.Stranger, "other", password); keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("a user without password, by %q: %v", password, err)
		}
	}
	b.close()
	b.open()
	check := func(what string, owner keyholder.OwnerID, issuer, subject string, want keyholder.UserID) {
		t.Helper()
		u, err := b.FederatedUser(owner, issuer, subject)
		if u.ID != want || (want == "") != (keyholder.CodeOf(err) == keyholder.Denied) {
			t.Errorf("%s: %q, %v", what, u.ID, err)
		}
	}
	check("bound", one.owner.ID, issuer, "7", one.user.ID)
	check("the same subject at another owner", two.owner.ID, issuer, "7", other.ID)
	check("another subject", one.owner.ID, issuer, "8", "")
	check("the login", one.owner.ID, issuer, one.user.Login, "")
	check("another issuer", one.owner.ID, "https://other.example", "7", "")
	check("no subject", one.owner.ID, issuer, "", "")
	if got := b.IdentityProvider(one.owner.ID); got.Issuer != issuer || got.Name != "Northgate" || !got.TrustFactors || len(got.Scopes) != 1 || len(got.Hosts) != 1 || !got.Set.Equal(p.Set) {
		t.Errorf("the provider is %+v", got)
	}
	if got, err := b.IdentityProviderSecret(ctx, p); got != secret || err != nil {
		t.Errorf("the secret: %q, %v", got, err)
	}
	elsewhere := p
	elsewhere.Issuer = "https://other.example"
	if got, err := b.IdentityProviderSecret(ctx, elsewhere); got != "" || err == nil {
		t.Error("the secret opens for another issuer")
	}
	if bytes.Contains(b.at.Contents(t), []byte(secret)) {
		t.Error("the secret is in the database in the clear")
	}
}

// Ensure that sign-ins end with the provider they were made at, and that those
// of others do not.
func TestIdentityProviderRemoved(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx := t.Context()
	local := must(b.AddUser(ctx, administrator, p.owner.ID, "local", "correct horse battery"))
	provider := keyholder.IdentityProvider{Owner: p.owner.ID, Issuer: "https://login.example", ClientID: "keyholder"}
	must(b.SetIdentityProvider(ctx, administrator, provider, "secret"))
	bound := must(b.AddFederatedUser(ctx, administrator, p.owner.ID, "bound", "7", "correct horse battery"))
	for _, step := range []struct {
		name string
		do   func() error
		ends bool
	}{
		{"a new secret", func() error { return second(b.SetIdentityProvider(ctx, administrator, provider, "another")) }, false},
		{"another issuer", func() error {
			next := provider
			next.Issuer = "https://new.example"
			return second(b.SetIdentityProvider(ctx, administrator, next, "another"))
		}, true},
		{"the first issuer again", func() error { return second(b.SetIdentityProvider(ctx, administrator, provider, "another")) }, false},
		{"removed", func() error { return b.RemoveIdentityProvider(ctx, administrator, p.owner.ID) }, true},
	} {
		signedIn := b.Now()
		b.clock.add(time.Minute)
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if v := keyholder.PermitSession(b.User(bound.ID), signedIn); v.Allowed == step.ends {
			t.Errorf("%s: %+v", step.name, v)
		}
		if v := keyholder.PermitSession(b.User(local.ID), signedIn); !v.Allowed {
			t.Errorf("%s, of somebody not bound: %+v", step.name, v)
		}
	}
	if _, err := b.FederatedUser(p.owner.ID, provider.Issuer, "7"); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("after the removal: %v", err)
	}
	if err := b.RemoveIdentityProvider(ctx, administrator, p.owner.ID); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("removed twice: %v", err)
	}
	if u, err := b.CheckPassword(ctx, ledger.Stranger, "bound", "correct horse battery"); u.ID != bound.ID || err != nil {
		t.Errorf("by password: %v", err)
	}
}

// Ensure that a provider is registered only for an owner, with a secret.
func TestSetIdentityProviderRefused(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	sound := keyholder.IdentityProvider{Owner: p.owner.ID, Issuer: "https://login.example", ClientID: "keyholder"}
	stranger, plain := sound, sound
	stranger.Owner, plain.Issuer = "another", "http://login.example"
	for _, c := range []struct {
		p      keyholder.IdentityProvider
		secret string
		want   keyholder.Code
	}{{stranger, "secret", keyholder.NotFound}, {plain, "secret", keyholder.Invalid}, {sound, "", keyholder.Invalid}, {sound, string(make([]byte, 5000)), keyholder.Invalid}} {
		if _, err := b.SetIdentityProvider(t.Context(), ledger.Administrator, c.p, c.secret); keyholder.CodeOf(err) != c.want {
			t.Errorf("%+v: %v", c.p, err)
		}
	}
	if got := b.ListIdentityProviders(); len(got) != 0 {
		t.Errorf("registered: %v", got)
	}
}
