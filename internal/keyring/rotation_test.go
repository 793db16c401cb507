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
	now := time.Date(2026, 3, 2, 5, 0, 0, 1, time.UTC)
	clock := func() time.Time { return now }
	if err := keyring.Create(keyring.Config{Dir: dir, Now: clock}); err != nil {
		t.Fatal(err)
	}
	open := func() *keyring.Ring {
		t.Helper()
		r, err := keyring.OpenRing(keyring.Config{Dir: dir, Now: clock})
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
			if signer != want || published[0].KeyID != want || len(published) != 2 {
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

// story is a ring in a folder of its own, with a clock that is set by hand.
type story struct {
	*keyring.Ring
	t   *testing.T
	dir string
	now time.Time
}

func tell(t *testing.T) *story {
	t.Helper()
	s := &story{t: t, dir: t.TempDir(), now: time.Date(2026, 3, 2, 5, 0, 0, 0, time.UTC)}
	if err := keyring.Create(s.config()); err != nil {
		t.Fatal(err)
	}
	s.open()
	return s
}

func (s *story) config() keyring.Config {
	return keyring.Config{Dir: s.dir, Now: func() time.Time { return s.now }}
}

func (s *story) open() {
	s.t.Helper()
	r, err := keyring.OpenRing(s.config())
	if err != nil {
		s.t.Fatal(err)
	}
	s.Ring = r
}

// tend returns the kinds of what Tend did.
func (s *story) tend() string {
	s.t.Helper()
	changes, err := s.Tend(90 * 24 * time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	var kinds []string
	for _, c := range changes {
		kinds = append(kinds, string(c.Kind))
	}
	return strings.Join(kinds, " ")
}

func (s *story) signer() string {
	kid, _ := s.Signer()
	return kid
}

// privateFiles counts the files with private keys.
func (s *story) privateFiles() int {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.dir, "keys", "es256-*.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(found)
}

// Ensure that keys are renewed on schedule over 400 days, looked after
// every hour and reopened now and then: at every moment what was signed
// in the last hour verifies with what is published, the ring stays small, and
// what was signed first verifies with the history.
func TestRotationOnSchedule(t *testing.T) {
	s := tell(t)
	first := sign(t, s.Ring, "receipt")
	before, rotations := first, 0
	for end := s.now.AddDate(0, 0, 400); s.now.Before(end); s.now = s.now.Add(time.Hour) {
		did := s.tend()
		if strings.Contains(did, string(keyholder.EventKeyRotated)) {
			rotations++
		}
		if _, err := keyring.Verify(s.JWKS(), before, typ); err != nil {
			t.Fatalf("%s: what was signed an hour ago: %v", s.now, err)
		}
		if n := len(s.JWKS().Keys); n > 3 || n != s.privateFiles() {
			t.Fatalf("%s: %d keys are published and %d files hold private keys", s.now, n, s.privateFiles())
		}
		if before = sign(t, s.Ring, "token"); did != "" {
			s.open()
		}
	}
	if rotations != 4 || len(s.History()) != 5 {
		t.Errorf("%d rotations and %d keys in the history, want 4 and 5", rotations, len(s.History()))
	}
	_, key, err := keyring.VerifyHistorical(s.History(), first, typ)
	if err != nil || key.Retired.IsZero() || key.Compromised {
		t.Errorf("the first receipt: %+v, %v", key, err)
	}
	if _, err := keyring.Verify(s.JWKS(), first, typ); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("a retired key is still published: %v", err)
	}
}

// Ensure that a clock set forward makes one rotation due, and that one set
// back neither keeps a key from its turn nor stops rotation.
func TestClockJumps(t *testing.T) {
	s := tell(t)
	old := s.signer()
	s.now = s.now.AddDate(10, 0, 0)
	if got := s.tend(); got != string(keyholder.EventKeyRotated) {
		t.Errorf("ten years ahead: %q", got)
	}
	if got := s.tend(); got != "" {
		t.Errorf("at once again: %q", got)
	}
	s.now = s.now.AddDate(-10, 0, 0) // back to the right time
	s.tend()
	if s.signer() != old {
		t.Error("the new key signs before its lead")
	}
	s.now = s.now.Add(keyring.Lead + 2*time.Second)
	fresh := s.signer()
	if fresh == old {
		t.Error("the new key waits for ten years")
	}
	s.open()
	if s.signer() != fresh {
		t.Error("another key signs after a restart")
	}
	s.now = s.now.AddDate(0, 0, 91)
	if got := s.tend(); !strings.Contains(got, string(keyholder.EventKeyRotated)) {
		t.Errorf("91 days later: %q", got)
	}
}

// Ensure that a retired key neither signs nor is published nor has a private
// file, in whatever place of its life it is retired, and that another one
// signs at once.
func TestRetire(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(s *story) (kid, signs string) // signs: empty for a new key
	}{
		{"the only key", func(s *story) (string, string) { return s.signer(), "" }},
		{"the signing key while another waits", func(s *story) (string, string) {
			kid, _, err := s.Rotate(keyring.Lead)
			if err != nil {
				t.Fatal(err)
			}
			return s.signer(), kid
		}},
		{"the one that waits", func(s *story) (string, string) {
			kid, _, err := s.Rotate(keyring.Lead)
			if err != nil {
				t.Fatal(err)
			}
			return kid, s.signer()
		}},
		{"one that signed before", func(s *story) (string, string) {
			old := s.signer()
			kid, _, err := s.Rotate(keyring.Lead)
			if err != nil {
				t.Fatal(err)
			}
			s.now = s.now.Add(time.Hour)
			return old, kid
		}},
		{"one that is superseded", func(s *story) (string, string) {
			old := s.signer()
			kid, _, err := s.Rotate(keyring.Lead)
			if err != nil {
				t.Fatal(err)
			}
			s.now = s.now.Add(2 * time.Hour)
			s.tend()
			return old, kid
		}},
		{"the signing key, after the clock was set back", func(s *story) (string, string) {
			s.now = s.now.AddDate(-1, 0, 0)
			return s.signer(), ""
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tell(t)
			kid, signs := tt.before(s)
			receipt := sign(t, s.Ring, "receipt")
			signedByIt := s.signer() == kid
			for range 2 { // the second time changes nothing
				if _, err := s.Retire(kid); err != nil {
					t.Fatal(err)
				}
			}
			for _, when := range []string{"at once", "reopened"} {
				now := s.signer()
				set := s.JWKS()
				if now == kid || signs != "" && now != signs || len(set.Key(kid)) != 0 || len(set.Keys) != s.privateFiles() {
					t.Errorf("%s: %s signs, %d keys are published, %d files hold private keys", when, now, len(set.Keys), s.privateFiles())
				}
				if _, err := keyring.Verify(set, sign(t, s.Ring, "token"), typ); err != nil {
					t.Errorf("%s: %v", when, err)
				}
				_, key, err := keyring.VerifyHistorical(s.History(), receipt, typ)
				if err != nil || key.Compromised != signedByIt || signedByIt && !key.Retired.Equal(s.now) {
					t.Errorf("%s: the receipt: %+v, %v", when, key, err)
				}
				s.open()
			}
		})
	}
	if _, err := tell(t).Retire("none"); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("an unknown key: %v", err)
	}
}

// Ensure that a crash in the middle of a retirement never brings the key
// back, and that a key without a turn is taken away.
func TestRetireInterrupted(t *testing.T) {
	s := tell(t)
	kid := s.signer()
	path := filepath.Join(s.dir, "keys", "es256-"+kid+".key")
	private, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	turns, err := os.ReadFile(filepath.Join(s.dir, "keys", "signing"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Retire(kid); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(filepath.Join(s.dir, "keys", "signing"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, private)
	write(t, filepath.Join(s.dir, "keys", "signing"), append(turns, after...))
	s.open()
	if set := s.JWKS(); s.signer() == kid || len(set.Key(kid)) != 0 {
		t.Error("the retired key is back")
	}
	stray := tell(t)
	name := "es256-" + stray.signer() + ".key"
	data, err := os.ReadFile(filepath.Join(stray.dir, "keys", name))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.dir, "keys", name), data)
	s.open()
	if got := s.tend(); got != string(keyholder.EventKeyRetired) || len(s.JWKS().Keys) != 1 {
		t.Errorf("a key without a turn: %q, %d keys", got, len(s.JWKS().Keys))
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
	r, err := keyring.OpenRing(keyring.Config{Dir: dir, Now: func() time.Time { return now }})
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
		"empty": "", "out of order": strings.Join(swapped, "\n"),
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
