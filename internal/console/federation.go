package console

import (
	"context"
	"net/url"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// IdentityProvider is the OpenID provider of an owner, with the owner's key
// and the redirect URI that is to be registered there.
type IdentityProvider struct {
	keyholder.IdentityProvider
	OwnerKey    string `json:"owner_key"`
	RedirectURI string `json:"redirect_uri"`
}

// NewIdentityProvider asks to register the OpenID provider of an owner, in
// place of an earlier one.
type NewIdentityProvider struct {
	Owner        string   `json:"owner"` // key or ID
	Issuer       string   `json:"issuer"`
	ClientID     string   `json:"client_id"`
	ClientSecret string   `json:"client_secret"`
	Scopes       []string `json:"scopes,omitempty"`
	Hosts        []string `json:"hosts,omitempty"`
	Name         string   `json:"name,omitempty"`
	TrustFactors bool     `json:"trust_factors,omitempty"`
}

// IdentityProviderRemoval asks to remove the OpenID provider of an owner.
type IdentityProviderRemoval struct {
	Owner string `json:"owner"` // key or ID
}

// UserBinding asks to settle who a user is at the owner's OpenID provider.
type UserBinding struct {
	Login   string `json:"login"`
	Subject string `json:"subject"` // empty: nobody
}

// SetIdentityProvider registers the OpenID provider of an owner.
func (c *Client) SetIdentityProvider(ctx context.Context, q NewIdentityProvider) (IdentityProvider, error) {
	return send[IdentityProvider](ctx, c, "owner-idps", q)
}

// IdentityProvider returns the OpenID provider of an owner, by the owner's key
// or ID.
func (c *Client) IdentityProvider(ctx context.Context, owner string) (IdentityProvider, error) {
	return get[IdentityProvider](ctx, c, "owner-idps/"+url.PathEscape(owner), nil)
}

// RemoveIdentityProvider removes the OpenID provider of an owner.
func (c *Client) RemoveIdentityProvider(ctx context.Context, q IdentityProviderRemoval) (IdentityProvider, error) {
	return send[IdentityProvider](ctx, c, "owner-idp-removals", q)
}

// BindUser settles who a user is at the owner's OpenID provider.
func (c *Client) BindUser(ctx context.Context, q UserBinding) (User, error) {
	return send[User](ctx, c, "user-bindings", q)
}

func (c *Console) describeIdentityProvider(p keyholder.IdentityProvider) IdentityProvider {
	return IdentityProvider{p, c.ledger.Owner(p.Owner).Key, p.RedirectURI(c.issuer)}
}

func (c *Console) listIdentityProviders(context.Context) ([]IdentityProvider, error) {
	all := []IdentityProvider{}
	for _, p := range c.ledger.ListIdentityProviders() {
		all = append(all, c.describeIdentityProvider(p))
	}
	return all, nil
}

func (c *Console) setIdentityProvider(ctx context.Context, q NewIdentityProvider) (IdentityProvider, error) {
	o, err := c.findOwner(q.Owner)
	if err != nil {
		return IdentityProvider{}, err
	}
	p, err := c.ledger.SetIdentityProvider(ctx, ledger.Administrator, keyholder.IdentityProvider{Owner: o.ID, Issuer: q.Issuer, ClientID: q.ClientID,
		Scopes: q.Scopes, Hosts: q.Hosts, Name: q.Name, TrustFactors: q.TrustFactors}, q.ClientSecret)
	return c.describeIdentityProvider(p), err
}

func (c *Console) identityProvider(_ context.Context, owner string) (IdentityProvider, error) {
	o, err := c.findOwner(owner)
	if err != nil {
		return IdentityProvider{}, err
	}
	p := c.ledger.IdentityProvider(o.ID)
	if p.Owner == "" {
		return IdentityProvider{}, keyholder.Errorf(keyholder.NotFound, "the owner has no identity provider")
	}
	return c.describeIdentityProvider(p), nil
}

func (c *Console) removeIdentityProvider(ctx context.Context, q IdentityProviderRemoval) (IdentityProvider, error) {
	p, err := c.identityProvider(ctx, q.Owner)
	if err != nil {
		return p, err
	}
	return p, c.ledger.RemoveIdentityProvider(ctx, ledger.Administrator, p.Owner)
}

func (c *Console) bindUser(ctx context.Context, q UserBinding) (User, error) {
	u, err := c.findUser(q.Login)
	if err != nil {
		return User{}, err
	}
	if u, err = c.ledger.BindUser(ctx, ledger.Administrator, u.ID, q.Subject); err != nil {
		return User{}, err
	}
	return c.describeUser(ctx, u)
}
