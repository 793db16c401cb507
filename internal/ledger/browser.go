package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// Stranger stands for a browser that has no cookie of ours.
var Stranger Digest

// maxBrowsers is how many browsers of a user are known at a time; the one not
// used for longest is forgotten.
const maxBrowsers = 20

// knownBrowser returns what is known of a browser and a user.
func knownBrowser(ctx context.Context, q rowQuerier, browser Digest, user keyholder.UserID) (keyholder.KnownBrowser, error) {
	var last int64
	err := q.QueryRowContext(ctx, "SELECT last FROM known_browsers WHERE browser = ? AND user_id = ?", browser[:], user).Scan(&last)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return keyholder.KnownBrowser{}, nil
	case err != nil:
		return keyholder.KnownBrowser{}, fmt.Errorf("look for a browser: %w", err)
	}
	return keyholder.KnownBrowser{User: user, Last: fromMicros(last)}, nil
}

// knowBrowser notes that a user has signed in with a browser.
func (l *Ledger) knowBrowser(tx *store.Tx, browser Digest, user keyholder.UserID) error {
	if browser == Stranger {
		return nil
	}
	if _, err := tx.Exec(`INSERT INTO known_browsers (browser, user_id, last) VALUES (?, ?, ?)
ON CONFLICT (browser, user_id) DO UPDATE SET last = excluded.last`, browser[:], user, micros(l.Now())); err != nil {
		return fmt.Errorf("note a browser: %w", err)
	}
	if _, err := tx.Exec(`DELETE FROM known_browsers WHERE user_id = ? AND browser NOT IN
(SELECT browser FROM known_browsers WHERE user_id = ? ORDER BY last DESC LIMIT ?)`, user, user, maxBrowsers); err != nil {
		return fmt.Errorf("forget a browser: %w", err)
	}
	return nil
}

// forgetBrowsers makes all browsers of a user strange again.
func forgetBrowsers(tx *store.Tx, user keyholder.UserID) error {
	if _, err := tx.Exec("DELETE FROM known_browsers WHERE user_id = ?", user); err != nil {
		return fmt.Errorf("forget the browsers of a user: %w", err)
	}
	return nil
}
