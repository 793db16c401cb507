// Package console is the admin door: a JSON API over HTTP, served only on a
// Unix socket in the data folder, and the client that the command line talks
// to it with. Who may open the socket is the administrator; there is no other
// sign-in, and nothing of it is on a network listener.
//
// Like every door it decides nothing: it parses requests strictly, calls the
// ledger and the Permit functions, and answers errors as problem documents
// (RFC 9457).
package console

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fds-keyholder/keyholder/internal/keyfile"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// Config says what the console needs. Ledger, Authority, Keyring, Mailbox and
// Dir are required.
type Config struct {
	Ledger    *ledger.Ledger
	Authority *pki.Authority
	Keyring   *keyring.Ring
	Mailbox   *mailbox.Mailbox
	Issuer    string           // of the authorization server, for the addresses that others register
	Dir       string           // the data folder; credentials for webhooks go to DIR/webhooks/<webhook ID>
	Seal      *keyfile.Seal    // seals their secrets; nil: they are plain
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: slog.Default
}

// Console answers the admin API. It is safe for concurrent use.
type Console struct {
	ledger    *ledger.Ledger
	authority *pki.Authority
	keyring   *keyring.Ring
	mailbox   *mailbox.Mailbox
	issuer    string
	webhooks  string // folder
	seal      *keyfile.Seal
	now       func() time.Time
	log       *slog.Logger
}

// New returns a console, after removing credentials of webhooks that have
// ended or were never registered because of a crash.
func New(cfg Config) (*Console, error) {
	if cfg.Ledger == nil || cfg.Authority == nil || cfg.Keyring == nil || cfg.Mailbox == nil || cfg.Dir == "" {
		return nil, errors.New("open the console: a ledger, an authority, a keyring, a mailbox and the data folder are needed")
	}
	c := &Console{ledger: cfg.Ledger, authority: cfg.Authority, keyring: cfg.Keyring, mailbox: cfg.Mailbox, issuer: cfg.Issuer,
		webhooks: filepath.Join(cfg.Dir, WebhookFolder), seal: cfg.Seal, now: cfg.Now, log: cfg.Log}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	if err := c.sweepWebhooks(); err != nil {
		return nil, fmt.Errorf("remove the credentials of ended webhooks: %w", err)
	}
	return c, nil
}
