// Package ledger is the memory of rights: parties, agreements, consents,
// subscriptions, credentials, grants, and the audit trail of all that
// happened to them. Every decision is one transaction together with its audit
// row; a feed tells the doors what was committed.
//
// The rights in force are also held in memory (the view), brought up to date
// before the writer of a change gets its answer. Doors ask the view on every
// request, so a slow feed may delay a disconnect but can never grant a right.
package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// Administrator is the actor of everything that comes over the admin socket.
const Administrator = "administrator"

// System is the actor of what Keyholder does by itself.
const System = "system"

// Config says what a ledger needs. Store and Sign are required.
type Config struct {
	Store  *store.Store
	Sign   func(payload []byte) (string, error) // signs receipts: payload to compact JWS
	Now    func() time.Time                     // nil: time.Now
	Random io.Reader                            // nil: crypto/rand
	Log    *slog.Logger                         // nil: slog.Default
	// FactorKey seals the secrets of authenticator apps and of identity
	// providers, and hashes logins: FactorKeySize random bytes. Nil: none can
	// be set up or used.
	FactorKey []byte
	// TokenLifetime is how long an access token can outlive the grant it came
	// from; ended grants are remembered in memory for that long. 0: 5 minutes.
	TokenLifetime time.Duration
}

// Ledger is the open memory of rights. Its methods are safe for concurrent
// use. Methods that write return nil only when the change is durable.
type Ledger struct {
	store         *store.Store
	sign          func([]byte) (string, error)
	now           func() time.Time
	random        io.Reader
	log           *slog.Logger
	factorKey     []byte
	tokenLifetime time.Duration

	view      view
	feed      feed
	planes    []plane // fixed before serving
	passwords passwordHasher
}

// Open loads the view from the store and finishes the receipts of cuts that a
// crash interrupted.
func Open(ctx context.Context, cfg Config) (*Ledger, error) {
	if cfg.Store == nil || cfg.Sign == nil {
		return nil, errors.New("open the ledger: a store and a signer of receipts are needed")
	}
	l := &Ledger{store: cfg.Store, sign: cfg.Sign, now: cfg.Now, random: cfg.Random, log: cfg.Log, factorKey: cfg.FactorKey, tokenLifetime: cfg.TokenLifetime}
	if l.now == nil {
		l.now = time.Now
	}
	if l.random == nil {
		l.random = rand.Reader
	}
	if l.log == nil {
		l.log = slog.Default()
	}
	if l.tokenLifetime == 0 {
		l.tokenLifetime = 5 * time.Minute
	}
	l.passwords.init()
	if err := l.load(ctx); err != nil {
		return nil, fmt.Errorf("load the ledger: %w", err)
	}
	if err := l.finishReceipts(ctx); err != nil {
		return nil, fmt.Errorf("finish receipts: %w", err)
	}
	l.feed.start()
	return l, nil
}

// Close stops the feed after delivering what was committed. The store is the
// caller's to close, afterwards.
func (l *Ledger) Close() { l.feed.stop() }

// Now returns the ledger's time in the resolution it stores: microseconds, UTC.
func (l *Ledger) Now() time.Time { return l.now().UTC().Truncate(time.Microsecond) }

// Store returns the database, for the packages that keep their tables beside
// the ledger's.
func (l *Ledger) Store() *store.Store { return l.store }

// micros and fromMicros convert between time and its stored form, in which 0
// is the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// checkName refuses names that would be unreadable in a list or a log.
func checkName(what, s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return keyholder.Errorf(keyholder.Invalid, "the %s is empty", what)
	case len(s) > 200:
		return keyholder.Errorf(keyholder.Invalid, "the %s is longer than 200 bytes", what)
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return keyholder.Errorf(keyholder.Invalid, "the %s holds a character that cannot be printed", what)
	}
	return nil
}
