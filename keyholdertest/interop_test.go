package keyholdertest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

const redirectURI = "https://app.example/callback"

// party is a server with one of everything.
type party struct {
	*keyholdertest.Server
	provider keyholder.Provider
	owner    keyholder.Owner
	app      keyholder.App
	secret   string
	sub      keyholder.SubscriptionID
	password string
}

func onboarded(t *testing.T) party {
	t.Helper()
	p := party{Server: keyholdertest.Start(t)}
	p.provider, p.owner = p.AddProvider("Soap Inc"), p.AddOwner("northgate")
	p.password = p.AddUser(p.owner.ID, "facility")
	p.app, p.secret = p.AddApp("Cleaner", keyholder.AuthSecret, redirectURI)
	p.sub = p.AddSubscription(p.AddAgreement(p.provider.ID, p.owner.ID), p.app.ID, "")
	return p
}

// files writes a certificate, its key and the authority for programs.
func (p party) files(t *testing.T, use keyholder.CertificateUse, subject string) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	certPEM, keyPEM := p.CertificatePEM(use, subject)
	for name, data := range map[string][]byte{"ca.pem": []byte(p.RootPEM()), "cert.pem": certPEM, "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
}

// Ensure that mosquitto's clients publish and subscribe over mutual TLS, in
// both versions of MQTT, and are refused what is not theirs.
func TestMosquitto(t *testing.T) {
	pub, sub := keyholdertest.RequireProgram(t, "mosquitto_pub"), keyholdertest.RequireProgram(t, "mosquitto_sub")
	p := onboarded(t)
	host, port, err := net.SplitHostPort(strings.TrimPrefix(p.MQTT, "mqtts://"))
	if err != nil {
		t.Fatal(err)
	}
	args := func(id string, use keyholder.CertificateUse, more ...string) []string {
		ca, cert, key := p.files(t, use, id)
		return append([]string{"-h", host, "-p", port, "-i", id, "--cafile", ca, "--cert", cert, "--key", key, "--tls-version", "tlsv1.2", "-q", "1"}, more...)
	}
	for _, version := range []string{"311", "5"} {
		t.Run("MQTT "+version, func(t *testing.T) {
			var messages bytes.Buffer
			for i := range 5 {
				fmt.Fprintf(&messages, "{\"n\":%d}\n", i)
			}
			publish := exec.CommandContext(t.Context(), pub, args(string(p.provider.ID), keyholder.ForProvider, "-V", version, "-t", "fds/v2/"+string(p.sub)+"/events", "-l")...)
			publish.Stdin = bytes.NewReader(messages.Bytes())
			if out, err := publish.CombinedOutput(); err != nil {
				t.Fatalf("mosquitto_pub: %v: %s", err, out)
			}
			// The consumer comes only now: the messages waited for it.
			receive := exec.CommandContext(t.Context(), sub, args(string(p.sub), keyholder.ForSubscription, "-V", version, "-t", "fds/v2/"+string(p.sub)+"/#", "-C", "5", "-W", "20")...)
			out, err := receive.Output()
			if err != nil {
				t.Fatalf("mosquitto_sub: %v", err)
			}
			if string(out) != messages.String() {
				t.Errorf("received %q, want %q", out, messages.String())
			}
			for what, refused := range map[string]*exec.Cmd{
				"foreign filter": exec.CommandContext(t.Context(), sub, args(string(p.sub), keyholder.ForSubscription, "-V", version, "-t", "#", "-C", "1", "-W", "5")...),
				"foreign client ID": exec.CommandContext(t.Context(), sub, append(args(string(p.sub), keyholder.ForSubscription, "-V", version, "-t", "fds/v2/"+string(p.sub)+"/#", "-C", "1", "-W", "5"),
					"-i", string(p.provider.ID))...),
			} {
				// mosquitto_sub ends well after a refused SUBSCRIBE, but says so.
				if out, err := refused.CombinedOutput(); err == nil && !strings.Contains(string(out), "denied") {
					t.Errorf("%s: mosquitto_sub was content: %s", what, out)
				}
			}
		})
	}
}

// Ensure that curl reads with a token, and sees the FDS error without one.
func TestCurl(t *testing.T) {
	curl := keyholdertest.RequireProgram(t, "curl")
	p := onboarded(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(p.RootPEM()), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), curl, append([]string{"-sS", "--cacert", ca}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl: %v: %s", err, out)
		}
		return string(out)
	}
	var token struct {
		AccessToken string `json:"access_token"`
	}
	answer := run("-u", string(p.app.ID)+":"+p.secret, "-d", "grant_type=client_credentials", "-d", "scope=fds:read", "-d", "subscription_id="+string(p.sub), p.Issuer+"/token")
	if err := json.Unmarshal([]byte(answer), &token); err != nil || token.AccessToken == "" {
		t.Fatal("no token for curl")
	}
	if got := run("-H", "Authorization: Bearer "+token.AccessToken, p.API+"/fds/v2/specifications"); strings.TrimSpace(got) != "[]" {
		t.Errorf("with a token: %s, want an empty list", got)
	}
	if got := run("-w", " %{http_code}", p.API+"/fds/v2/specifications"); !strings.Contains(got, `"unauthorized_request"`) || !strings.HasSuffix(got, " 401") {
		t.Errorf("without a token: %s", got)
	}
}

// Ensure that golang.org/x/oauth2 and coreos/go-oidc, which know nothing of
// FDS, take a user through the code flow with PKCE and refresh.
func TestCodeFlowWithForeignLibraries(t *testing.T) {
	p := onboarded(t)
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, p.HTTP())
	discovered, err := oidc.NewProvider(oidc.ClientContext(ctx, p.HTTP()), p.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	config := oauth2.Config{ClientID: string(p.app.ID), ClientSecret: p.secret, Endpoint: discovered.Endpoint(), RedirectURL: redirectURI,
		Scopes: []string{oidc.ScopeOpenID, keyholder.ScopeRead}}
	verifier := oauth2.GenerateVerifier()
	address := config.AuthCodeURL("state-of-the-app", oauth2.S256ChallengeOption(verifier), oidc.Nonce("nonce-of-the-app"))
	back, err := url.Parse(p.SignIn(address, redirectURI, "facility", p.password))
	if err != nil {
		t.Fatal(err)
	}
	if q := back.Query(); q.Get("state") != "state-of-the-app" || q.Get("iss") != p.Issuer || q.Get("code") == "" {
		t.Fatalf("the user came back with %v", back.Query())
	}
	token, err := config.Exchange(ctx, back.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := discovered.Verifier(&oidc.Config{ClientID: config.ClientID}).Verify(oidc.ClientContext(ctx, p.HTTP()), raw)
	if err != nil || id.Nonce != "nonce-of-the-app" {
		t.Errorf("the ID token does not verify: %v", err)
	}
	if _, err := discovered.Verifier(&oidc.Config{SkipClientIDCheck: true}).Verify(oidc.ClientContext(ctx, p.HTTP()), token.AccessToken); err != nil {
		t.Errorf("the access token is not signed by the published key: %v", err)
	}
	read := func(token *oauth2.Token) {
		t.Helper()
		resp, err := config.Client(ctx, token).Get(p.API + "/fds/v2/statuses")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the Web API answered %s", resp.Status)
		}
	}
	read(token)
	token.Expiry = time.Now().Add(-time.Minute) // makes the library refresh
	fresh, err := config.TokenSource(ctx, token).Token()
	if err != nil {
		t.Fatal(err)
	}
	if fresh.AccessToken == token.AccessToken || fresh.RefreshToken == token.RefreshToken {
		t.Error("the refresh gave nothing new")
	}
	read(fresh)
}
