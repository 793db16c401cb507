package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// providerAPI is the program of a provider that keeps its own Web API, in a
// process of its own: it answers with the subscription of the token. The
// environment says whom it trusts; it prints its address.
func providerAPI() {
	if err := serveProviderAPI(); err != nil {
		fmt.Fprintln(os.Stderr, "provider-api:", err)
		os.Exit(1)
	}
}

func serveProviderAPI() error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(os.Getenv("ROOT")))
	client := guard.HTTPClient(roots, keyholder.TLSStrict)
	grace, err := time.ParseDuration(os.Getenv("GRACE"))
	if err != nil {
		return err
	}
	follower, err := guard.Follow(context.Background(), guard.FollowConfig{
		Issuer: os.Getenv("ISSUER"), ClientID: os.Getenv("CLIENT"), Secret: os.Getenv("SECRET"), Client: client, Grace: grace})
	if err != nil {
		return err
	}
	g, err := guard.New(guard.Config{Issuer: os.Getenv("ISSUER"), Audience: os.Getenv("AUDIENCE"),
		Keys: guard.FetchKeys(os.Getenv("ISSUER"), client), Follower: follower})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if s := follower.State(); !s.Connected {
			http.Error(w, fmt.Sprintf("no feed since %s: %v", s.Since, s.Failure), http.StatusServiceUnavailable)
		}
	})
	mux.Handle("GET /data", g.Middleware(func(t keyholder.Token, proof keyholder.Proof) keyholder.Verdict {
		return keyholder.Verdict{Allowed: t.Subscription != "", Requirement: keyholder.W8}
	}, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, _ := guard.FromContext(r.Context())
		_, _ = io.WriteString(w, string(t.Subscription))
	})))
	certificate, err := tls.X509KeyPair([]byte(os.Getenv("CERT")), []byte(os.Getenv("KEY")))
	if err != nil {
		return err
	}
	config := keyholder.TLSStrict.Config()
	config.Certificates = []tls.Certificate{certificate}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("https://" + ln.Addr().String())
	return (&http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}).Serve(tls.NewListener(ln, config))
}

// startProviderAPI starts the program and returns a function that asks it
// for a path with a token and gives the status.
func startProviderAPI(t *testing.T, environment []string, client *http.Client) func(path, token string) int {
	t.Helper()
	cmd := exec.Command("provider-api")
	cmd.Env, cmd.Stderr = append(os.Environ(), environment...), t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return func(path, token string) int {
		t.Helper()
		r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSpace(address)+path, nil))
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
}

// within waits until ok says yes and returns how long that took.
func within(t *testing.T, limit time.Duration, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("it has not happened within %s", limit)
		}
		<-tick.C
	}
	return time.Since(began)
}

// Ensure that a cut reaches the API of a provider in another process within a
// second; that with the server killed it takes tokens for the stated grace and
// then none; and that nothing which has ended revives with the server, neither
// there nor in a process that is started only then.
func TestFollowInAnotherProcess(t *testing.T) {
	const grace = 4 * time.Second
	s := serveData(t)
	ctx := t.Context()
	provider := must(s.admin.AddProvider(ctx, console.NewProvider{Name: "Fork Inc"}))
	must(s.admin.AddOwner(ctx, console.NewOwner{Key: northgate, Name: northgate}))
	app := must(s.admin.AddApp(ctx, console.NewApp{Name: "App", Authentication: keyholder.AuthSecret, Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}))
	server := must(s.admin.AddResourceServer(ctx, console.NewResourceServer{Name: "Fork Inc's API"}))
	authority := must(s.admin.Authority(ctx))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(authority.Root))
	client := guard.HTTPClient(roots, keyholder.TLSStrict)
	defer client.CloseIdleConnections()
	certificate := must(must(pki.Open(s.dir)).ServerCertificate([]string{"127.0.0.1"}, time.Now()))
	certPEM, keyPEM := encodePEM(certificate)

	var subs, tokens [2]string
	for i := range subs {
		agreement := must(s.admin.AddAgreement(ctx, console.NewAgreement{Provider: string(provider.ID), Owner: northgate, Purpose: "test"}))
		subs[i] = string(must(s.admin.AddSubscription(ctx, console.NewSubscription{Agreement: string(agreement.ID), App: string(app.App.ID)})).ID)
		tokens[i] = s.token(t, client, string(app.App.ID), app.Secret, subs[i])
	}
	environment := []string{"ROOT=" + authority.Root, "ISSUER=" + s.issuer, "AUDIENCE=" + s.api, "CLIENT=" + string(server.ResourceServer.ID), "SECRET=" + server.Secret,
		"GRACE=" + grace.String(), "CERT=" + certPEM, "KEY=" + keyPEM}
	start := func() (status func(token string) int) {
		ask := startProviderAPI(t, environment, client)
		within(t, 10*time.Second, func() bool { return ask("/health", "") == http.StatusOK })
		return func(token string) int { return ask("/data", token) }
	}
	ask := start()
	for _, token := range tokens {
		if got := ask(token); got != http.StatusOK {
			t.Fatalf("before the cut: status %d", got)
		}
	}

	must(s.admin.Cut(ctx, console.NewCut{Kind: string(keyholder.CutSubscription), ID: subs[0], Reason: "test"}))
	took := within(t, time.Second, func() bool { return ask(tokens[0]) == http.StatusUnauthorized })
	if got := ask(tokens[1]); got != http.StatusOK {
		t.Errorf("the other subscription got %d", got)
	}

	s.kill()
	killed := time.Now()
	if got := ask(tokens[1]); got != http.StatusOK {
		t.Errorf("within the grace the other subscription got %d", got)
	}
	within(t, 2*grace, func() bool { return ask(tokens[1]) == http.StatusServiceUnavailable })
	away := time.Since(killed)
	if away < grace-2*keyholder.FeedBeat {
		t.Errorf("refused after %s, before the grace of %s", away, grace)
	}
	if got := ask(tokens[0]); got != http.StatusUnauthorized {
		t.Errorf("with the server killed the cut subscription got %d", got)
	}

	s.start()
	back := within(t, 10*time.Second, func() bool {
		if got := ask(tokens[0]); got != http.StatusUnauthorized {
			t.Fatalf("the cut subscription got %d", got)
		}
		return ask(tokens[1]) == http.StatusOK
	})
	fresh := start()
	if got := [2]int{fresh(tokens[0]), fresh(tokens[1])}; got != [2]int{http.StatusUnauthorized, http.StatusOK} {
		t.Errorf("a new process answers %v", got)
	}
	t.Logf("cut refused after %s, killed server: refused after %s, taken again %s after the start", took, away, back)
}

// token gets an access token from the server.
func (s *served) token(t *testing.T, client *http.Client, id, secret, sub string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {keyholder.ScopeRead}, "subscription_id": {sub}, "client_id": {id}, "client_secret": {secret}}
	resp, err := client.PostForm(s.issuer+"/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("no token: status %d", resp.StatusCode)
	}
	return answer.AccessToken
}

// encodePEM writes a certificate and its key as a server's files hold them.
func encodePEM(c tls.Certificate) (certificate, key string) {
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der := must(x509.MarshalPKCS8PrivateKey(c.PrivateKey))
	return string(chain), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
