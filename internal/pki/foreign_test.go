package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// foreignAuthority is a certificate authority of somebody else.
type foreignAuthority struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
	now  time.Time
}

// newForeign makes an authority, below another if there is one.
func newForeign(t *testing.T, name string, above *foreignAuthority, now time.Time) *foreignAuthority {
	t.Helper()
	a := &foreignAuthority{t: t, now: now}
	if above == nil {
		above = a
	}
	a.cert, a.key = above.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign})
	return a
}

func (a *foreignAuthority) sign(c *x509.Certificate) (*x509.Certificate, crypto.Signer) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), a.now.AddDate(0, 0, -1), a.now.AddDate(1, 0, 0)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return made, key
}

func (a *foreignAuthority) client() *x509.Certificate {
	c, _ := a.sign(&x509.Certificate{DNSNames: []string{"app.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return c
}

func (a *foreignAuthority) list(from, until time.Time, change func(*x509.RevocationList), revoked ...*x509.Certificate) string {
	a.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: from, NextUpdate: until}
	for _, c := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: from})
	}
	if change != nil {
		change(l)
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: listType, Bytes: der}))
}

// Ensure that where revocation lists are on record, a chain proves an app only
// while the list of the authority that issued its certificate is in force, and
// no certificate of the chain is in one.
func TestVerifyPinnedRevocation(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	root := newForeign(t, "root", nil, now)
	middle := newForeign(t, "middle", root, now)
	direct, below := root.client(), middle.client()
	from, until := now.Add(-time.Hour), now.Add(time.Hour)
	empty := root.list(from, until, nil)
	both := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw})) + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: middle.cert.Raw}))
	rootOnly := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}))
	for name, tt := range map[string]struct {
		pinned, lists string
		chain         []*x509.Certificate
		at            time.Time
		want          bool
	}{
		"no lists":                          {rootOnly, "", []*x509.Certificate{direct}, now, true},
		"in no list":                        {rootOnly, empty, []*x509.Certificate{direct}, now, true},
		"listed":                            {rootOnly, root.list(from, until, nil, direct), []*x509.Certificate{direct}, now, false},
		"another is listed":                 {rootOnly, root.list(from, until, nil, root.client()), []*x509.Certificate{direct}, now, true},
		"the list has ended":                {rootOnly, empty, []*x509.Certificate{direct}, until.Add(time.Second), false},
		"the list ends now":                 {rootOnly, empty, []*x509.Certificate{direct}, until, true},
		"below an authority without a list": {rootOnly, empty, []*x509.Certificate{below, middle.cert}, now, false},
		"below an authority without a list, both": {both, empty, []*x509.Certificate{below, middle.cert}, now, false},
		"below, in no list":                       {both, empty + middle.list(from, until, nil), []*x509.Certificate{below, middle.cert}, now, true},
		"below, listed":                           {both, empty + middle.list(from, until, nil, below), []*x509.Certificate{below, middle.cert}, now, false},
		"the authority between is listed":         {rootOnly, root.list(from, until, nil, middle.cert) + middle.list(from, until, nil), []*x509.Certificate{below, middle.cert}, now, false},
		"nobody's list for the leaf's number":     {both, empty + middle.list(from, until, nil, direct), []*x509.Certificate{direct}, now, true},
	} {
		p := keyholder.PinnedAuthority{PEM: tt.pinned, Subject: "dns:app.example", RevocationLists: tt.lists}
		if _, err := VerifyPinned(p, "app", tt.chain, tt.at); (err == nil) != tt.want || err != nil && keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Ensure that only complete lists of a pinned authority, in force and not older
// than before, are taken.
func TestCheckRevocationLists(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	root, stranger := newForeign(t, "root", nil, now), newForeign(t, "root", nil, now)
	from, until := now.Add(-time.Hour), now.Add(time.Hour)
	good := root.list(from, until, nil)
	number := func(n int64) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.Number = big.NewInt(n) }
	}
	delta := func(l *x509.RevocationList) {
		l.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
	}
	p := keyholder.PinnedAuthority{PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw})), Subject: "dns:app.example"}
	for name, tt := range map[string]struct {
		lists, before string
		want          keyholder.Code
	}{
		"good":                    {good, "", ""},
		"good, with space around": {"\n" + good + "\n", "", ""},
		"the same again":          {good, good, ""},
		"newer":                   {root.list(from, until, number(8)), good, ""},
		"older":                   {root.list(from, until, number(6)), good, keyholder.Conflict},
		"signed by a namesake":    {stranger.list(from, until, nil), "", keyholder.Invalid},
		"ended":                   {root.list(from, now.Add(-time.Second), nil), "", keyholder.Invalid},
		"not yet":                 {root.list(now.Add(10*time.Minute), until, nil), "", keyholder.Invalid},
		"a clock a little fast":   {root.list(now.Add(time.Minute), until, nil), "", ""},
		"a delta":                 {root.list(from, until, delta), "", keyholder.Invalid},
		"twice":                   {good + good, "", keyholder.Invalid},
		"none":                    {"", "", keyholder.Invalid},
		"something else":          {p.PEM, "", keyholder.Invalid},
		"something after it":      {good + "more", "", keyholder.Invalid},
		"something before it":     {"more" + good, "", keyholder.Invalid},
		"too long":                {good + string(make([]byte, maxLists)), "", keyholder.Invalid},
	} {
		p.RevocationLists = tt.lists
		if err := CheckRevocationLists(p, tt.before, now); keyholder.CodeOf(err) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRevocationListPEM looks for input that makes reading revocation lists
// panic, and for PEM that would not be read again.
func FuzzRevocationListPEM(f *testing.F) {
	f.Add([]byte("-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n"))
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		text, err := RevocationListPEM(in)
		if err != nil {
			if keyholder.CodeOf(err) != keyholder.Invalid {
				t.Error(err)
			}
			return
		}
		if again, err := RevocationListPEM([]byte(text)); err != nil || again != text {
			t.Errorf("%q is not read again: %v", text, err)
		}
	})
}
