package ledger_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Ensure that sign-in accepts the password only, answers alike for unknown
// logins, throttles after failures and lets the user back in.
func TestCheckPassword(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	if u, err := b.CheckPassword(t.Context(), ledger.Stranger, p.user.Login, password); err != nil || u.ID != p.user.ID {
		t.Fatalf("got %v, %v", u, err)
	}
	_, wrong := b.CheckPassword(t.Context(), ledger.Stranger, p.user.Login, "wrong password")
	_, unknown := b.CheckPassword(t.Context(), ledger.Stranger, "nobody", password)
	if keyholder.CodeOf(wrong) != keyholder.Denied || wrong.Error() != unknown.Error() {
		t.Errorf("wrong password: %v; unknown login: %v; want the same denial", wrong, unknown)
	}
	for range 5 {
		_, _ = b.CheckPassword(t.Context(), ledger.Stranger, p.user.Login, "wrong password")
	}
	if _, err := b.CheckPassword(t.Context(), ledger.Stranger, p.user.Login, password); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("after failures: got %v, want to wait", err)
	}
	b.clock.add(20 * time.Minute)
	if _, err := b.CheckPassword(t.Context(), ledger.Stranger, p.user.Login, password); err != nil {
		t.Errorf("after waiting: %v", err)
	}
}

// Ensure that a flood of sign-ins is turned away beyond a bound, that those
// turned away do not count as failures, and that users are let in afterwards.
func TestFloodOfSignIns(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	var denied, away atomic.Int32
	var all sync.WaitGroup
	for i := range 300 {
		all.Go(func() {
			switch _, err := b.CheckPassword(t.Context(), ledger.Stranger, fmt.Sprintf("nobody-%d", i), "wrong password"); {
			case keyholder.CodeOf(err) == keyholder.Denied:
				denied.Add(1)
			case keyholder.CodeOf(err) == keyholder.Unavailable && ledger.LockedUntil(err).IsZero():
				away.Add(1)
			default:
				t.Errorf("got %v", err)
			}
		})
	}
	all.Wait()
	if denied.Load() == 0 || away.Load() == 0 {
		t.Errorf("%d were looked at and %d turned away", denied.Load(), away.Load())
	}
	var counted int32
	if err := b.store.Read().QueryRowContext(t.Context(), "SELECT count(*) FROM lockouts").Scan(&counted); err != nil || counted != denied.Load() {
		t.Errorf("%d failures were counted, %v, want %d", counted, err, denied.Load())
	}
	if _, err := b.CheckPassword(t.Context(), ledger.Stranger, p.user.Login, password); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.CheckPassword(gone, ledger.Stranger, p.user.Login, password); err == nil {
		t.Error("a sign-in that was given up succeeded")
	}
}

// Ensure that a lock-out outlives a restart and says until when, holds for
// unknown logins too, lets through no more who try at once, ends by itself
// whatever an attacker does, and that an administrator can end it.
func TestLockedOut(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx := t.Context()
	for _, login := range []string{p.user.Login, "nobody"} {
		var denied, locked atomic.Int32
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				switch _, err := b.CheckPassword(ctx, ledger.Stranger, login, "wrong password"); {
				case !ledger.LockedUntil(err).IsZero():
					locked.Add(1)
				case keyholder.CodeOf(err) == keyholder.Denied:
					denied.Add(1)
				default:
					t.Errorf("%s: %v", login, err)
				}
			})
		}
		all.Wait()
		if denied.Load() != 5 || locked.Load() != 15 {
			t.Errorf("%s: %d looked at and %d not, want 5 and 15", login, denied.Load(), locked.Load())
		}
	}
	b.close()
	b.open()
	_, err := b.CheckPassword(ctx, ledger.Stranger, p.user.Login, password)
	if until := ledger.LockedUntil(err); !until.Equal(b.Now().Add(2*time.Second)) || keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("after a restart: locked until %v, %v", until, err)
	}
	for range 30 { // an attacker who never rests
		_, err := b.CheckPassword(ctx, ledger.Stranger, p.user.Login, "wrong password")
		if until := ledger.LockedUntil(err); until.Sub(b.Now()) > 15*time.Minute {
			t.Fatalf("locked until %v", until)
		}
		b.clock.add(15 * time.Minute)
	}
	if _, err := b.CheckPassword(ctx, ledger.Stranger, p.user.Login, password); err != nil {
		t.Errorf("after the longest lock: %v", err)
	}
	for range 6 {
		_, _ = b.CheckPassword(ctx, ledger.Stranger, p.user.Login, "wrong password")
	}
	must(b.UnlockUser(ctx, ledger.Administrator, p.user.ID))
	if _, err := b.CheckPassword(ctx, ledger.Stranger, p.user.Login, password); err != nil {
		t.Errorf("unlocked: %v", err)
	}
	if events := must(b.SignInEvents(ctx, p.user.ID, 1)); len(events) != 1 || events[0].Kind != keyholder.EventUserUnlocked {
		t.Errorf("the user is shown %v", events)
	}
	if _, err := b.UnlockUser(ctx, ledger.Administrator, "nobody"); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("unlocked nobody: %v", err)
	}
}

// Ensure that strangers who never rest do not lock a browser in which the user
// has signed in, that this browser has a count of its own, that an unknown
// login is answered as a known one, and that a reset makes browsers strange.
func TestKnownBrowserNotLocked(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx := t.Context()
	mine, other := ledger.Digest{1}, ledger.Digest{2}
	check := func(what string, browser ledger.Digest, login, password string, want keyholder.Code) {
		t.Helper()
		if _, err := b.CheckPassword(ctx, browser, login, password); keyholder.CodeOf(err) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	signIn := func(browser ledger.Digest, user keyholder.UserID) {
		t.Helper()
		if err := b.SignIn(ctx, browser, user, []keyholder.Factor{keyholder.FactorPassword}, keyholder.FactorOptional, "test"); err != nil {
			t.Fatal(err)
		}
	}
	attack := func() {
		for range 6 {
			for _, login := range []string{p.user.Login, "nobody"} {
				_, _ = b.CheckPassword(ctx, other, login, "wrong password")
			}
		}
	}
	attack()
	check("before it is known", mine, p.user.Login, password, keyholder.Unavailable)
	b.clock.add(time.Hour)
	signIn(mine, p.user.ID)
	attack()
	b.close()
	b.open()
	check("known", mine, p.user.Login, password, "")
	check("a stranger", other, p.user.Login, password, keyholder.Unavailable)
	check("no cookie", ledger.Stranger, p.user.Login, password, keyholder.Unavailable)
	check("a login that nobody has", mine, "nobody", password, keyholder.Unavailable)
	somebody := must(b.AddUser(ctx, ledger.Administrator, p.owner.ID, "somebody", password))
	signIn(other, somebody.ID)
	check("known to another user only", other, p.user.Login, password, keyholder.Unavailable)

	for range 5 {
		check("failing", mine, p.user.Login, "wrong password", keyholder.Denied)
	}
	check("its own lock", mine, p.user.Login, password, keyholder.Unavailable)
	must(b.UnlockUser(ctx, ledger.Administrator, p.user.ID))
	check("unlocked", mine, p.user.Login, password, "")
	failed := must(b.SignInEvents(ctx, p.user.ID, 2))[1]
	if failed.Kind != keyholder.EventSignInFailed || !strings.Contains(failed.Detail["reason"], "in a browser of the user") {
		t.Errorf("the audit trail says %+v", failed)
	}

	attack()
	must(b.ResetUser(ctx, ledger.Administrator, p.user.ID, password))
	check("after a reset", mine, p.user.Login, password, keyholder.Unavailable)
	b.clock.add(time.Hour)
	signIn(mine, p.user.ID)
	for i := range 20 {
		b.clock.add(time.Second)
		signIn(ledger.Digest{3, byte(i)}, p.user.ID)
	}
	attack()
	check("the one not used for longest", mine, p.user.Login, password, keyholder.Unavailable)
	check("one used since", ledger.Digest{3}, p.user.Login, password, "")
}
