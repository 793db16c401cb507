package pki_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// result is how one handshake ended on both sides.
type result struct {
	server, client error
	state          tls.ConnectionState // as the server saw it
}

// handshake connects client and server over loopback and has the server send
// one byte, so that the client, too, learns of a refusal.
func handshake(t *testing.T, server, client *tls.Config) result {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	deadline := time.Now().Add(10 * time.Second)
	done := make(chan result, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- result{server: err}
			return
		}
		defer raw.Close()
		_ = raw.SetDeadline(deadline)
		conn := tls.Server(raw, server)
		err = conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte{1})
		}
		done <- result{server: err, state: conn.ConnectionState()}
		_ = conn.Close()
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(deadline)
	conn := tls.Client(raw, client)
	clientErr := conn.Handshake()
	if clientErr == nil {
		_, clientErr = io.ReadFull(conn, make([]byte, 1))
	}
	_ = raw.Close()
	r := <-done
	r.client = clientErr
	return r
}

// leaf is a certificate of the issuing authority in dir, made by hand: it may
// say what the package never signs.
func leaf(t *testing.T, dir string, template x509.Certificate) tls.Certificate {
	t.Helper()
	issuing := certificates(t, read(t, dir, "pki", "issuing.pem"))[0]
	block, _ := pem.Decode(read(t, dir, "pki", "issuing.key"))
	signer, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := ecKey(t, elliptic.P256())
	der, err := x509.CreateCertificate(rand.Reader, &template, issuing, key.Public(), signer.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, issuing.Raw}, PrivateKey: key}
}

// profile is what the authority signs for a client, to be changed by a test.
func profile(change func(*x509.Certificate)) x509.Certificate {
	c := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: subject},
		NotBefore: start, NotAfter: start.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, URIs: []*url.URL{{Scheme: "urn", Opaque: "uuid:" + subject}},
	}
	if change != nil {
		change(&c)
	}
	return c
}

// signed is a certificate that the authority signs for a client.
func signed(t *testing.T, a *pki.Authority, from, to time.Time) tls.Certificate {
	t.Helper()
	keyPEM, r := request(t)
	bundle, _, err := a.Sign(r, keyholder.ForSubscription, subject, from, to)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(bundle, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// listener is the configuration of a door that demands certificates.
func listener(t *testing.T, a *pki.Authority, now func() time.Time) *tls.Config {
	t.Helper()
	cert, err := a.ServerCertificate([]string{"localhost"}, start)
	if err != nil {
		t.Fatal(err)
	}
	c := keyholder.TLSStrict.Config()
	c.Certificates = []tls.Certificate{cert}
	c.ClientCAs, c.ClientAuth = a.Pool(), tls.RequireAndVerifyClientCert
	c.VerifyConnection = pki.VerifyClient
	c.Time = now
	return c
}

// Ensure that over a real TLS 1.2 connection a listener takes the certificates
// that its authority signs for clients, and no others (M1, M2, SR-07).
func TestHandshake(t *testing.T) {
	a, dir := open(t, start)
	foreign, foreignDir := open(t, start)
	now := start.Add(time.Hour)
	clock := func() time.Time { return now }
	server := listener(t, a, clock)

	// A certificate of an authority of its own with the same names, and one
	// that pretends to be below it.
	chained := leaf(t, foreignDir, profile(nil))
	chained.Certificate[1] = server.Certificates[0].Certificate[1]
	selfSigned := func() tls.Certificate {
		key := ecKey(t, elliptic.P256())
		template := profile(nil)
		der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}()
	stolen := signed(t, a, start, start.Add(24*time.Hour)) // without its key
	stolen.PrivateKey = ecKey(t, elliptic.P256())
	authority := func() tls.Certificate { // the issuing authority's own
		block, _ := pem.Decode(read(t, dir, "pki", "issuing.key"))
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{server.Certificates[0].Certificate[1]}, PrivateKey: key}
	}()

	for _, tt := range []struct {
		name string
		cert *tls.Certificate
		ok   bool
	}{
		{"signed", ptr(signed(t, a, start, start.Add(24*time.Hour))), true},
		{"made by hand after the profile", ptr(leaf(t, dir, profile(nil))), true},
		{"none", nil, false},
		{"foreign authority", ptr(signed(t, foreign, start, start.Add(24*time.Hour))), false},
		{"foreign authority, our issuing certificate behind", &chained, false},
		{"self-signed", &selfSigned, false},
		{"without its key", &stolen, false},
		{"the issuing authority itself", &authority, false},
		{"a server's", &server.Certificates[0], false},
		{"expired", ptr(signed(t, a, start, now.Add(-time.Minute))), false},
		{"not yet valid", ptr(signed(t, a, now.Add(time.Minute), now.Add(time.Hour))), false},
		{"server use only", ptr(leaf(t, dir, profile(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }))), false},
		{"server use too", ptr(leaf(t, dir, profile(func(c *x509.Certificate) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}))), false},
		{"any use", ptr(leaf(t, dir, profile(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }))), false},
		{"no use", ptr(leaf(t, dir, profile(func(c *x509.Certificate) { c.ExtKeyUsage = nil }))), false},
		{"CA:true", ptr(leaf(t, dir, profile(func(c *x509.Certificate) { c.IsCA = true }))), false},
		{"CA:true that may sign", ptr(leaf(t, dir, profile(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign }))), false},
		{"two names", ptr(leaf(t, dir, profile(func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "urn", Opaque: "uuid:00000000-0000-4000-8000-000000000000"})
		}))), false},
		{"no name", ptr(leaf(t, dir, profile(func(c *x509.Certificate) { c.URIs = nil }))), false},
		{"a DNS name beside", ptr(leaf(t, dir, profile(func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} }))), false},
		{"CN of another", ptr(leaf(t, dir, profile(func(c *x509.Certificate) { c.Subject.CommonName = "00000000-0000-4000-8000-000000000000" }))), false},
		{"a name that is no UUID", ptr(leaf(t, dir, profile(func(c *x509.Certificate) {
			c.Subject.CommonName, c.URIs = "x", []*url.URL{{Scheme: "urn", Opaque: "uuid:x"}}
		}))), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := keyholder.TLSStrict.Config()
			client.RootCAs, client.ServerName, client.Time = a.Pool(), "localhost", clock
			if tt.cert != nil {
				// GetClientCertificate sends it whatever the server asks for.
				client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tt.cert, nil }
			}
			r := handshake(t, server, client)
			if tt.ok != (r.server == nil) || tt.ok != (r.client == nil) {
				t.Fatalf("server: %v; client: %v", r.server, r.client)
			}
			if tt.ok && (r.state.Version != tls.VersionTLS12 || len(r.state.PeerCertificates) == 0) {
				t.Errorf("version %x, %d certificates", r.state.Version, len(r.state.PeerCertificates))
			}
		})
	}
}

func ptr(c tls.Certificate) *tls.Certificate { return &c }

// Ensure that the strict profile talks to TLS 1.2 only, and that a client of
// ours refuses a server with a foreign authority or another name (SR-01, SR-40).
func TestHandshakeVersionsAndServers(t *testing.T) {
	a, _ := open(t, start)
	foreign, _ := open(t, start)
	clock := func() time.Time { return start.Add(time.Hour) }
	cert := signed(t, a, start, start.Add(24*time.Hour))
	for _, tt := range []struct {
		name     string
		server   *pki.Authority
		host     string
		min, max uint16
		ok       bool
	}{
		{"1.2", a, "localhost", tls.VersionTLS12, tls.VersionTLS12, true},
		{"1.2 of 1.0 to 1.3", a, "localhost", tls.VersionTLS10, tls.VersionTLS13, true},
		{"1.3 only", a, "localhost", tls.VersionTLS13, tls.VersionTLS13, false},
		{"1.1 at most", a, "localhost", tls.VersionTLS10, tls.VersionTLS11, false},
		{"foreign server", foreign, "localhost", tls.VersionTLS12, tls.VersionTLS12, false},
		{"server of another name", a, "example.org", tls.VersionTLS12, tls.VersionTLS12, false},
	} {
		server := listener(t, tt.server, clock)
		server.ClientCAs = a.Pool()
		client := keyholder.TLSStrict.Config()
		client.MinVersion, client.MaxVersion = tt.min, tt.max
		client.RootCAs, client.ServerName, client.Time, client.Certificates = a.Pool(), tt.host, clock, []tls.Certificate{cert}
		r := handshake(t, server, client)
		if tt.ok != (r.client == nil && r.server == nil) {
			t.Errorf("%s: server: %v; client: %v", tt.name, r.server, r.client)
		}
		if tt.ok && r.state.Version != tls.VersionTLS12 {
			t.Errorf("%s: version %x", tt.name, r.state.Version)
		}
	}
}

// Ensure that a resumed session is checked like a new one: it works while the
// certificate is good and ends with it (design position 1).
func TestHandshakeResumed(t *testing.T) {
	a, _ := open(t, start)
	now := start.Add(time.Hour)
	clock := func() time.Time { return now }
	server := listener(t, a, clock)
	refused := errors.New("refused")
	var checks int
	var verdict error
	server.VerifyConnection = func(s tls.ConnectionState) error {
		checks++
		return errors.Join(verdict, pki.VerifyClient(s))
	}
	client := keyholder.TLSStrict.Config()
	client.RootCAs, client.ServerName, client.Time = a.Pool(), "localhost", clock
	client.Certificates = []tls.Certificate{signed(t, a, start, start.Add(2*time.Hour))}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)

	if r := handshake(t, server, client); r.server != nil || r.state.DidResume {
		t.Fatalf("first: %v, resumed %v", r.server, r.state.DidResume)
	}
	if r := handshake(t, server, client); r.server != nil || !r.state.DidResume || len(r.state.PeerCertificates) == 0 || checks != 2 {
		t.Fatalf("second: %v, resumed %v, %d checks", r.server, r.state.DidResume, checks)
	}
	verdict = refused // as PermitCertificate says after a cut
	if r := handshake(t, server, client); !errors.Is(r.server, refused) {
		t.Fatalf("after a cut: %v", r.server)
	}
	verdict = nil
	now = start.Add(3 * time.Hour)
	if r := handshake(t, server, client); r.server == nil {
		t.Error("a session outlived its certificate")
	}
}

// Ensure that VerifyClient leaves a connection without a certificate to
// ClientAuth, and refuses certificates that nobody has verified.
func TestVerifyClient(t *testing.T) {
	if err := pki.VerifyClient(tls.ConnectionState{}); err != nil {
		t.Error(err)
	}
	a, _ := open(t, start)
	cert := signed(t, a, start, start.Add(time.Hour))
	s := tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}
	if err := pki.VerifyClient(s); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("not verified: %v", err)
	}
	s.VerifiedChains = [][]*x509.Certificate{{cert.Leaf}}
	if err := pki.VerifyClient(s); err != nil {
		t.Error(err)
	}
}

// Ensure that a key made for a client is P-256 in PKCS #8 and that two differ.
func TestNewKey(t *testing.T) {
	first, _ := request(t)
	second, _ := request(t)
	block, rest := pem.Decode(first)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
		t.Fatal("not one PEM block")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if k, ok := key.(*ecdsa.PrivateKey); !ok || k.Curve != elliptic.P256() {
		t.Errorf("a key of another kind: %T", key)
	}
	if string(first) == string(second) {
		t.Error("two keys are the same")
	}
}
