package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	keyholder "github.com/fds-keyholder/keyholder"
)

// deployment is a target with its files read, and what the probes of one run
// have learnt of it. Probes run one after the other; only secrets and clients
// are also touched by goroutines of net/http and of MQTT sessions.
type deployment struct {
	target      Target
	now         func() time.Time
	patience    time.Duration // for an answer that may never come
	quiet       time.Duration // after which a message is taken not to come
	roots       *x509.CertPool
	clientRoots *x509.CertPool
	a, b        *consumer
	provider    *publisher
	provider2   *publisher
	revoked     *tls.Certificate
	expired     string
	server      *credentials // resource server
	hook        *credentials

	metadata map[string]*metadata // by issuer
	offered  []string             // endpoints that answer A's token
	broker   bool                 // consumer A's own connection has worked

	mu      sync.Mutex
	clients map[*tls.Certificate]*http.Client
	secrets []string
}

// consumer is a Consumer with its files read.
type consumer struct {
	name         string // "A" or "B"
	subscription string
	mqtt         *tls.Certificate
	oauth        *credentials
}

// publisher is a Publisher with its files read.
type publisher struct {
	id   string
	mqtt *tls.Certificate
}

// credentials are Credentials with their files read.
type credentials struct {
	Credentials
	secret      string
	accessToken string
	refresh     string
	certificate *tls.Certificate
	token       *accessToken // the last one got
}

// open reads the files of a target.
func open(t Target, o Options) (*deployment, error) {
	d := &deployment{
		target: t, now: o.Now,
		patience: min(3*time.Second, o.Timeout/4), quiet: min(250*time.Millisecond, o.Timeout/20),
		metadata: map[string]*metadata{}, clients: map[*tls.Certificate]*http.Client{},
	}
	f := &fileReader{d: d}
	if t.CA != "" {
		d.roots = f.pool(t.CA)
	}
	if d.clientRoots = d.roots; t.ClientCA != "" {
		d.clientRoots = f.pool(t.ClientCA)
	}
	consumerOf := func(name string, c *Consumer) *consumer {
		if c == nil {
			return nil
		}
		out := &consumer{name: name, subscription: c.SubscriptionID, oauth: f.credentials(c.OAuth)}
		if c.MQTT != nil {
			out.mqtt = f.pair(c.MQTT.Certificate, c.MQTT.Key)
		}
		return out
	}
	publisherOf := func(p *Publisher) *publisher {
		if p == nil {
			return nil
		}
		return &publisher{id: p.ID, mqtt: f.pair(p.Certificate, p.Key)}
	}
	d.a, d.b = consumerOf("A", t.A), consumerOf("B", t.B)
	d.provider, d.provider2 = publisherOf(t.Provider), publisherOf(t.Provider2)
	if t.Revoked != nil {
		d.revoked = f.pair(t.Revoked.Certificate, t.Revoked.Key)
	}
	d.expired = f.secret(t.ExpiredToken, t.ExpiredTokenFile)
	d.server = f.credentials(t.ResourceServer)
	if t.Webhook != nil {
		d.hook = f.credentials(t.Webhook.OAuth)
	}
	if f.err != nil {
		return nil, f.err
	}
	return d, nil
}

// fileReader reads files until the first that cannot be read.
type fileReader struct {
	d   *deployment
	err error
}

func (f *fileReader) fail(name, why string) {
	if f.err == nil {
		f.err = keyholder.Errorf(keyholder.Invalid, "cannot use %s, which the target names: %s", name, why).
			WithHint("file names in a target are relative to the target file's folder")
	}
}

func (f *fileReader) pool(name string) *x509.CertPool {
	pem, err := readBounded(name)
	if err != nil {
		f.fail(name, err.Error())
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		f.fail(name, "it holds no PEM certificate")
	}
	return pool
}

func (f *fileReader) pair(certificate, key string) *tls.Certificate {
	if certificate == "" {
		return nil
	}
	c, err := readBounded(certificate)
	if err != nil {
		f.fail(certificate, err.Error())
		return nil
	}
	k, err := readBounded(key)
	if err != nil {
		f.fail(key, err.Error())
		return nil
	}
	pair, err := tls.X509KeyPair(c, k)
	if err == nil && pair.Leaf == nil {
		pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
	}
	if err != nil {
		f.fail(certificate, err.Error())
		return nil
	}
	return &pair
}

func (f *fileReader) secret(inline Secret, name string) string {
	s := string(inline)
	if name != "" {
		data, err := readBounded(name)
		if err != nil {
			f.fail(name, err.Error())
			return ""
		}
		if s = strings.TrimSpace(string(data)); s == "" {
			f.fail(name, "it is empty")
		}
	}
	f.d.keepSecret(s)
	return s
}

func (f *fileReader) credentials(c *Credentials) *credentials {
	if c == nil {
		return nil
	}
	out := &credentials{
		Credentials: *c,
		secret:      f.secret(c.Secret, c.SecretFile),
		accessToken: f.secret(c.AccessToken, c.AccessTokenFile),
		refresh:     f.secret(c.RefreshToken, c.RefreshTokenFile),
		certificate: f.pair(c.Certificate, c.Key),
	}
	if out.Grant == "" {
		out.Grant = GrantClientCredentials
	}
	if out.AuthMethod == "" {
		out.AuthMethod = AuthBasic
		if out.certificate != nil {
			out.AuthMethod = AuthCertificate
		}
	}
	return out
}

// keepSecret adds a string that must not appear in a report.
func (d *deployment) keepSecret(s string) {
	if len(s) < 6 { // shorter ones would blot out words
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, form := range []string{s, url.QueryEscape(s)} {
		if !slices.Contains(d.secrets, form) {
			d.secrets = append(d.secrets, form)
		}
	}
}

// safe makes text fit for a report: no secret, no control character, short.
func (d *deployment) safe(s string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, secret := range d.secrets {
		s = strings.ReplaceAll(s, secret, hidden)
	}
	return cleanTo(s, 2000)
}

// trust is the TLS configuration of ordinary requests: the server's chain and
// name are verified, and the certificate is presented whatever issuers the
// server says it wants, so that a refusal is always the server's.
func (d *deployment) trust(host string, certificate *tls.Certificate) *tls.Config {
	c := keyholder.TLSModern.Config()
	c.RootCAs, c.ServerName, c.Time = d.roots, host, d.now
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if certificate == nil {
			return &tls.Certificate{}, nil
		}
		return certificate, nil
	}
	return c
}

// client returns the HTTP client that presents the certificate, nil for none.
// It follows no redirect and uses no proxy.
func (d *deployment) client(certificate *tls.Certificate) *http.Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c, ok := d.clients[certificate]; ok {
		return c
	}
	c := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:        d.trust("", certificate),
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    1,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	d.clients[certificate] = c
	return c
}

func (d *deployment) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.clients {
		c.CloseIdleConnections()
	}
}

// saveRefresh puts a new refresh token where the old one was read from, with
// the old one's place taken in one step.
func (c *credentials) saveRefresh(token string) error {
	c.refresh = token
	if c.RefreshTokenFile == "" {
		return fmt.Errorf("the server changed the refresh token, and the target holds it inline: give a refresh_token_file")
	}
	f, err := os.CreateTemp(filepath.Dir(c.RefreshTokenFile), ".refresh-*") // mode 0600
	if err != nil {
		return fmt.Errorf("store the new refresh token: %w", err)
	}
	_, err = f.WriteString(token + "\n")
	if e := f.Sync(); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), c.RefreshTokenFile)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("store the new refresh token: %w", err)
	}
	return nil
}

// dial opens a TCP connection that ends with ctx.
func dial(ctx context.Context, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", address, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			conn.Close()
			return nil, fmt.Errorf("set the deadline of a connection: %w", err)
		}
	}
	return conn, nil
}

// webAddress returns host and host:port of an https URL.
func webAddress(s string) (string, string) {
	u, err := url.Parse(s)
	if err != nil {
		return "", ""
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return u.Hostname(), net.JoinHostPort(u.Hostname(), port)
}
