package bench_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// issuer is an authorization server under load: how a client gets tokens from
// it.
type issuer struct {
	http           *http.Client
	token          string // endpoint
	client, secret string
	credentials    url.Values // of a client_credentials request
	refresh        []string   // one chain for each worker
}

// answer is what a token endpoint gives.
type answer struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
}

func (i *issuer) ask(ctx context.Context, form url.Values) (answer, error) {
	var a answer
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, i.token, strings.NewReader(form.Encode()))
	if err != nil {
		return a, err
	}
	r.SetBasicAuth(url.QueryEscape(i.client), url.QueryEscape(i.secret))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := i.http.Do(r)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != http.StatusOK || strings.Count(a.AccessToken, ".") != 2 {
		return a, fmt.Errorf("no signed token: status %d, %w", resp.StatusCode, err)
	}
	return a, nil
}

// measure loads both grants, closed loop, one refresh chain for each worker.
func (i *issuer) measure(b *testing.B) {
	b.Run("client credentials", func(b *testing.B) {
		closedLoop(b, workers, func(int) error {
			_, err := i.ask(b.Context(), i.credentials)
			return err
		})
	})
	b.Run("refresh", func(b *testing.B) {
		closedLoop(b, workers, func(w int) error {
			a, err := i.ask(b.Context(), url.Values{"grant_type": {"refresh_token"}, "refresh_token": {i.refresh[w]}})
			if err == nil && a.RefreshToken == i.refresh[w] {
				err = fmt.Errorf("the refresh token was not rotated")
			}
			i.refresh[w] = a.RefreshToken
			return err
		})
	})
}

// BenchmarkIssuer compares tokens per second with those of the certified
// oidc-provider, which keeps everything in memory: client credentials, and
// refresh with rotation, over HTTPS with TLS 1.2, ES256, a secret in the
// header, JWT access tokens of five minutes. Keyholder's are durable.
func BenchmarkIssuer(b *testing.B) {
	w := newWorld(b)
	b.Run("keyholder durable", func(b *testing.B) { w.issuer(b).measure(b) })
	b.Run("oidc-provider in memory", func(b *testing.B) { w.peer(b).measure(b) })
}

// issuer signs a user in for every worker.
func (w *world) issuer(b *testing.B) *issuer {
	const back = "https://127.0.0.1/back"
	app, secret := w.AddApp("Planner", keyholder.AuthSecret, back, keyholder.GrantAuthorizationCode, keyholder.GrantRefreshToken, keyholder.GrantClientCredentials)
	owner := w.AddOwner(fmt.Sprintf("owner-%d", time.Now().UnixNano()))
	password := w.AddUser(owner.ID, "user-of-"+owner.Key)
	sub := w.AddSubscription(w.AddAgreement(w.provider.ID, owner.ID), app.ID, "")
	i := &issuer{http: w.http, token: w.Issuer + "/token", client: string(app.ID), secret: secret,
		credentials: url.Values{"grant_type": {"client_credentials"}, "scope": {keyholder.ScopeRead}, "subscription_id": {string(sub)}}}
	const verifier = "a-verifier-of-more-than-forty-three-characters-for-the-benchmark"
	for range workers {
		ask := url.Values{"response_type": {"code"}, "client_id": {i.client}, "redirect_uri": {back}, "scope": {"openid " + keyholder.ScopeRead},
			"code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)}, "code_challenge_method": {"S256"}, "state": {"s"}}
		came, err := url.Parse(w.SignIn(w.Issuer+"/authorize?"+ask.Encode(), back, "user-of-"+owner.Key, password))
		check(b, err)
		a, err := i.ask(b.Context(), url.Values{"grant_type": {"authorization_code"}, "code": {came.Query().Get("code")}, "redirect_uri": {back}, "code_verifier": {verifier}})
		check(b, err)
		i.refresh = append(i.refresh, a.RefreshToken)
	}
	return i
}

// peer starts oidc-provider with a server certificate of the same authority.
func (w *world) peer(b *testing.B) *issuer {
	node, dir := keyholdertest.NodePackage(b, "../interop/provider/package.json", "../interop/provider/package-lock.json", "peer/authorization-server.mjs")
	cert, key := w.serverFiles(b, dir)
	i := &issuer{http: w.http, client: "app", secret: "a-secret-of-the-peer", credentials: url.Values{"grant_type": {"client_credentials"}, "scope": {keyholder.ScopeRead}}}
	settings, err := json.Marshal(map[string]any{"cert": cert, "key": key, "client": i.client, "secret": i.secret, "audience": w.API, "chains": workers})
	check(b, err)
	server := exec.Command(node, "authorization-server.mjs")
	server.Dir, server.Env, server.Stderr = dir, append(os.Environ(), "NODE_ENV=production", "SETTINGS="+string(settings)), b.Output()
	out, err := server.StdoutPipe()
	check(b, err)
	check(b, server.Start())
	b.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	var said struct {
		Issuer  string
		Refresh []string
	}
	lines := bufio.NewScanner(out)
	for said.Issuer == "" && lines.Scan() {
		_ = json.Unmarshal(lines.Bytes(), &said) // warnings of the library come before
	}
	if len(said.Refresh) != workers {
		b.Fatal("the peer did not say where it listens")
	}
	i.token, i.refresh = said.Issuer+"/token", said.Refresh
	return i
}

// serverFiles writes a certificate for 127.0.0.1 and its key.
func (w *world) serverFiles(b *testing.B, dir string) (certificate, key string) {
	certPEM, keyPEM := w.ServerCertificatePEM("127.0.0.1")
	certificate, key = filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")
	check(b, os.WriteFile(certificate, certPEM, 0o600))
	check(b, os.WriteFile(key, keyPEM, 0o600))
	return certificate, key
}
