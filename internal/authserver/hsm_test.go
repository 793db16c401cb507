//go:build cgo

package authserver_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/keyring/softhsm"
)

// Ensure that apps which refresh while the HSM with the signing keys is gone
// are told to try again, and go on with what they have when it is back.
func TestHSMOutage(t *testing.T) {
	token := softhsm.New(t)
	b := open(t)
	b.stop()
	c := keyring.Config{Dir: t.TempDir(), HSM: token.HSM}
	if err := keyring.Create(c); err != nil {
		t.Fatal(err)
	}
	b.keys = must(keyring.OpenRing(c))
	t.Cleanup(func() { _ = b.keys.Close() })
	b.start()

	r := b.tokens()
	if got := b.claims(r.text("access_token"), "at+jwt")["iss"]; got != b.issuer {
		t.Errorf("a token of %v", got)
	}
	kept := r.text("refresh_token")
	token.Unplug()
	out := b.refresh(kept)
	refused(t, out, http.StatusServiceUnavailable, "temporarily_unavailable")
	if out.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	token.Plug()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); ; <-tick.C {
		again := b.refresh(kept)
		if again.status == http.StatusOK && b.active(again.text("access_token")) {
			return
		}
		if again.status != http.StatusServiceUnavailable || time.Now().After(deadline) {
			t.Fatalf("after the HSM is back: status %d, body %s", again.status, again.body)
		}
	}
}
