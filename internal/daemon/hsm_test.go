//go:build cgo

package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/daemon"
	"github.com/fds-keyholder/keyholder/internal/keyring/softhsm"
)

// Ensure that a folder whose signing keys are in an HSM starts with it, sealed
// or not, and again; that it starts neither without it nor with a wrong PIN;
// and that half a setting or a wrong PIN makes no folder.
func TestHSM(t *testing.T) {
	token := softhsm.New(t)
	for name, seal := range map[string]string{"plain": "", "sealed": filepath.Join(t.TempDir(), "seal")} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := daemon.InitWith(t.Context(), dir, daemon.InitOptions{HSM: token.HSM, SealFile: seal}, time.Now()); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := start(t, dir); err != nil {
					t.Fatal(err)
				}
			}
			token.SetPIN("999999")
			if err := start(t, dir); keyholder.CodeOf(err) != keyholder.Unavailable || !strings.Contains(err.Error(), "PIN") {
				t.Errorf("with a wrong PIN: %v", err)
			}
			token.CorrectPIN()
			token.Unplug()
			if err := start(t, dir); keyholder.CodeOf(err) != keyholder.Unavailable {
				t.Errorf("without the token: %v", err)
			}
			token.Plug()
			if err := start(t, dir); err != nil {
				t.Errorf("when all is well again: %v", err)
			}
		})
	}
	half := token.HSM
	half.PINFile = ""
	dir := filepath.Join(t.TempDir(), "data")
	if err := daemon.InitWith(t.Context(), dir, daemon.InitOptions{HSM: half}, time.Now()); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("half a setting: %v", err)
	}
	token.SetPIN("999999")
	if err := daemon.InitWith(t.Context(), dir, daemon.InitOptions{HSM: token.HSM}, time.Now()); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("a wrong PIN: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder was made without keys")
	}
}
