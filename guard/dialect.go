package guard

import (
	"slices"
	"strings"

	"github.com/fds-keyholder/keyholder"
	"github.com/go-jose/go-jose/v4/json"
)

// Dialect names how an issuer writes its access tokens. Those that are not
// RFC 9068 give the type JWT to access tokens and ID tokens alike, so each has
// another mark by which an access token is told from an ID token.
type Dialect string

const (
	// RFC9068 is the standard: type at+jwt, claims client_id, scope and jti.
	RFC9068 Dialect = "rfc9068"
	// Keycloak marks its tokens by the claim typ: Bearer. The client is azp.
	Keycloak Dialect = "keycloak"
	// Hydra puts client_id into access tokens only, and the scope, as a list,
	// into scp.
	Hydra Dialect = "hydra"
	// Entra is Microsoft Entra ID, version 2.0 of its tokens: the client is
	// azp, the scope scp, or roles if no user is involved, the ID uti.
	Entra Dialect = "entra"
)

// ParseDialect returns the dialect of a name. The error is a
// [keyholder.Error] of code Invalid.
func ParseDialect(name string) (Dialect, error) {
	d := Dialect(name)
	if _, ok := dialects()[d]; !ok {
		return "", keyholder.Errorf(keyholder.Invalid, "unknown form of access tokens").
			WithHint("the forms are %s, %s, %s and %s", RFC9068, Keycloak, Hydra, Entra)
	}
	return d, nil
}

// dialect says where a token holds what.
type dialect struct {
	jwt    bool   // the type JWT is accepted too
	client string // the claim that names the client
	scope  []string
	id     string
	mark   func(*reader) // fails the reader if the token is no access token
}

func dialects() map[Dialect]dialect {
	return map[Dialect]dialect{
		RFC9068:  {client: "client_id", scope: []string{"scope"}, id: "jti", mark: func(*reader) {}},
		Keycloak: {jwt: true, client: "azp", scope: []string{"scope"}, id: "jti", mark: markedByTyp},
		Hydra:    {jwt: true, client: "client_id", scope: []string{"scope", "scp"}, id: "jti", mark: noIDToken},
		Entra:    {jwt: true, client: "azp", scope: []string{"scp", "roles"}, id: "uti", mark: noIDToken},
	}
}

// markedByTyp wants the mark of Keycloak, whose ID tokens say ID and whose
// refresh tokens say Refresh.
func markedByTyp(r *reader) {
	if r.text("typ", true) != "Bearer" {
		r.fail("typ")
	}
}

// noIDToken refuses what only ID tokens hold, and what holds no scope, which
// no ID token has.
func noIDToken(r *reader) {
	for _, name := range []string{"nonce", "at_hash", "c_hash"} {
		if _, ok := r.raw[name]; ok {
			r.fail(name)
		}
	}
	for _, name := range []string{"scope", "scp", "roles"} {
		if _, ok := r.raw[name]; ok {
			return
		}
	}
	r.fail("scope")
}

// typeAccepted says whether the typ of a header may be that of an access
// token.
func (d dialect) typeAccepted(typ string) bool {
	typ = strings.TrimPrefix(strings.ToLower(typ), "application/")
	return typ == "at+jwt" || d.jwt && typ == "jwt"
}

// names lists the claims that the dialect gives a meaning to.
func (d dialect) names() []string { return append(slices.Clone(d.scope), d.client, d.id, "typ") }

// scopeOf reads the scope from the first of the names that is there, as the
// space-separated list of RFC 8693 section 4.2 or as a list.
func (r *reader) scopeOf(names []string) []string {
	for _, name := range names {
		raw, ok := r.raw[name]
		if !ok {
			continue
		}
		var list []string
		var text string
		switch {
		case string(raw) == "null":
			r.fail(name)
		case json.Unmarshal(raw, &text) == nil:
			if text != "" {
				list = strings.Split(text, " ")
			}
		case name == "scope" || json.Unmarshal(raw, &list) != nil:
			r.fail(name)
		}
		if len(list) > maxScopes {
			r.fail(name)
			return nil
		}
		return list
	}
	return nil
}
