package pki_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

const subject = "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"

// start is when the authorities of the tests begin; not the present, so that
// nothing can secretly depend on the clock.
var start = time.Date(2031, 3, 4, 5, 6, 7, 0, time.UTC)

func open(t testing.TB, now time.Time) (*pki.Authority, string) {
	t.Helper()
	dir := t.TempDir()
	if err := pki.Init(dir, now, nil); err != nil {
		t.Fatal(err)
	}
	a, err := pki.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a, dir
}

// request makes a key and a parsed request for it.
func request(t testing.TB) (keyPEM []byte, r *pki.Request) {
	t.Helper()
	keyPEM, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewRequest(keyPEM, "any name")
	if err != nil {
		t.Fatal(err)
	}
	if r, err = pki.ParseRequest(csr); err != nil {
		t.Fatal(err)
	}
	return keyPEM, r
}

// certificates returns all certificates of a PEM bundle.
func certificates(t testing.TB, in []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for {
		block, rest := pem.Decode(in)
		if block == nil {
			if len(bytes.TrimSpace(rest)) != 0 {
				t.Fatalf("not PEM: %q", rest)
			}
			return out
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out, in = append(out, c), rest
	}
}

func read(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Ensure that Init makes the two authorities of the design: P-256, 10 and 5
// years, path lengths 1 and 0, and usable for nothing but signing.
func TestInitProfiles(t *testing.T) {
	_, dir := open(t, start)
	root := certificates(t, read(t, dir, "pki", "root.pem"))[0]
	issuing := certificates(t, read(t, dir, "pki", "issuing.pem"))[0]
	for _, tt := range []struct {
		name    string
		cert    *x509.Certificate
		end     time.Time
		pathLen int
		parent  *x509.Certificate
	}{
		{"root", root, start.AddDate(10, 0, 0), 1, root},
		{"issuing", issuing, start.AddDate(5, 0, 0), 0, root},
	} {
		c := tt.cert
		if !c.IsCA || !c.BasicConstraintsValid || c.MaxPathLen != tt.pathLen || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(c.ExtKeyUsage) != 0 {
			t.Errorf("%s: CA %v, path length %d, usage %b", tt.name, c.IsCA, c.MaxPathLen, c.KeyUsage)
		}
		if !c.NotAfter.Equal(tt.end) || !c.NotBefore.Equal(start.Add(-5*time.Minute)) {
			t.Errorf("%s: %s to %s", tt.name, c.NotBefore, c.NotAfter)
		}
		if err := c.CheckSignatureFrom(tt.parent); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if c.SignatureAlgorithm != x509.ECDSAWithSHA256 || len(c.SubjectKeyId) == 0 {
			t.Errorf("%s: %v, key ID %x", tt.name, c.SignatureAlgorithm, c.SubjectKeyId)
		}
	}
	if !bytes.Equal(issuing.AuthorityKeyId, root.SubjectKeyId) || bytes.Equal(issuing.SubjectKeyId, root.SubjectKeyId) {
		t.Error("the key identifiers do not chain")
	}
}

// Ensure that a client certificate says what use and subject ask for and
// nothing else, chains to the root for clients only, and that the record
// tells of exactly this certificate (M3, SR-47).
func TestSign(t *testing.T) {
	a, dir := open(t, start)
	for _, use := range []keyholder.CertificateUse{keyholder.ForSubscription, keyholder.ForProvider, keyholder.ForApp} {
		_, r := request(t)
		from, to := start.Add(time.Hour+300*time.Millisecond), start.Add(30*24*time.Hour)
		bundle, record, err := a.Sign(r, use, subject, from, to)
		if err != nil {
			t.Fatal(err)
		}
		certs := certificates(t, bundle)
		if len(certs) != 2 {
			t.Fatalf("%d certificates, want leaf and issuing", len(certs))
		}
		leaf, issuing := certs[0], certs[1]

		want := keyholder.Certificate{
			Serial: hex.EncodeToString(leaf.SerialNumber.Bytes()), Thumbprint: sha256.Sum256(leaf.Raw), Use: use, Subject: subject,
			NotBefore: start.Add(time.Hour), NotAfter: to,
		}
		if diff := cmp.Diff(want, record); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
		if !leaf.NotBefore.Equal(record.NotBefore) || !leaf.NotAfter.Equal(record.NotAfter) {
			t.Errorf("the certificate runs from %s to %s", leaf.NotBefore, leaf.NotAfter)
		}
		if leaf.Subject.String() != "CN="+subject || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "urn:uuid:"+subject ||
			len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
			t.Errorf("names: %s %v %v %v %v", leaf.Subject, leaf.URIs, leaf.DNSNames, leaf.IPAddresses, leaf.EmailAddresses)
		}
		if leaf.IsCA || !leaf.BasicConstraintsValid || leaf.KeyUsage != x509.KeyUsageDigitalSignature ||
			!slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(leaf.UnknownExtKeyUsage) != 0 {
			t.Errorf("profile: CA %v, usage %b, extended %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
		}
		if len(leaf.SubjectKeyId) == 0 || !bytes.Equal(leaf.AuthorityKeyId, issuing.SubjectKeyId) {
			t.Error("the key identifiers do not chain")
		}
		if got := extensions(leaf); !slices.Equal(got, []string{"2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.35", "2.5.29.37"}) {
			t.Errorf("extensions: %v", got)
		}

		pool := x509.NewCertPool()
		pool.AddCert(issuing)
		verify := func(at time.Time, usage x509.ExtKeyUsage) error {
			_, err := leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), Intermediates: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
			return err
		}
		if err := verify(from, x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("%s: %v", use, err)
		}
		for name, err := range map[string]error{
			"as a server":   verify(from, x509.ExtKeyUsageServerAuth),
			"too early":     verify(from.Add(-time.Second), x509.ExtKeyUsageClientAuth),
			"after the end": verify(to.Add(time.Second), x509.ExtKeyUsageClientAuth),
		} {
			if err == nil {
				t.Errorf("%s: accepted %s", use, name)
			}
		}
		openssl(t, dir, bundle, record, from)
	}
}

func extensions(c *x509.Certificate) []string {
	var out []string
	for _, e := range c.Extensions {
		out = append(out, e.Id.String())
	}
	slices.Sort(out)
	return out
}

// openssl asks a second implementation whether the chain holds, for clients
// only, and how it prints the serial number.
func openssl(t *testing.T, dir string, bundle []byte, record keyholder.Certificate, at time.Time) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("KEYHOLDER_TEST_ALL") != "" {
			t.Fatal("openssl is not installed, and KEYHOLDER_TEST_ALL forbids to skip")
		}
		t.Log("NOT CHECKED WITH OPENSSL: the command openssl is not on this machine")
		return
	}
	leaf := filepath.Join(t.TempDir(), "leaf.pem")
	if err := os.WriteFile(leaf, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		out, err := exec.Command("openssl", args...).CombinedOutput()
		return string(out), err
	}
	verify := func(purpose string) (string, error) {
		return run("verify", "-x509_strict", "-attime", big.NewInt(at.Unix()).String(), "-purpose", purpose,
			"-CAfile", filepath.Join(dir, "pki", "root.pem"), "-untrusted", filepath.Join(dir, "pki", "issuing.pem"), leaf)
	}
	if out, err := verify("sslclient"); err != nil {
		t.Errorf("openssl refuses the client: %v\n%s", err, out)
	}
	if out, err := verify("sslserver"); err == nil {
		t.Errorf("openssl takes the client for a server:\n%s", out)
	}
	out, err := run("x509", "-in", leaf, "-noout", "-serial", "-ext", "subjectAltName")
	if err != nil {
		t.Fatal(err, out)
	}
	if !strings.Contains(out, "serial="+strings.ToUpper(record.Serial)+"\n") || !strings.Contains(out, "URI:urn:uuid:"+subject) {
		t.Errorf("openssl prints %q, the record says %q", out, record.Serial)
	}
}

// Ensure that no certificate begins before or ends after the issuing
// authority, and that nothing is issued outside its dates.
func TestSignPeriods(t *testing.T) {
	a, _ := open(t, start)
	end := start.AddDate(5, 0, 0)
	begin := start.Add(-5 * time.Minute)
	_, r := request(t)
	for _, tt := range []struct {
		name     string
		from, to time.Time
		want     keyholder.Code
		realFrom time.Time
		realTo   time.Time
	}{
		{"inside", start, start.Add(time.Hour), "", start, start.Add(time.Hour)},
		{"to the end", start, end, "", start, end},
		{"beyond the end", start, end.Add(time.Second), "", start, end},
		{"far beyond the end", start, end.AddDate(100, 0, 0), "", start, end},
		{"from the beginning", begin, start, "", begin, start},
		{"before the beginning", begin.Add(-time.Second), start, keyholder.Unavailable, start, start},
		{"at the end", end, end.Add(time.Hour), keyholder.Unavailable, end, end},
		{"after the end", end.Add(time.Hour), end.Add(2 * time.Hour), keyholder.Unavailable, end, end},
		{"empty", start, start, keyholder.Invalid, start, start},
		{"within one second", start, start.Add(999 * time.Millisecond), keyholder.Invalid, start, start},
		{"backwards", start.Add(time.Hour), start, keyholder.Invalid, start, start},
		{"zero times", time.Time{}, time.Time{}, keyholder.Invalid, start, start},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bundle, record, err := a.Sign(r, keyholder.ForApp, subject, tt.from, tt.to)
			if keyholder.CodeOf(err) != tt.want || (err == nil) != (tt.want == "") {
				t.Fatalf("got %v, want code %q", err, tt.want)
			}
			if err != nil {
				if bundle != nil || record != (keyholder.Certificate{}) {
					t.Error("something came with the error")
				}
				return
			}
			leaf := certificates(t, bundle)[0]
			if !record.NotBefore.Equal(tt.realFrom) || !record.NotAfter.Equal(tt.realTo) || !leaf.NotAfter.Equal(tt.realTo) {
				t.Errorf("from %s to %s", record.NotBefore, record.NotAfter)
			}
		})
	}
}

// Ensure that a bad use, a bad subject or no request gives Invalid.
func TestSignRefuses(t *testing.T) {
	a, _ := open(t, start)
	_, r := request(t)
	for _, tt := range []struct {
		name    string
		r       *pki.Request
		use     keyholder.CertificateUse
		subject string
	}{
		{"no use", r, "", subject},
		{"unknown use", r, "server", subject},
		{"no subject", r, keyholder.ForApp, ""},
		{"upper case", r, keyholder.ForApp, strings.ToUpper(subject)},
		{"version 1", r, keyholder.ForApp, "6f1e9a52-3c1b-1f0e-9b7d-2a5c8d4e1f30"},
		{"a URI", r, keyholder.ForApp, "urn:uuid:" + subject},
		{"more behind", r, keyholder.ForApp, subject + "\x00"},
		{"no request", nil, keyholder.ForApp, subject},
		{"an empty request", &pki.Request{}, keyholder.ForApp, subject},
	} {
		if _, _, err := a.Sign(tt.r, tt.use, tt.subject, start, start.Add(time.Hour)); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// Ensure that serial numbers are positive, of at most 128 bits, and differ.
func TestSerials(t *testing.T) {
	a, _ := open(t, start)
	_, r := request(t)
	seen := map[string]bool{}
	long := 0
	for range 300 {
		bundle, record, err := a.Sign(r, keyholder.ForApp, subject, start, start.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		n := certificates(t, bundle)[0].SerialNumber
		if n.Sign() <= 0 || n.BitLen() > 128 || seen[record.Serial] {
			t.Fatalf("serial %x", n)
		}
		if n.BitLen() == 128 {
			long++
		}
		seen[record.Serial] = true
	}
	// Half of all 128-bit numbers have the top bit. That fewer than 90 of 300
	// have it is as good as impossible (less than 1 in 10^11).
	if long < 90 {
		t.Errorf("only %d of 300 have 128 bits", long)
	}
}

// Ensure that a broken random source stops Init and leaves nothing behind.
func TestInitNeedsRandomness(t *testing.T) {
	for name, random := range map[string]*bytes.Reader{"short": bytes.NewReader(bytes.Repeat([]byte{1}, 7)), "zeros": bytes.NewReader(make([]byte, 64))} {
		dir := t.TempDir()
		if err := pki.Init(dir, start, random); err == nil {
			t.Errorf("%s: made an authority", name)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Errorf("%s: left %v, %v", name, entries, err)
		}
	}
}

// Ensure that a listener's certificate names its hosts, authenticates a
// server only, lives 90 days and comes with its chain.
func TestServerCertificate(t *testing.T) {
	a, _ := open(t, start)
	cert, err := a.ServerCertificate([]string{"Fds.Example.org", "localhost", "127.0.0.1", "::1", "localhost"}, start)
	if err != nil {
		t.Fatal(err)
	}
	leaf := cert.Leaf
	if leaf == nil || len(cert.Certificate) != 2 || cert.PrivateKey == nil {
		t.Fatalf("%d certificates, leaf %v", len(cert.Certificate), leaf)
	}
	if leaf.Subject.String() != "CN=fds.example.org" {
		t.Errorf("subject %s", leaf.Subject)
	}
	if !slices.Equal(leaf.DNSNames, []string{"fds.example.org", "localhost"}) || len(leaf.IPAddresses) != 2 || len(leaf.URIs) != 0 {
		t.Errorf("names: %v %v %v", leaf.DNSNames, leaf.IPAddresses, leaf.URIs)
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("profile: CA %v, usage %b, extended %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	if !leaf.NotAfter.Equal(start.Add(90 * 24 * time.Hour)) {
		t.Errorf("ends %s", leaf.NotAfter)
	}
	issuing, err := x509.ParseCertificate(cert.Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(issuing)
	for host, want := range map[string]bool{"fds.example.org": true, "localhost": true, "127.0.0.1": true, "::1": true, "other.example.org": false, "127.0.0.2": false} {
		_, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: a.Pool(), Intermediates: pool, CurrentTime: start})
		if (err == nil) != want {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), Intermediates: pool, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("accepted as a client")
	}

	early, err := a.ServerCertificate([]string{"localhost"}, start.Add(-time.Minute))
	if err != nil || !early.Leaf.NotBefore.Equal(start.Add(-5*time.Minute)) {
		t.Errorf("within the first minutes of the authority: %v", err)
	}
	late, err := a.ServerCertificate([]string{"localhost"}, start.AddDate(5, 0, -1))
	if err != nil || !late.Leaf.NotAfter.Equal(start.AddDate(5, 0, 0)) {
		t.Errorf("one day before the authority ends: %v", err)
	}
	if _, err := a.ServerCertificate([]string{"localhost"}, start.AddDate(5, 0, 0)); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("after the authority ended: %v", err)
	}
	for _, hosts := range [][]string{
		nil, {""}, {"*.example.org"}, {"example.org."}, {"https://example.org"}, {"example.org:443"}, {"a b"}, {"-a.org"}, {"a-.org"},
		{"a..org"}, {"ex\x00ample.org"}, {"exämple.org"}, {"good.org", "bad_one.org"}, {strings.Repeat("a", 64) + ".org"},
		{strings.Repeat("a.", 127) + "org"}, {"127.0.0.1/8"}, slices.Repeat([]string{"a.org"}, 65),
	} {
		if _, err := a.ServerCertificate(hosts, start); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%.40q: %v", hosts, err)
		}
	}
	long, err := a.ServerCertificate([]string{strings.Repeat("a", 60) + "." + strings.Repeat("b", 60)}, start)
	if err != nil || len(long.Leaf.Subject.CommonName) > 64 {
		t.Errorf("a long name: %v", err)
	}
	if ip := net.ParseIP("127.0.0.1"); !leaf.IPAddresses[0].Equal(ip) {
		t.Errorf("address %v", leaf.IPAddresses)
	}
}

// Ensure that the revocation list names the revoked and nothing else, is
// signed by the issuing authority, and that later lists have higher numbers.
func TestCRL(t *testing.T) {
	a, dir := open(t, start)
	issuing := certificates(t, read(t, dir, "pki", "issuing.pem"))[0]
	now := start.Add(48 * time.Hour)
	sign := func(to time.Time) keyholder.Certificate {
		t.Helper()
		_, r := request(t)
		_, record, err := a.Sign(r, keyholder.ForSubscription, subject, start, to)
		if err != nil {
			t.Fatal(err)
		}
		return record
	}
	revoked, valid, gone, ended := sign(now.Add(time.Hour)), sign(now.Add(time.Hour)), sign(start.Add(time.Hour)), sign(now.Add(-time.Hour))
	revoked.Revoked, gone.Revoked, ended.Revoked = now.Add(-time.Minute), start, now.Add(-2*time.Hour)

	der, err := a.CRL([]keyholder.Certificate{revoked, valid, gone, ended}, now)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(issuing); err != nil {
		t.Error(err)
	}
	var got []string
	for _, e := range list.RevokedCertificateEntries {
		got = append(got, hex.EncodeToString(e.SerialNumber.Bytes()))
	}
	if diff := cmp.Diff([]string{revoked.Serial, ended.Serial}, got); diff != "" {
		t.Errorf("serials (-want +got):\n%s", diff)
	}
	if first := list.RevokedCertificateEntries[0]; !first.RevocationTime.Equal(now.Add(-time.Minute)) {
		t.Errorf("revoked at %s", first.RevocationTime)
	}
	if !list.ThisUpdate.Equal(now) || !list.NextUpdate.Equal(now.Add(24*time.Hour)) || !bytes.Equal(list.AuthorityKeyId, issuing.SubjectKeyId) {
		t.Errorf("from %s to %s by %x", list.ThisUpdate, list.NextUpdate, list.AuthorityKeyId)
	}

	der, err = a.CRL(nil, now.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	empty, err := x509.ParseRevocationList(der)
	if err != nil || len(empty.RevokedCertificateEntries) != 0 || empty.Number.Cmp(list.Number) <= 0 {
		t.Errorf("an empty, later list: %v, number %v after %v", err, empty.Number, list.Number)
	}
	for _, serial := range []string{"", "zz", "0", "00"} {
		if _, err := a.CRL([]keyholder.Certificate{{Serial: serial, Revoked: now, NotAfter: now}}, now); err == nil {
			t.Errorf("a serial %q on record gave a list without it", serial)
		}
	}
}
