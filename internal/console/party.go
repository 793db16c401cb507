package console

import (
	"context"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// NewProvider asks to register an information provider.
type NewProvider struct {
	Name string `json:"name"`
}

// NewOwner asks to register a resource owner.
type NewOwner struct {
	Key  string `json:"key"`
	Name string `json:"name"`
}

// NewUser asks to register a user of an owner.
type NewUser struct {
	Owner    string `json:"owner"` // key or ID
	Login    string `json:"login"`
	Subject  string `json:"subject,omitempty"` // at the owner's OpenID provider; empty: the user signs in here only
	Password string `json:"password"`          // empty, with a subject: none
}

// NewResourceServer asks to register a party that may introspect tokens.
type NewResourceServer struct {
	Name string `json:"name"`
}

// AddedResourceServer is a registered resource server with its secret, which
// is shown this one time.
type AddedResourceServer struct {
	ResourceServer keyholder.ResourceServer `json:"resource_server"`
	Secret         string                   `json:"secret"`
}

// NewSecret asks for a further secret of a client.
type NewSecret struct {
	Client string `json:"client"` // ID of an app, provider or resource server
}

// AddedSecret is a further secret, which is shown this one time. The one
// before it stays valid, older ones do not.
type AddedSecret struct {
	Client string `json:"client"`
	Secret string `json:"secret"`
}

func (c *Console) listProviders(context.Context) ([]keyholder.Provider, error) {
	return c.ledger.ListProviders(), nil
}

func (c *Console) addProvider(ctx context.Context, q NewProvider) (keyholder.Provider, error) {
	return c.ledger.AddProvider(ctx, ledger.Administrator, q.Name)
}

func (c *Console) provider(_ context.Context, id string) (keyholder.Provider, error) {
	return byID(id, "provider", c.ledger.Provider, func(p keyholder.Provider) bool { return p.ID != "" })
}

func (c *Console) listOwners(context.Context) ([]keyholder.Owner, error) {
	return c.ledger.ListOwners(), nil
}

func (c *Console) addOwner(ctx context.Context, q NewOwner) (keyholder.Owner, error) {
	return c.ledger.AddOwner(ctx, ledger.Administrator, q.Key, q.Name)
}

func (c *Console) owner(_ context.Context, keyOrID string) (keyholder.Owner, error) {
	return c.findOwner(keyOrID)
}

// findOwner takes an owner's key or ID.
func (c *Console) findOwner(keyOrID string) (keyholder.Owner, error) {
	o := c.ledger.OwnerByKey(keyOrID)
	if o.ID == "" {
		o = c.ledger.Owner(keyholder.OwnerID(keyOrID))
	}
	if o.ID == "" {
		return o, keyholder.Errorf(keyholder.NotFound, "no owner of that key or ID").WithHint("`keyholder owner list` shows both")
	}
	return o, nil
}

func (c *Console) listUsers(ctx context.Context) ([]User, error) {
	users := []User{}
	for _, u := range c.ledger.ListUsers() {
		described, err := c.describeUser(ctx, u)
		if err != nil {
			return nil, err
		}
		users = append(users, described)
	}
	return users, nil
}

func (c *Console) addUser(ctx context.Context, q NewUser) (User, error) {
	o, err := c.findOwner(q.Owner)
	if err != nil {
		return User{}, err
	}
	var u keyholder.User
	if q.Subject == "" {
		u, err = c.ledger.AddUser(ctx, ledger.Administrator, o.ID, q.Login, q.Password)
	} else {
		u, err = c.ledger.AddFederatedUser(ctx, ledger.Administrator, o.ID, q.Login, q.Subject, q.Password)
	}
	if err != nil {
		return User{}, err
	}
	return c.describeUser(ctx, u)
}

func (c *Console) user(ctx context.Context, id string) (User, error) {
	u, err := byID(id, "user", c.ledger.User, func(u keyholder.User) bool { return u.ID != "" })
	if err != nil {
		return User{}, err
	}
	return c.describeUser(ctx, u)
}

func (c *Console) listResourceServers(context.Context) ([]keyholder.ResourceServer, error) {
	return c.ledger.ListResourceServers(), nil
}

func (c *Console) addResourceServer(ctx context.Context, q NewResourceServer) (AddedResourceServer, error) {
	r, err := c.ledger.AddResourceServer(ctx, ledger.Administrator, q.Name)
	if err != nil {
		return AddedResourceServer{}, err
	}
	secret, err := c.ledger.AddSecret(ctx, ledger.Administrator, string(r.ID))
	return AddedResourceServer{ResourceServer: r, Secret: secret}, err
}

func (c *Console) resourceServer(_ context.Context, id string) (keyholder.ResourceServer, error) {
	return byID(id, "resource server", c.ledger.ResourceServer, func(r keyholder.ResourceServer) bool { return r.ID != "" })
}

func (c *Console) addSecret(ctx context.Context, q NewSecret) (AddedSecret, error) {
	if _, err := parseID[string]("client", q.Client); err != nil {
		return AddedSecret{}, err
	}
	if a := c.ledger.App(keyholder.AppID(q.Client)); a.Authentication.Asymmetric() {
		return AddedSecret{}, keyholder.Errorf(keyholder.Conflict, "the app authenticates by %s: a secret would be of no use", a.Authentication).
			WithHint("a certificate is issued with `keyholder cert issue -for app`, keys are replaced with `keyholder app keys`")
	}
	secret, err := c.ledger.AddSecret(ctx, ledger.Administrator, q.Client)
	return AddedSecret{Client: q.Client, Secret: secret}, err
}

// byID looks one thing up in the ledger's view and says so if it is not there:
// the administrator may know what exists.
func byID[K ~string, V any](id, what string, get func(K) V, exists func(V) bool) (V, error) {
	var none V
	k, err := keyholder.ParseID[K](id)
	if err != nil {
		return none, err
	}
	if v := get(k); exists(v) {
		return v, nil
	}
	return none, keyholder.Errorf(keyholder.NotFound, "no %s of that ID", what)
}
