package ledger_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Ensure that a code of the administrator sets a new password once, within its
// hour, for its user only, is replaced by a later one, ends with a reset, a
// change of the password and a disabled user, and outlives a restart as a hash.
func TestRecover(t *testing.T) {
	b := open(t)
	p, other := b.onboard("northgate"), b.onboard("st-anna")
	ctx, user := t.Context(), p.user
	const next = "a new long password"
	begin := func() string {
		t.Helper()
		code, expires, err := b.BeginRecovery(ctx, administrator, user.ID)
		if err != nil || !expires.Equal(b.Now().Add(time.Hour)) {
			t.Fatalf("good until %v, %v", expires, err)
		}
		return code
	}
	set := func(what, login, code string, want keyholder.Code) {
		t.Helper()
		if err := b.Recover(ctx, ledger.Stranger, login, code, next); keyholder.CodeOf(err) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	secret, _ := b.enrol(user.ID)
	signedIn := b.Now()
	b.clock.add(time.Minute)
	first := begin()
	code := begin()
	b.close()
	b.open()
	if raw := b.at.Contents(t); bytes.Contains(raw, []byte(code)) || bytes.Contains(raw, []byte(strings.ReplaceAll(code, "-", ""))) {
		t.Error("the code is in the database in the clear")
	}
	set("the one before", user.Login, first, keyholder.Denied)
	set("of another user", other.user.Login, code, keyholder.Denied)
	if err := b.Recover(ctx, ledger.Stranger, user.Login, code, "short"); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("a short password: %v", err)
	}
	set("right, as a person types it", user.Login, " "+strings.ToUpper(strings.ReplaceAll(code, "-", " ")), "")
	set("again", user.Login, code, keyholder.Denied)
	if _, err := b.CheckPassword(ctx, ledger.Stranger, user.Login, next); err != nil {
		t.Errorf("the new password: %v", err)
	}
	if _, err := b.CheckPassword(ctx, ledger.Stranger, user.Login, password); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("the old password: %v", err)
	}
	if keyholder.PermitSession(b.User(user.ID), signedIn).Allowed {
		t.Error("earlier sign-ins go on")
	}
	if set := must(b.Factors(ctx, user.ID)); set.TOTP.IsZero() {
		t.Errorf("the second factors are %+v", set)
	}
	b.clock.add(time.Minute)
	if err := b.CheckTOTP(ctx, user.ID, b.code(secret, 0)); err != nil {
		t.Errorf("the authenticator app: %v", err)
	}

	b.clock.add(2 * time.Hour)
	for what, end := range map[string]func(){
		"after its hour": func() { b.clock.add(time.Hour) },
		"after a reset":  func() { must(b.ResetUser(ctx, administrator, user.ID, password)) },
		"after a change": func() { must(b.ChangePassword(ctx, ledger.Stranger, user.ID, password, password)) },
		"once disabled":  func() { must(b.DisableUser(ctx, administrator, user.ID)) },
		"enabled again": func() {
			must(b.DisableUser(ctx, administrator, user.ID))
			must(b.EnableUser(ctx, administrator, user.ID))
		},
	} {
		must(b.EnableUser(ctx, administrator, user.ID))
		must(b.ResetUser(ctx, administrator, user.ID, password))
		code := begin()
		end()
		set(what, user.Login, code, keyholder.Denied)
		b.clock.add(2 * time.Hour)
	}
	must(b.DisableUser(ctx, administrator, user.ID))
	if _, _, err := b.BeginRecovery(ctx, administrator, user.ID); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("for a disabled user: %v", err)
	}
	if _, _, err := b.BeginRecovery(ctx, administrator, "nobody"); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("for nobody: %v", err)
	}
}

// Ensure that wrong codes are throttled, alike for every login, and that those
// who give them keep nobody who has a right one from a new password.
func TestRecoverThrottled(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx := t.Context()
	code, _, err := b.BeginRecovery(ctx, administrator, p.user.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, login := range []string{p.user.Login, "nobody"} {
		for i := range 7 {
			err := b.Recover(ctx, ledger.Stranger, login, "aaaa-bbbb-cccc-dddd", "a new long password")
			if locked := !ledger.LockedUntil(err).IsZero(); locked != (i >= 5) || !locked && keyholder.CodeOf(err) != keyholder.Denied {
				t.Errorf("%s, time %d: %v", login, i, err)
			}
		}
	}
	for range 6 {
		_, _ = b.CheckPassword(ctx, ledger.Stranger, p.user.Login, "wrong password")
	}
	mine := ledger.Digest{1}
	if err := b.Recover(ctx, mine, p.user.Login, code, "a new long password"); err != nil {
		t.Errorf("a right code: %v", err)
	}
	if _, err := b.CheckPassword(ctx, mine, p.user.Login, "a new long password"); err != nil {
		t.Errorf("in the browser of the recovery: %v", err)
	}
	var kinds []keyholder.EventKind
	for _, e := range must(b.SignInEvents(ctx, p.user.ID, 50)) {
		kinds = append(kinds, e.Kind)
	}
	if kinds[0] != keyholder.EventUserRecovered || kinds[len(kinds)-1] != keyholder.EventRecoveryBegun {
		t.Errorf("the user is shown %v", kinds)
	}
}
