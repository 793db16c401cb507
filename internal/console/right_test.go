package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// Ensure that every party can be added, listed and shown through the client,
// and that what is shown is what was added.
func TestParties(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	p := b.parties(time.Time{})
	got, err := b.Provider(ctx, string(p.provider.ID))
	if err != nil || got != p.provider {
		t.Errorf("provider: %+v, %v", got, err)
	}
	for _, keyOrID := range []string{"northgate", string(p.owner.ID)} {
		if o, err := b.Owner(ctx, keyOrID); err != nil || o != p.owner {
			t.Errorf("owner by %s: %+v, %v", keyOrID, o, err)
		}
	}
	u := must[console.User](t)(b.AddUser(ctx, console.NewUser{Owner: "northgate", Login: "facility", Password: "a long password"}))
	if u.OwnerKey != "northgate" {
		t.Errorf("user: %+v", u)
	}
	if _, err := b.ledger.CheckPassword(ctx, ledger.Stranger, "facility", "a long password"); err != nil {
		t.Errorf("the user cannot sign in: %v", err)
	}
	secret := must[console.AddedApp](t)(b.AddApp(ctx, console.NewApp{Name: "Other", Authentication: keyholder.AuthSecret,
		Grants: []keyholder.GrantType{keyholder.GrantAuthorizationCode}, RedirectURIs: []string{"https://app.example/back"}}))
	if !b.ledger.VerifySecret(string(secret.App.ID), secret.Secret) {
		t.Error("the secret of the app does not work")
	}
	second := must[console.AddedSecret](t)(b.AddSecret(ctx, string(secret.App.ID)))
	if !b.ledger.VerifySecret(string(secret.App.ID), second.Secret) || !b.ledger.VerifySecret(string(secret.App.ID), secret.Secret) {
		t.Error("the further secret or the first one does not work")
	}
	_, err = b.AddSecret(ctx, string(p.app.ID))
	codeIs(t, "secret of a certificate app", err, keyholder.Conflict, "cert issue -for app")
	rs := must[console.AddedResourceServer](t)(b.AddResourceServer(ctx, console.NewResourceServer{Name: "gateway"}))
	if !b.ledger.VerifySecret(string(rs.ResourceServer.ID), rs.Secret) {
		t.Error("the secret of the resource server does not work")
	}
	for what, n := range map[string]int{
		"providers": len(must[[]keyholder.Provider](t)(b.Providers(ctx))),
		"owners":    len(must[[]keyholder.Owner](t)(b.Owners(ctx))),
		"users":     len(must[[]console.User](t)(b.Users(ctx))),
		"servers":   len(must[[]keyholder.ResourceServer](t)(b.ResourceServers(ctx))),
		"agreement": len(must[[]console.Agreement](t)(b.Agreements(ctx))),
	} {
		if n != 1 {
			t.Errorf("%d %s, want 1", n, what)
		}
	}
	if apps := must[[]keyholder.App](t)(b.Apps(ctx)); len(apps) != 2 {
		t.Errorf("%d apps", len(apps))
	}
	if events := must[[]keyholder.Event](t)(b.Audit(ctx, 0, 100)); len(events) < 8 || events[0].Actor != ledger.Administrator {
		t.Errorf("audit: %+v", events)
	}
}

// Ensure that a subscription carries its chain, that it may have an ID from
// elsewhere, and that giving the consent again renews it.
func TestSubscription(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	p := b.parties(time.Time{})
	fixed := string(must[keyholder.SubscriptionID](t)(keyholder.NewID[keyholder.SubscriptionID](nil)))
	q := console.NewSubscription{Agreement: string(p.agreement.ID), App: string(p.app.ID), ID: fixed, Scope: []keyholder.Kind{keyholder.Events}}
	s := must[console.Subscription](t)(b.AddSubscription(ctx, q))
	if string(s.ID) != fixed || !s.InForce || s.OwnerKey != "northgate" || s.ProviderName != "Soap Inc" || s.AppName != "Cleaner" {
		t.Errorf("%+v", s)
	}
	if _, err := b.mailbox.Append(ctx, s.ID, "events", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	q.Scope, q.ID = nil, ""
	if again := must[console.Subscription](t)(b.AddSubscription(ctx, q)); again.ID != s.ID || len(again.Scope) != 0 {
		t.Errorf("renewed: %+v", again)
	}
	d := must[console.SubscriptionDetail](t)(b.Subscription(ctx, fixed))
	if d.Queued != 1 || len(d.Chain) != 6 {
		t.Errorf("%+v", d)
	}
	for _, l := range d.Chain {
		if !l.Holds {
			t.Errorf("%s does not hold: %s", l.What, l.State)
		}
	}
	consents := must[[]console.Consent](t)(b.Consents(ctx))
	if len(consents) != 1 || consents[0].Subscription != s.ID {
		t.Errorf("consents: %+v", consents)
	}
	if one, err := b.Consent(ctx, string(consents[0].ID)); err != nil || one.OwnerKey != "northgate" {
		t.Errorf("consent: %+v, %v", one, err)
	}
}

// Ensure that a certificate is issued for what the request asks for, ends with
// the agreement at the latest, and is refused where the right is missing.
func TestCertificate(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	end := b.clock.Now().Add(10 * 24 * time.Hour).UTC().Truncate(time.Second)
	p := b.parties(end)
	s := b.subscribe(p)
	got := must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.ForSubscription, Subject: string(s.ID), Request: request(t)}))
	if !got.NotAfter.Equal(end) {
		t.Errorf("ends %s, want the end of the agreement %s", got.NotAfter, end)
	}
	if strings.Count(got.PEM, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("not a leaf with its issuer:\n%s", got.PEM)
	}
	if shown := must[console.CertificateText](t)(b.Certificate(ctx, got.Serial)); shown.PEM != got.PEM || shown.SubjectName != "northgate, Cleaner" {
		t.Errorf("%+v", shown)
	}
	for _, use := range []struct {
		use     keyholder.CertificateUse
		subject string
	}{{keyholder.ForProvider, string(p.provider.ID)}, {keyholder.ForApp, string(p.app.ID)}} {
		cert := must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: use.use, Subject: use.subject, Request: request(t), Days: 30}))
		if days := cert.NotAfter.Sub(b.clock.Now()).Hours() / 24; days < 29 || days > 31 {
			t.Errorf("%s: %f days", use.use, days)
		}
	}
	valid := console.NewCertificate{Use: keyholder.ForSubscription, Subject: string(s.ID), Request: request(t)}
	for _, tt := range []struct {
		name   string
		change func(*console.NewCertificate)
		code   keyholder.Code
		words  string
	}{
		{"unknown subject", func(q *console.NewCertificate) { q.Subject = "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30" }, keyholder.Denied, "no such subscription"},
		{"subject of another use", func(q *console.NewCertificate) { q.Use = keyholder.ForProvider }, keyholder.Denied, "provider"},
		{"no use", func(q *console.NewCertificate) { q.Use = "" }, keyholder.Denied, "use"},
		{"bad subject", func(q *console.NewCertificate) { q.Subject = "x" }, keyholder.Invalid, "subject: not a UUID"},
		{"too long", func(q *console.NewCertificate) { q.Days = 398 }, keyholder.Invalid, "days"},
		{"negative", func(q *console.NewCertificate) { q.Days = -1 }, keyholder.Invalid, "days"},
		{"no request", func(q *console.NewCertificate) { q.Request = "" }, keyholder.Invalid, "PEM"},
		{"a key", func(q *console.NewCertificate) { q.Request = string(must[[]byte](t)(pki.NewKey())) }, keyholder.Invalid, "private key"},
	} {
		q := valid
		tt.change(&q)
		_, err := b.IssueCertificate(ctx, q)
		codeIs(t, tt.name, err, tt.code, tt.words)
	}
	if all := must[[]console.Certificate](t)(b.Certificates(ctx)); len(all) != 3 {
		t.Errorf("%d certificates on record, want 3", len(all))
	}
	if root := must[console.Authority](t)(b.Authority(ctx)); root.Root != string(b.pki.RootPEM()) {
		t.Error("not the root certificate")
	}
}

// Ensure that the credentials of a webhook are files of mode 0600 as long as
// it is in force, and not a moment longer.
func TestWebhook(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	p := b.parties(time.Time{})
	s := b.subscribe(p)
	folder := filepath.Join(b.dir, console.WebhookFolder)
	q := console.NewWebhook{Subscription: string(s.ID), URL: "https://app.example/push", Issuer: "https://login.app.example", Client: "us",
		Secret: "s3cret", CA: string(b.pki.RootPEM())}

	for name, bad := range map[string]console.NewWebhook{
		"no credential": {Subscription: q.Subscription, URL: q.URL, Issuer: q.Issuer, Client: q.Client},
		"two":           {Subscription: q.Subscription, URL: q.URL, Issuer: q.Issuer, Client: q.Client, Secret: "x", Certificate: "y", Key: "z"},
		"half a pair":   {Subscription: q.Subscription, URL: q.URL, Issuer: q.Issuer, Client: q.Client, Key: "z"},
		"bad CA":        {Subscription: q.Subscription, URL: q.URL, Issuer: q.Issuer, Client: q.Client, Secret: "x", CA: "nothing"},
		"plain http":    {Subscription: q.Subscription, URL: "http://app.example/push", Issuer: q.Issuer, Client: q.Client, Secret: "x"},
	} {
		_, err := b.AddWebhook(ctx, bad)
		codeIs(t, name, err, keyholder.Invalid, "")
	}
	if left, _ := os.ReadDir(folder); len(left) != 0 {
		t.Errorf("refused webhooks left %d folders", len(left))
	}

	w := must[console.Webhook](t)(b.AddWebhook(ctx, q))
	for _, name := range []string{console.WebhookSecret, console.WebhookCA} {
		info, err := os.Stat(filepath.Join(folder, string(w.ID), name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	_, err := b.AddWebhook(ctx, q)
	codeIs(t, "a second one", err, keyholder.Conflict, "")
	if left, _ := os.ReadDir(folder); len(left) != 1 {
		t.Errorf("%d folders, want the one of the first", len(left))
	}
	if shown := must[console.Webhook](t)(b.Webhook(ctx, string(w.ID))); shown != w {
		t.Errorf("%+v", shown)
	}

	receipt := must[keyholder.Receipt](t)(b.Cut(ctx, console.NewCut{Kind: "subscription", ID: string(s.ID), Reason: "test"}))
	if len(receipt.Planes) != 1 || receipt.Planes[0].Ended != 1 {
		t.Errorf("planes: %+v", receipt.Planes)
	}
	if left, _ := os.ReadDir(folder); len(left) != 0 {
		t.Errorf("the credentials outlived the webhook")
	}

	// What a crash left is removed at the next start.
	stray := filepath.Join(folder, "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30")
	other := filepath.Join(folder, "notes")
	for _, dir := range []string{stray, other} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.new()
	if _, err := os.Stat(stray); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left by a crash: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("a strange folder was removed: %v", err)
	}
}

// Ensure that a cut answers a receipt that the published keys verify, and that
// what was cut is so everywhere in the API.
func TestCut(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	p := b.parties(time.Time{})
	s := b.subscribe(p)
	issued := must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.ForSubscription, Subject: string(s.ID), Request: request(t)}))
	receipt := must[keyholder.Receipt](t)(b.Cut(ctx, console.NewCut{Kind: "agreement", ID: string(p.agreement.ID), Reason: "contract ended"}))
	if receipt.Actor != ledger.Administrator || len(receipt.Ended.Subscriptions) != 1 || len(receipt.Ended.Certificates) != 1 {
		t.Errorf("%+v", receipt)
	}
	payload := must[[]byte](t)(keyring.Verify(b.keys.JWKS(), receipt.Signed, "test"))
	var signed keyholder.Receipt
	if err := json.Unmarshal(payload, &signed); err != nil || signed.Receipt != receipt.Receipt {
		t.Errorf("the signed form is of another receipt: %v", err)
	}
	if keys := must[json.RawMessage](t)(b.Keys(ctx)); !bytes.Contains(keys, []byte(`"kty":"EC"`)) || bytes.Contains(keys, []byte(`"d":`)) {
		t.Errorf("keys: %s", keys)
	}
	if got := must[keyholder.Receipt](t)(b.Receipt(ctx, string(receipt.Receipt))); got.Signed != receipt.Signed {
		t.Error("the stored receipt differs")
	}
	if all := must[[]keyholder.Receipt](t)(b.Receipts(ctx)); len(all) != 1 {
		t.Errorf("%d receipts", len(all))
	}
	d := must[console.SubscriptionDetail](t)(b.Subscription(ctx, string(s.ID)))
	if d.InForce || d.Certificates[0].Revoked.IsZero() {
		t.Errorf("%+v", d)
	}
	for name, q := range map[string]struct {
		cut  console.NewCut
		code keyholder.Code
	}{
		"again":    {console.NewCut{Kind: "agreement", ID: string(p.agreement.ID), Reason: "x"}, keyholder.Conflict},
		"cert":     {console.NewCut{Kind: "cert", ID: issued.Serial, Reason: "x"}, keyholder.Conflict},
		"unknown":  {console.NewCut{Kind: "app", ID: "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30", Reason: "x"}, keyholder.NotFound},
		"kind":     {console.NewCut{Kind: "owner", ID: string(p.owner.ID), Reason: "x"}, keyholder.Invalid},
		"reason":   {console.NewCut{Kind: "app", ID: string(p.app.ID)}, keyholder.Invalid},
		"bad UUID": {console.NewCut{Kind: "app", ID: "x", Reason: "x"}, keyholder.Invalid},
	} {
		_, err := b.Cut(ctx, q.cut)
		codeIs(t, name, err, q.code, "")
	}
	if state := must[console.AuditState](t)(b.VerifyAudit(ctx)); state.Rows < 7 {
		t.Errorf("%d audit rows", state.Rows)
	}
}

// Ensure that a trail that was changed behind the server's back is found.
func TestAuditBroken(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	b.parties(time.Time{})
	err := b.store.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec("DROP TRIGGER audit_is_append_only_update; UPDATE audit SET subject = 'x' WHERE seq = 2")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.VerifyAudit(ctx)
	codeIs(t, "verify", err, keyholder.Conflict, "row 2")
}

// Ensure that why gives the verdict of the Permit function with its
// requirement, before and after a cut.
func TestWhy(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	p := b.parties(time.Time{})
	s := must[console.Subscription](t)(b.AddSubscription(ctx, console.NewSubscription{Agreement: string(p.agreement.ID), App: string(p.app.ID), Scope: []keyholder.Kind{keyholder.Statuses}}))
	consumer := must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.ForSubscription, Subject: string(s.ID), Request: request(t)}))
	provider := must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.ForProvider, Subject: string(p.provider.ID), Request: request(t)}))
	stranger := "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"
	type row struct {
		parameters  map[string]string
		allowed     bool
		requirement keyholder.Requirement
		reason      string
	}
	check := func(rows []row) {
		t.Helper()
		for _, r := range rows {
			if r.parameters["subscription"] == "" {
				r.parameters["subscription"] = string(s.ID)
			}
			got, err := b.Why(ctx, r.parameters)
			if err != nil || got.Allowed != r.allowed || got.Requirement != r.requirement || !strings.Contains(got.Reason, r.reason) || got.Question == "" {
				t.Errorf("%v: %+v, %v", r.parameters, got, err)
			}
		}
	}
	check([]row{
		{map[string]string{"action": "read"}, true, keyholder.W8, ""},
		{map[string]string{"action": "read", "kind": "tag"}, true, keyholder.W8, ""},
		{map[string]string{"action": "read", "kind": "events"}, false, keyholder.W5, "does not cover"},
		{map[string]string{"action": "read", "subscription": stranger}, false, keyholder.W6, "no such subscription"},
		{map[string]string{"action": "issue"}, true, keyholder.W8, ""},
		{map[string]string{"action": "issue", "grant": "authorization_code"}, false, keyholder.W5, "not negotiated"},
		{map[string]string{"action": "connect"}, true, keyholder.M5, ""},
		{map[string]string{"action": "connect", "client_id": stranger}, false, keyholder.M5, "client ID"},
		{map[string]string{"action": "connect", "cert": provider.Serial}, false, keyholder.M5, "provider ID"},
		{map[string]string{"action": "connect", "cert": "00ff"}, false, keyholder.M2, "on record"},
		{map[string]string{"action": "subscribe"}, true, keyholder.M6, ""},
		{map[string]string{"action": "subscribe", "topic": "fds/v2/" + stranger + "/#"}, false, keyholder.M6, "own subscription ID"},
		{map[string]string{"action": "subscribe", "cert": provider.Serial}, false, keyholder.M8, "only consumers"},
		{map[string]string{"action": "publish"}, true, keyholder.M7, ""},
		{map[string]string{"action": "publish", "kind": "events"}, false, keyholder.W5, "does not cover"},
		{map[string]string{"action": "publish", "cert": consumer.Serial}, false, keyholder.M7, "only information providers"},
		{map[string]string{"action": "deliver"}, true, keyholder.W6, ""},
		{map[string]string{"action": "certify"}, true, keyholder.M3, ""},
	})
	for name, parameters := range map[string]map[string]string{
		"no action":       {"subscription": string(s.ID)},
		"unknown action":  {"subscription": string(s.ID), "action": "fly"},
		"no subscription": {"action": "read"},
		"bad kind":        {"subscription": string(s.ID), "action": "read", "kind": "x"},
		"bad topic":       {"subscription": string(s.ID), "action": "subscribe", "topic": "#"},
		"bad name":        {"subscription": string(s.ID), "action": "publish", "topic": "fds/v2/" + string(s.ID) + "/#"},
		"bad grant":       {"subscription": string(s.ID), "action": "issue", "grant": "password"},
		"strange":         {"subscription": string(s.ID), "action": "read", "verbose": "1"},
	} {
		_, err := b.Why(ctx, parameters)
		codeIs(t, name, err, keyholder.Invalid, "")
	}
	must[keyholder.Receipt](t)(b.Cut(ctx, console.NewCut{Kind: "agreement", ID: string(p.agreement.ID), Reason: "test"}))
	check([]row{
		{map[string]string{"action": "read"}, false, keyholder.W6, "cut"},
		{map[string]string{"action": "issue"}, false, keyholder.W6, "cut"},
		{map[string]string{"action": "connect"}, false, keyholder.M3, "revoked"},
		{map[string]string{"action": "publish"}, false, keyholder.W6, "cut"},
		{map[string]string{"action": "deliver"}, false, keyholder.W6, "cut"},
		{map[string]string{"action": "certify"}, false, keyholder.W6, "cut"},
	})
}

// Ensure that expiring names what ends in time, not what was renewed or cut,
// and still names a certificate that ended without a successor.
func TestExpiring(t *testing.T) {
	b := open(t)
	ctx := context.Background()
	day := 24 * time.Hour
	p := b.parties(b.clock.Now().Add(200 * day))
	s := must[console.Subscription](t)(b.AddSubscription(ctx, console.NewSubscription{Agreement: string(p.agreement.ID), App: string(p.app.ID), Expires: b.clock.Now().Add(100 * day)}))
	issue := func(days int) console.CertificateText {
		return must[console.CertificateText](t)(b.IssueCertificate(ctx, console.NewCertificate{Use: keyholder.ForSubscription, Subject: string(s.ID), Request: request(t), Days: days}))
	}
	expect := func(within time.Duration, want ...string) {
		t.Helper()
		var got []string
		for _, e := range must[[]console.Expiry](t)(b.Expiring(ctx, within)) {
			got = append(got, e.What)
			if e.Name == "" || e.Todo == "" {
				t.Errorf("%+v", e)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("within %s: %v, want %v", within, got, want)
		}
	}
	issue(20)
	expect(10 * day)
	expect(30*day, "certificate")
	expect(101*day, "certificate", "consent")
	expect(300*day, "certificate", "consent", "agreement")
	issue(60)
	expect(30 * day)
	b.clock.advance(70 * day)
	expect(day, "certificate")
	must[keyholder.Receipt](t)(b.Cut(ctx, console.NewCut{Kind: "subscription", ID: string(s.ID), Reason: "test"}))
	expect(day)
	for _, d := range []time.Duration{0, -day, 20 * 366 * day} {
		_, err := b.Expiring(ctx, d)
		codeIs(t, d.String(), err, keyholder.Invalid, "within")
	}
}
