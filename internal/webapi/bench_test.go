package webapi_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/facility"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/webapi"
)

const (
	issuer   = "https://auth.example"
	audience = "https://api.example"
)

// bench is a Web API on a real listener with real parts behind it, and the
// parties that use it: one provider, the owners of the sample facility, two
// apps, and a subscription of each owner for each app.
type bench struct {
	t         testing.TB
	url       string
	client    *http.Client
	ledger    *ledger.Ledger
	facility  *facility.Facility
	mailbox   *mailbox.Mailbox
	guard     *guard.Guard
	ring      *keyring.Ring
	authority *pki.Authority
	log       *logBuffer

	provider, rival keyholder.Provider
	owners          map[string]keyholder.Owner
	apps            []keyholder.App
	agreements      map[string]keyholder.Agreement
	subs            map[string][]keyholder.Subscription // by owner key, one an app
}

// logBuffer gathers the log for inspection.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// limits are the bounds that a test may set.
type limits struct {
	mailbox mailbox.Config
	ended   func(keyholder.Token) bool

	issuer, base string
}

func open(t testing.TB, l limits) *bench {
	t.Helper()
	ctx := context.Background()
	dir := t.TempDir()
	b := &bench{t: t, log: &logBuffer{}, owners: map[string]keyholder.Owner{}, agreements: map[string]keyholder.Agreement{},
		subs: map[string][]keyholder.Subscription{}}
	log := slog.New(slog.NewTextHandler(b.log, nil))

	if err := keyring.Init(dir); err != nil {
		t.Fatal(err)
	}
	b.ring = must(keyring.Open(dir))
	s := must(store.Open(ctx, filepath.Join(dir, "keyholder.db")))
	b.ledger = must(ledger.Open(ctx, ledger.Config{Store: s, Log: log,
		Sign: func(p []byte) (string, error) { return b.ring.Sign(p, "receipt") }}))
	b.mailbox = must(mailbox.Open(s, b.ledger, l.mailbox))
	b.facility = must(facility.Open(facility.Config{Store: s}))
	b.guard = must(guard.New(guard.Config{Issuer: issuer, Audience: audience, Ended: l.ended,
		Keys: func(_ context.Context, kid string) (crypto.PublicKey, error) {
			set := b.ring.JWKS()
			for _, k := range set.Key(kid) {
				return k.Key, nil
			}
			return nil, keyholder.Errorf(keyholder.NotFound, "no such key")
		}}))
	api := must(webapi.New(webapi.Config{Ledger: b.ledger, Facility: b.facility, Mailbox: b.mailbox, Guard: b.guard, Log: log, Issuer: l.issuer, BaseURL: l.base}))
	b.ledger.AddPlane("guard", func(_ context.Context, c keyholder.Cut) (int, error) { return b.guard.End(c), nil })
	b.serve(dir, api.Handler())
	t.Cleanup(func() {
		if err := b.mailbox.Close(); err != nil {
			t.Error(err)
		}
		b.ledger.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b.onboard()
	return b
}

// serve puts the handler behind TLS 1.2 on loopback.
func (b *bench) serve(dir string, h http.Handler) {
	if err := pki.Init(dir, time.Now(), nil); err != nil {
		b.t.Fatal(err)
	}
	authority := must(pki.Open(dir))
	b.authority = authority
	c := keyholder.TLSStrict.Config()
	c.Certificates = []tls.Certificate{must(authority.ServerCertificate([]string{"127.0.0.1"}, time.Now()))}
	c.ClientAuth = tls.RequestClientCert
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(tls.NewListener(ln, c)) // always ErrServerClosed
	}()
	own := keyholder.TLSStrict.Config()
	own.RootCAs = authority.Pool()
	transport := &http.Transport{TLSClientConfig: own}
	b.url, b.client = "https://"+ln.Addr().String(), &http.Client{Transport: transport}
	b.t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = srv.Close()
		<-done
	})
}

func (b *bench) onboard() {
	ctx, admin := context.Background(), ledger.Administrator
	b.provider = must(b.ledger.AddProvider(ctx, admin, "Fork Inc"))
	b.rival = must(b.ledger.AddProvider(ctx, admin, "Spoon Inc"))
	for i := range 2 {
		b.apps = append(b.apps, must(b.ledger.AddApp(ctx, admin, keyholder.App{Name: fmt.Sprintf("App %d", i+1),
			Authentication: keyholder.AuthSecret, Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}})))
	}
	for _, key := range []string{"northgate", "st-anna"} {
		b.owners[key] = must(b.ledger.AddOwner(ctx, admin, key, key))
		b.agreements[key] = must(b.ledger.AddAgreement(ctx, admin,
			keyholder.Agreement{Provider: b.provider.ID, Owner: b.owners[key].ID, Purpose: "cleaning on demand"}))
		for i := range b.apps {
			b.subs[key] = append(b.subs[key], b.consent(key, i))
		}
	}
}

// consent lets an app share in an owner's data of the given kinds, all if none
// is given.
func (b *bench) consent(owner string, app int, scope ...keyholder.Kind) keyholder.Subscription {
	return must(b.ledger.GiveConsent(context.Background(), ledger.Administrator,
		keyholder.Consent{Agreement: b.agreements[owner].ID, App: b.apps[app].ID, Scope: scope}, ""))
}

// claims is an access token's content before it is signed.
type claims map[string]any

// token signs an access token as the authorization server would.
func (b *bench) token(client, scope string, sub keyholder.SubscriptionID, change ...func(claims)) string {
	now := time.Now()
	c := claims{"iss": issuer, "sub": client, "aud": audience, "client_id": client, "scope": scope,
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": must(keyholder.NewID[string](nil))}
	if sub != "" {
		c["subscription_id"] = string(sub)
	}
	for _, f := range change {
		f(c)
	}
	return must(b.ring.Sign(must(json.Marshal(c)), "at+jwt"))
}

// reader is a token of an app for one of its subscriptions.
func (b *bench) reader(owner string, app int) string {
	return b.token(string(b.apps[app].ID), keyholder.ScopeRead, b.subs[owner][app].ID)
}

// ingester is the provider's token.
func (b *bench) ingester() string {
	return b.token(string(b.provider.ID), keyholder.ScopeIngest, "")
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request; contentType and body may be empty.
func (b *bench) do(method, path, token, contentType, body string) answer {
	b.t.Helper()
	req := must(http.NewRequest(method, b.url+path, strings.NewReader(body)))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return b.send(req)
}

func (b *bench) send(req *http.Request) answer {
	b.t.Helper()
	res, err := b.client.Do(req)
	if err != nil {
		b.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	return answer{res.StatusCode, res.Header, string(text)}
}

func (b *bench) get(path, token string) answer {
	b.t.Helper()
	return b.do("GET", path, token, "", "")
}

// put ingests items and returns the answer's counts.
func (b *bench) put(owner string, kind keyholder.Kind, items ...string) (stored, pushed int) {
	b.t.Helper()
	a := b.do("POST", "/ingest/v1/owners/"+owner+"/"+string(kind), b.ingester(), "application/x-ndjson", strings.Join(items, "\n"))
	if a.status != http.StatusAccepted {
		b.t.Fatalf("ingest %s: %d %s", kind, a.status, a.body)
	}
	var n struct{ Stored, Pushed int }
	if err := json.Unmarshal([]byte(a.body), &n); err != nil {
		b.t.Fatal(err)
	}
	return n.Stored, n.Pushed
}

// array reads a JSON array.
func array(t testing.TB, a answer) []string {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	var raw []json.RawMessage
	if err := json.Unmarshal([]byte(a.body), &raw); err != nil {
		t.Fatalf("not an array: %v: %s", err, a.body)
	}
	out := []string{}
	for _, r := range raw {
		out = append(out, string(r))
	}
	return out
}

// drain takes every message out of a subscription's mailbox.
func (b *bench) drain(sub keyholder.SubscriptionID, want int) []mailbox.Message {
	b.t.Helper()
	c := b.mailbox.Consumer(sub, mailbox.MQTT)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var out []mailbox.Message
	for len(out) < want {
		m, err := c.Next(ctx)
		if err != nil {
			b.t.Fatalf("message %d of %d: %v", len(out)+1, want, err)
		}
		out = append(out, m)
		_ = c.Ack(ctx, m.Seq) // never blocks
	}
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if m, err := c.Next(short); err == nil {
		b.t.Errorf("more than %d messages: %s", want, m.Payload)
	}
	return out
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it did not happen within 20 s")
		}
	}
}
