// Package keyholdertest runs a whole Keyholder on loopback inside a test:
// real TLS, real database, every door, on free ports, gone when the test
// ends. Use it to test an app, a provider's server or a deployment tool
// against the real thing.
package keyholdertest

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/daemon"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/visitor"
)

// Server is a running Keyholder. Its methods fail the test where something
// goes wrong, and are to be called from the test's own goroutine.
type Server struct {
	Dir    string // the data folder, for the keyholder command
	Issuer string // https://host:port of the authorization server
	API    string // https://host:port of the Web API, before /fds/v2
	MQTT   string // mqtts://host:port
	// Permits is where external brokers ask, https://host:port; empty if there
	// are none.
	Permits string

	t      testing.TB
	dsn    string // of its PostgreSQL database, or empty
	config daemon.Config
	daemon *daemon.Daemon
	admin  *console.Client
	log    *slog.Logger
}

// Option changes how [Start] makes a server.
type Option func(*Server)

// OnPostgres keeps everything in the empty PostgreSQL database of a DSN
// instead of a SQLite file.
func OnPostgres(dsn string) Option { return func(s *Server) { s.dsn = dsn } }

// Start initialises a data folder in the test's temporary directory and
// serves it. Ports stay the same over [Server.Restart].
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	s := &Server{Dir: filepath.Join(t.TempDir(), "keyholder"), t: t, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if testing.Verbose() {
		s.log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	for _, option := range options {
		option(s)
	}
	if s.dsn == "" {
		s.check(daemon.Init(s.Dir, time.Now()))
	} else {
		file := filepath.Join(t.TempDir(), "postgres.dsn")
		s.check(os.WriteFile(file, []byte(s.dsn), 0o600))
		s.check(daemon.InitPostgres(t.Context(), s.Dir, file, time.Now()))
	}
	var err error
	s.config, err = daemon.LoadConfig(s.Dir)
	s.check(err)
	s.config.Hosts = []string{"127.0.0.1", "localhost"}
	s.config.Listen.Auth, s.config.Listen.API, s.config.Listen.MQTT = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	s.config.Listen.Permits = "127.0.0.1:0"
	s.config.Webhooks.AllowPrivate = true
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *Server) start() {
	s.t.Helper()
	var err error
	s.daemon, err = daemon.Start(s.t.Context(), daemon.Options{Dir: s.Dir, Config: s.config, Log: s.log})
	s.check(err)
	s.Issuer, s.API, s.MQTT, s.Permits = s.daemon.Issuer, s.daemon.API, s.daemon.MQTT, s.daemon.Permits
	s.config.Listen.Auth, s.config.Listen.API, s.config.Listen.MQTT = s.Issuer[len("https://"):], s.API[len("https://"):], s.MQTT[len("mqtts://"):]
	s.config.Listen.Permits = cmp.Or(strings.TrimPrefix(s.Permits, "https://"), s.config.Listen.Permits)
	s.admin, err = console.Dial(s.Dir)
	s.check(err)
}

func (s *Server) stop() {
	s.admin.Close()
	if err := s.daemon.Close(s.t.Context()); err != nil {
		s.t.Errorf("stop keyholder: %v", err)
	}
}

// Restart stops the server and starts it again on the same data and ports.
func (s *Server) Restart() {
	s.t.Helper()
	s.stop()
	s.start()
}

// TrustExternal makes the Web API take the tokens of an external
// authorization server instead of our own, and restarts. external is the
// value of auth.external in keyholder.yaml, as JSON.
func (s *Server) TrustExternal(external string) {
	s.t.Helper()
	text := bytes.Replace(daemon.DefaultConfig, []byte("\nauth: {}\n"), []byte("\nauth: {external: "+external+"}\n"), 1)
	c, err := daemon.ParseConfig(text)
	s.check(err)
	s.config.Auth = c.Auth
	s.Restart()
}

// UseBrokers makes external brokers ask this server and be told its cuts, and
// restarts. brokers is the value of external_brokers in keyholder.yaml, as
// JSON.
func (s *Server) UseBrokers(brokers string) {
	s.t.Helper()
	text := bytes.Replace(daemon.DefaultConfig, []byte("\nexternal_brokers: []\n"), []byte("\nexternal_brokers: "+brokers+"\n"), 1)
	c, err := daemon.ParseConfig(text)
	s.check(err)
	s.config.ExternalBrokers = c.ExternalBrokers
	s.Restart()
}

func (s *Server) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("keyholdertest: %v", err)
	}
}

// Roots returns the authority that the server's certificates are trusted by.
func (s *Server) Roots() *x509.CertPool {
	s.t.Helper()
	a, err := s.admin.Authority(s.t.Context())
	s.check(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(a.Root)) {
		s.t.Fatal("keyholdertest: the authority has no certificate")
	}
	return pool
}

// TLS returns a client configuration that trusts the server and presents the
// given certificates.
func (s *Server) TLS(certificates ...tls.Certificate) *tls.Config {
	s.t.Helper()
	c := keyholder.TLSStrict.Config()
	c.RootCAs = s.Roots()
	c.Certificates = certificates
	return c
}

// HTTP returns a client that trusts the server and presents the given
// certificates.
func (s *Server) HTTP(certificates ...tls.Certificate) *http.Client {
	s.t.Helper()
	transport := &http.Transport{TLSClientConfig: s.TLS(certificates...), ForceAttemptHTTP2: true}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// AddProvider registers a provider.
func (s *Server) AddProvider(name string) keyholder.Provider {
	s.t.Helper()
	p, err := s.admin.AddProvider(s.t.Context(), console.NewProvider{Name: name})
	s.check(err)
	return p
}

// AddOwner registers an owner.
func (s *Server) AddOwner(key string) keyholder.Owner {
	s.t.Helper()
	o, err := s.admin.AddOwner(s.t.Context(), console.NewOwner{Key: key, Name: "Owner " + key})
	s.check(err)
	return o
}

// AddUser registers a user of an owner and returns the password.
func (s *Server) AddUser(owner keyholder.OwnerID, login string) (password string) {
	s.t.Helper()
	password = rand.Text()
	_, err := s.admin.AddUser(s.t.Context(), console.NewUser{Owner: string(owner), Login: login, Password: password})
	s.check(err)
	return password
}

// SetIdentityProvider registers the OpenID provider of an owner, with a button
// of that name, and makes the server trust the authority of a PEM file; it
// restarts. The redirect URI is known before: see
// [keyholder.IdentityProvider.RedirectURI].
func (s *Server) SetIdentityProvider(p keyholder.IdentityProvider, secret, caFile string) {
	s.t.Helper()
	s.config.Auth.Federation.CAFile = caFile
	s.Restart()
	_, err := s.admin.SetIdentityProvider(s.t.Context(), console.NewIdentityProvider{Owner: string(p.Owner), Issuer: p.Issuer, ClientID: p.ClientID,
		ClientSecret: secret, Scopes: p.Scopes, Hosts: p.Hosts, Name: p.Name, TrustFactors: p.TrustFactors})
	s.check(err)
}

// AddFederatedUser registers a user without password whom the OpenID provider
// of the owner calls subject.
func (s *Server) AddFederatedUser(owner keyholder.OwnerID, login, subject string) keyholder.UserID {
	s.t.Helper()
	u, err := s.admin.AddUser(s.t.Context(), console.NewUser{Owner: string(owner), Login: login, Subject: subject})
	s.check(err)
	return u.ID
}

// AddApp registers an app, with every grant if grants is empty, and returns
// its secret if it has one. An app without a redirect URI does without the
// authorization code grant.
func (s *Server) AddApp(name string, auth keyholder.AuthMethod, redirectURI string, grants ...keyholder.GrantType) (app keyholder.App, secret string) {
	s.t.Helper()
	q := console.NewApp{Name: name, Authentication: auth, Grants: grants}
	if redirectURI != "" {
		q.RedirectURIs = []string{redirectURI}
	}
	if len(grants) == 0 {
		q.Grants = []keyholder.GrantType{keyholder.GrantClientCredentials}
		if redirectURI != "" {
			q.Grants = append(q.Grants, keyholder.GrantAuthorizationCode, keyholder.GrantRefreshToken)
		}
	}
	a, err := s.admin.AddApp(s.t.Context(), q)
	s.check(err)
	return a.App, a.Secret
}

// RegisterApp registers an app as it is described, with the certificate in PEM
// that it made itself, if it authenticates by one.
func (s *Server) RegisterApp(app keyholder.App, certificate string) keyholder.App {
	s.t.Helper()
	q := console.NewApp{Name: app.Name, Profile: app.Profile, Grants: app.Grants, Authentication: app.Authentication, Certificate: certificate,
		Pinned: app.Pinned, RedirectURIs: app.RedirectURIs, PushedOnly: app.PushedOnly}
	if len(app.Keys) > 0 {
		keys, err := json.Marshal(map[string]any{"keys": app.Keys})
		s.check(err)
		q.Keys = keys
	}
	a, err := s.admin.AddApp(s.t.Context(), q)
	s.check(err)
	return a.App
}

// AddSecret draws a secret for an app, provider or resource server.
func (s *Server) AddSecret(client string) string {
	s.t.Helper()
	a, err := s.admin.AddSecret(s.t.Context(), client)
	s.check(err)
	return a.Secret
}

// AddResourceServer registers a party that may introspect, and returns its
// secret.
func (s *Server) AddResourceServer(name string) (keyholder.ResourceServer, string) {
	s.t.Helper()
	r, err := s.admin.AddResourceServer(s.t.Context(), console.NewResourceServer{Name: name})
	s.check(err)
	return r.ResourceServer, r.Secret
}

// AddAgreement records an agreement from now on.
func (s *Server) AddAgreement(provider keyholder.ProviderID, owner keyholder.OwnerID) keyholder.AgreementID {
	s.t.Helper()
	a, err := s.admin.AddAgreement(s.t.Context(), console.NewAgreement{Provider: string(provider), Owner: string(owner), Purpose: "Test"})
	s.check(err)
	return a.ID
}

// AddSubscription records a consent given in the written agreement, to the
// kinds named or to all. fixed may be empty.
func (s *Server) AddSubscription(agreement keyholder.AgreementID, app keyholder.AppID, fixed keyholder.SubscriptionID, scope ...keyholder.Kind) keyholder.SubscriptionID {
	s.t.Helper()
	sub, err := s.admin.AddSubscription(s.t.Context(), console.NewSubscription{Agreement: string(agreement), App: string(app), ID: string(fixed), Scope: scope})
	s.check(err)
	return sub.ID
}

// AddWebhook registers a webhook target that is authenticated to by a secret.
// ca is the PEM of the authority that the receiver's servers are trusted by.
func (s *Server) AddWebhook(sub keyholder.SubscriptionID, url, issuer, client, secret, ca string) keyholder.WebhookID {
	s.t.Helper()
	w, err := s.admin.AddWebhook(s.t.Context(), console.NewWebhook{Subscription: string(sub), URL: url, Issuer: issuer, Client: client, Secret: secret, CA: ca})
	s.check(err)
	return w.ID
}

// Certificate makes a key and has a certificate issued for it.
func (s *Server) Certificate(use keyholder.CertificateUse, subject string) tls.Certificate {
	s.t.Helper()
	certPEM, keyPEM := s.CertificatePEM(use, subject)
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	s.check(err)
	return c
}

// CertificatePEM is Certificate in PEM form, for programs that read files.
func (s *Server) CertificatePEM(use keyholder.CertificateUse, subject string) (certificate, key []byte) {
	s.t.Helper()
	key, err := pki.NewKey()
	s.check(err)
	csr, err := pki.NewRequest(key, "keyholdertest")
	s.check(err)
	c, err := s.admin.IssueCertificate(s.t.Context(), console.NewCertificate{Use: use, Subject: subject, Request: string(csr)})
	s.check(err)
	return []byte(c.PEM), key
}

// ServerCertificatePEM makes a key and a certificate for another server of the
// same operator, for example a broker, with the chain.
func (s *Server) ServerCertificatePEM(hosts ...string) (certificate, key []byte) {
	s.t.Helper()
	c, err := s.daemon.ServerCertificate(hosts)
	s.check(err)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	s.check(err)
	for _, link := range c.Certificate {
		certificate = append(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: link})...)
	}
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// RootPEM returns the certificate of the server's authority.
func (s *Server) RootPEM() string {
	s.t.Helper()
	a, err := s.admin.Authority(s.t.Context())
	s.check(err)
	return a.Root
}

// RetireKey takes a signing key out of use at once and returns the name of
// the one that signs now.
func (s *Server) RetireKey(kid string) (signs string) {
	s.t.Helper()
	k, err := s.admin.RetireKey(s.t.Context(), console.KeyRetirement{ID: kid, Reason: "test"})
	s.check(err)
	return k.Signs
}

// Cut cuts a target and returns the receipt.
func (s *Server) Cut(kind keyholder.TargetKind, id string) keyholder.Receipt {
	s.t.Helper()
	r, err := s.admin.Cut(s.t.Context(), console.NewCut{Kind: string(kind), ID: id, Reason: "test"})
	s.check(err)
	return r
}

// Audit returns the audit trail, at most its first 10,000 rows.
func (s *Server) Audit() []keyholder.Event {
	s.t.Helper()
	var all []keyholder.Event
	for len(all) < 10_000 {
		after := int64(0)
		if len(all) > 0 {
			after = all[len(all)-1].Seq
		}
		page, err := s.admin.Audit(s.t.Context(), after, 500)
		s.check(err)
		if len(page) == 0 {
			break
		}
		all = append(all, page...)
	}
	return all
}

// SignIn plays an owner's user at the sign-in pages and returns the address
// with which they come back to the app.
func (s *Server) SignIn(address, redirectURI, login, password string) string {
	s.t.Helper()
	v, err := visitor.New(s.HTTP().Transport, redirectURI)
	s.check(err)
	back, err := v.SignIn(s.t.Context(), address, login, password)
	s.check(err)
	return back.String()
}
