package keyholder

import "time"

// Role is what a party is to the others.
type Role string

const (
	// RoleProvider is an information provider: owns the data, publishes.
	RoleProvider Role = "provider"
	// RoleOwner is a resource owner.
	RoleOwner Role = "owner"
	// RoleApp is a client application: consumes on behalf of owners.
	RoleApp Role = "app"
	// RoleResourceServer may introspect tokens, nothing else.
	RoleResourceServer Role = "resource_server"
	// RoleAdministrator runs this Keyholder.
	RoleAdministrator Role = "administrator"
)

// Provider is an information provider.
type Provider struct {
	ID      ProviderID `json:"id"`
	Name    string     `json:"name"`
	Created time.Time  `json:"created"`
	Cut     time.Time  `json:"cut,omitzero"` // zero while in force
}

// Owner is a resource owner: the customer whose devices and spaces they are.
type Owner struct {
	ID      OwnerID      `json:"id"`
	Key     string       `json:"key"` // short unique name used by people and files
	Name    string       `json:"name"`
	Factor  FactorPolicy `json:"factor"` // whether its users need a second factor
	Created time.Time    `json:"created"`
}

// User is a person of an owner who signs in once (FDS 2.6.5.1).
type User struct {
	ID       UserID    `json:"id"`
	Owner    OwnerID   `json:"owner"`
	Login    string    `json:"login"`
	Issuer   string    `json:"issuer,omitempty"`  // of the provider at which the user signs in; empty: only here
	Subject  string    `json:"subject,omitempty"` // what that provider calls the user
	Created  time.Time `json:"created"`
	Disabled time.Time `json:"disabled,omitzero"`
	Renewed  time.Time `json:"renewed,omitzero"` // when the password was last replaced: or the binding to a provider was: earlier sign-ins have ended
}

// App is a client application.
type App struct {
	ID             AppID           `json:"id"`
	Name           string          `json:"name"`
	Profile        Profile         `json:"profile"`
	Grants         []GrantType     `json:"grants"` // what was negotiated (FDS 2.6.5.1)
	Authentication AuthMethod      `json:"authentication"`
	Keys           []ClientKey     `json:"keys,omitempty"`            // of an app that authenticates by AuthKey
	Pinned         PinnedAuthority `json:"pinned_authority,omitzero"` // may vouch for an app that authenticates by AuthCertificate
	RedirectURIs   []string        `json:"redirect_uris"`
	PushedOnly     bool            `json:"require_pushed_authorization_requests,omitempty"` // RFC 9126 6
	Created        time.Time       `json:"created"`
	Cut            time.Time       `json:"cut,omitzero"`
}

// PinnedAuthority is a certificate authority of others that is trusted to
// name one app by one subject, and for nothing else.
type PinnedAuthority struct {
	PEM string `json:"pem"` // its certificates
	// Subject is what the app's certificates must name: "dns:" or "uri:" and
	// a subject alternative name, or "dn:" and a distinguished name in the
	// form of RFC 2253 (RFC 8705 2.1.2).
	Subject string `json:"subject"`
	// RevocationLists are its revocation lists in PEM (RFC 5280 5). Where there
	// are some, a certificate is taken only while the list of the authority
	// that issued it is in force and has it not.
	RevocationLists string `json:"revocation_lists,omitempty"`
}

// ResourceServer is a party registered to introspect tokens (RFC 7662).
type ResourceServer struct {
	ID      ResourceServerID `json:"id"`
	Name    string           `json:"name"`
	Created time.Time        `json:"created"`
}
