// Package softhsm gives tests a token of SoftHSM, an HSM in software.
package softhsm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/fds-keyholder/keyholder/internal/keyring"
)

// pin is the PIN of the tokens.
const pin = "271828"

// Token is a token of a test's own.
type Token struct {
	HSM keyring.HSM

	t      testing.TB
	folder string
}

// New makes a token from the installed SoftHSM, for tests that do not run in
// parallel. Where there is none the test is skipped and says so; under
// KEYHOLDER_TEST_ALL it fails.
func New(t testing.TB) *Token {
	t.Helper()
	util, err := exec.LookPath("softhsm2-util")
	modules, _ := filepath.Glob("/usr/lib*/softhsm/libsofthsm2.so")
	if err != nil || len(modules) == 0 {
		if os.Getenv("KEYHOLDER_TEST_ALL") != "" {
			t.Fatal("SoftHSM is not installed, and KEYHOLDER_TEST_ALL forbids to skip")
		}
		t.Skip("SKIPPED: SoftHSM is not installed")
	}
	dir := t.TempDir()
	k := &Token{t: t, folder: filepath.Join(dir, "tokens"),
		HSM: keyring.HSM{Module: modules[0], Token: "keyholder test", PINFile: filepath.Join(dir, "pin")}}
	config := filepath.Join(dir, "softhsm2.conf")
	k.check(os.Mkdir(k.folder, 0o700))
	k.check(os.WriteFile(config, fmt.Appendf(nil, "directories.tokendir = %s\nlog.level = ERROR\n", k.folder), 0o600))
	t.Setenv("SOFTHSM2_CONF", config)
	out, err := exec.CommandContext(t.Context(), util, "--init-token", "--free", "--label", k.HSM.Token, "--so-pin", "314159", "--pin", pin).CombinedOutput()
	if err != nil {
		t.Fatalf("make a token: %v\n%s", err, out)
	}
	k.SetPIN(pin)
	return k
}

// SetPIN writes what is taken for the PIN.
func (k *Token) SetPIN(pin string) {
	k.t.Helper()
	k.check(os.WriteFile(k.HSM.PINFile, []byte(pin+"\n"), 0o600))
}

// CorrectPIN undoes SetPIN.
func (k *Token) CorrectPIN() { k.t.Helper(); k.SetPIN(pin) }

// Unplug takes the token away, under everyone who uses it.
func (k *Token) Unplug() { k.t.Helper(); k.check(os.Rename(k.folder, k.folder+".unplugged")) }

// Plug brings it back.
func (k *Token) Plug() { k.t.Helper(); k.check(os.Rename(k.folder+".unplugged", k.folder)) }

func (k *Token) check(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}
