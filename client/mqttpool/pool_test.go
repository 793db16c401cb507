package mqttpool_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// world is a running Keyholder with a provider that pushes events.
type world struct {
	*keyholdertest.Server
	t        *testing.T
	provider *client.Provider
	id       keyholder.ProviderID
}

// subscriber is an owner's subscription with what arrived for it.
type subscriber struct {
	owner string
	id    keyholder.SubscriptionID

	mu          sync.Mutex // guards the fields below
	certificate tls.Certificate
	got         []mqttpool.Message
	hook        func(ctx context.Context, m mqttpool.Message) error // asked before a message is kept
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Server: keyholdertest.Start(t), t: t}
	w.id = w.AddProvider("Soap Inc").ID
	provider, err := client.NewProvider(client.Config{
		Issuer: w.Issuer, API: w.API, ClientID: string(w.id), Secret: w.AddSecret(string(w.id)), RootCAs: w.Roots(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(provider.Close)
	w.provider = provider
	return w
}

func (w *world) subscriber(owner string) *subscriber {
	w.t.Helper()
	o := w.AddOwner(owner)
	app, _ := w.AddApp("App of "+owner, keyholder.AuthSecret, "")
	s := &subscriber{owner: owner, id: w.AddSubscription(w.AddAgreement(w.id, o.ID), app.ID, "")}
	s.certificate = w.Certificate(keyholder.ForSubscription, string(s.id))
	return s
}

// push ingests events number from to, without to, which are pushed.
func (w *world) push(s *subscriber, from, to int) {
	w.t.Helper()
	var items []json.RawMessage
	for n := from; n < to; n++ {
		items = append(items, event(s.owner, n))
	}
	done, err := w.provider.Ingest(w.t.Context(), s.owner, keyholder.Events, items)
	if err != nil || done.Pushed != to-from {
		w.t.Fatalf("push: %+v, error %v", done, err)
	}
}

func event(owner string, n int) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"device_id":"%s","generic":{"message_code":"x"},"n":%d}`, owner, n))
}

func (w *world) config() mqttpool.Config {
	return mqttpool.Config{Broker: w.MQTT, RootCAs: w.Roots(), Log: slog.New(slog.DiscardHandler)}
}

// pool opens a pool, with its configuration changed.
func (w *world) pool(change ...func(*mqttpool.Config)) *mqttpool.Pool {
	w.t.Helper()
	cfg := w.config()
	for _, f := range change {
		f(&cfg)
	}
	p, err := mqttpool.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			w.t.Errorf("close the pool: %v", err)
		}
	})
	return p
}

// add adds subscribers to a pool and waits until they are connected.
func add(t *testing.T, p *mqttpool.Pool, subscribers ...*subscriber) {
	t.Helper()
	for _, s := range subscribers {
		if err := p.Add(s.subscription()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, s := range subscribers {
		if err := p.Ready(ctx, s.id); err != nil {
			t.Fatalf("%v: %v", err, errors.Unwrap(err))
		}
	}
}

func (s *subscriber) subscription() mqttpool.Subscription {
	return mqttpool.Subscription{ID: s.id, Certificate: s.current, Handler: s.handle}
}

func (s *subscriber) current() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.certificate
	return &c, nil
}

func (s *subscriber) handle(ctx context.Context, m mqttpool.Message) error {
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, m); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, m)
	return nil
}

func (s *subscriber) set(hook func(context.Context, mqttpool.Message) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

func (s *subscriber) messages() []mqttpool.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// check waits for n messages and checks that they are those pushed, in order,
// of the subscription, and all named.
func (s *subscriber) check(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d messages for %s", n, s.owner), func() bool { return len(s.messages()) >= n })
	keys := map[string]bool{}
	for i, m := range s.messages() {
		if m.Subscription != s.id || m.Level != "events" || string(m.Payload) != string(event(s.owner, i)) || m.Key == "" || keys[m.Key] {
			t.Fatalf("message %d of %s is %s %s %q", i, s.owner, m.Level, m.Payload, m.Key)
		}
		keys[m.Key] = true
	}
	if got := len(s.messages()); got != n {
		t.Errorf("%d messages for %s, want %d", got, s.owner, n)
	}
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

func health(t *testing.T, p *mqttpool.Pool, s *subscriber) mqttpool.Health {
	t.Helper()
	h, ok := p.Health(s.id)
	if !ok {
		t.Fatalf("the pool does not have %s", s.owner)
	}
	return h
}

// Ensure that each of several subscriptions gets exactly its own messages, in
// order, while connected, after having been away, and over a restart of the
// server.
func TestPool(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.subscriber("northgate"), w.subscriber("st-anna"), w.subscriber("harbour")
	p := w.pool()
	add(t, p, a, b, c)
	for n := 0; n < 100; n += 25 {
		for _, s := range []*subscriber{a, b, c} {
			w.push(s, n, n+25)
		}
	}
	for _, s := range []*subscriber{a, b, c} {
		s.check(t, 100)
	}
	if h := health(t, p, a); !h.Connected || h.Connects != 1 || h.Handled != 100 || h.Failed+h.Dropped+h.Repeated != 0 || h.LastError != "" || h.Since.IsZero() {
		t.Errorf("health %+v", h)
	}

	p.Remove(a.id)
	if _, ok := p.Health(a.id); ok {
		t.Error("the pool still has a removed subscription")
	}
	w.push(a, 100, 150)
	w.push(b, 100, 150)
	b.check(t, 150)
	a.check(t, 100)
	add(t, p, a)
	a.check(t, 150)

	w.Restart()
	w.push(a, 150, 170)
	w.push(c, 100, 120)
	a.check(t, 170)
	c.check(t, 120)
	// What was missed comes with the old session, before the new SUBACK.
	eventually(t, "it is connected once more", func() bool {
		h := health(t, p, c)
		return h.Connected && h.Connects == 2
	})
}

// Ensure that a message is not passed over, overtaken or acknowledged while
// its handler fails.
func TestHandlerFails(t *testing.T) {
	w := newWorld(t)
	s := w.subscriber("northgate")
	var asked []string
	s.set(func(_ context.Context, m mqttpool.Message) error {
		asked = append(asked, string(m.Payload))
		if n := len(asked); n >= 3 && n <= 5 {
			return errors.New("disk full")
		}
		return nil
	})
	p := w.pool()
	add(t, p, s)
	w.push(s, 0, 5)
	s.check(t, 5)
	var want []string
	for _, n := range []int{0, 1, 2, 2, 2, 2, 3, 4} {
		want = append(want, string(event(s.owner, n)))
	}
	if !slices.Equal(asked, want) {
		t.Errorf("the handler was asked %q, want %q", asked, want)
	}
	if h := health(t, p, s); h.Failed != 3 || h.Handled != 5 {
		t.Errorf("health %+v", h)
	}
}

// Ensure that what a handler had not taken when its connection ended comes
// again, before what follows it, and that a handler is told when to give up.
func TestNotTakenComesAgain(t *testing.T) {
	ends := map[string]func(w *world, p *mqttpool.Pool, s *subscriber) (again func()){
		"removed": func(_ *world, p *mqttpool.Pool, s *subscriber) func() {
			p.Remove(s.id)
			return func() { add(t, p, s) }
		},
		"pool closed": func(w *world, p *mqttpool.Pool, s *subscriber) func() {
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
			return func() { add(t, w.pool(), s) }
		},
		"connection lost": func(w *world, _ *mqttpool.Pool, _ *subscriber) func() {
			w.Restart()
			return func() {}
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.subscriber("northgate")
			entered := make(chan struct{}, 1000)
			var fail sync.Mutex // held while the handler fails
			s.set(func(ctx context.Context, m mqttpool.Message) error {
				entered <- struct{}{}
				if fail.TryLock() {
					fail.Unlock()
					return nil
				}
				return errors.New("not now")
			})
			fail.Lock()
			p := w.pool()
			add(t, p, s)
			w.push(s, 0, 10)
			<-entered
			again := end(w, p, s)
			if n := len(s.messages()); n != 0 {
				t.Errorf("%d messages were taken", n)
			}
			fail.Unlock()
			again()
			s.check(t, 10)
		})
	}
}

// Ensure that a handler that is at work when the connection is lost finishes,
// and that the message, which could not be acknowledged, is not handled twice.
func TestHandledOverLostConnection(t *testing.T) {
	w := newWorld(t)
	s := w.subscriber("northgate")
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.set(func(context.Context, mqttpool.Message) error {
		once.Do(func() { close(entered); <-leave })
		return nil
	})
	p := w.pool()
	add(t, p, s)
	w.push(s, 0, 3)
	<-entered
	w.Restart()
	close(leave)
	s.check(t, 3)
	w.push(s, 3, 4)
	s.check(t, 4)
	// Only the first was under way; what was sent behind it comes again, too,
	// and is handled then.
	if h := health(t, p, s); h.Repeated != 1 || h.Handled != 4 {
		t.Errorf("health %+v", h)
	}
}

// Ensure that a slow handler is not flooded: no more messages are on their way
// than the receive maximum, and the rest waits in the broker and arrives.
func TestBackPressure(t *testing.T) {
	w := newWorld(t)
	s := w.subscriber("northgate")
	p := w.pool(func(c *mqttpool.Config) { c.ReceiveMaximum = 1 })
	add(t, p, s)
	w.push(s, 0, 200)
	s.check(t, 200)
}

// Ensure that a cut ends the connection and that nothing of other
// subscriptions is disturbed.
func TestCut(t *testing.T) {
	w := newWorld(t)
	a, b := w.subscriber("northgate"), w.subscriber("st-anna")
	p := w.pool()
	add(t, p, a, b)
	w.push(a, 0, 1)
	a.check(t, 1)
	w.Cut(keyholder.CutSubscription, string(a.id))
	eventually(t, "the cut subscription is disconnected", func() bool { return !health(t, p, a).Connected })
	eventually(t, "its new connections are refused", func() bool {
		h := health(t, p, a)
		return h.LastError != "" && h.Connects == 1 && !h.Connected
	})
	w.push(b, 0, 5)
	b.check(t, 5)
	if h := health(t, p, b); h.Connects != 1 {
		t.Errorf("health of the other %+v", h)
	}
}

// Ensure that a renewed certificate is used without anything being restarted.
func TestCertificateRenewal(t *testing.T) {
	w := newWorld(t)
	s := w.subscriber("northgate")
	p := w.pool()
	add(t, p, s)
	old := s.certificate.Leaf
	renewed := w.Certificate(keyholder.ForSubscription, string(s.id))
	s.mu.Lock()
	s.certificate = renewed
	s.mu.Unlock()
	w.Cut(keyholder.CutCertificate, keyholder.Serial(old.SerialNumber))
	eventually(t, "it is connected with the new certificate", func() bool {
		h := health(t, p, s)
		return h.Connected && h.Connects == 2
	})
	w.push(s, 0, 3)
	s.check(t, 3)
}

// Ensure that two pools with one subscription do not chase each other off the
// broker: the one that was pushed out stays away for a while and says why.
func TestTakeover(t *testing.T) {
	w := newWorld(t)
	s := w.subscriber("northgate")
	first, second := w.pool(), w.pool()
	add(t, first, s)
	add(t, second, s)
	eventually(t, "the first notices", func() bool {
		return health(t, first, s).LastError == "another connection of the same subscription took over"
	})
	w.push(s, 0, 20)
	s.check(t, 20)
	if h := health(t, second, s); !h.Connected || h.Connects != 1 {
		t.Errorf("health of the second %+v", h)
	}
}

// Ensure that nothing is connected without the right certificate on both
// sides.
func TestStrangers(t *testing.T) {
	w := newWorld(t)
	a, b := w.subscriber("northgate"), w.subscriber("st-anna")
	none := func() (*tls.Certificate, error) { return nil, nil }
	fails := func() (*tls.Certificate, error) { return nil, errors.New("no key") }
	tests := map[string]struct {
		change      func(*mqttpool.Config)
		certificate func() (*tls.Certificate, error)
	}{
		"certificate of another subscription": {func(*mqttpool.Config) {}, b.current},
		"no certificate":                      {func(*mqttpool.Config) {}, none},
		"no key":                              {func(*mqttpool.Config) {}, fails},
		"unknown broker":                      {func(c *mqttpool.Config) { c.RootCAs = nil }, a.current},
		"another port":                        {func(c *mqttpool.Config) { c.Broker = "mqtts" + w.API[len("https"):] }, a.current},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := w.pool(tt.change)
			s := a.subscription()
			s.Certificate = tt.certificate
			if err := p.Add(s); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it fails", func() bool { return health(t, p, a).LastError != "" })
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := p.Ready(ctx, a.id); keyholder.CodeOf(err) != keyholder.Unavailable {
				t.Errorf("error %v, want unavailable", err)
			}
		})
	}
}

// Ensure that wrong arguments and a closed pool are refused.
func TestAddRefuses(t *testing.T) {
	w := newWorld(t)
	s := w.subscriber("northgate")
	p := w.pool()
	add(t, p, s)
	good := s.subscription()
	bad := map[string]struct {
		change func(*mqttpool.Subscription)
		want   keyholder.Code
	}{
		"twice":          {func(*mqttpool.Subscription) {}, keyholder.Conflict},
		"no UUID":        {func(s *mqttpool.Subscription) { s.ID = "#" }, keyholder.Invalid},
		"no certificate": {func(s *mqttpool.Subscription) { s.Certificate = nil }, keyholder.Invalid},
		"no handler":     {func(s *mqttpool.Subscription) { s.Handler = nil }, keyholder.Invalid},
	}
	for name, tt := range bad {
		sub := good
		tt.change(&sub)
		if err := p.Add(sub); keyholder.CodeOf(err) != tt.want {
			t.Errorf("%s: error %v, want code %q", name, err, tt.want)
		}
	}
	p.Remove(s.id)
	p.Remove(s.id)
	if err := p.Ready(t.Context(), s.id); keyholder.CodeOf(err) != keyholder.NotFound {
		t.Errorf("removed: error %v, want not found", err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.Add(good); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("closed: error %v, want unavailable", err)
	}
}

// Ensure that an unsafe or incomplete configuration is refused.
func TestNewRefuses(t *testing.T) {
	tests := map[string]mqttpool.Config{
		"nothing":             {},
		"plain MQTT":          {Broker: "mqtt://127.0.0.1:1883"},
		"WebSocket":           {Broker: "wss://127.0.0.1:443"},
		"no port":             {Broker: "mqtts://127.0.0.1"},
		"port 0":              {Broker: "mqtts://127.0.0.1:0"},
		"no host":             {Broker: "mqtts://:8883"},
		"user":                {Broker: "mqtts://a@127.0.0.1:8883"},
		"path":                {Broker: "mqtts://127.0.0.1:8883/x"},
		"negative handshakes": {Broker: "mqtts://127.0.0.1:8883", HandshakeLimit: -1},
		"short keep-alive":    {Broker: "mqtts://127.0.0.1:8883", KeepAlive: time.Millisecond},
		"long keep-alive":     {Broker: "mqtts://127.0.0.1:8883", KeepAlive: 24 * time.Hour},
		"very long session":   {Broker: "mqtts://127.0.0.1:8883", SessionExpiry: 200 * 365 * 24 * time.Hour},
	}
	for name, cfg := range tests {
		if _, err := mqttpool.New(cfg); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: error %v, want invalid", name, err)
		}
	}
}

// Ensure that many subscriptions find their way through few handshakes at a
// time, and come back after a restart, each with its own messages.
func TestMany(t *testing.T) {
	w := newWorld(t)
	var all []*subscriber
	for n := range 30 {
		all = append(all, w.subscriber(fmt.Sprintf("owner-%d", n)))
	}
	p := w.pool(func(c *mqttpool.Config) { c.HandshakeLimit = 2 })
	add(t, p, all...)
	for _, s := range all {
		w.push(s, 0, 3)
	}
	w.Restart()
	for _, s := range all {
		w.push(s, 3, 5)
	}
	for _, s := range all {
		s.check(t, 5)
	}
}
