package ledger

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// SecretPrefix begins every client secret, so that scanners of repositories
// and mail can recognise a leaked one.
const SecretPrefix = "khs_"

// validSecrets is how many secrets of a client are valid at a time: the old
// one and the new one while the client changes over.
const validSecrets = 2

// secretHash is SHA-256 of a client secret. A slow hash would add nothing:
// the secret has 256 bits of entropy, drawn here.
type secretHash [sha256.Size]byte

// AddSecret draws a secret for a client (an app, provider or resource server)
// and returns it; it is not kept and cannot be shown again. Of the client's
// earlier secrets the newest stays valid, the rest are retired. Errors:
// NotFound.
func (l *Ledger) AddSecret(ctx context.Context, actor, client string) (string, error) {
	var raw [32]byte
	if _, err := io.ReadFull(l.random, raw[:]); err != nil {
		return "", fmt.Errorf("draw a secret: %w", err)
	}
	secret := SecretPrefix + base64.RawURLEncoding.EncodeToString(raw[:])
	hash := secretHash(sha256.Sum256([]byte(secret)))
	err := l.store.WriteAlone(ctx, func(tx *store.Tx) error {
		if !l.isClient(client) {
			return keyholder.Errorf(keyholder.NotFound, "no such app, provider or resource server in force")
		}
		now := l.Now()
		if _, err := tx.Exec("INSERT INTO secrets (hash, client, created) VALUES (?, ?, ?)", hash[:], client, micros(now)); err != nil {
			return fmt.Errorf("add a secret: %w", err)
		}
		kept := append([]secretHash{hash}, l.secretsOf(client)...)
		for len(kept) > validSecrets {
			oldest := kept[len(kept)-1]
			if _, err := tx.Exec("UPDATE secrets SET retired = ? WHERE hash = ?", micros(now), oldest[:]); err != nil {
				return fmt.Errorf("retire a secret: %w", err)
			}
			kept = kept[:len(kept)-1]
		}
		tx.After(func() { l.view.set(func() { l.view.secrets[client] = kept }) })
		return l.Append(tx, keyholder.EventSecretIssued, actor, client, nil)
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// VerifySecret says whether secret is a valid one of the client, in time that
// depends on neither.
func (l *Ledger) VerifySecret(client, secret string) bool {
	hash := sha256.Sum256([]byte(secret))
	ok := 0
	for _, h := range l.secretsOf(client) {
		ok |= subtle.ConstantTimeCompare(h[:], hash[:])
	}
	return ok == 1
}

// secretsOf returns the valid secrets of a client, newest first.
func (l *Ledger) secretsOf(client string) []secretHash {
	return get(&l.view, l.view.secrets, client)
}

func (l *Ledger) isClient(id string) bool {
	a, p := l.App(keyholder.AppID(id)), l.Provider(keyholder.ProviderID(id))
	return a.ID != "" && a.Cut.IsZero() || p.ID != "" && p.Cut.IsZero() ||
		l.ResourceServer(keyholder.ResourceServerID(id)).ID != ""
}

func (l *Ledger) loadSecrets(ctx context.Context) error {
	return l.each(ctx, "SELECT hash, client FROM secrets WHERE retired = 0 ORDER BY seq DESC", func(scan scanner) error {
		var hash []byte
		var client string
		if err := scan(&hash, &client); err != nil {
			return err
		}
		l.view.secrets[client] = append(l.view.secrets[client], secretHash(hash))
		return nil
	})
}
