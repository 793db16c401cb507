package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/webhook"
)

// Ensure that the door does not start without its parts.
func TestNewNeedsItsParts(t *testing.T) {
	if _, err := webhook.New(webhook.Config{}); err == nil {
		t.Error("a door of nothing was opened")
	}
}

// Ensure that what is queued before and after the start arrives at the
// receiver of its subscription, each once, in order, with its topic and
// number, and that one token serves many items.
func TestDeliversInOrder(t *testing.T) {
	b := open(t, nil)
	want := b.push(b.subs[0], 0, 20)
	h := b.hook(b.subs[0], nil)
	b.run()
	b.arrives(b.subs[0], want)
	other := b.hook(b.subs[1], nil) // while it runs
	want = append(want, b.push(b.subs[0], 20, 20)...)
	b.arrives(b.subs[1], b.push(b.subs[1], 100, 5))
	b.arrives(b.subs[0], want)
	for hook, n := range map[ledger.Webhook]int64{h: 40, other: 5} {
		eventually(t, func() string {
			s := b.state(hook)
			if s.Delivered != n || s.LastSuccess.IsZero() || s.Failing != "" || s.Attempts != 0 || s.Subscription != hook.Subscription {
				return fmt.Sprintf("state %+v, want %d delivered", s, n)
			}
			return ""
		})
	}
	if n := b.auth.seen("/token"); n != 2 {
		t.Errorf("%d tokens for 45 items of two subscriptions, want 2", n)
	}
}

// Ensure that a restart continues where the receiver was, without a gap.
func TestRestart(t *testing.T) {
	b := open(t, nil)
	b.hook(b.subs[0], nil)
	stop := b.run()
	want := b.push(b.subs[0], 0, 10)
	b.arrives(b.subs[0], want)
	stop()
	want = append(want, b.push(b.subs[0], 10, 10)...)
	if len(b.received(b.subs[0].ID)) != 10 {
		t.Error("delivered while stopped")
	}
	b.run()
	b.arrives(b.subs[0], want)
}

// Ensure that a receiver that fails is tried again until it takes the item,
// that no later item overtakes, and that another target is not held up.
func TestRetriesInOrder(t *testing.T) {
	b := open(t, nil)
	var tries atomic.Int64
	b.receiver.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, string(b.subs[0].ID)) || tries.Add(1)%4 == 0 {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	h := b.hook(b.subs[0], nil)
	b.hook(b.subs[1], nil)
	b.run()
	want := b.push(b.subs[0], 0, 10)
	b.arrives(b.subs[1], b.push(b.subs[1], 0, 10))
	b.arrives(b.subs[0], want)
	if n := tries.Load(); n != 40 {
		t.Errorf("%d attempts for 10 items that fail three times each, want 40", n)
	}
	if log := b.log.String(); !strings.Contains(log, "receiver: status 503") || strings.Contains(log, b.receiverURL) || strings.Contains(log, b.secret) {
		t.Errorf("log:\n%s", log)
	}
	eventually(t, func() string {
		if s := b.state(h); s.Failing != "" || s.Delivered != 10 {
			return fmt.Sprintf("state %+v", s)
		}
		return ""
	})
}

// Ensure that an item the app can not take now comes again, no sooner than its
// receiver asked for.
func TestHeedsRetryAfter(t *testing.T) {
	b := open(t, nil)
	var failed time.Time
	b.failWith(func(client.Push) error {
		if failed.IsZero() {
			failed = time.Now()
			return errors.New("not now")
		}
		return nil
	})
	b.receiver.set(func(w http.ResponseWriter, r *http.Request) bool {
		b.receiver.behind.ServeHTTP(hasty{w}, r)
		return true
	})
	b.hook(b.subs[0], nil)
	b.run()
	b.arrives(b.subs[0], b.push(b.subs[0], 0, 1))
	if waited := time.Since(failed); waited < time.Second {
		t.Errorf("it came again after %v, want a second at least", waited)
	}
}

// hasty makes the receiver ask for one second only.
type hasty struct{ http.ResponseWriter }

func (h hasty) WriteHeader(status int) {
	if h.Header().Get("Retry-After") != "" {
		h.Header().Set("Retry-After", "1")
	}
	h.ResponseWriter.WriteHeader(status)
}

// Ensure that a target that is down for good does not delay others, and that
// its state says so.
func TestDeadTargetIsAlone(t *testing.T) {
	b := open(t, nil)
	dead := b.hook(b.subs[0], func(h *ledger.Webhook) { h.URL = "https://127.0.0.1:1/hook" })
	b.hook(b.subs[1], nil)
	b.run()
	b.push(b.subs[0], 0, 3)
	b.arrives(b.subs[1], b.push(b.subs[1], 0, 50))
	b.fails(dead, "receiver: not reached")
	if s := b.state(dead); s.Backlog != 3 || s.Delivered != 0 || s.NextAttempt.IsZero() {
		t.Errorf("state %+v", s)
	}
}

// Ensure that a 401 makes the door get a new token and try once more at once,
// and that a receiver that goes on saying 401 meets the backoff.
func TestRenewsTokenOn401(t *testing.T) {
	b := open(t, func(c *webhook.Config) {
		c.Backoff = func(failed int) time.Duration {
			if failed > 2 {
				return time.Hour
			}
			return time.Millisecond
		}
	})
	b.hook(b.subs[0], nil)
	b.run()
	want := b.push(b.subs[0], 0, 1)
	b.arrives(b.subs[0], want)

	var refused string
	b.receiver.set(func(w http.ResponseWriter, r *http.Request) bool {
		if a := r.Header.Get("Authorization"); refused == "" || a == refused {
			refused = a
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	})
	want = append(want, b.push(b.subs[0], 1, 3)...)
	b.arrives(b.subs[0], want)
	if n := b.auth.seen("/token"); n != 2 {
		t.Errorf("%d tokens, want 2", n)
	}

	h := b.hook(b.subs[1], nil)
	b.receiver.set(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	b.push(b.subs[1], 0, 1)
	eventually(t, func() string {
		if s := b.state(h); s.Attempts != 3 || s.Failing != "receiver: status 401" {
			return fmt.Sprintf("state %+v", s)
		}
		return ""
	})
	if n := b.auth.seen("/token"); n != 5 { // each failed attempt throws its token away
		t.Errorf("%d tokens, want 5", n)
	}
}

// Ensure that a token is renewed before it expires.
func TestRenewsTokenBeforeExpiry(t *testing.T) {
	var moved time.Duration // set before the door uses it again
	clock := make(chan time.Duration, 1)
	clock <- 0
	b := open(t, func(c *webhook.Config) {
		c.Now = func() time.Time {
			d := <-clock
			clock <- d
			return time.Now().Add(d)
		}
	})
	b.hook(b.subs[0], nil)
	b.run()
	want := b.push(b.subs[0], 0, 3)
	b.arrives(b.subs[0], want)
	moved = 4*time.Minute + 50*time.Second // a token lives five minutes
	<-clock
	clock <- moved
	want = append(want, b.push(b.subs[0], 3, 3)...)
	b.arrives(b.subs[0], want)
	if n := b.auth.seen("/token"); n != 2 {
		t.Errorf("%d tokens, want 2", n)
	}
}

// Ensure that a redirect is not followed: the token goes to nobody but the
// registered address.
func TestRedirectIsRefused(t *testing.T) {
	b := open(t, nil)
	b.receiver.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/elsewhere") {
			return false
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		return true
	})
	h := b.hook(b.subs[0], nil)
	b.run()
	want := b.push(b.subs[0], 0, 1)
	b.fails(h, "receiver: a redirect, which is not followed")
	if b.receiver.seen("/elsewhere") != 0 {
		t.Error("the redirect was followed")
	}
	b.receiver.set(nil)
	b.arrives(b.subs[0], want)
}

// Ensure that targets on addresses that are not public are refused unless
// that is allowed, also when a name stands for them, and that nothing is sent.
func TestPrivateAddressIsRefused(t *testing.T) {
	b := open(t, func(c *webhook.Config) { c.AllowPrivate = false })
	h := b.hook(b.subs[0], nil)
	named := b.hook(b.subs[1], func(h *ledger.Webhook) {
		h.Issuer = strings.Replace(h.Issuer, "127.0.0.1", "localhost", 1)
	})
	b.run()
	b.push(b.subs[0], 0, 1)
	b.push(b.subs[1], 0, 1)
	for _, h := range []ledger.Webhook{h, named} {
		b.fails(h, "authorization server: the target is at a loopback address; set webhooks.allow_private if it is yours")
	}
	if b.auth.seen("/token") != 0 || len(b.received(b.subs[0].ID)) != 0 {
		t.Error("something was sent")
	}
}

// Ensure that a certificate proves the door at the authorization server where
// the files say so, that the token is then bound to it, and that the receiver
// can check that.
func TestCertificate(t *testing.T) {
	b := open(t, nil)
	ctx := context.Background()
	key := must(pki.NewKey())
	request := must(pki.ParseRequest(must(pki.NewRequest(key, "provider"))))
	now := time.Now()
	pem, record, err := b.authority.Sign(request, keyholder.ForProvider, string(b.provider.ID), now.Add(-time.Minute), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ledger.AddCertificate(ctx, ledger.Administrator, record, string(pem)); err != nil {
		t.Fatal(err)
	}
	h := b.hook(b.subs[0], nil)
	b.remove(h, "secret")
	b.run()
	want := b.push(b.subs[0], 0, 5)
	b.fails(h, "the webhook's files: there is neither a secret nor cert.pem with key.pem")
	b.file(h, "cert.pem", string(pem), 0o600)
	b.fails(h, "the webhook's files: cert.pem and key.pem belong together")
	b.file(h, "key.pem", string(key), 0o640)
	b.fails(h, "the webhook's files: key.pem: others than its owner may use the key file "+
		filepath.Join(webhook.Dir(b.dir, h.ID), "key.pem")+" (mode 0640)")
	b.file(h, "key.pem", string(key), 0o600)
	b.arrives(b.subs[0], want)
	if log := b.log.String(); strings.Contains(log, "BEGIN") {
		t.Error("the log holds PEM")
	}
}

// Ensure that a wrong secret, a missing issuer and an untrusted server are
// told apart in the state, and that a repaired file counts without a restart.
func TestFailuresAtTheAuthorizationServer(t *testing.T) {
	b := open(t, nil)
	h := b.hook(b.subs[0], nil)
	b.file(h, "secret", "wrong", 0o600)
	lost := b.hook(b.subs[1], func(h *ledger.Webhook) { h.Issuer += "/elsewhere" })
	b.run()
	want := b.push(b.subs[0], 0, 2)
	b.push(b.subs[1], 0, 1)
	b.fails(h, "authorization server: no token, status 401")
	b.fails(lost, "authorization server: its metadata gives status 404")
	b.file(h, "secret", b.secret, 0o600)
	b.arrives(b.subs[0], want)
}

// Ensure that where private keys are sealed, only a sealed secret is used, and
// that it is among the files that are to be sealed.
func TestSealedSecret(t *testing.T) {
	key := filepath.Join(t.TempDir(), "seal.key")
	var seal *keyfile.Seal
	b := open(t, func(c *webhook.Config) {
		if err := keyfile.MakeSeal(key, c.Dir); err != nil {
			t.Fatal(err)
		}
		seal = must(keyfile.OpenSeal(key, c.Dir))
		c.Seal = seal
	})
	h := b.hook(b.subs[0], nil)
	b.run()
	want := b.push(b.subs[0], 0, 2)
	path := filepath.Join(webhook.Dir(b.dir, h.ID), "secret")
	b.fails(h, "the webhook's files: secret: "+path+" is not sealed, and keys.seal_file says it is")
	files := must(webhook.PrivateFiles(b.dir))
	if len(files) != 1 || files[0] != path {
		t.Fatalf("to be sealed: %v", files)
	}
	if err := keyfile.SealAll(seal, files); err != nil {
		t.Fatal(err)
	}
	b.arrives(b.subs[0], want)
}

// Ensure that servers of an authority that is not trusted get neither secret
// nor token, and that a ca.pem of the webhook adds trust for it alone.
func TestTrust(t *testing.T) {
	roots, _ := stranger(t)
	b := open(t, func(c *webhook.Config) { c.RootCAs = roots })
	h, other := b.hook(b.subs[0], nil), b.hook(b.subs[1], nil)
	b.run()
	want := b.push(b.subs[0], 0, 2)
	b.push(b.subs[1], 0, 2)
	b.fails(h, "authorization server: its certificate is not trusted")
	if b.auth.seen("/token") != 0 {
		t.Error("a secret was sent to a stranger")
	}
	b.file(h, "ca.pem", "no PEM", 0o644)
	b.fails(h, "the webhook's files: ca.pem holds no certificate")
	b.file(h, "ca.pem", string(b.authority.RootPEM()), 0o644)
	b.arrives(b.subs[0], want)
	b.fails(other, "authorization server: its certificate is not trusted")
}

// Ensure that a cut in the middle of a request breaks it off, stops the worker
// within a second, and that nothing of the subscription is sent afterwards,
// while the other subscription goes on.
func TestCutInTheMiddle(t *testing.T) {
	b := open(t, nil)
	arrived, broken := make(chan struct{}), make(chan struct{})
	b.receiver.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, string(b.subs[0].ID)) {
			return false
		}
		buf := make([]byte, 1<<10)
		for {
			if _, err := r.Body.Read(buf); err != nil {
				break // the whole body is here; now a closed connection is seen
			}
		}
		close(arrived)
		<-r.Context().Done()
		close(broken)
		return true
	})
	h := b.hook(b.subs[0], nil)
	b.hook(b.subs[1], nil)
	b.run()
	b.push(b.subs[0], 0, 5)
	<-arrived
	began := time.Now()
	r, err := b.ledger.Cut(context.Background(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(b.subs[0].ID)}, "test")
	if err != nil {
		t.Fatal(err)
	}
	<-broken
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	for _, p := range r.Planes {
		if p.Plane == "webhook" && (p.Ended != 1 || p.Failed != "" || p.Took > time.Second) {
			t.Errorf("the plane reports %+v", p)
		}
	}
	before := b.receiver.seen("/hook/" + string(b.subs[0].ID))
	b.arrives(b.subs[1], b.push(b.subs[1], 0, 30))
	if after := b.receiver.seen("/hook/" + string(b.subs[0].ID)); after != before || before != 1 {
		t.Errorf("%d requests before the cut, %d after", before, after)
	}
	if s := b.state(h); s.Webhook != "" {
		t.Errorf("the ended webhook still has the state %+v", s)
	}
}

// Ensure that an item whose kind the consent no longer covers never leaves,
// and that those after it do.
func TestNarrowedConsent(t *testing.T) {
	b := open(t, nil)
	b.receiver.set(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	h := b.hook(b.subs[0], nil)
	b.run()
	b.push(b.subs[0], 0, 2) // events
	b.fails(h, "receiver: status 503")
	ctx := context.Background()
	if _, err := b.ledger.GiveConsent(ctx, ledger.Administrator, keyholder.Consent{Agreement: b.subs[0].Agreement, App: b.subs[0].App,
		Scope: []keyholder.Kind{keyholder.Statuses}}, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if s := b.state(h); s.Failing != "" {
			return "the items that may not leave are still tried"
		}
		return ""
	})
	b.receiver.set(nil)
	seq := must(b.mailbox.Append(ctx, b.subs[0].ID, "statuses", []byte(`{"s":1}`)))
	b.arrives(b.subs[0], []string{fmt.Sprintf(`statuses {"s":1} %s/%d`, b.subs[0].ID, seq)})
}
