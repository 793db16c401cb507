package ledger

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// Cost of argon2id (RFC 9106), as OWASP recommends for interactive sign-in.
const (
	argonTime   = 2
	argonMemory = 19 * 1024 // KiB
	argonKey    = 32
	argonSalt   = 16
)

// minPassword is the least length of a password, in bytes.
const minPassword = 12

// AddUser registers a user of an owner with a password. Errors: Invalid,
// NotFound, Conflict if the login is taken.
func (l *Ledger) AddUser(ctx context.Context, actor string, owner keyholder.OwnerID, login, password string) (keyholder.User, error) {
	hash, err := l.newPassword(ctx, password)
	if err != nil {
		return keyholder.User{}, err
	}
	return l.addUser(ctx, actor, owner, login, hash, func(*store.Tx, *keyholder.User) error { return nil })
}

// addUser registers a user with a hashed password, or with none if it is
// empty, and runs a further step on it.
func (l *Ledger) addUser(ctx context.Context, actor string, owner keyholder.OwnerID, login, hash string, further func(*store.Tx, *keyholder.User) error) (keyholder.User, error) {
	if err := checkName("login", login); err != nil {
		return keyholder.User{}, err
	}
	id, err := keyholder.NewID[keyholder.UserID](l.random)
	if err != nil {
		return keyholder.User{}, err
	}
	u := keyholder.User{ID: id, Owner: owner, Login: login, Created: l.Now()}
	err = l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if l.Owner(owner).ID == "" {
			return keyholder.Errorf(keyholder.NotFound, "no such owner")
		}
		if l.UserByLogin(login).ID != "" {
			return keyholder.Errorf(keyholder.Conflict, "that login is taken")
		}
		if _, err := tx.Exec("INSERT INTO users (id, owner, login, password, created) VALUES (?, ?, ?, ?, ?)",
			u.ID, u.Owner, u.Login, hash, micros(u.Created)); err != nil {
			return fmt.Errorf("add a user: %w", err)
		}
		if err := l.Append(tx, keyholder.EventUserAdded, actor, string(u.ID), detail{"owner": string(owner)}); err != nil {
			return err
		}
		if err := further(tx, &u); err != nil {
			return err
		}
		added := u
		tx.After(func() { l.view.set(func() { l.view.users[added.ID] = added }) })
		return nil
	})
	return u, err
}

// CheckPassword returns the user of a login and password; whether that signs
// them in is for SignIn to say. An unknown login costs the
// same time as a wrong password and gives the same answer. browser is that of
// whoever asks, or [Stranger]: one in which the user has signed in before is
// not locked by the failures of others. Errors: Denied; Unavailable while the
// login is locked (see [LockedUntil]), and if too many sign in at once.
func (l *Ledger) CheckPassword(ctx context.Context, browser Digest, login, password string) (keyholder.User, error) {
	done, err := l.passwords.turn(ctx)
	if err != nil {
		return keyholder.User{}, err
	}
	defer done()
	u, gate, reason := l.UserByLogin(login), passwordGateOf(login), "wrong"
	err = l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		known, err := knownBrowser(ctx, tx, browser, u.ID)
		if err != nil {
			return err
		}
		if known.CountsAlone(u, l.Now()) {
			gate, reason = browserGateOf(login, browser), "wrong, in a browser of the user"
		}
		return l.enter(ctx, tx, gate)
	})
	if err != nil {
		return keyholder.User{}, err
	}
	stored := l.passwords.dummy
	if u.ID != "" {
		if err := l.each(ctx, "SELECT password FROM users WHERE id = ?", func(scan scanner) error { return scan(&stored) }, u.ID); err != nil {
			return keyholder.User{}, err
		}
	}
	if stored == "" { // a user without password, which must not be quicker to tell
		stored = l.passwords.dummy
	}
	if len(password) > 1024 {
		password = ""
	}
	ok := l.passwords.verify(stored, password) && u.ID != "" && u.Disabled.IsZero()
	if !ok {
		if err := l.FailSignIn(ctx, u.ID, keyholder.FactorPassword, reason); err != nil {
			return keyholder.User{}, err
		}
		return keyholder.User{}, keyholder.Errorf(keyholder.Denied, "the login or the password is wrong")
	}
	return u, l.store.Write(ctx, func(tx *store.Tx) error { return l.reopen(tx, gate) })
}

// UserByLogin returns the user of that login, or the zero value.
func (l *Ledger) UserByLogin(login string) keyholder.User {
	l.view.mu.RLock()
	defer l.view.mu.RUnlock()
	for _, u := range l.view.users {
		if u.Login == login {
			return u
		}
	}
	return keyholder.User{}
}

// newPassword checks and hashes a password that somebody chose.
func (l *Ledger) newPassword(ctx context.Context, password string) (string, error) {
	if len(password) < minPassword || len(password) > 1024 {
		return "", keyholder.Errorf(keyholder.Invalid, "a password has at least %d and at most 1024 bytes", minPassword)
	}
	var salt [argonSalt]byte
	if _, err := io.ReadFull(l.random, salt[:]); err != nil {
		return "", fmt.Errorf("draw a salt: %w", err)
	}
	done, err := l.passwords.turn(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	return l.passwords.hash(password, salt[:]), nil
}

// Hashing takes memory and a core, so two are done at a time, and as many wait
// as are done in about a second. What comes on top, a flood, is turned away at
// once, before it counts as a failed sign-in.
const (
	hashers = 2
	crowd   = 64
)

// passwordHasher hashes passwords.
type passwordHasher struct {
	slots chan struct{}
	line  chan struct{} // those who have a slot or wait for one
	dummy string        // hash that no password fits, for unknown logins
}

func (g *passwordHasher) init() {
	g.slots, g.line = make(chan struct{}, hashers), make(chan struct{}, crowd)
	g.dummy = g.hash(rand.Text(), []byte(rand.Text())[:argonSalt])
}

// turn waits until it is the caller's turn to hash. Errors: Unavailable if
// there are too many, or ctx ends before.
func (g *passwordHasher) turn(ctx context.Context) (done func(), err error) {
	select {
	case g.line <- struct{}{}:
	default:
		return nil, keyholder.Errorf(keyholder.Unavailable, "too many sign-ins at the same time")
	}
	select {
	case g.slots <- struct{}{}:
		return func() { <-g.slots; <-g.line }, nil
	case <-ctx.Done():
		<-g.line
		return nil, &keyholder.Error{Code: keyholder.Unavailable, Detail: "the sign-in was given up", Err: ctx.Err()}
	}
}

func (g *passwordHasher) hash(password string, salt []byte) string {
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, 1, argonKey)
	enc := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, argonMemory, argonTime, enc(salt), enc(key))
}

// verify compares a password with a stored hash of the form written by hash.
func (g *passwordHasher) verify(stored, password string) bool {
	parts := strings.Split(stored, "$")
	if len(parts) != 6 {
		return false
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false
	}
	return subtle.ConstantTimeCompare([]byte(g.hash(password, salt)), []byte(stored)) == 1
}
