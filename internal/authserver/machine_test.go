package authserver_test

import (
	"crypto/x509"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that client credentials give an app tokens for its own subscriptions
// and a provider tokens for ingestion and for the webhooks of those it
// issued, each with the right audience, and nobody anything else.
func TestClientCredentials(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	mine := string(b.subscription(b.tokens().text("access_token")))
	theirs := must(b.ledger.GiveConsent(ctx, "administrator", keyholder.Consent{Agreement: b.agreement.ID, App: b.certApp.ID}, ""))
	providerSecret := must(b.ledger.AddSecret(ctx, "administrator", string(b.provider.ID)))
	other := must(b.ledger.AddProvider(ctx, "administrator", "Bin Works"))
	otherSecret := must(b.ledger.AddSecret(ctx, "administrator", string(other.ID)))
	noMachine := must(b.ledger.AddApp(ctx, "administrator", keyholder.App{Name: "People only", Authentication: keyholder.AuthSecret,
		Grants: []keyholder.GrantType{keyholder.GrantAuthorizationCode}, RedirectURIs: []string{callback}}))
	noMachineSecret := must(b.ledger.AddSecret(ctx, "administrator", string(noMachine.ID)))
	app := []string{string(b.app.ID), b.secret}
	provider := []string{string(b.provider.ID), providerSecret}
	otherProvider := []string{string(other.ID), otherSecret}
	for name, c := range map[string]struct {
		client   []string
		scope    string
		sub      string
		audience string // of success
		code     string // of failure
	}{
		"app":                          {app, "fds:read", mine, apiBase, ""},
		"app, scope left out":          {app, "", mine, apiBase, ""},
		"app, no subscription":         {app, "fds:read", "", "", "invalid_request"},
		"app, another's subscription":  {app, "fds:read", string(theirs.ID), "", "invalid_grant"},
		"app, unknown subscription":    {app, "fds:read", "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30", "", "invalid_grant"},
		"app, upper case":              {app, "fds:read", strings.ToUpper(mine), "", "invalid_request"},
		"app, UUID version 1":          {app, "fds:read", "6f1e9a52-3c1b-1f0e-9b7d-2a5c8d4e1f30", "", "invalid_request"},
		"app, ingest":                  {app, "fds:ingest", "", "", "invalid_scope"},
		"app, push":                    {app, "fds:push", mine, "", "invalid_scope"},
		"app, openid":                  {app, "openid", mine, "", "invalid_scope"},
		"app, openid and read":         {app, "openid fds:read", mine, "", "invalid_scope"},
		"app, unknown scope":           {app, "all", mine, "", "invalid_scope"},
		"app without the grant":        {[]string{string(noMachine.ID), noMachineSecret}, "fds:read", mine, "", "unauthorized_client"},
		"provider, ingest":             {provider, "fds:ingest", "", apiBase, ""},
		"provider, left out":           {provider, "", "", apiBase, ""},
		"provider, push":               {provider, "fds:push", mine, "urn:keyholder:webhook:" + mine, ""},
		"provider, push, left out":     {provider, "", mine, "urn:keyholder:webhook:" + mine, ""},
		"provider, ingest with a name": {provider, "fds:ingest", mine, "", "invalid_grant"},
		"provider, push, no name":      {provider, "fds:push", "", "", "invalid_request"},
		"provider, two scopes":         {provider, "fds:ingest fds:push", mine, "", "invalid_grant"},
		"provider, read":               {provider, "fds:read", mine, "", "invalid_scope"},
		"other provider, push":         {otherProvider, "fds:push", mine, "", "invalid_grant"},
		"resource server":              {[]string{string(b.rs.ID), b.rsSecret}, "fds:read", mine, "", "unauthorized_client"},
	} {
		t.Run(name, func(t *testing.T) {
			form := values("grant_type", "client_credentials", "client_id", c.client[0], "client_secret", c.client[1])
			if c.scope != "" {
				form.Set("scope", c.scope)
			}
			if c.sub != "" {
				form.Set("subscription_id", c.sub)
			}
			r := b.post(b.client(), "/token", form)
			if c.code != "" {
				refused(t, r, http.StatusBadRequest, c.code)
				if strings.Contains(r.body, "another") || strings.Contains(r.body, "cut") {
					t.Errorf("the refusal tells what exists: %s", r.body)
				}
				return
			}
			if r.status != http.StatusOK {
				t.Fatalf("status %d: %s", r.status, r.body)
			}
			claims := b.claims(r.text("access_token"), "at+jwt")
			want := any(c.sub)
			if c.sub == "" {
				want = nil
			}
			if claims["aud"] != c.audience || claims["subscription_id"] != want || claims["sub"] != c.client[0] || claims["client_id"] != c.client[0] || r.json["refresh_token"] != nil {
				t.Errorf("claims %v, answer %s", claims, r.body)
			}
			if !b.active(r.text("access_token")) {
				t.Error("the token is not active")
			}
		})
	}
}

// Ensure that what does not exist and what is not yours get one answer.
func TestNoExistenceOracle(t *testing.T) {
	b := open(t)
	theirs := must(b.ledger.GiveConsent(t.Context(), "administrator", keyholder.Consent{Agreement: b.agreement.ID, App: b.certApp.ID}, ""))
	ask := func(sub string) string {
		return b.post(b.client(), "/token", b.asApp("grant_type", "client_credentials", "subscription_id", sub)).body
	}
	unknown, foreign := ask("6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"), ask(string(theirs.ID))
	if unknown != foreign || !strings.Contains(unknown, "invalid_grant") {
		t.Errorf("the answers are:\n%s%s", unknown, foreign)
	}
}

// Ensure that introspection answers resource servers only, with what a token
// is good for, and calls everything inactive that is not good any more.
func TestIntrospection(t *testing.T) {
	b := open(t)
	tokens := b.tokens()
	token := tokens.text("access_token")
	r := b.introspect(token)
	sub := b.subscription(token)
	exp := b.claims(token, "at+jwt")["exp"]
	if r.json["active"] != true || r.json["subscription_id"] != string(sub) || r.json["exp"] != exp || r.json["client_id"] != string(b.app.ID) ||
		r.json["scope"] != "openid fds:read" || r.json["aud"] != apiBase || r.json["iss"] != b.issuer || r.json["sub"] != string(b.user.ID) {
		t.Errorf("the answer is %s", r.body)
	}
	parts := strings.Split(token, ".")
	for name, token := range map[string]string{"empty signature": parts[0] + "." + parts[1] + ".", "other signature": parts[0] + "." + parts[1] + "." + strings.Repeat("A", 86),
		"nonsense": "nonsense", "refresh token": tokens.text("refresh_token"), "ID token": tokens.text("id_token"),
		"unsigned":      "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"other content": must(b.keys.Sign([]byte(`{"iss":"`+b.issuer+`","grant_id":"x","exp":99999999999}`), "at+jwt"))} {
		if r := b.introspect(token); r.status != http.StatusOK || r.json["active"] != false || len(r.json) != 1 {
			t.Errorf("%s: %s", name, r.body)
		}
	}
	for name, token := range map[string]string{"a live token": token, "a dead token": "nonsense"} {
		refused(t, b.post(b.client(), "/introspect", b.asApp("token", token)), http.StatusForbidden, "access_denied")
		own := b.certificate(keyholder.ForApp, string(b.certApp.ID))
		refused(t, b.post(b.client(own), "/introspect", values("client_id", string(b.certApp.ID), "token", token)), http.StatusForbidden, "access_denied")
		refused(t, b.post(b.client(), "/introspect", values("token", token)), http.StatusUnauthorized, "invalid_client")
		refused(t, b.post(b.client(), "/introspect", values("client_id", string(b.rs.ID), "client_secret", "khs_wrong", "token", token)), http.StatusUnauthorized, "invalid_client")
		_ = name
	}
	// The agreement runs out: nothing is cut, and yet nothing is left.
	b.pass(366 * 24 * time.Hour)
	if b.active(token) {
		t.Error("the token is active after the agreement's end")
	}
}

// Ensure that an app can end its own tokens, whichever it shows, and nobody
// else's, and that the guards are told.
func TestRevocation(t *testing.T) {
	b := open(t)
	revoke := func(token string) reply {
		t.Helper()
		return b.post(b.client(), "/revoke", b.asApp("token", token))
	}
	grant := func(token string) keyholder.GrantID {
		id, _ := b.claims(token, "at+jwt")["grant_id"].(string)
		return keyholder.GrantID(id)
	}
	for name, which := range map[string]string{"access token": "access_token", "refresh token": "refresh_token"} {
		t.Run(name, func(t *testing.T) {
			tokens := b.tokens()
			if r := revoke(tokens.text(which)); r.status != http.StatusOK || r.body != "" {
				t.Fatalf("status %d, body %q", r.status, r.body)
			}
			if b.active(tokens.text("access_token")) || !b.ledger.GrantEnded(grant(tokens.text("access_token"))) {
				t.Error("the access token outlived its revocation")
			}
			refused(t, b.refresh(tokens.text("refresh_token")), http.StatusBadRequest, "invalid_grant")
		})
	}
	t.Run("client credentials", func(t *testing.T) {
		sub := b.subscription(b.tokens().text("access_token"))
		token := b.post(b.client(), "/token", b.asApp("grant_type", "client_credentials", "subscription_id", string(sub))).text("access_token")
		if r := revoke(token); r.status != http.StatusOK {
			t.Fatalf("status %d, body %s", r.status, r.body)
		}
		if b.active(token) || !b.ledger.GrantEnded(grant(token)) {
			t.Error("the token outlived its revocation")
		}
		b.stop()
		b.start()
		if b.active(token) || !b.ledger.GrantEnded(grant(token)) {
			t.Error("the end of the token did not outlive a restart")
		}
		if r := revoke(token); r.status != http.StatusOK {
			t.Errorf("a second time: status %d, body %s", r.status, r.body)
		}
	})
	t.Run("another's", func(t *testing.T) {
		tokens := b.tokens()
		own := b.certificate(keyholder.ForApp, string(b.certApp.ID))
		for _, token := range []string{tokens.text("access_token"), tokens.text("refresh_token")} {
			r := b.post(b.client(own), "/revoke", values("client_id", string(b.certApp.ID), "token", token))
			if r.status == http.StatusOK {
				t.Errorf("revoked another's token: %s", r.body)
			}
		}
		if !b.active(tokens.text("access_token")) {
			t.Error("another's token ended")
		}
	})
	if r := revoke("nonsense"); r.status != http.StatusOK {
		t.Errorf("an unknown token: status %d (RFC 7009 2.2 wants 200)", r.status)
	}
	refused(t, revoke(""), http.StatusBadRequest, "invalid_request")
}

// Ensure that after a restart grants and refresh tokens live on, and that a
// token by client credentials is called inactive.
func TestRestart(t *testing.T) {
	b := open(t)
	tokens := b.tokens()
	code := b.code(b.app)
	machine := b.post(b.client(), "/token", b.asApp("grant_type", "client_credentials", "subscription_id", string(b.subscription(tokens.text("access_token"))))).text("access_token")
	b.stop()
	b.start()
	if !b.active(tokens.text("access_token")) {
		t.Error("the access token is not active after a restart")
	}
	if b.active(machine) {
		t.Error("a token by client credentials is called active though nothing is known of it")
	}
	if r := b.refresh(tokens.text("refresh_token")); r.status != http.StatusOK {
		t.Errorf("refresh after a restart: %s", r.body)
	}
	b.pass(11 * time.Second)
	refused(t, b.refresh(tokens.text("refresh_token")), http.StatusBadRequest, "invalid_grant")
	if r := b.redeem(code); r.status != http.StatusOK || r.text("refresh_token") == "" {
		t.Errorf("redemption after a restart: %s", r.body)
	}
}

// Ensure that a cut ends at once what this server holds of a subscription, an
// agreement, a provider or an app: codes, refresh tokens, access tokens,
// grants in memory and sign-ins in progress.
func TestCut(t *testing.T) {
	for _, kind := range []keyholder.TargetKind{keyholder.CutSubscription, keyholder.CutConsent, keyholder.CutAgreement, keyholder.CutProvider, keyholder.CutApp} {
		t.Run(string(kind), func(t *testing.T) {
			b := open(t)
			tokens := b.tokens()
			code := b.code(b.app)
			sub := b.subscription(tokens.text("access_token"))
			machineForm := b.asApp("grant_type", "client_credentials", "subscription_id", string(sub))
			machine := b.post(b.client(), "/token", machineForm).text("access_token")
			w := b.browser().signIn(authorization(b.app))
			id := map[keyholder.TargetKind]string{keyholder.CutSubscription: string(sub), keyholder.CutConsent: string(b.ledger.Standing(sub).Consent.ID),
				keyholder.CutAgreement: string(b.agreement.ID), keyholder.CutProvider: string(b.provider.ID), keyholder.CutApp: string(b.app.ID)}[kind]
			receipt, err := b.ledger.Cut(t.Context(), "administrator", keyholder.Target{Kind: kind, ID: id}, "agreement over")
			if err != nil {
				t.Fatal(err)
			}
			ended := 1 // the grant by client credentials
			if kind == keyholder.CutApp {
				ended = 2 // and the sign-in
			}
			if len(receipt.Planes) != 1 || receipt.Planes[0].Ended != ended || receipt.Planes[0].Failed != "" {
				t.Errorf("the plane reports %+v, want %d ended", receipt.Planes, ended)
			}
			if len(receipt.Ended.Grants) != 2 {
				t.Errorf("the cut ended grants %v, want 2", receipt.Ended.Grants)
			}
			for name, token := range map[string]string{"of the flow": tokens.text("access_token"), "by client credentials": machine} {
				if b.active(token) {
					t.Errorf("the token %s is still active", name)
				}
			}
			status, reason := http.StatusBadRequest, "invalid_grant"
			if kind == keyholder.CutApp {
				status, reason = http.StatusUnauthorized, "invalid_client"
			}
			refused(t, b.refresh(tokens.text("refresh_token")), status, reason)
			refused(t, b.redeem(code), status, reason)
			refused(t, b.post(b.client(), "/token", machineForm), status, reason)
			switch w.submit("action", "share"); kind {
			case keyholder.CutSubscription, keyholder.CutConsent:
				if w.left == nil {
					t.Errorf("the owner may consent anew, but gets status %d", w.page.status)
				}
			default:
				if w.left != nil || w.page.status < 400 {
					t.Errorf("shared after the cut: %v", w.left)
				}
			}
		})
	}
}

// Ensure that nothing outlives an agreement that ends by itself: no token is
// given after its end, and one given shortly before ends with it.
func TestAgreementEnds(t *testing.T) {
	b := open(t)
	must(b.ledger.Cut(t.Context(), "administrator", keyholder.Target{Kind: keyholder.CutAgreement, ID: string(b.agreement.ID)}, "replaced"))
	end := b.now().Add(8 * time.Minute)
	must(b.ledger.AddAgreement(t.Context(), "administrator", keyholder.Agreement{Provider: b.provider.ID, Owner: b.owner.ID, Purpose: "Trial", End: end}))
	tokens := b.tokens()
	b.pass(4 * time.Minute)
	late := b.refresh(tokens.text("refresh_token"))
	exp, _ := b.claims(late.text("access_token"), "at+jwt")["exp"].(float64)
	if in, _ := late.json["expires_in"].(float64); in > 240 || in < 200 || time.Unix(int64(exp), 0).After(end) {
		t.Errorf("a token given 4 minutes before the end lives %v s, until %v", late.json["expires_in"], time.Unix(int64(exp), 0))
	}
	machine := b.asApp("grant_type", "client_credentials", "subscription_id", string(b.subscription(late.text("access_token"))))
	code := b.code(b.app)
	b.pass(end.Sub(b.now()) - 10*time.Second)
	last := b.code(b.app)
	b.pass(11 * time.Second)
	refused(t, b.refresh(late.text("refresh_token")), http.StatusBadRequest, "invalid_grant")
	refused(t, b.post(b.client(), "/token", machine), http.StatusBadRequest, "invalid_grant")
	refused(t, b.redeem(code), http.StatusBadRequest, "invalid_grant")
	refused(t, b.redeem(last), http.StatusBadRequest, "invalid_grant")
}

// Ensure that a cut racing with refreshes never leaves a living refresh token.
func TestCutDuringRefresh(t *testing.T) {
	b := open(t)
	for range 3 {
		tokens := b.tokens()
		sub := b.subscription(tokens.text("access_token"))
		last := make(chan string)
		go func() {
			token := tokens.text("refresh_token")
			for {
				resp, err := b.client().PostForm(b.issuer+"/token", b.asApp("grant_type", "refresh_token", "refresh_token", token))
				if err != nil || resp.StatusCode != http.StatusOK {
					last <- token
					return
				}
				token = read(t, resp, err).text("refresh_token")
			}
		}()
		receipt := must(b.ledger.Cut(t.Context(), "administrator", keyholder.Target{Kind: keyholder.CutSubscription, ID: string(sub)}, "race"))
		if len(receipt.Ended.Grants) != 1 {
			t.Errorf("the cut ended %d grants, want 1", len(receipt.Ended.Grants))
		}
		refused(t, b.refresh(<-last), http.StatusBadRequest, "invalid_grant")
	}
}

// Ensure that the root certificate and the list of revoked certificates are
// published.
func TestPKI(t *testing.T) {
	b := open(t)
	cert := b.certificate(keyholder.ForApp, string(b.app.ID))
	leaf := must(x509.ParseCertificate(cert.Certificate[0]))
	get := func(path string) reply {
		t.Helper()
		resp, err := b.client().Get(b.issuer + path)
		r := read(t, resp, err)
		if r.status != http.StatusOK {
			t.Fatalf("%s: status %d", path, r.status)
		}
		return r
	}
	if get("/pki/root.pem").body != string(b.authority.RootPEM()) {
		t.Error("the root is another one")
	}
	if list := must(x509.ParseRevocationList([]byte(get("/pki/issuing.crl").body))); len(list.RevokedCertificateEntries) != 0 {
		t.Errorf("%d revoked, want 0", len(list.RevokedCertificateEntries))
	}
	must(b.ledger.Cut(t.Context(), "administrator", keyholder.Target{Kind: keyholder.CutCertificate, ID: serial(leaf)}, "lost"))
	b.pass(time.Second)
	list := must(x509.ParseRevocationList([]byte(get("/pki/issuing.crl").body)))
	if len(list.RevokedCertificateEntries) != 1 || list.RevokedCertificateEntries[0].SerialNumber.Cmp(leaf.SerialNumber) != 0 {
		t.Errorf("the list holds %v", list.RevokedCertificateEntries)
	}
}

// Ensure that a flood of refusals does not become a flood of audit rows, and
// that the rows left out are counted.
func TestRefusalsAreAuditedWithinLimits(t *testing.T) {
	b := open(t)
	c := b.client()
	for range 200 {
		refused(t, b.post(c, "/token", values("grant_type", "client_credentials")), http.StatusUnauthorized, "invalid_client")
	}
	n := b.audited(keyholder.EventTokenDenied)
	if n < 60 || n > 100 {
		t.Errorf("200 refusals made %d audit rows, want about 60", n)
	}
	b.pass(time.Minute)
	b.post(c, "/token", values("grant_type", "client_credentials"))
	events := must(b.ledger.Audit(t.Context(), 0, 1000))
	if last := events[len(events)-1]; last.Detail["left_out"] == "" {
		t.Errorf("the row after the flood is %+v, want it to count what was left out", last)
	}
}
