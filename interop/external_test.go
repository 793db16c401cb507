package interop_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// foreignClient is a client of the foreign authorization server: how it signs
// or hides its tokens, and what the mapper puts into them.
type foreignClient struct {
	ID       string         `json:"id"`
	Secret   string         `json:"secret"`
	Claims   map[string]any `json:"claims,omitempty"`
	Alg      string         `json:"alg,omitempty"`
	Opaque   bool           `json:"opaque,omitempty"`
	Bound    bool           `json:"bound,omitempty"`
	Lifetime int            `json:"lifetime,omitempty"`
}

const (
	foreignSecret  = "secret-of-a-foreign-client"
	foreignGateway = "gateway"
)

// foreign is a Keyholder that trusts a foreign authorization server.
type foreign struct {
	*keyholdertest.Server
	t      *testing.T
	node   string
	dir    string
	app    keyholder.App
	other  keyholder.App
	supply keyholder.Provider
	sub    keyholder.SubscriptionID // of app
	sub2   keyholder.SubscriptionID // of other
	cert   tls.Certificate
}

func newForeign(t *testing.T) *foreign {
	t.Helper()
	f := &foreign{t: t}
	f.node, f.dir = keyholdertest.NodePackage(t, "provider/package.json", "provider/package-lock.json", "provider/authorization-server.mjs")
	f.Server = keyholdertest.Start(t)
	f.supply = f.AddProvider("Soap Inc")
	owner := f.AddOwner("northgate")
	f.app, _ = f.AddApp("Cleaner", keyholder.AuthCertificate, "")
	f.other, _ = f.AddApp("Tidy", keyholder.AuthSecret, "")
	agreement := f.AddAgreement(f.supply.ID, owner.ID)
	f.sub, f.sub2 = f.AddSubscription(agreement, f.app.ID, ""), f.AddSubscription(agreement, f.other.ID, "")
	f.cert = f.Certificate(keyholder.ForApp, string(f.app.ID))
	return f
}

func (f *foreign) file(name string, data []byte) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// serve starts a foreign authorization server and returns its issuer.
func (f *foreign) serve(clients []foreignClient) string {
	f.t.Helper()
	certPEM, keyPEM := f.ServerCertificatePEM("127.0.0.1")
	settings, err := json.Marshal(map[string]any{
		"cert": f.file("server.pem", certPEM), "key": f.file("server.key", keyPEM),
		"ca": f.file("ca.pem", []byte(f.RootPEM())), "gateway": foreignGateway, "clients": append(clients, foreignClient{ID: foreignGateway, Secret: foreignSecret}),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return serveScript(f.t, f.node, f.dir, "authorization-server.mjs", string(settings))
}

// serveScript starts a server of Node and returns the line it writes when it
// listens.
func serveScript(t *testing.T, node, dir, name, settings string) string {
	t.Helper()
	script := exec.CommandContext(context.WithoutCancel(t.Context()), node, name)
	script.Dir, script.Env, script.Stderr = dir, append(os.Environ(), "SETTINGS="+settings), t.Output()
	out, err := script.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = script.Process.Kill(); _ = script.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// trust makes the Web API take the tokens of an issuer.
func (f *foreign) trust(issuer string, clients map[string]string, more map[string]any) {
	f.t.Helper()
	external := map[string]any{"issuer": issuer, "clients": clients, "ca_file": filepath.Join(f.dir, "ca.pem")}
	for k, v := range more {
		external[k] = v
	}
	text, err := json.Marshal(external)
	if err != nil {
		f.t.Fatal(err)
	}
	f.TrustExternal(string(text))
}

// token gets a token for a resource from a foreign issuer.
func (f *foreign) token(issuer, client, scope, resource string) string {
	f.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {scope}, "resource": {resource}}
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		f.t.Fatal(err)
	}
	r.SetBasicAuth(client, foreignSecret)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	status, body := f.send(f.HTTP(f.cert), r)
	if err := json.Unmarshal(body, &answer); err != nil || answer.AccessToken == "" {
		f.t.Fatalf("no token for %s: status %d", client, status)
	}
	return answer.AccessToken
}

func (f *foreign) send(client *http.Client, r *http.Request) (int, []byte) {
	f.t.Helper()
	resp, err := client.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, body
}

// read asks the Web API and returns the status.
func (f *foreign) read(client *http.Client, token string) int {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.API+"/fds/v2/statuses", nil)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	status, _ := f.send(client, r)
	return status
}

// ingest stores a status as the provider and returns the HTTP status.
func (f *foreign) ingest(token string) int {
	f.t.Helper()
	item := `{"device_id":"S1","generic":{"device_type":"dispenser","date_time":"2026-03-02T05:00:00Z"},"device_type_specific":{"filling_level":78}}`
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPut, f.API+"/ingest/v1/owners/northgate/statuses", strings.NewReader(item))
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	status, _ := f.send(f.HTTP(), r)
	return status
}

// Ensure that the Web API takes signed tokens of an authorization server that
// knows nothing of FDS, if they are for it, from the one trusted issuer and
// name a subscription of the client's app; and that a cut ends them at once.
func TestExternalIssuer(t *testing.T) {
	f := newForeign(t)
	claim := func(v any) map[string]any { return map[string]any{"fds_subscription": v} }
	clients := []foreignClient{
		{ID: "es256", Claims: claim(f.sub)}, {ID: "ps256", Claims: claim(f.sub2), Alg: "PS256"}, {ID: "soap"},
		{ID: "bound", Claims: claim(f.sub), Bound: true}, {ID: "stranger", Claims: claim(f.sub)},
	}
	apps := map[string]string{"es256": string(f.app.ID), "ps256": string(f.other.ID), "soap": string(f.supply.ID)}
	// One app each for what must be told apart by client.
	single := func(c foreignClient) {
		app, _ := f.AddApp("App "+c.ID, keyholder.AuthSecret, "")
		agreement := f.AddAgreement(f.supply.ID, f.AddOwner(c.ID).ID)
		sub := f.AddSubscription(agreement, app.ID, "")
		if c.Claims == nil {
			c.Claims = claim(sub)
		}
		clients, apps[c.ID] = append(clients, c), string(app.ID)
	}
	single(foreignClient{ID: "rs256", Alg: "RS256"})
	single(foreignClient{ID: "eddsa", Alg: "EdDSA"})
	single(foreignClient{ID: "opaque", Opaque: true})
	single(foreignClient{ID: "long", Lifetime: 7200})
	single(foreignClient{ID: "no-claim", Claims: map[string]any{"subscription_id": f.sub}})
	single(foreignClient{ID: "not-yours", Claims: claim(f.sub)})
	single(foreignClient{ID: "no-uuid", Claims: claim("northgate")})
	single(foreignClient{ID: "list", Claims: claim([]any{f.sub})})
	for i := range clients {
		clients[i].Secret = foreignSecret
	}
	issuer, evil := f.serve(clients), f.serve(clients)
	f.trust(issuer, apps, map[string]any{"tokens": "rfc9068", "algorithms": []string{"ES256", "PS256", "RS256", "EdDSA"}, "subscription_claim": "fds_subscription"})

	tokens := map[string]string{}
	for name, tt := range map[string]struct {
		issuer, client, resource string
		want                     int
	}{
		"ES256":              {issuer, "es256", f.API, http.StatusOK},
		"PS256":              {issuer, "ps256", f.API, http.StatusOK},
		"RS256":              {issuer, "rs256", f.API, http.StatusOK},
		"EdDSA":              {issuer, "eddsa", f.API, http.StatusOK},
		"another audience":   {issuer, "es256", f.API + "/other", http.StatusUnauthorized},
		"another issuer":     {evil, "es256", f.API, http.StatusUnauthorized},
		"no such client":     {issuer, "stranger", f.API, http.StatusUnauthorized},
		"opaque":             {issuer, "opaque", f.API, http.StatusUnauthorized},
		"lives too long":     {issuer, "long", f.API, http.StatusUnauthorized},
		"claim of that name": {issuer, "no-claim", f.API, http.StatusUnauthorized},
		"of another app":     {issuer, "not-yours", f.API, http.StatusUnauthorized},
		"claim is no UUID":   {issuer, "no-uuid", f.API, http.StatusUnauthorized},
		"claim is a list":    {issuer, "list", f.API, http.StatusUnauthorized},
	} {
		tokens[name] = f.token(tt.issuer, tt.client, keyholder.ScopeRead, tt.resource)
		if got := f.read(f.HTTP(), tokens[name]); got != tt.want {
			t.Errorf("%s: status %d, want %d", name, got, tt.want)
		}
	}
	if got := f.read(f.HTTP(), f.token(issuer, "es256", keyholder.ScopeIngest, f.API)); got != http.StatusUnauthorized {
		t.Errorf("another scope: status %d", got)
	}
	if got := f.ingest(f.token(issuer, "soap", keyholder.ScopeIngest, f.API)); got != http.StatusAccepted {
		t.Errorf("ingestion by the provider: status %d", got)
	}
	if got := f.ingest(f.token(issuer, "es256", keyholder.ScopeIngest, f.API)); got != http.StatusUnauthorized && got != http.StatusForbidden {
		t.Errorf("ingestion by an app: status %d", got)
	}

	// Our own endpoints for tokens are off, and the Web API names the issuer.
	for _, path := range []string{"/token", "/introspect", "/revoke", "/par", "/authorize"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.Issuer+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if status, _ := f.send(f.HTTP(), r); status != http.StatusNotFound {
			t.Errorf("%s is served: status %d", path, status)
		}
	}
	if m, err := guard.Discover(t.Context(), f.Issuer, f.HTTP()); err != nil || m.EndingsEndpoint == "" || m.TokenEndpoint != "" {
		t.Errorf("our metadata: %+v, %v", m, err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.API+"/.well-known/oauth-protected-resource", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, body := f.send(f.HTTP(), r); !strings.Contains(string(body), issuer) || strings.Contains(string(body), f.Issuer) {
		t.Errorf("the Web API names %s", body)
	}

	f.Cut(keyholder.CutSubscription, string(f.sub))
	if got := f.read(f.HTTP(), tokens["ES256"]); got != http.StatusUnauthorized {
		t.Errorf("after the cut: status %d", got)
	}
	if got := f.read(f.HTTP(), tokens["PS256"]); got != http.StatusOK {
		t.Errorf("the other app after the cut: status %d", got)
	}
}

// Ensure that a token the foreign server has bound to a certificate is good
// with that certificate only.
func TestExternalCertificateBound(t *testing.T) {
	f := newForeign(t)
	issuer := f.serve([]foreignClient{{ID: "bound", Secret: foreignSecret, Bound: true, Claims: map[string]any{"subscription_id": f.sub}}})
	f.trust(issuer, map[string]string{"bound": string(f.app.ID)}, map[string]any{"tokens": "rfc9068"})
	token := f.token(issuer, "bound", keyholder.ScopeRead, f.API)
	for name, tt := range map[string]struct {
		client *http.Client
		want   int
	}{
		"its certificate":     {f.HTTP(f.cert), http.StatusOK},
		"no certificate":      {f.HTTP(), http.StatusUnauthorized},
		"another certificate": {f.HTTP(f.Certificate(keyholder.ForApp, string(f.app.ID))), http.StatusUnauthorized},
	} {
		if got := f.read(tt.client, token); got != tt.want {
			t.Errorf("%s: status %d, want %d", name, got, tt.want)
		}
	}
}

// Ensure that opaque tokens are taken by introspection, with the same
// refusals, and not when the foreign server cannot be asked.
func TestExternalIntrospection(t *testing.T) {
	f := newForeign(t)
	claims := map[string]any{"subscription_id": f.sub}
	issuer := f.serve([]foreignClient{
		{ID: "opaque", Secret: foreignSecret, Opaque: true, Claims: claims},
		{ID: "signed", Secret: foreignSecret, Claims: map[string]any{"subscription_id": f.sub2}},
		{ID: "stranger", Secret: foreignSecret, Opaque: true, Claims: claims},
	})
	apps := map[string]string{"opaque": string(f.app.ID), "signed": string(f.other.ID)}
	secret := f.file("gateway.secret", []byte(foreignSecret+"\n"))
	f.trust(issuer, apps, map[string]any{"tokens": "introspection", "client_id": foreignGateway, "secret_file": secret})
	good := f.token(issuer, "opaque", keyholder.ScopeRead, f.API)
	for name, tt := range map[string]struct {
		token string
		want  int
	}{
		"opaque":            {good, http.StatusOK},
		"again, remembered": {good, http.StatusOK},
		"another audience":  {f.token(issuer, "opaque", keyholder.ScopeRead, f.API+"/other"), http.StatusUnauthorized},
		"no such client":    {f.token(issuer, "stranger", keyholder.ScopeRead, f.API), http.StatusUnauthorized},
		// oidc-provider introspects no signed tokens.
		"signed":  {f.token(issuer, "signed", keyholder.ScopeRead, f.API), http.StatusUnauthorized},
		"made up": {"FiEIYUeeLBQ9V04u8ZNNshvS333dMBjN5jNYhV5EJ", http.StatusUnauthorized},
	} {
		if got := f.read(f.HTTP(), tt.token); got != tt.want {
			t.Errorf("%s: status %d, want %d", name, got, tt.want)
		}
	}
	f.Cut(keyholder.CutSubscription, string(f.sub))
	if got := f.read(f.HTTP(), good); got != http.StatusUnauthorized {
		t.Errorf("after the cut: status %d", got)
	}
	wrong := f.file("wrong.secret", []byte("not the secret"))
	f.trust(issuer, apps, map[string]any{"tokens": "introspection", "client_id": foreignGateway, "secret_file": wrong})
	if got := f.read(f.HTTP(), good); got != http.StatusServiceUnavailable {
		t.Errorf("with a wrong secret: status %d", got)
	}
}
