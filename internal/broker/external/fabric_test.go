package external_test

import (
	"crypto/rand"
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// party is a provider, subscription or app with a certificate.
type party struct {
	id   string
	cert tls.Certificate
}

// fabric is a Keyholder with parties: provider issued a, b and gone, stranger
// issued foreign. gone was cut.
type fabric struct {
	*keyholdertest.Server
	t                        testing.TB
	provider, stranger       party
	a, b, foreign, gone, app party
	unknown                  party // a and its certificate, under an ID that does not exist
}

// populate adds the parties. The server must have the external broker already,
// because it is told what is cut.
func populate(t testing.TB, s *keyholdertest.Server) *fabric {
	f := &fabric{Server: s, t: t}
	f.provider, f.stranger = f.addProvider(), f.addProvider()
	f.a, f.b, f.gone = f.addSubscription(f.provider), f.addSubscription(f.provider), f.addSubscription(f.provider)
	f.foreign = f.addSubscription(f.stranger)
	app, _ := s.AddApp("browser", keyholder.AuthCertificate, "")
	f.app = f.certify(keyholder.ForApp, string(app.ID))
	f.unknown = party{"00000000-0000-4000-8000-000000000000", f.a.cert}
	s.Cut(keyholder.CutSubscription, f.gone.id)
	return f
}

func (f *fabric) certify(use keyholder.CertificateUse, id string) party {
	return party{id, f.Certificate(use, id)}
}

func (f *fabric) addProvider() party {
	return f.certify(keyholder.ForProvider, string(f.AddProvider("provider "+rand.Text()).ID))
}

// addSubscription makes an owner, an app, an agreement and a subscription of a
// provider.
func (f *fabric) addSubscription(provider party, scope ...keyholder.Kind) party {
	name := strings.ToLower(rand.Text())
	app, _ := f.AddApp(name, keyholder.AuthSecret, "")
	agreement := f.AddAgreement(keyholder.ProviderID(provider.id), f.AddOwner(name).ID)
	return f.certify(keyholder.ForSubscription, string(f.AddSubscription(agreement, app.ID, "", scope...)))
}

// serial is the serial of a party's certificate.
func (p party) serial() string { return keyholder.Serial(p.cert.Leaf.SerialNumber) }

// topic is a topic or filter below a party's ID.
func (p party) topic(level string) string { return "fds/v2/" + p.id + "/" + level }

// unrecorded signs a certificate for a that the ledger is not told of, by the
// server's own authority.
func (f *fabric) unrecorded() party {
	authority, err := pki.Open(f.Dir)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.signed(authority)
}

// forged is a's certificate by another authority.
func (f *fabric) forged() party {
	dir := f.t.TempDir()
	if err := pki.Init(dir, time.Now(), nil); err != nil {
		f.t.Fatal(err)
	}
	authority, err := pki.Open(dir)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.signed(authority)
}

func (f *fabric) signed(authority *pki.Authority) party {
	keyPEM, err := pki.NewKey()
	if err != nil {
		f.t.Fatal(err)
	}
	csr, err := pki.NewRequest(keyPEM, "test")
	if err != nil {
		f.t.Fatal(err)
	}
	request, err := pki.ParseRequest(csr)
	if err != nil {
		f.t.Fatal(err)
	}
	chain, _, err := authority.Sign(request, keyholder.ForSubscription, f.a.id, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
	if err != nil {
		f.t.Fatal(err)
	}
	c, err := tls.X509KeyPair(chain, keyPEM)
	if err != nil {
		f.t.Fatal(err)
	}
	return party{f.a.id, c}
}

// asServer is a certificate of a server, used by a client.
func (f *fabric) asServer() party {
	certPEM, keyPEM := f.ServerCertificatePEM("127.0.0.1")
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		f.t.Fatal(err)
	}
	return party{f.a.id, c}
}

// planes says what the planes of external brokers reported of a cut.
func planes(r keyholder.Receipt) (ended int, failed string) {
	for _, p := range r.Planes {
		if strings.HasPrefix(p.Plane, "broker:") {
			ended, failed = ended+p.Ended, failed+p.Failed
		}
	}
	return ended, failed
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, limit time.Duration, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// count returns how many rows of a kind are on the audit trail.
func (f *fabric) count(kind keyholder.EventKind) int {
	n := 0
	for _, e := range f.Audit() {
		if e.Kind == kind {
			n++
		}
	}
	return n
}
