package guard_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// Ensure that the access tokens of the issuers that depart from RFC 9068 are
// read as these write them, and that their ID and refresh tokens, which have
// the same type, are refused.
func TestDialects(t *testing.T) {
	i := newIssuer(t)
	plain := object{"typ": "JWT"}
	keycloak := object{"client_id": nil, "azp": testClient, "typ": "Bearer"}
	hydra := object{"scope": nil, "scp": []string{"fds:read"}}
	entra := object{"client_id": nil, "azp": testClient, "jti": nil, "uti": "token-1", "scope": nil, "scp": "fds:read"}
	for name, tt := range map[string]struct {
		dialect        guard.Dialect
		header, claims object
		taken          bool
	}{
		"keycloak":                          {guard.Keycloak, plain, keycloak, true},
		"keycloak, at+jwt":                  {guard.Keycloak, object{}, keycloak, true},
		"keycloak, lower case":              {guard.Keycloak, object{"typ": "jwt"}, keycloak, true},
		"keycloak, ID token":                {guard.Keycloak, plain, keycloak.with(object{"typ": "ID"}), false},
		"keycloak, refresh token":           {guard.Keycloak, plain, keycloak.with(object{"typ": "Refresh"}), false},
		"keycloak, unmarked":                {guard.Keycloak, plain, keycloak.with(object{"typ": nil}), false},
		"keycloak, no client":               {guard.Keycloak, plain, keycloak.with(object{"azp": nil}), false},
		"hydra":                             {guard.Hydra, plain, hydra, true},
		"hydra, scope as text":              {guard.Hydra, plain, object{}, true},
		"hydra, ID token":                   {guard.Hydra, plain, object{"client_id": nil, "scope": nil, "at_hash": "x"}, false},
		"hydra, ID token with nonce":        {guard.Hydra, plain, hydra.with(object{"nonce": "x"}), false},
		"hydra, no scope":                   {guard.Hydra, plain, object{"scope": nil}, false},
		"hydra, scope of numbers":           {guard.Hydra, plain, object{"scope": nil, "scp": []int{1}}, false},
		"entra":                             {guard.Entra, plain, entra, true},
		"entra, no user":                    {guard.Entra, plain, entra.with(object{"scp": nil, "roles": []string{"fds:read"}}), true},
		"entra, ID token":                   {guard.Entra, plain, entra.with(object{"azp": nil, "scp": nil, "nonce": "x"}), false},
		"entra, ID token with roles":        {guard.Entra, plain, entra.with(object{"scp": nil, "roles": []string{"fds:read"}, "nonce": "x"}), false},
		"entra, no scope and no roles":      {guard.Entra, plain, entra.with(object{"scp": nil}), false},
		"rfc9068 of type JWT":               {guard.RFC9068, plain, object{}, false},
		"rfc9068, scope as list":            {guard.RFC9068, object{}, object{"scope": []string{"fds:read"}}, false},
		"rfc9068, the client of another":    {guard.RFC9068, object{}, keycloak, false},
		"keycloak of no type":               {guard.Keycloak, object{"typ": nil}, keycloak, false},
		"keycloak, logout token":            {guard.Keycloak, object{"typ": "logout+jwt"}, keycloak, false},
		"entra, the subscription of a list": {guard.Entra, plain, entra.with(object{"subscription_id": []string{testSub}}), false},
	} {
		t.Run(name, func(t *testing.T) {
			c := i.config()
			c.Dialect = tt.dialect
			g, err := guard.New(c)
			if err != nil {
				t.Fatal(err)
			}
			token, err := g.Verify(t.Context(), i.token(t, i.header().with(tt.header), i.claims().with(tt.claims)))
			if !tt.taken {
				if keyholder.CodeOf(err) != keyholder.Denied {
					t.Fatalf("error %v, want a denial", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if token.ClientID != testClient || token.Subscription != testSub || token.ID != "token-1" {
				t.Errorf("read as %+v", token)
			}
			if d := cmp.Diff([]string{"fds:read"}, token.Scope); d != "" {
				t.Errorf("scope (-want +got):\n%s", d)
			}
		})
	}
}

// Ensure that a client of the issuer is taken for the party it stands for, on
// every use, and for nobody if it stands for none.
func TestClientOfIssuer(t *testing.T) {
	i := newIssuer(t)
	c := i.config()
	stands := map[string]string{testClient: "party"}
	c.Client = func(id string) string { return stands[id] }
	g, err := guard.New(c)
	if err != nil {
		t.Fatal(err)
	}
	raw := i.valid(t)
	for range 2 {
		if token, err := g.Verify(t.Context(), raw); err != nil || token.ClientID != "party" {
			t.Errorf("taken for %q, %v", token.ClientID, err)
		}
	}
	clear(stands)
	if _, err := g.Verify(t.Context(), raw); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("a client that stands for nobody: %v", err)
	}
}
