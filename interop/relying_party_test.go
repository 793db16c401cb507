// Package interop_test drives a whole Keyholder with the client code of
// others, in the versions that package-lock.json names.
package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

const redirectURI = "https://app.example/callback"

// identity is how the script authenticates as a client.
type identity struct {
	ID     string `json:"id"`
	Method string `json:"method,omitempty"`
	Secret string `json:"secret,omitempty"`
	Cert   string `json:"cert,omitempty"` // file
	Key    string `json:"key,omitempty"`  // file

	JWK *jose.JSONWebKey `json:"jwk,omitempty"` // private
}

// relyingParty is a Keyholder with one owner, whose user signs in to the apps
// that the scripts play.
type relyingParty struct {
	t         *testing.T
	node, dir string
	server    *keyholdertest.Server
	password  string
	gateway   identity
	apps      []identity

	agreement    keyholder.AgreementID
	subscription keyholder.SubscriptionID // of the app that plays, if it was made beforehand
}

func newRelyingParty(t *testing.T) *relyingParty {
	node, dir := keyholdertest.NodePackage(t, "package.json", "package-lock.json", "party.mjs", "relying-party.mjs", "dpop.mjs", "fapi2.mjs")
	s := keyholdertest.Start(t)
	p := &relyingParty{t: t, node: node, dir: dir, server: s}
	provider, owner := s.AddProvider("Soap Inc"), s.AddOwner("northgate")
	p.password = s.AddUser(owner.ID, "facility")
	p.agreement = s.AddAgreement(provider.ID, owner.ID)
	gateway, secret := s.AddResourceServer("Gateway")
	p.gateway = identity{ID: string(gateway.ID), Secret: secret}
	app, secret := s.AddApp("Cleaner", keyholder.AuthSecret, redirectURI)
	certApp, _ := s.AddApp("Tidy", keyholder.AuthCertificate, redirectURI)
	cert, key := s.CertificatePEM(keyholder.ForApp, string(certApp.ID))
	p.apps = []identity{
		{ID: string(app.ID), Method: "client_secret_basic", Secret: secret},
		{ID: string(app.ID), Method: "client_secret_post", Secret: secret},
		{ID: string(certApp.ID), Method: "tls_client_auth", Cert: p.file("cert.pem", cert), Key: p.file("key.pem", key)},
		p.selfSigned(keyholder.ProfileFDS),
		p.assertion(keyholder.ProfileFDS),
	}
	return p
}

// described is an app with every grant.
func described(profile keyholder.Profile, auth keyholder.AuthMethod) keyholder.App {
	return keyholder.App{Name: "App by " + string(auth), Profile: profile, Authentication: auth, RedirectURIs: []string{redirectURI},
		Grants: []keyholder.GrantType{keyholder.GrantAuthorizationCode, keyholder.GrantRefreshToken, keyholder.GrantClientCredentials}}
}

// selfSigned registers an app with a certificate that it made itself.
func (p *relyingParty) selfSigned(profile keyholder.Profile) identity {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		p.t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	app := p.server.RegisterApp(described(profile, keyholder.AuthSelfSigned), string(cert))
	return identity{ID: string(app.ID), Method: string(app.Authentication),
		Cert: p.file("self-"+string(profile)+".pem", cert), Key: p.file("self-"+string(profile)+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))}
}

// assertion registers an app with a key for assertions.
func (p *relyingParty) assertion(profile keyholder.Profile) identity {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	app := described(profile, keyholder.AuthKey)
	app.Keys = []keyholder.ClientKey{{ID: "key-1", Algorithm: "ES256", Key: key.Public()}}
	app = p.server.RegisterApp(app, "")
	return identity{ID: string(app.ID), Method: string(app.Authentication), JWK: &jose.JSONWebKey{Key: key, KeyID: "key-1", Algorithm: "ES256"}}
}

// file writes a file for the scripts and returns its name.
func (p *relyingParty) file(name string, data []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// play runs a script as an app and signs the owner's user in whenever it asks
// for it.
func (p *relyingParty) play(t *testing.T, name string, app identity, wantSignIns int) {
	s := p.server
	settings, err := json.Marshal(map[string]any{"issuer": s.Issuer, "api": s.API, "redirectURI": redirectURI,
		"ca": p.file("ca.pem", []byte(s.RootPEM())), "app": app, "gateway": p.gateway, "subscription": p.subscription})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	script := exec.CommandContext(ctx, p.node, name)
	script.Dir, script.Env = p.dir, append(os.Environ(), "SETTINGS="+string(settings))
	var complaint bytes.Buffer
	script.Stderr = &complaint
	answers, err := script.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	questions, err := script.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	signIns := 0
	for lines := bufio.NewScanner(questions); lines.Scan(); signIns++ {
		if _, err := fmt.Fprintln(answers, s.SignIn(lines.Text(), redirectURI, "facility", p.password)); err != nil {
			break // the script has ended and says why
		}
	}
	_ = answers.Close() // the script may be gone
	if err := script.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, complaint.Bytes())
	}
	if signIns != wantSignIns {
		t.Errorf("%d sign-ins, want %d", signIns, wantSignIns)
	}
}

// Ensure that openid-client and oauth4webapi, the certified relying-party code
// for JavaScript, go through every flow with every client authentication, and
// are refused what must be refused.
func TestRelyingParty(t *testing.T) {
	p := newRelyingParty(t)
	for _, app := range p.apps {
		t.Run(app.Method, func(t *testing.T) { p.play(t, "relying-party.mjs", app, 5) })
	}
}

// Ensure that the same code gets and uses tokens bound to a key (RFC 9449) and
// tokens for one resource (RFC 8707), and that proofs which are replayed, of
// another key or for something else are refused.
func TestRelyingPartyDPoP(t *testing.T) {
	p := newRelyingParty(t)
	for _, app := range p.apps {
		t.Run(app.Method, func(t *testing.T) { p.play(t, "dpop.mjs", app, 5) })
	}
}

// Ensure that apps of the profile fapi2 push their requests, bind their tokens
// to their certificate or to a DPoP key, and get nothing otherwise.
func TestRelyingPartyFAPI2(t *testing.T) {
	p := newRelyingParty(t)
	for _, app := range []identity{p.assertion(keyholder.ProfileFAPI2), p.selfSigned(keyholder.ProfileFAPI2)} {
		t.Run(app.Method, func(t *testing.T) {
			p.subscription = p.server.AddSubscription(p.agreement, keyholder.AppID(app.ID), "")
			p.play(t, "fapi2.mjs", app, 1)
		})
	}
}
