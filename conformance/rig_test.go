package conformance_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	keyholder "github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/conformance"
)

// rig is a small real deployment on loopback: an authorization server, a Web
// API, a broker and a webhook receiver with real TLS, tokens and
// certificates. Without faults it keeps all sixteen requirements; each fault
// breaks one thing. It shares no code with the checker.
type rig struct {
	t      *testing.T
	dir    string
	faults map[string]bool

	ca, otherCA  *authority
	subA, subB   string
	app1, app2   string // OAuth clients of A (secret) and B (certificate)
	provider     string
	provider2    string
	revokedKey   string // thumbprint of the revoked certificate
	signing      *ecdsa.PrivateKey
	issuer, api  string
	hookURL      string
	secret       string
	rsSecret     string
	refreshToken string
	opaque       map[string]map[string]any // claims by opaque token
	opaqueMode   bool

	timeout time.Duration // of each probe
	Target  conformance.Target
}

func (r *rig) has(fault string) bool { return r.faults[fault] }

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{c, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// issue returns a certificate, for a server if name is an address.
func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses, template.ExtKeyUsage = []net.IP{ip}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	} else {
		template.URIs = []*url.URL{{Scheme: "urn", Opaque: "uuid:" + name}}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// save writes a file into the rig's folder and returns its name.
func (r *rig) save(name string, data []byte) string {
	r.t.Helper()
	file := filepath.Join(r.dir, name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return file
}

func (r *rig) pair(name string, c tls.Certificate) *conformance.KeyPair {
	r.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		r.t.Fatal(err)
	}
	return &conformance.KeyPair{
		Certificate: r.save(name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})),
		Key:         r.save(name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}
}

func newID(t *testing.T) string {
	t.Helper()
	id, err := keyholder.NewID[keyholder.SubscriptionID](nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(id)
}

// newRig starts a deployment with the given faults.
func newRig(t *testing.T, faults ...string) *rig {
	t.Helper()
	r := &rig{
		t: t, dir: t.TempDir(), faults: map[string]bool{}, ca: newAuthority(t, "Rig CA"), otherCA: newAuthority(t, "Rig CA"),
		subA: newID(t), subB: newID(t), app1: newID(t), app2: newID(t), provider: newID(t), provider2: newID(t),
		signing: newKey(t), secret: "khs_" + rand.Text(), rsSecret: "khs_" + rand.Text(), refreshToken: "refresh-" + rand.Text(),
		opaque: map[string]map[string]any{}, timeout: 8 * time.Second,
	}
	for _, f := range faults {
		r.faults[f] = true
	}
	r.opaqueMode = r.has("opaque tokens")
	if r.has("ids of version 1") {
		r.subA, r.subB = r.subA[:14]+"1"+r.subA[15:], r.subB[:14]+"1"+r.subB[15:]
	}
	a, b, p, p2 := r.ca.issue(t, r.subA), r.ca.issue(t, r.subB), r.ca.issue(t, r.provider), r.ca.issue(t, r.provider2)
	revoked, app2 := r.ca.issue(t, r.subA), r.ca.issue(t, r.app2)
	r.revokedKey = string(revoked.Certificate[0])

	authServer, web, hook := r.listen("web"), r.listen("web"), r.listen("web")
	r.issuer, r.api, r.hookURL = "https://"+authServer.Addr().String(), "https://"+web.Addr().String(), "https://"+hook.Addr().String()+"/push"
	r.serve(authServer, r.authorizationServer())
	r.serve(web, r.webAPI())
	r.serve(hook, r.webhook())
	broker := r.broker()

	providerPair, provider2Pair, appPair := r.pair("provider", p), r.pair("provider2", p2), r.pair("app2", app2)
	clientCA := r.ca
	if r.has("client certificates of another CA") {
		clientCA = r.otherCA
	}
	r.Target = conformance.Target{
		Name: "rig", Issuer: r.issuer, API: r.api, MQTT: "mqtts://" + broker,
		CA: r.save("ca.pem", r.ca.pem()), ClientCA: r.save("client-ca.pem", clientCA.pem()),
		A: &conformance.Consumer{SubscriptionID: r.subA, MQTT: r.pair("a", a), OAuth: &conformance.Credentials{
			ClientID: r.app1, SecretFile: r.save("a.secret", []byte(r.secret+"\n")), Scope: "fds:read", SubscriptionParameter: "subscription_id"}},
		B: &conformance.Consumer{SubscriptionID: r.subB, MQTT: r.pair("b", b), OAuth: &conformance.Credentials{
			ClientID: r.app2, Certificate: appPair.Certificate, Key: appPair.Key, Scope: "fds:read", SubscriptionParameter: "subscription_id"}},
		Provider:       &conformance.Publisher{ID: r.provider, Certificate: providerPair.Certificate, Key: providerPair.Key},
		Provider2:      &conformance.Publisher{ID: r.provider2, Certificate: provider2Pair.Certificate, Key: provider2Pair.Key},
		Revoked:        r.pair("revoked", revoked),
		ExpiredToken:   conformance.Secret(r.expired()),
		ResourceServer: &conformance.Credentials{ClientID: "rs", SecretFile: r.save("rs.secret", []byte(r.rsSecret))},
		Webhook: &conformance.Webhook{URL: r.hookURL, SubscriptionID: r.subA, OAuth: &conformance.Credentials{
			ClientID: r.provider, Certificate: providerPair.Certificate, Key: providerPair.Key, Scope: "fds:push", SubscriptionParameter: "subscription_id"}},
	}
	return r
}

// listen returns a TLS listener; kind is the prefix of its faults.
func (r *rig) listen(kind string) net.Listener {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	host := "127.0.0.1"
	if r.has(kind + ": certificate for another name") {
		host = "127.0.0.2"
	}
	c := keyholder.TLSStrict.Config()
	c.Certificates = []tls.Certificate{r.ca.issue(r.t, host)}
	c.ClientCAs = r.ca.pool()
	c.ClientAuth = tls.VerifyClientCertIfGiven
	if r.has("authorization server: trusts any certificate") {
		c.ClientAuth = tls.RequestClientCert
	}
	if kind == "broker" {
		r.demandCertificates(c)
	}
	if r.has(kind + ": TLS 1.3 too") {
		c.MaxVersion = tls.VersionTLS13
	}
	if r.has(kind + ": TLS 1.1") {
		c.MinVersion, c.CipherSuites = tls.VersionTLS11, nil
	}
	if r.has(kind + ": weak suite") {
		c.CipherSuites = append(c.CipherSuites, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA)
	}
	return &sniffer{l, c, r.has(kind + ": plain text")}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.certificate)
	return p
}

// sniffer gives TLS connections, and plain ones where the fault allows and
// the client does not begin with a handshake record.
type sniffer struct {
	net.Listener
	config *tls.Config
	plain  bool
}

func (s *sniffer) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !s.plain {
		return tls.Server(c, s.config), nil
	}
	return &sniffed{Conn: c, config: s.config}, nil
}

type sniffed struct {
	net.Conn
	config *tls.Config
	inner  net.Conn
}

type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

func (s *sniffed) open() net.Conn {
	if s.inner == nil {
		p := &peeked{s.Conn, bufio.NewReader(s.Conn)}
		if first, err := p.r.Peek(1); err == nil && first[0] == 0x16 {
			s.inner = tls.Server(p, s.config)
		} else {
			s.inner = p
		}
	}
	return s.inner
}

func (s *sniffed) Read(b []byte) (int, error)  { return s.open().Read(b) }
func (s *sniffed) Write(b []byte) (int, error) { return s.open().Write(b) }

func (r *rig) serve(l net.Listener, h http.Handler) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(discard{}, "", 0)}
	go s.Serve(l)
	r.t.Cleanup(func() { s.Close() })
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// check runs the checker against the rig.
func (r *rig) check(only ...string) conformance.Report {
	r.t.Helper()
	report, err := conformance.Run(context.Background(), r.Target, conformance.Options{Only: only, Timeout: r.timeout})
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// result returns the result of a probe.
func result(t *testing.T, report conformance.Report, id string) conformance.Result {
	t.Helper()
	for _, q := range report.Requirements {
		for _, p := range q.Probes {
			if p.ID == id {
				return p
			}
		}
	}
	t.Fatalf("the report has no probe %s", id)
	return conformance.Result{}
}
