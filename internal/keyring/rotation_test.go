package keyring_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyring"
)

// Ensure that a new key is published at once, signs only after its lead, and
// that what the old one signed verifies for ever, also after reopening.
func TestRotate(t *testing.T) {
	dir := t.TempDir()
	if err := keyring.Init(dir); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 2, 5, 0, 0, 1, time.UTC)
	clock := func() time.Time { return now }
	open := func() *keyring.Ring {
		t.Helper()
		r, err := keyring.OpenAt(dir, clock)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := open()
	old, _ := r.Signer()
	before, err := r.Sign([]byte("receipt"), "test")
	if err != nil {
		t.Fatal(err)
	}
	kid, from, err := r.Rotate(keyring.Lead)
	if err != nil {
		t.Fatal(err)
	}
	if lead := from.Sub(now); lead < keyring.Lead || lead > keyring.Lead+time.Second {
		t.Errorf("the key signs after %s, want %s", lead, keyring.Lead)
	}
	check := func(when, want string) {
		t.Helper()
		for name, r := range map[string]*keyring.Ring{"open": r, "reopened": open()} {
			signer, _ := r.Signer()
			published := r.JWKS().Keys
			if signer != want || published[0].KeyID != want || r.Private().Keys[0].KeyID != want || len(published) != 2 {
				t.Errorf("%s, %s ring: %s signs and %d keys are published, want %s and 2", when, name, signer, len(published), want)
			}
			after, err := r.Sign([]byte("receipt"), "test")
			if err != nil {
				t.Fatal(err)
			}
			for _, compact := range []string{before, after} {
				if _, err := keyring.Verify(r.JWKS(), compact, "test"); err != nil {
					t.Errorf("%s, %s ring: %v", when, name, err)
				}
			}
		}
	}
	check("during the lead", old)
	if _, _, err := r.Rotate(keyring.Lead); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("second rotation during the lead: %v", err)
	}
	now = from.Add(-time.Nanosecond)
	check("at the end of the lead", old)
	now = from
	check("after the lead", kid)
	if _, _, err := r.Rotate(keyring.Lead); err != nil {
		t.Errorf("next rotation: %v", err)
	}
}

// Ensure that a full ring says so, and that a damaged order of turns is
// refused.
func TestRotateLimits(t *testing.T) {
	dir := t.TempDir()
	if err := keyring.Init(dir); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	r, err := keyring.OpenAt(dir, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		now = now.Add(time.Hour)
		if _, _, err = r.Rotate(time.Minute); err != nil && i < 15 {
			t.Fatal(err)
		}
	}
	if keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("full ring: %v", err)
	}
	path := filepath.Join(dir, "keys", "signing")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	swapped := slices.Clone(lines)
	swapped[1], swapped[2] = swapped[2], swapped[1]
	for name, damaged := range map[string]string{
		"empty": "", "no first key": strings.Join(lines[1:], "\n"), "out of order": strings.Join(swapped, "\n"),
		"no time": lines[0] + "\n" + strings.Fields(lines[1])[0], "unknown key": lines[0] + "\nAAAA 2026-03-02T05:00:00Z",
	} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.Open(dir); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
}
