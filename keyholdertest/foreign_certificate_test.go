package keyholdertest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// authority is a certificate authority of somebody else.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	a := authority{t: t}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.cert = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "Their CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, nil, a.key)
	return a
}

// sign makes a certificate for a key; without a parent it is self-signed.
func (a authority) sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = serial
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	signer := a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// revocations is a revocation list of the authority, in PEM.
func (a authority) revocations(number int64, until time.Time, revoked ...tls.Certificate) string {
	a.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: until}
	for _, r := range revoked {
		c, err := x509.ParseCertificate(r.Certificate[0])
		if err != nil {
			a.t.Fatal(err)
		}
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: l.ThisUpdate})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// client makes a client certificate for a name, changed as a test wants it.
func (a authority) client(name string, change func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if change != nil {
		change(template)
	}
	return tls.Certificate{Certificate: [][]byte{a.sign(template, a.cert, key).Raw}, PrivateKey: key}
}

// selfSigned makes a certificate that nobody vouches for.
func selfSigned(t *testing.T, name string, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}}
	if change != nil {
		change(template)
	}
	return tls.Certificate{Certificate: [][]byte{authority{t: t}.sign(template, nil, key).Raw}, PrivateKey: key}
}

func encoded(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// certified is a server with apps that bring their own certificates.
type certified struct {
	*keyholdertest.Server
	agreement keyholder.AgreementID
	subs      map[keyholder.AppID]keyholder.SubscriptionID
}

func newCertified(t *testing.T) certified {
	t.Helper()
	c := certified{Server: keyholdertest.Start(t), subs: map[keyholder.AppID]keyholder.SubscriptionID{}}
	c.agreement = c.AddAgreement(c.AddProvider("Soap Inc").ID, c.AddOwner("northgate").ID)
	return c
}

// register registers an app that asks for tokens by itself.
func (c certified) register(name string, auth keyholder.AuthMethod, pinned keyholder.PinnedAuthority, certificate string) keyholder.AppID {
	app := c.RegisterApp(keyholder.App{Name: name, Authentication: auth, Pinned: pinned, Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}, certificate)
	c.subs[app.ID] = c.AddSubscription(c.agreement, app.ID, "")
	return app.ID
}

// asks is the status of a request for a token as the app, 0 if the handshake
// is refused.
func (c certified) asks(t *testing.T, app keyholder.AppID, cert tls.Certificate) int {
	t.Helper()
	client := c.client(cert)
	defer client.CloseIdleConnections()
	return c.asksBy(client, app)
}

// client is an HTTP client with a certificate, that keeps its connection.
func (c certified) client(cert tls.Certificate) *http.Client {
	config := c.TLS()
	// Whatever authorities the server names, as an attacker would.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
}

func (c certified) asksBy(client *http.Client, app keyholder.AppID) int {
	resp, err := client.PostForm(c.Issuer+"/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {string(app)},
		"scope": {keyholder.ScopeRead}, "subscription_id": {string(c.subs[app])}})
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// Ensure that a certificate that an app made itself proves it, and only it,
// and only while it is on record: whoever copies its subject, or that of an app
// with a certificate of ours, is let in nowhere.
func TestSelfSignedCertificate(t *testing.T) {
	s := newCertified(t)
	own, others := selfSigned(t, "app", nil), selfSigned(t, "app", nil)
	app := s.register("Cleaner", keyholder.AuthSelfSigned, keyholder.PinnedAuthority{}, encoded(own.Certificate[0]))
	other := s.register("Tidy", keyholder.AuthSelfSigned, keyholder.PinnedAuthority{}, encoded(others.Certificate[0]))
	issued, _ := s.AddApp("Planner", keyholder.AuthCertificate, "")
	s.subs[issued.ID] = s.AddSubscription(s.agreement, issued.ID, "")
	for name, tt := range map[string]struct {
		app  keyholder.AppID
		cert tls.Certificate
		want int
	}{
		"its own":                            {app, own, http.StatusOK},
		"another app's":                      {app, others, http.StatusUnauthorized},
		"not on record, same subject":        {app, selfSigned(t, "app", nil), 0},
		"not on record, the app's ID":        {app, selfSigned(t, string(app), nil), 0},
		"copied subject of one of ours":      {issued.ID, selfSigned(t, string(issued.ID), nil), 0},
		"on record, for one of ours":         {issued.ID, own, http.StatusUnauthorized},
		"one of ours, for the other app":     {app, s.Certificate(keyholder.ForApp, string(issued.ID)), http.StatusUnauthorized},
		"one of ours, for its app":           {issued.ID, s.Certificate(keyholder.ForApp, string(issued.ID)), http.StatusOK},
		"the other app's, for the other app": {other, others, http.StatusOK},
	} {
		if got := s.asks(t, tt.app, tt.cert); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	s.Cut(keyholder.CutCertificate, keyholder.ThumbprintOf(own.Certificate[0]).String())
	if got := s.asks(t, app, own); got != 0 {
		t.Errorf("a cut certificate: %d", got)
	}
	s.Restart()
	if got := s.asks(t, app, own); got != 0 {
		t.Errorf("a cut certificate, after a restart: %d", got)
	}
	if got := s.asks(t, other, others); got != http.StatusOK {
		t.Errorf("the other app, after a restart: %d", got)
	}
}

// Ensure that an authority that is pinned for an app vouches for that app by
// the registered subject, and for nothing else; and that its certificates can
// be cut like any other.
func TestPinnedAuthority(t *testing.T) {
	s := newCertified(t)
	theirs, strangers := newAuthority(t), newAuthority(t)
	pin := func(a authority, subject string) keyholder.PinnedAuthority {
		return keyholder.PinnedAuthority{PEM: encoded(a.cert.Raw), Subject: subject}
	}
	app := s.register("Cleaner", keyholder.AuthCertificate, pin(theirs, "dns:cleaner.example"), "")
	second := s.register("Tidy", keyholder.AuthCertificate, pin(theirs, "dns:tidy.example"), "")
	good := theirs.client("cleaner.example", nil)
	for name, tt := range map[string]struct {
		app  keyholder.AppID
		cert tls.Certificate
		want int
	}{
		"named and vouched for":        {app, good, http.StatusOK},
		"again":                        {app, good, http.StatusOK},
		"renewed":                      {app, theirs.client("cleaner.example", nil), http.StatusOK},
		"ours still works":             {app, s.Certificate(keyholder.ForApp, string(app)), http.StatusOK},
		"of the other app":             {app, theirs.client("tidy.example", nil), http.StatusUnauthorized},
		"the other app itself":         {second, theirs.client("tidy.example", nil), http.StatusOK},
		"another name":                 {app, theirs.client("evil.example", nil), 0},
		"another authority":            {app, strangers.client("cleaner.example", nil), 0},
		"nobody vouches":               {app, selfSigned(t, "cleaner.example", func(c *x509.Certificate) { c.DNSNames = []string{"cleaner.example"} }), 0},
		"the name as common name only": {app, theirs.client("cleaner.example", func(c *x509.Certificate) { c.DNSNames = nil }), 0},
		"not for clients":              {app, theirs.client("cleaner.example", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), 0},
		"an authority as client":       {app, theirs.client("cleaner.example", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), 0},
		"ended": {app, theirs.client("cleaner.example", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}), 0},
	} {
		if got := s.asks(t, tt.app, tt.cert); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	s.Cut(keyholder.CutCertificate, keyholder.ThumbprintOf(good.Certificate[0]).String())
	if got := s.asks(t, app, good); got != 0 {
		t.Errorf("a cut certificate: %d", got)
	}
	last := theirs.client("cleaner.example", nil)
	s.Cut(keyholder.CutApp, string(app))
	if got := s.asks(t, app, last); got != 0 {
		t.Errorf("a new certificate of an app that was cut: %d", got)
	}
	if got := s.asks(t, second, theirs.client("tidy.example", nil)); got != http.StatusOK {
		t.Errorf("the other app: %d", got)
	}
}

// Ensure that what the authority of an app has revoked ends here at once, on
// open connections too, and is let in no more; that a list goes on to count
// after a restart; and that lists of others, old ones and altered ones are not
// taken.
func TestRevocationLists(t *testing.T) {
	s := newCertified(t)
	theirs, strangers := newAuthority(t), newAuthority(t)
	day := time.Now().Add(24 * time.Hour)
	known, unseen, good := theirs.client("cleaner.example", nil), theirs.client("cleaner.example", nil), theirs.client("cleaner.example", nil)
	app := s.register("Cleaner", keyholder.AuthCertificate, keyholder.PinnedAuthority{PEM: encoded(theirs.cert.Raw), Subject: "dns:cleaner.example"}, "")
	listed := s.register("Tidy", keyholder.AuthCertificate, keyholder.PinnedAuthority{PEM: encoded(theirs.cert.Raw), Subject: "dns:tidy.example",
		RevocationLists: theirs.revocations(1, day)}, "")
	if got := s.asks(t, listed, theirs.client("tidy.example", nil)); got != http.StatusOK {
		t.Errorf("in no list: %d", got)
	}
	if got := s.asks(t, app, known); got != http.StatusOK {
		t.Fatalf("before any list: %d", got)
	}
	open := s.client(known)
	defer open.CloseIdleConnections()
	if got := s.asksBy(open, app); got != http.StatusOK {
		t.Fatalf("on a connection that stays open: %d", got)
	}
	admin, err := console.Dial(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	give := func(lists string) (console.AppRevocationLists, error) {
		return admin.ReplaceAppRevocationLists(t.Context(), console.NewAppRevocationLists{App: string(app), Lists: lists})
	}
	for name, lists := range map[string]string{
		"of another authority": strangers.revocations(9, day),
		"ended":                theirs.revocations(9, time.Now().Add(-time.Second)),
		"no list":              encoded(theirs.cert.Raw),
		"two of one":           theirs.revocations(9, day) + theirs.revocations(9, day),
		"nothing":              "",
	} {
		if _, err := give(lists); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	done, err := give(theirs.revocations(2, day, known, unseen))
	if err != nil || len(done.Receipts) != 1 || done.Receipts[0].Target.ID != keyholder.ThumbprintOf(known.Certificate[0]).String() || !done.Until.Equal(day.Truncate(time.Second)) {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := s.asksBy(open, app); got != http.StatusUnauthorized {
		t.Errorf("a revoked certificate on a connection that stayed open: %d", got)
	}
	if _, err := give(theirs.revocations(1, day)); keyholder.CodeOf(err) != keyholder.Conflict {
		t.Errorf("an older list: %v", err)
	}
	for range 2 {
		if known, unseen, other := s.asks(t, app, known), s.asks(t, app, unseen), s.asks(t, app, good); known != 0 || unseen != 0 || other != http.StatusOK {
			t.Errorf("revoked and on record: %d, revoked and never seen: %d, in force: %d", known, unseen, other)
		}
		s.Restart()
	}
}
