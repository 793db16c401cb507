package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// Ensure that what holds of a ledger on SQLite holds on PostgreSQL.
func TestOnPostgres(t *testing.T) { storetest.RunOnPostgres(t, "^Test") }

// bench is an open ledger on a real database, and what it needs to be reopened.
type bench struct {
	*ledger.Ledger
	t     *testing.T
	at    storetest.Database
	clock *clock
	store *store.Store
	sign  func([]byte) (string, error)

	factorKey []byte
}

func open(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, at: storetest.New(t),
		clock: &clock{t: time.Date(2026, 3, 2, 5, 0, 0, 0, time.UTC)},
		sign:  func(p []byte) (string, error) { return fmt.Sprintf("signed-%x", sha256.Sum256(p)), nil }}
	b.factorKey = bytes.Repeat([]byte{7}, ledger.FactorKeySize)
	b.open()
	t.Cleanup(b.close)
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.store, err = b.at.Open(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.Ledger, err = ledger.Open(b.t.Context(), ledger.Config{Store: b.store, Now: b.clock.now, Sign: b.sign, FactorKey: b.factorKey,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) close() {
	b.Ledger.Close()
	if err := b.store.Close(); err != nil {
		b.t.Error(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// parties is one of everything.
type parties struct {
	provider  keyholder.Provider
	owner     keyholder.Owner
	user      keyholder.User
	app       keyholder.App
	agreement keyholder.Agreement
	sub       keyholder.Subscription
	certs     map[keyholder.CertificateUse]keyholder.Certificate
	webhook   ledger.Webhook
	grant     keyholder.GrantID
}

const password = "correct horse battery"

func (b *bench) onboard(key string) parties {
	b.t.Helper()
	ctx := b.t.Context()
	var p parties
	p.provider = must(b.AddProvider(ctx, ledger.Administrator, "Provider "+key))
	p.owner = must(b.AddOwner(ctx, ledger.Administrator, key, "Owner "+key))
	p.user = must(b.AddUser(ctx, ledger.Administrator, p.owner.ID, "user@"+key, password))
	p.app = must(b.AddApp(ctx, ledger.Administrator, keyholder.App{Name: "App " + key, Authentication: keyholder.AuthSecret,
		Grants: []keyholder.GrantType{keyholder.GrantAuthorizationCode, keyholder.GrantRefreshToken}, RedirectURIs: []string{"https://app.example/callback"}}))
	p.agreement = must(b.AddAgreement(ctx, ledger.Administrator, keyholder.Agreement{Provider: p.provider.ID, Owner: p.owner.ID, Purpose: "cleaning on demand"}))
	p.sub = must(b.GiveConsent(ctx, string(p.user.ID), keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID, GivenBy: p.user.ID}, ""))
	p.certs = map[keyholder.CertificateUse]keyholder.Certificate{}
	for use, subject := range map[keyholder.CertificateUse]string{keyholder.ForSubscription: string(p.sub.ID),
		keyholder.ForProvider: string(p.provider.ID), keyholder.ForApp: string(p.app.ID)} {
		c := keyholder.Certificate{Serial: fmt.Sprintf("%x", sha256.Sum256([]byte(subject)))[:32], Thumbprint: sha256.Sum256([]byte(subject)),
			Use: use, Subject: subject, NotBefore: b.Now(), NotAfter: b.Now().Add(90 * 24 * time.Hour)}
		if err := b.AddCertificate(ctx, ledger.Administrator, c, "PEM"); err != nil {
			b.t.Fatal(err)
		}
		p.certs[use] = b.Certificate(c.Thumbprint)
	}
	p.webhook = must(b.AddWebhook(ctx, ledger.Administrator, ledger.Webhook{Subscription: p.sub.ID, URL: "https://app.example/push", Issuer: "https://auth.app.example", Client: "provider"}))
	p.grant = must(keyholder.NewID[keyholder.GrantID](nil))
	if err := b.store.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec("INSERT INTO grants (id, client, subscription, version, body, created) VALUES (?, ?, ?, 1, ?, 1)", p.grant, p.app.ID, p.sub.ID, []byte("{}")); err != nil {
			return err
		}
		_, err := tx.Exec("INSERT INTO messages (subscription, seq, level, payload, at, sum) VALUES (?, 1, 'events', ?, 1, 0)", p.sub.ID, []byte("{}"))
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return p
}

// Ensure that one cut, at each level, ends exactly what hangs below it, in
// the view, in the store after reopening, and for nobody else.
func TestCutEndsWhatHangsBelow(t *testing.T) {
	for _, tt := range []struct {
		kind keyholder.TargetKind
		id   func(parties) string
		// what must be over afterwards
		sub, app, provider, agreement, subCert, appCert, providerCert bool
	}{
		{kind: keyholder.CutSubscription, id: func(p parties) string { return string(p.sub.ID) }, sub: true, subCert: true},
		{kind: keyholder.CutConsent, id: func(p parties) string { return string(p.sub.Consent) }, sub: true, subCert: true},
		{kind: keyholder.CutAgreement, id: func(p parties) string { return string(p.agreement.ID) }, sub: true, agreement: true, subCert: true},
		{kind: keyholder.CutApp, id: func(p parties) string { return string(p.app.ID) }, sub: true, app: true, subCert: true, appCert: true},
		{kind: keyholder.CutProvider, id: func(p parties) string { return string(p.provider.ID) }, sub: true, provider: true, agreement: true, subCert: true, providerCert: true},
		{kind: keyholder.CutCertificate, id: func(p parties) string { return p.certs[keyholder.ForSubscription].Serial }, subCert: true},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			b := open(t)
			p, other := b.onboard("northgate"), b.onboard("st-anna")
			var told keyholder.Cut
			b.AddPlane("test", func(_ context.Context, c keyholder.Cut) (int, error) { told = c; return 7, nil })
			r, err := b.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: tt.kind, ID: tt.id(p)}, "contract ended")
			if err != nil {
				t.Fatal(err)
			}
			if r.Signed == "" || len(r.Planes) != 1 || r.Planes[0].Ended != 7 || r.Planes[0].Failed != "" {
				t.Errorf("receipt is not complete: %+v", r)
			}
			if diff := cmp.Diff(r.Cut, told); diff != "" {
				t.Errorf("the plane was told something else:\n%s", diff)
			}
			if _, err := b.Cut(t.Context(), ledger.Administrator, r.Target, "again"); keyholder.CodeOf(err) != keyholder.Conflict {
				t.Errorf("second cut: got %v, want conflict", err)
			}
			check := func(when string) {
				t.Helper()
				now := b.Now()
				got := map[string]bool{
					"sub": !b.Standing(p.sub.ID).Holds(now).Allowed, "app": !b.App(p.app.ID).Cut.IsZero(),
					"provider": !b.Provider(p.provider.ID).Cut.IsZero(), "agreement": !b.Agreement(p.agreement.ID).InForce(now),
					"subCert":      !b.Peer(p.certs[keyholder.ForSubscription].Thumbprint).Permit(now).Allowed,
					"appCert":      !b.Peer(p.certs[keyholder.ForApp].Thumbprint).Permit(now).Allowed,
					"providerCert": !b.Peer(p.certs[keyholder.ForProvider].Thumbprint).Permit(now).Allowed,
					"grant":        b.GrantEnded(p.grant), "webhook": len(b.Webhooks(p.sub.ID)) == 0, "messages": b.messages(p.sub.ID) == 0,
				}
				want := map[string]bool{"sub": tt.sub, "app": tt.app, "provider": tt.provider, "agreement": tt.agreement, "subCert": tt.subCert,
					"appCert": tt.appCert, "providerCert": tt.providerCert, "grant": tt.sub, "webhook": tt.sub, "messages": tt.sub}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s, what is over (-want +got):\n%s", when, diff)
				}
				if !b.Standing(other.sub.ID).Holds(now).Allowed || b.GrantEnded(other.grant) || b.messages(other.sub.ID) != 1 || len(b.Webhooks(other.sub.ID)) != 1 {
					t.Errorf("%s, the cut reached a stranger", when)
				}
				for _, c := range other.certs {
					if !b.Peer(c.Thumbprint).Permit(now).Allowed {
						t.Errorf("%s, the cut reached a stranger's %s certificate", when, c.Use)
					}
				}
			}
			check("at once")
			b.close()
			b.open()
			check("after reopening")
			stored, err := b.Receipt(t.Context(), r.Receipt)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r, stored); diff != "" {
				t.Errorf("stored receipt differs:\n%s", diff)
			}
		})
	}
}

func (b *bench) messages(id keyholder.SubscriptionID) int {
	b.t.Helper()
	var n int
	if err := b.store.Read().QueryRow("SELECT count(*) FROM messages WHERE subscription = ?", id).Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// Ensure that a plane that hangs does not hold the cut back for long, and
// that the receipt says so.
func TestCutWithHangingPlane(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	b.AddPlane("hangs", func(ctx context.Context, _ keyholder.Cut) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
	began := time.Now()
	r, err := b.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(p.sub.ID)}, "test")
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the cut took %s", took)
	}
	if r.Planes[0].Failed == "" {
		t.Error("the receipt hides that the plane failed")
	}
	if b.Standing(p.sub.ID).Holds(b.Now()).Allowed {
		t.Error("the right outlived the cut")
	}
}

// Ensure that a cut whose receipt could not be signed is still a cut, and
// that opening the ledger again finishes the receipt.
func TestReceiptIsFinishedAfterCrash(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	sign := b.sign
	b.sign = func([]byte) (string, error) { return "", fmt.Errorf("no signer") }
	b.close()
	b.open()
	if _, err := b.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(p.sub.ID)}, "test"); err == nil {
		t.Fatal("a receipt without a signature was called success")
	}
	if b.Standing(p.sub.ID).Holds(b.Now()).Allowed {
		t.Error("the right outlived the cut")
	}
	b.sign = sign
	b.close()
	b.open()
	receipts, err := b.Receipts(t.Context())
	if err != nil || len(receipts) != 1 || receipts[0].Signed == "" || receipts[0].Planes[0].Plane != "restart" {
		t.Errorf("receipts %+v, err %v; want one, signed, with the plane restart", receipts, err)
	}
}

// Ensure that every change of the audit trail is found.
func TestVerifyAudit(t *testing.T) {
	b := open(t)
	b.onboard("northgate")
	rows, err := b.VerifyAudit(t.Context())
	if err != nil || rows < 10 {
		t.Fatalf("%d rows, err %v", rows, err)
	}
	raw := b.at.SQL(t)
	disarm := []string{"DROP TRIGGER IF EXISTS audit_is_append_only_update", "DROP TRIGGER IF EXISTS audit_is_append_only_delete"}
	if b.at.OnPostgres() {
		disarm = []string{"ALTER TABLE audit DISABLE TRIGGER ALL"}
	}
	if _, err := raw.Exec("UPDATE audit SET actor = 'nobody' WHERE seq = 3"); err == nil {
		t.Error("the trail can be updated")
	}
	if _, err := raw.Exec("DELETE FROM audit WHERE seq = 3"); err == nil {
		t.Error("rows of the trail can be deleted")
	}
	for _, statement := range []string{
		"UPDATE audit SET actor = 'nobody' WHERE seq = 3",
		"UPDATE audit SET at = at + 1 WHERE seq = 3",
		"UPDATE audit SET detail = '{}' WHERE seq = 3",
		"DELETE FROM audit WHERE seq = 3",
		"UPDATE audit SET seq = -seq WHERE seq = 1",
	} {
		t.Run(statement, func(t *testing.T) {
			for _, q := range append(slices.Clone(disarm), "CREATE TABLE IF NOT EXISTS saved AS SELECT * FROM audit", statement) {
				if _, err := raw.Exec(q); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.VerifyAudit(t.Context()); keyholder.CodeOf(err) != keyholder.Conflict {
				t.Errorf("got %v, want conflict", err)
			}
			for _, q := range []string{"DELETE FROM audit", "INSERT INTO audit SELECT * FROM saved"} {
				if _, err := raw.Exec(q); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.VerifyAudit(t.Context()); err != nil {
				t.Errorf("restored trail: %v", err)
			}
		})
	}
}

// Ensure that the feed delivers every event once and in order.
func TestFeedIsOrderedAndComplete(t *testing.T) {
	b := open(t)
	got := make(chan keyholder.Event, 1000)
	b.Follow(func(e keyholder.Event) { got <- e })
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := b.Record(t.Context(), keyholder.EventDenied, ledger.System, "x", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for want := int64(1); want <= 50; want++ {
		if e := <-got; e.Seq != want {
			t.Fatalf("got event %d, want %d", e.Seq, want)
		}
	}
}

// Ensure that secrets are recognisable, verified, replaced two at a time and
// never stored.
func TestSecrets(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	client := string(p.app.ID)
	var secrets []string
	for range 3 {
		s, err := b.AddSecret(t.Context(), ledger.Administrator, client)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, s)
	}
	check := func(when string) {
		t.Helper()
		for i, want := range []bool{false, true, true} {
			if b.VerifySecret(client, secrets[i]) != want {
				t.Errorf("%s: secret %d valid is not %v", when, i, want)
			}
		}
		if b.VerifySecret(string(p.provider.ID), secrets[2]) || b.VerifySecret(client, "") {
			t.Errorf("%s: a foreign or empty secret is accepted", when)
		}
	}
	check("at once")
	b.close()
	b.open()
	check("after reopening")
	if _, err := b.AddSecret(t.Context(), ledger.Administrator, "11111111-1111-4111-8111-111111111111"); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("secret for nobody: %v", err)
	}
}

// Ensure that what an administrator narrowed a user's new consent keeps, and
// that an administrator can widen it again.
func TestNarrowedConsent(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx := t.Context()
	give := func(by keyholder.UserID, actor string, scope ...keyholder.Kind) error {
		_, err := b.GiveConsent(ctx, actor, keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID, GivenBy: by, Scope: scope}, "")
		return err
	}
	if err := give("", ledger.Administrator, keyholder.Statuses, keyholder.Events); err != nil {
		t.Fatal(err)
	}
	user := string(p.user.ID)
	for _, scope := range [][]keyholder.Kind{nil, {keyholder.Spaces}, {keyholder.Statuses, keyholder.Spaces}} {
		if err := give(p.user.ID, user, scope...); keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("widened to %v: %v", scope, err)
		}
	}
	if err := give(p.user.ID, user, keyholder.Statuses); err != nil {
		t.Error(err)
	}
	if got := b.ConsentTo(p.agreement.ID, p.app.ID); !slices.Equal(got.Scope, []keyholder.Kind{keyholder.Statuses}) || got.GivenBy != p.user.ID {
		t.Errorf("the consent is %+v", got)
	}
	if err := give("", ledger.Administrator); err != nil || len(b.ConsentTo(p.agreement.ID, p.app.ID).Scope) != 0 {
		t.Errorf("widened by the administrator: %v", err)
	}

	until := b.Now().Add(time.Hour)
	bounded := keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID, Expires: until}
	must(b.GiveConsent(ctx, ledger.Administrator, bounded, ""))
	if err := give(p.user.ID, user); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("prolonged: %v", err)
	}
	must(b.GiveConsent(ctx, user, b.ConsentTo(p.agreement.ID, p.app.ID).Renewed(p.agreement.ID, p.app.ID, p.user.ID), ""))
	if got := b.ConsentTo(p.agreement.ID, p.app.ID); !got.Expires.Equal(until) || got.GivenBy != p.user.ID {
		t.Errorf("the consent is %+v", got)
	}
	if err := give("", ledger.Administrator); err != nil || !b.ConsentTo(p.agreement.ID, p.app.ID).Expires.IsZero() {
		t.Errorf("prolonged by the administrator: %v", err)
	}
}

// Ensure that a second consent for the same app and agreement renews the
// subscription, that a fixed ID is used, and that no ID is used twice.
func TestGiveConsent(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx := t.Context()
	again := must(b.GiveConsent(ctx, string(p.user.ID), keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID, GivenBy: p.user.ID, Scope: []keyholder.Kind{keyholder.Events}}, ""))
	if again.ID != p.sub.ID {
		t.Error("a second consent made a second subscription")
	}
	if b.Standing(p.sub.ID).Consent.Covers(keyholder.Statuses) {
		t.Error("the renewed scope is not in force")
	}
	must(b.Cut(ctx, ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(p.sub.ID)}, "test"))
	fresh := must(b.GiveConsent(ctx, string(p.user.ID), keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID, GivenBy: p.user.ID}, ""))
	if fresh.ID == p.sub.ID || b.Standing(p.sub.ID).Holds(b.Now()).Allowed {
		t.Error("a cut subscription came back")
	}
	must(b.Cut(ctx, ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(fresh.ID)}, "test"))
	for _, tt := range []struct {
		name  string
		actor string
		c     keyholder.Consent
		fixed keyholder.SubscriptionID
		code  keyholder.Code
	}{
		{"used ID", ledger.Administrator, keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID}, p.sub.ID, keyholder.Conflict},
		{"no UUID", ledger.Administrator, keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID}, "x", keyholder.Invalid},
		{"nobody's yes", string(p.user.ID), keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID}, "", keyholder.Denied},
		{"unknown agreement", ledger.Administrator, keyholder.Consent{Agreement: "a", App: p.app.ID}, "", keyholder.Denied},
		{"unknown app", ledger.Administrator, keyholder.Consent{Agreement: p.agreement.ID, App: "a"}, "", keyholder.Denied},
		{"bad scope", ledger.Administrator, keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID, Scope: []keyholder.Kind{"soap"}}, "", keyholder.Invalid},
		{"expired", ledger.Administrator, keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID, Expires: b.Now().Add(-time.Hour)}, "", keyholder.Invalid},
	} {
		if _, err := b.GiveConsent(ctx, tt.actor, tt.c, tt.fixed); keyholder.CodeOf(err) != tt.code {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.code)
		}
	}
}

// Ensure that nothing can be issued or registered for what was cut, also when
// it races with the cut.
func TestNothingOutlivesTheCut(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	var wg sync.WaitGroup
	wg.Go(func() {
		must(b.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutProvider, ID: string(p.provider.ID)}, "test"))
	})
	for i := range 20 {
		wg.Go(func() {
			sum := sha256.Sum256(fmt.Append(nil, i))
			c := keyholder.Certificate{Serial: fmt.Sprintf("%x", sum)[:32], Thumbprint: sum, Use: keyholder.ForSubscription, Subject: string(p.sub.ID),
				NotBefore: b.Now(), NotAfter: b.Now().Add(time.Hour)}
			_ = b.AddCertificate(t.Context(), ledger.Administrator, c, "PEM")
			_, _ = b.GiveConsent(t.Context(), string(p.user.ID), keyholder.Consent{Agreement: p.agreement.ID, App: p.app.ID, GivenBy: p.user.ID}, "")
		})
	}
	wg.Wait()
	for _, c := range b.ListCertificates() {
		if c.Use != keyholder.ForApp && b.Peer(c.Thumbprint).Permit(b.Now()).Allowed {
			t.Errorf("certificate %s (%s) outlived the cut", c.Serial, c.Use)
		}
	}
	for _, s := range b.ListSubscriptions() {
		if b.Standing(s.ID).Holds(b.Now()).Allowed {
			t.Errorf("subscription %s outlived the cut", s.ID)
		}
	}
}

// Ensure that bad registrations are refused with a reason and change nothing.
func TestBadRegistrations(t *testing.T) {
	b := open(t)
	p := b.onboard("northgate")
	ctx := t.Context()
	before, _ := b.VerifyAudit(ctx)
	app := func(change func(*keyholder.App)) error {
		a := keyholder.App{Name: "x", Authentication: keyholder.AuthSecret, Grants: []keyholder.GrantType{keyholder.GrantAuthorizationCode}, RedirectURIs: []string{"https://a.example/cb"}}
		change(&a)
		_, err := b.AddApp(ctx, ledger.Administrator, a)
		return err
	}
	for name, err := range map[string]error{
		"empty provider":   second(b.AddProvider(ctx, "administrator", " ")),
		"control in name":  second(b.AddProvider(ctx, "administrator", "a\nb")),
		"owner key":        second(b.AddOwner(ctx, "administrator", "St Anna", "x")),
		"short password":   second(b.AddUser(ctx, "administrator", p.owner.ID, "u", "short")),
		"no grant":         app(func(a *keyholder.App) { a.Grants = nil }),
		"implicit":         app(func(a *keyholder.App) { a.Grants = []keyholder.GrantType{"implicit"} }),
		"no redirect":      app(func(a *keyholder.App) { a.RedirectURIs = nil }),
		"http redirect":    app(func(a *keyholder.App) { a.RedirectURIs = []string{"http://a.example/cb"} }),
		"fragment":         app(func(a *keyholder.App) { a.RedirectURIs = []string{"https://a.example/cb#x"} }),
		"unknown method":   app(func(a *keyholder.App) { a.Authentication = "none" }),
		"ends before":      second(b.AddAgreement(ctx, "administrator", keyholder.Agreement{Provider: p.provider.ID, Owner: p.owner.ID, Purpose: "x", End: b.Now().Add(-time.Hour)})),
		"http webhook":     second(b.AddWebhook(ctx, "administrator", ledger.Webhook{Subscription: p.sub.ID, URL: "http://x.example", Issuer: "https://x.example", Client: "c"})),
		"reason of cut":    second(b.Cut(ctx, "administrator", keyholder.Target{Kind: keyholder.CutSubscription, ID: string(p.sub.ID)}, "")),
		"unknown of a cut": second(b.Cut(ctx, "administrator", keyholder.Target{Kind: keyholder.CutSubscription, ID: "x"}, "r")),
		"second webhook":   second(b.AddWebhook(ctx, "administrator", ledger.Webhook{Subscription: p.sub.ID, URL: "https://x.example", Issuer: "https://x.example", Client: "c"})),
		"taken login":      second(b.AddUser(ctx, "administrator", p.owner.ID, p.user.Login, password)),
		"taken key":        second(b.AddOwner(ctx, "administrator", "northgate", "x")),
	} {
		if c := keyholder.CodeOf(err); c != keyholder.Invalid && c != keyholder.NotFound && c != keyholder.Conflict {
			t.Errorf("%s: got %v, want a clear refusal", name, err)
		}
	}
	if after, err := b.VerifyAudit(ctx); after != before || err != nil {
		t.Errorf("audit rows %d -> %d, err %v", before, after, err)
	}
}

func second[T any](_ T, err error) error { return err }
