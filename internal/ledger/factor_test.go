package ledger_test

import (
	"bytes"
	"encoding/base32"
	"image/png"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/store"
)

const administrator = ledger.Administrator

// code is what an authenticator app with the secret shows, some steps from now.
func (b *bench) code(secret string, steps int) string {
	b.t.Helper()
	return must(totp.GenerateCode(secret, b.clock.now().Add(time.Duration(steps)*30*time.Second)))
}

// enrol sets an authenticator app up and returns its secret and the recovery
// codes.
func (b *bench) enrol(user keyholder.UserID) (secret string, recovery []string) {
	b.t.Helper()
	if err := b.BeginTOTP(b.t.Context(), user); err != nil {
		b.t.Fatal(err)
	}
	e := must(b.PendingTOTP(b.t.Context(), user, "Keyholder"))
	return e.Secret, must(b.ConfirmTOTP(b.t.Context(), user, b.code(e.Secret, 0)))
}

// Ensure that an authenticator app counts only once a code has confirmed it,
// and that each code is accepted once, within a step of now, of its own user,
// also after a restart.
func TestTOTP(t *testing.T) {
	b := open(t)
	p, other := b.onboard("northgate"), b.onboard("st-anna")
	ctx, user := t.Context(), p.user.ID
	if err := b.BeginTOTP(ctx, user); err != nil {
		t.Fatal(err)
	}
	e := must(b.PendingTOTP(ctx, user, "Keyholder"))
	if _, err := png.Decode(bytes.NewReader(e.Image)); err != nil || len(must(base32.StdEncoding.DecodeString(e.Secret))) != 20 {
		t.Errorf("secret of %d characters, picture: %v", len(e.Secret), err)
	}
	if set := must(b.Factors(ctx, user)); set.Any() {
		t.Errorf("before the confirmation there are %+v", set)
	}
	if err := b.CheckTOTP(ctx, user, b.code(e.Secret, 0)); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("a code before the confirmation: %v", err)
	}
	if _, err := b.ConfirmTOTP(ctx, user, "000000"); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("confirmed by a wrong code: %v", err)
	}
	recovery := must(b.ConfirmTOTP(ctx, user, b.code(e.Secret, 0)))
	if len(recovery) != 8 {
		t.Errorf("%d recovery codes, want 8", len(recovery))
	}
	if set := must(b.Factors(ctx, user)); set.TOTP.IsZero() || set.Passkeys != 0 || set.RecoveryCodes != 8 {
		t.Errorf("set up are %+v", set)
	}
	if err := b.BeginTOTP(ctx, user); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("a second app in place of the first: %v", err)
	}
	if _, err := b.PendingTOTP(ctx, user, "Keyholder"); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("the secret is shown again: %v", err)
	}

	otherSecret, _ := b.enrol(other.user.ID)
	check := func(what string, code string, want keyholder.Code) {
		t.Helper()
		if err := b.CheckTOTP(ctx, user, code); keyholder.CodeOf(err) != want {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	check("the code of the confirmation again", b.code(e.Secret, 0), keyholder.Denied)
	check("the step before it", b.code(e.Secret, -1), keyholder.Denied)
	b.clock.add(30 * time.Second)
	check("the code of another user", b.code(otherSecret, 0), keyholder.Denied)
	check("two steps early", b.code(e.Secret, 2), keyholder.Denied)
	check("the next code", b.code(e.Secret, 0), "")
	check("the next code again", b.code(e.Secret, 0), keyholder.Denied)
	b.close()
	b.open()
	check("again after a restart", b.code(e.Secret, 0), keyholder.Denied)
	b.clock.add(5 * time.Minute)
	check("two steps late", b.code(e.Secret, -2), keyholder.Denied)
	check("a step late", b.code(e.Secret, -1), "")
	check("with a space in it", b.code(e.Secret, 1)[:3]+" "+b.code(e.Secret, 1)[3:], "")
	check("a step it has gone past", b.code(e.Secret, 0), keyholder.Denied)
	for _, malformed := range []string{"", "12345", "1234567", "abcdef", "１２３４５６"} {
		b.clock.add(20 * time.Minute)
		check(malformed, malformed, keyholder.Denied)
	}
	if err := b.RemoveTOTP(ctx, user); err != nil {
		t.Fatal(err)
	}
	b.clock.add(20 * time.Minute)
	check("after the removal", b.code(e.Secret, 0), keyholder.Denied)
	if set := must(b.Factors(ctx, user)); set != (keyholder.Factors{}) {
		t.Errorf("after the removal there are %+v", set)
	}
	if err := b.RemoveTOTP(ctx, user); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("removed twice: %v", err)
	}
}

// Ensure that of many who present one code at once exactly one is let in, and
// that guessing is throttled, also for those who guess at once and for those
// who have the password.
func TestGuessing(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx, user := t.Context(), p.user.ID
	secret, _ := b.enrol(user)
	b.clock.add(time.Minute)
	atOnce := func(n int, code func(int) string) map[keyholder.Code]int {
		var mu sync.Mutex
		var all sync.WaitGroup
		out := map[keyholder.Code]int{}
		for i := range n {
			all.Go(func() {
				err := b.CheckTOTP(ctx, user, code(i))
				mu.Lock()
				defer mu.Unlock()
				out[keyholder.CodeOf(err)]++
			})
		}
		all.Wait()
		return out
	}
	right := b.code(secret, 0)
	if got := atOnce(5, func(int) string { return right }); got[""] != 1 {
		t.Errorf("one code presented at once: %v, want one winner", got)
	}
	b.clock.add(30 * time.Minute)
	if err := b.CheckTOTP(ctx, user, b.code(secret, 0)); err != nil {
		t.Fatal(err)
	}
	if got := atOnce(50, func(int) string { return "000000" }); got[keyholder.Denied] != 5 || got[keyholder.Unavailable] != 45 {
		t.Errorf("guesses at once: %v, want 5 to be looked at", got)
	}
	if _, err := b.CheckPassword(ctx, ledger.Stranger, p.user.Login, password); err != nil {
		t.Fatal(err)
	}
	b.clock.add(time.Second)
	if err := b.CheckTOTP(ctx, user, b.code(secret, 1)); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("a right password set the counter back: %v", err)
	}
	if err := b.CheckRecoveryCode(ctx, user, "aaaa-aaaa-aaaa-aaaa"); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("recovery codes are guessed apart: %v", err)
	}
	b.clock.add(20 * time.Minute)
	if err := b.CheckTOTP(ctx, user, b.code(secret, 0)); err != nil {
		t.Errorf("after waiting: %v", err)
	}
}

// Ensure that a recovery code is good once, for its own user, however it is
// typed, and that new ones replace all earlier ones.
func TestRecoveryCodes(t *testing.T) {
	b := open(t)
	p, other := b.onboard("northgate"), b.onboard("st-anna")
	ctx, user := t.Context(), p.user.ID
	if _, err := b.DrawRecoveryCodes(ctx, user); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("recovery codes without a factor: %v", err)
	}
	_, codes := b.enrol(user)
	_, others := b.enrol(other.user.ID)
	if slices.Contains(codes, others[0]) || codes[0] == codes[1] {
		t.Error("codes repeat")
	}
	check := func(what, code string, want keyholder.Code) {
		t.Helper()
		if err := b.CheckRecoveryCode(ctx, user, code); keyholder.CodeOf(err) != want {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
		b.clock.add(20 * time.Minute)
	}
	check("of another user", others[0], keyholder.Denied)
	check("first", codes[0], "")
	check("again", codes[0], keyholder.Denied)
	check("in capitals, with spaces", strings.ToUpper(strings.ReplaceAll(codes[1], "-", " ")), "")
	check("empty", "", keyholder.Denied)
	fresh := must(b.DrawRecoveryCodes(ctx, user))
	check("an earlier one", codes[2], keyholder.Denied)
	check("a new one", fresh[7], "")
	if set := must(b.Factors(ctx, user)); set.RecoveryCodes != 7 {
		t.Errorf("%d are left, want 7", set.RecoveryCodes)
	}
}

// Ensure that a passkey belongs to one user, that a count of signatures that
// does not grow is refused and audited, and that only its user removes it.
func TestPasskeys(t *testing.T) {
	b := open(t)
	p, other := b.onboard("northgate"), b.onboard("st-anna")
	ctx := t.Context()
	key := ledger.Passkey{ID: []byte("credential"), User: p.user.ID, Name: "Phone", PublicKey: []byte("COSE"), Synced: true, Transports: []string{"internal"}}
	if recovery := must(b.AddPasskey(ctx, key)); len(recovery) != 8 {
		t.Errorf("%d recovery codes", len(recovery))
	}
	stolen := key
	stolen.User = other.user.ID
	if _, err := b.AddPasskey(ctx, stolen); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("one credential for two users: %v", err)
	}
	got := must(b.Passkey(ctx, key.ID))
	if got.User != p.user.ID || got.Name != "Phone" || string(got.PublicKey) != "COSE" || !got.Synced || got.Factor() != keyholder.FactorSyncedPasskey || len(got.Transports) != 1 {
		t.Errorf("stored is %+v", got)
	}
	for _, use := range []struct {
		count uint32
		want  keyholder.Code
	}{{0, ""}, {0, ""}, {7, ""}, {8, ""}, {8, keyholder.Denied}, {3, keyholder.Denied}, {0, keyholder.Denied}, {1 << 31, ""}} {
		if err := b.UsePasskey(ctx, key.ID, use.count); keyholder.CodeOf(err) != use.want {
			t.Errorf("count %d: %v, want %q", use.count, err, use.want)
		}
	}
	cloned := 0
	for _, e := range must(b.Audit(ctx, 0, 1000)) {
		if e.Kind == keyholder.EventFactorCloned && e.Subject == string(p.user.ID) {
			cloned++
		}
	}
	if cloned != 3 {
		t.Errorf("%d suspicions audited, want 3", cloned)
	}
	for i := range 10 {
		more := key
		more.ID = []byte{byte(i)}
		if _, err := b.AddPasskey(ctx, more); (err != nil) != (i == 9) {
			t.Errorf("passkey %d: %v", i+2, err)
		}
	}
	if err := b.RemovePasskey(ctx, other.user.ID, key.ID); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("removed by another: %v", err)
	}
	if err := b.RemovePasskey(ctx, p.user.ID, key.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Passkey(ctx, key.ID); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("after the removal: %v", err)
	}
	if err := b.UsePasskey(ctx, key.ID, 1<<31+1); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("used after the removal: %v", err)
	}
	if n := len(must(b.PasskeysOf(ctx, p.user.ID))); n != 9 {
		t.Errorf("%d passkeys are left", n)
	}
}

// Ensure that a sign-in is recorded only when the policy is met, and that a
// reset, a change of the password and disabling end what was before.
func TestSignIn(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx, user := t.Context(), p.user.ID
	signIn := func(policy keyholder.FactorPolicy, presented ...keyholder.Factor) keyholder.Code {
		return keyholder.CodeOf(b.SignIn(ctx, ledger.Stranger, user, presented, policy, "test"))
	}
	if code := signIn(keyholder.FactorOptional, keyholder.FactorPassword); code != "" {
		t.Errorf("a password alone: %q", code)
	}
	o := must(b.SetFactorPolicy(ctx, administrator, p.owner.ID, keyholder.FactorRequired))
	if o.Factor != keyholder.FactorRequired || b.Owner(p.owner.ID).Factor != keyholder.FactorRequired {
		t.Errorf("the policy is %q", o.Factor)
	}
	if code := signIn(o.Factor, keyholder.FactorPassword); code != keyholder.Denied {
		t.Errorf("a password alone where more is required: %q", code)
	}
	secret, codes := b.enrol(user)
	if code := signIn(keyholder.FactorOptional, keyholder.FactorPassword); code != keyholder.Denied {
		t.Errorf("a password alone where more is set up: %q", code)
	}
	if code := signIn(o.Factor, keyholder.FactorPassword, keyholder.FactorTOTP); code != "" {
		t.Errorf("both: %q", code)
	}
	signedIn := b.Now()
	b.clock.add(time.Minute)

	if _, err := b.ResetUser(ctx, administrator, user, "short"); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("reset to a short password: %v", err)
	}
	must(b.ResetUser(ctx, administrator, user, "another long password"))
	if keyholder.PermitSession(b.User(user), signedIn).Allowed {
		t.Error("after the reset the sign-in from before it goes on")
	}
	if set := must(b.Factors(ctx, user)); set != (keyholder.Factors{}) {
		t.Errorf("after the reset there are %+v", set)
	}
	if b.CheckRecoveryCode(ctx, user, codes[0]) == nil || b.CheckTOTP(ctx, user, b.code(secret, 0)) == nil {
		t.Error("after the reset an old factor is good")
	}
	if _, err := b.CheckPassword(ctx, ledger.Stranger, p.user.Login, password); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("the old password: %v", err)
	}
	if _, err := b.ChangePassword(ctx, ledger.Stranger, user, password, "my own long password"); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("changed with the old password: %v", err)
	}
	b.clock.add(time.Minute)
	must(b.ChangePassword(ctx, ledger.Stranger, user, "another long password", "my own long password"))
	b.close()
	b.open()
	if got := b.User(user).Renewed; !got.Equal(b.Now()) || b.Owner(p.owner.ID).Factor != keyholder.FactorRequired {
		t.Errorf("after reopening: renewed %v, policy %q", got, b.Owner(p.owner.ID).Factor)
	}
	if _, err := b.CheckPassword(ctx, ledger.Stranger, p.user.Login, "my own long password"); err != nil {
		t.Error(err)
	}
	must(b.DisableUser(ctx, administrator, user))
	if _, err := b.CheckPassword(ctx, ledger.Stranger, p.user.Login, "my own long password"); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("a disabled user: %v", err)
	}
	if code := signIn(keyholder.FactorOptional, keyholder.FactorSyncedPasskey); code != keyholder.Denied {
		t.Errorf("a disabled user by passkey: %q", code)
	}
	must(b.EnableUser(ctx, administrator, user))
	if _, err := b.CheckPassword(ctx, ledger.Stranger, p.user.Login, "my own long password"); err != nil {
		t.Error(err)
	}
	var kinds []keyholder.EventKind
	for _, e := range must(b.SignInEvents(ctx, user, 100)) {
		kinds = append(kinds, e.Kind)
	}
	if want := []keyholder.EventKind{keyholder.EventUserEnabled, keyholder.EventSignInFailed, keyholder.EventUserDisabled, keyholder.EventPasswordChanged}; !slices.Equal(kinds[:4], want) {
		t.Errorf("the last events are %v, want %v", kinds[:4], want)
	}
	if n := len(must(b.SignInEvents(ctx, user, 3))); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}

// Ensure that neither the secret of an authenticator app nor a recovery code
// stands in the database, that a sealed secret opens for its own user only,
// and that without the key nothing is set up.
func TestFactorsAtRest(t *testing.T) {
	b := open(t)
	p, other := b.onboard("northgate"), b.onboard("st-anna")
	secret, codes := b.enrol(p.user.ID)
	raw := string(must(base32.StdEncoding.DecodeString(secret)))
	b.enrol(other.user.ID)
	for _, file := range []string{b.at.String(), b.at.String() + "-wal"} {
		if b.at.OnPostgres() {
			break // its files are the server's
		}
		content := string(must(os.ReadFile(file)))
		for what, s := range map[string]string{"secret": secret, "raw secret": raw, "recovery code": codes[0], "its letters": strings.ReplaceAll(codes[0], "-", "")} {
			if strings.Contains(content, s) {
				t.Errorf("%s holds the %s in the clear", file, what)
			}
		}
	}
	if err := b.store.Write(t.Context(), func(tx *store.Tx) error {
		return second(tx.Exec("UPDATE totps SET secret = (SELECT secret FROM totps WHERE user_id = ?) WHERE user_id = ?", p.user.ID, other.user.ID))
	}); err != nil {
		t.Fatal(err)
	}
	b.clock.add(time.Minute)
	if err := b.CheckTOTP(t.Context(), other.user.ID, b.code(secret, 0)); err == nil || keyholder.CodeOf(err) != "" {
		t.Errorf("a secret moved to another user: %v", err)
	}
	b.close()
	b.factorKey = nil
	b.open()
	if err := b.CheckTOTP(t.Context(), p.user.ID, b.code(secret, 0)); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("without the key: %v", err)
	}
	b.close()
	b.factorKey = bytes.Repeat([]byte{9}, ledger.FactorKeySize)
	b.open()
	if err := b.CheckTOTP(t.Context(), p.user.ID, b.code(secret, 0)); err == nil {
		t.Error("another key opened the secret")
	}
}
