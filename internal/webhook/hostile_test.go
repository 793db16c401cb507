package webhook_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Ensure that whatever an authorization server answers instead of a token
// leads to no delivery, to no secret at another address, and to a state
// without a word of the server's; and that the door recovers.
func TestHostileAuthorizationServer(t *testing.T) {
	b := open(t, nil)
	h := b.hook(b.subs[0], nil)
	b.auth.set(func(w http.ResponseWriter, _ *http.Request) bool { // before anything can be delivered
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	b.run()
	want := b.push(b.subs[0], 0, 1)
	metadata := func(token, issuer string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, issuer, token)
			return true
		}
	}
	token := func(body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/token" {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, body)
			return true
		}
	}
	for _, c := range []struct {
		name, why string
		front     func(http.ResponseWriter, *http.Request) bool
	}{
		{"metadata of another", "its metadata is of another issuer", metadata(b.issuer+"/token", "https://evil.example")},
		{"plaintext endpoint", "its token endpoint is not an https address", metadata("http"+strings.TrimPrefix(b.issuer, "https")+"/token", b.issuer)},
		{"no endpoint", "its token endpoint is not an https address", metadata("", b.issuer)},
		{"garbage metadata", "its metadata can not be read", func(w http.ResponseWriter, r *http.Request) bool {
			fmt.Fprint(w, "CANARY")
			return true
		}},
		{"endless metadata", "its metadata can not be read", func(w http.ResponseWriter, r *http.Request) bool {
			filler := []byte(strings.Repeat(" ", 64<<10))
			for {
				if _, err := w.Write(filler); err != nil {
					return true
				}
			}
		}},
		{"metadata elsewhere", "its metadata gives status 307", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, b.receiverURL+"/CANARY", http.StatusTemporaryRedirect)
			return true
		}},
		{"token elsewhere", "no token, status 307", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				http.Redirect(w, r, b.receiverURL+"/CANARY", http.StatusTemporaryRedirect)
			}
			return r.URL.Path == "/token"
		}},
		{"refusal with a text", "no token, status 400", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				http.Error(w, `{"error":"invalid_request","error_description":"CANARY"}`, http.StatusBadRequest)
			}
			return r.URL.Path == "/token"
		}},
		{"no JSON", "what it answered can not be read", token("CANARY")},
		{"no token", "what it answered can not be read", token(`{"token_type":"Bearer"}`)},
		{"another type", "what it issues is not a bearer token", token(`{"access_token":"CANARY","token_type":"MAC"}`)},
		{"a header in it", "what it issues is not a bearer token", token(`{"access_token":"CANARY\r\nX-Evil: 1","token_type":"Bearer"}`)},
		{"a long one", "what it issues is not a bearer token", token(`{"access_token":"` + strings.Repeat("x", 20_000) + `","token_type":"Bearer"}`)},
		{"a wrong one", "status 401", token(`{"access_token":"CANARY","token_type":"Bearer","expires_in":300}`)},
	} {
		b.auth.set(c.front)
		eventually(t, func() string {
			if s := b.state(h); !strings.HasSuffix(s.Failing, c.why) {
				return fmt.Sprintf("%s: it fails for %q, want %q", c.name, s.Failing, c.why)
			}
			return ""
		})
		if len(b.received(b.subs[0].ID)) != 0 || b.receiver.seen("/CANARY") != 0 {
			t.Fatalf("%s: something was sent", c.name)
		}
	}
	b.auth.set(nil)
	b.arrives(b.subs[0], want)
	if log := b.log.String(); strings.Contains(log, "CANARY") || strings.Contains(log, b.secret) {
		t.Errorf("the log holds what it must not:\n%s", log)
	}
}

// Ensure that a receiver whose answer never ends, or that talks no HTTP, holds
// up nothing but itself.
func TestHostileReceiver(t *testing.T) {
	b := open(t, nil)
	b.receiver.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, string(b.subs[0].ID)) {
			return false
		}
		filler := []byte(strings.Repeat("x", 32<<10))
		for {
			if _, err := w.Write(filler); err != nil {
				return true
			}
		}
	})
	endless := b.hook(b.subs[0], nil)
	b.hook(b.subs[1], nil)
	b.run()
	b.push(b.subs[0], 0, 3)
	b.arrives(b.subs[1], b.push(b.subs[1], 0, 10))
	eventually(t, func() string {
		if s := b.state(endless); s.Delivered != 3 { // its 200 counts, its text does not
			return fmt.Sprintf("state %+v", s)
		}
		return ""
	})
}

// Ensure that a server that speaks no TLS, or only older or newer TLS than
// 1.2, is told from one that is away, and gets nothing.
func TestOtherTLS(t *testing.T) {
	for name, version := range map[string]uint16{"none": 0, "1.1": tls.VersionTLS11, "1.3": tls.VersionTLS13} {
		b := open(t, nil)
		ln := must(net.Listen("tcp", "127.0.0.1:0"))
		address := ln.Addr().String()
		if version != 0 {
			ln = tls.NewListener(ln, &tls.Config{MinVersion: version, MaxVersion: version,
				Certificates: []tls.Certificate{must(b.authority.ServerCertificate([]string{"127.0.0.1"}, time.Now()))}})
		}
		var requests atomic.Int64
		srv := &http.Server{ReadHeaderTimeout: time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
			Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) })}
		go func() { _ = srv.Serve(ln) }()
		t.Cleanup(func() { _ = srv.Close() })
		h := b.hook(b.subs[0], func(h *ledger.Webhook) { h.URL = "https://" + address + "/hook" })
		b.run()
		b.push(b.subs[0], 0, 1)
		b.fails(h, "receiver: the TLS handshake failed")
		if n := requests.Load(); n != 0 {
			t.Errorf("%s: %d requests went out", name, n)
		}
	}
}

// Ensure that a webhook whose right ended by time waits, and goes on when the
// owner renews the consent.
func TestRenewedConsent(t *testing.T) {
	b := open(t, nil)
	ctx := context.Background()
	give := func(c keyholder.Consent) {
		c.Agreement, c.App = b.subs[0].Agreement, b.subs[0].App
		if _, err := b.ledger.GiveConsent(ctx, ledger.Administrator, c, ""); err != nil {
			t.Fatal(err)
		}
	}
	want := b.push(b.subs[0], 0, 2)
	expires := time.Now().Add(300 * time.Millisecond)
	give(keyholder.Consent{Expires: expires})
	h := b.hook(b.subs[0], nil)
	eventually(t, func() string {
		if time.Now().Before(expires) {
			return "the consent has not expired"
		}
		return ""
	})
	b.run()
	b.fails(h, "not permitted")
	if len(b.received(b.subs[0].ID)) != 0 {
		t.Error("delivered without a consent")
	}
	give(keyholder.Consent{})
	b.arrives(b.subs[0], want)
}

// Ensure that a right that ends while the token is being fetched keeps the
// item back: the right is asked at the last moment.
func TestRightEndsWhileTheTokenIsFetched(t *testing.T) {
	b := open(t, nil)
	asked, answer := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.auth.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			once.Do(func() { close(asked) })
			<-answer
		}
		return false
	})
	b.hook(b.subs[0], nil)
	b.run()
	b.push(b.subs[0], 0, 1) // an event
	<-asked
	ctx := context.Background()
	if _, err := b.ledger.GiveConsent(ctx, ledger.Administrator, keyholder.Consent{Agreement: b.subs[0].Agreement, App: b.subs[0].App,
		Scope: []keyholder.Kind{keyholder.Statuses}}, ""); err != nil {
		t.Fatal(err)
	}
	close(answer)
	seq := must(b.mailbox.Append(ctx, b.subs[0].ID, "statuses", []byte(`{"s":1}`)))
	b.arrives(b.subs[0], []string{fmt.Sprintf(`statuses {"s":1} %s/%d`, b.subs[0].ID, seq)})
}
