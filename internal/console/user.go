package console

import (
	"context"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// User is a user with the key of its owner and with what they have set up to
// sign in with besides the password.
type User struct {
	keyholder.User
	OwnerKey string            `json:"owner_key"`
	Factors  keyholder.Factors `json:"factors"`
}

// UserReset asks to give a user a new password and to take away all second
// factors.
type UserReset struct {
	Login    string `json:"login"`
	Password string `json:"password"`
}

// UserUnlock asks to end the lock-outs of a user.
type UserUnlock struct {
	Login string `json:"login"`
}

// UserRecovery asks for a code with which a user sets a new password.
type UserRecovery struct {
	Login string `json:"login"`
}

// RecoveryCode is such a code, which is shown this one time, and the page on
// which it is used.
type RecoveryCode struct {
	User    User      `json:"user"`
	Code    string    `json:"code"`
	Expires time.Time `json:"expires"`
	Page    string    `json:"page"`
}

// UserState asks to keep a user from signing in, or to let them again.
type UserState struct {
	Login    string `json:"login"`
	Disabled bool   `json:"disabled"`
}

// FactorPolicy asks to settle whether the users of an owner need a second
// factor.
type FactorPolicy struct {
	Owner  string `json:"owner"` // key or ID
	Policy string `json:"policy"`
}

// ResetUser gives a user a new password and takes away all second factors.
func (c *Client) ResetUser(ctx context.Context, q UserReset) (User, error) {
	return send[User](ctx, c, "user-resets", q)
}

// RecoverUser draws a code with which a user sets a new password.
func (c *Client) RecoverUser(ctx context.Context, q UserRecovery) (RecoveryCode, error) {
	return send[RecoveryCode](ctx, c, "user-recoveries", q)
}

// UnlockUser ends the lock-outs of a user after failed sign-ins.
func (c *Client) UnlockUser(ctx context.Context, q UserUnlock) (User, error) {
	return send[User](ctx, c, "user-unlocks", q)
}

// SetUserState disables or enables a user.
func (c *Client) SetUserState(ctx context.Context, q UserState) (User, error) {
	return send[User](ctx, c, "user-states", q)
}

// SetFactorPolicy settles whether the users of an owner need a second factor.
func (c *Client) SetFactorPolicy(ctx context.Context, q FactorPolicy) (keyholder.Owner, error) {
	return send[keyholder.Owner](ctx, c, "factor-policies", q)
}

func (c *Console) resetUser(ctx context.Context, q UserReset) (User, error) {
	u, err := c.findUser(q.Login)
	if err != nil {
		return User{}, err
	}
	if u, err = c.ledger.ResetUser(ctx, ledger.Administrator, u.ID, q.Password); err != nil {
		return User{}, err
	}
	return c.describeUser(ctx, u)
}

func (c *Console) recoverUser(ctx context.Context, q UserRecovery) (RecoveryCode, error) {
	u, err := c.findUser(q.Login)
	if err != nil {
		return RecoveryCode{}, err
	}
	described, err := c.describeUser(ctx, u)
	if err != nil {
		return RecoveryCode{}, err
	}
	code, expires, err := c.ledger.BeginRecovery(ctx, ledger.Administrator, u.ID)
	return RecoveryCode{User: described, Code: code, Expires: expires, Page: c.issuer + "/recover"}, err
}

func (c *Console) unlockUser(ctx context.Context, q UserUnlock) (User, error) {
	u, err := c.findUser(q.Login)
	if err != nil {
		return User{}, err
	}
	if u, err = c.ledger.UnlockUser(ctx, ledger.Administrator, u.ID); err != nil {
		return User{}, err
	}
	return c.describeUser(ctx, u)
}

func (c *Console) setUserState(ctx context.Context, q UserState) (User, error) {
	u, err := c.findUser(q.Login)
	if err != nil {
		return User{}, err
	}
	set := c.ledger.EnableUser
	if q.Disabled {
		set = c.ledger.DisableUser
	}
	if u, err = set(ctx, ledger.Administrator, u.ID); err != nil {
		return User{}, err
	}
	return c.describeUser(ctx, u)
}

func (c *Console) setFactorPolicy(ctx context.Context, q FactorPolicy) (keyholder.Owner, error) {
	o, err := c.findOwner(q.Owner)
	if err != nil {
		return keyholder.Owner{}, err
	}
	policy, err := keyholder.ParseFactorPolicy(q.Policy)
	if err != nil {
		return keyholder.Owner{}, err
	}
	return c.ledger.SetFactorPolicy(ctx, ledger.Administrator, o.ID, policy)
}

func (c *Console) findUser(login string) (keyholder.User, error) {
	u := c.ledger.UserByLogin(login)
	if u.ID == "" {
		return u, keyholder.Errorf(keyholder.NotFound, "no user of that login").WithHint("`keyholder user list` shows them")
	}
	return u, nil
}

func (c *Console) describeUser(ctx context.Context, u keyholder.User) (User, error) {
	set, err := c.ledger.Factors(ctx, u.ID)
	return User{User: u, OwnerKey: c.ledger.Owner(u.Owner).Key, Factors: set}, err
}
