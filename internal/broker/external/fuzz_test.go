package external_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/broker/external"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// known are the parties of newDoor.
type known struct {
	provider, a, b string
	keys           []byte // of Keyholder at NATS
}

// in writes the IDs into a body, because they differ from process to process.
func (k known) in(body string) string {
	return strings.NewReplacer("<p>", k.provider, "<a>", k.a, "<b>", k.b).Replace(body)
}

// newDoor is a door for three brokers over a ledger of its own, and the
// connection of those that ask over HTTPS.
func newDoor(f testing.TB) (*external.Door, known, *tls.ConnectionState) {
	ctx, dir := f.Context(), f.TempDir()
	db := must(store.Open(ctx, filepath.Join(dir, "keyholder.db")))
	f.Cleanup(func() { _ = db.Close() })
	l := must(ledger.Open(ctx, ledger.Config{Store: db, Sign: func([]byte) (string, error) { return "", nil }, Log: slog.New(slog.DiscardHandler)}))
	f.Cleanup(l.Close)
	certify := func(use keyholder.CertificateUse, id string) string {
		c := keyholder.Certificate{Serial: id[:8], Thumbprint: keyholder.ThumbprintOf([]byte(id)), Use: use, Subject: id, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0)}
		if err := l.AddCertificate(ctx, ledger.Administrator, c, "PEM"); err != nil {
			f.Fatal(err)
		}
		return id
	}
	p := must(l.AddProvider(ctx, ledger.Administrator, "p"))
	k := known{provider: certify(keyholder.ForProvider, string(p.ID))}
	for name, id := range map[string]*string{"a": &k.a, "b": &k.b} {
		o := must(l.AddOwner(ctx, ledger.Administrator, name, name))
		app := must(l.AddApp(ctx, ledger.Administrator, keyholder.App{Name: name, Authentication: keyholder.AuthSecret, Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}}))
		agreement := must(l.AddAgreement(ctx, ledger.Administrator, keyholder.Agreement{Provider: p.ID, Owner: o.ID, Purpose: "test"}))
		*id = certify(keyholder.ForSubscription, string(must(l.GiveConsent(ctx, ledger.Administrator, keyholder.Consent{Agreement: agreement.ID, App: app.ID}, "")).ID))
	}
	if err := pki.Init(dir, time.Now(), nil); err != nil {
		f.Fatal(err)
	}
	caller := must(must(pki.Open(dir)).ServerCertificate([]string{"mq"}, time.Now())).Leaf
	write(f, filepath.Join(dir, "callers.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caller.Raw})))
	write(f, filepath.Join(dir, "s.secret"), askedSecret)
	var settings []external.Setting
	for name, kind := range map[string]external.Kind{"mq": external.RabbitMQ, "emq": external.EMQX} {
		settings = append(settings, external.Setting{Name: name, Kind: kind, API: []string{"https://127.0.0.1:1"}, User: "keyholder", SecretFile: "s.secret", CallersFile: "callers.pem"})
	}
	k.keys = must(external.OpenNATSKeys(filepath.Join(dir, "bus.keys")))
	settings = append(settings, external.Setting{Name: "bus", Kind: external.NATS, API: []string{"tls://127.0.0.1:1"}, SecretFile: "bus.keys"})
	d := must(external.New(external.Config{Ledger: l, Brokers: settings, Dir: dir, Revoked: func() ([]byte, error) { return nil, nil }, Log: slog.New(slog.DiscardHandler)}))
	return d, k, &tls.ConnectionState{PeerCertificates: []*x509.Certificate{caller}}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// ask puts one question to the door.
func ask(h http.Handler, state *tls.ConnectionState, path, body string) string {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.TLS = state
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Body.String()
}

// FuzzRabbitMQQuestion: no body makes the door panic, and what is allowed is
// asked by a party of the ledger, or by Keyholder with its secret, about
// itself.
func FuzzRabbitMQQuestion(f *testing.F) {
	d, k, state := newDoor(f)
	h := d.Handler()
	paths := []string{"user", "vhost", "resource", "topic"}
	f.Add(0, "username=<a>")
	f.Add(0, "username=keyholder&password=x")
	f.Add(1, "username=<a>&vhost=%2F&client_id=<a>")
	f.Add(2, "username=<a>&vhost=%2F&resource=queue&name=mqtt-subscription-<a>qos1&permission=read&client_id=<a>")
	f.Add(3, "username=<a>&vhost=%2F&resource=topic&name=amq.topic&permission=read&routing_key=fds.v2.<a>.%23&variable_map.client_id=<a>")
	f.Add(3, "username=<p>&vhost=%2F&resource=topic&name=amq.topic&permission=write&routing_key=fds.v2.<a>.events&variable_map.client_id=<p>")
	f.Add(3, "%zz&;=")
	f.Fuzz(func(t *testing.T, which int, body string) {
		body = k.in(body)
		path := paths[uint(which)%uint(len(paths))]
		answer := ask(h, state, "/mq/"+path, body)
		if answer == "deny" {
			return
		}
		form, err := url.ParseQuery(body)
		user := form.Get("username")
		switch {
		case err != nil || len(form["username"]) != 1:
			t.Errorf("%s %q: %s", path, body, answer)
		case user == "keyholder":
			if path == "topic" || path == "user" && form.Get("password") != askedSecret {
				t.Errorf("%s %q: %s", path, body, answer)
			}
		case user != k.a && user != k.b && user != k.provider || answer != "allow":
			t.Errorf("%s %q: %s", path, body, answer)
		case path == "topic" && form.Get("permission") == "read" && !strings.HasPrefix(strings.ReplaceAll(form.Get("routing_key"), ".", "/"), "fds/v2/"+user+"/"):
			t.Errorf("%q: %s", body, answer)
		}
	})
}

// FuzzEMQXQuestion: no body makes the door panic, and what is allowed is asked
// by a party of the ledger about itself.
func FuzzEMQXQuestion(f *testing.F) {
	d, k, state := newDoor(f)
	h := d.Handler()
	f.Add(false, `{"cert_common_name":"<a>","clientid":"<a>"}`)
	f.Add(true, `{"cert_common_name":"<a>","clientid":"<a>","action":"subscribe","topic":"fds/v2/<a>/#"}`)
	f.Add(true, `{"cert_common_name":"<p>","clientid":"<p>","action":"publish","topic":"fds/v2/<a>/events","retain":"false"}`)
	f.Add(true, `{"cert_common_name":1,"clientid":null}`)
	f.Fuzz(func(t *testing.T, authorize bool, body string) {
		body = k.in(body)
		path := "/emq/authenticate"
		if authorize {
			path = "/emq/authorize"
		}
		answer := ask(h, state, path, body)
		if answer == `{"result":"deny"}` {
			return
		}
		var q struct {
			CommonName, ClientID string
		}
		if err := json.Unmarshal([]byte(strings.ReplaceAll(strings.ToLower(body), "cert_common_name", "commonname")), &q); err != nil || q.CommonName != q.ClientID ||
			q.CommonName != k.a && q.CommonName != k.b && q.CommonName != k.provider {
			t.Errorf("%s %q: %s", path, body, answer)
		}
	})
}
