package publisher_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
	"github.com/fds-keyholder/keyholder/client/publisher"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// world is a running Keyholder with a provider.
type world struct {
	*keyholdertest.Server
	t        *testing.T
	provider keyholder.ProviderID

	mu          sync.Mutex // guards the fields below
	certificate tls.Certificate
}

func newWorld(t *testing.T) *world {
	t.Helper()
	leakless(t)
	w := &world{Server: keyholdertest.Start(t), t: t}
	w.provider = w.AddProvider("Soap Inc").ID
	w.certificate = w.Certificate(keyholder.ForProvider, string(w.provider))
	return w
}

func (w *world) current() (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.certificate
	return &c, nil
}

// overMQTT and overHTTPS are the two ways.
func (w *world) overMQTT() publisher.Config {
	return publisher.Config{Provider: w.provider, Broker: w.MQTT, Certificate: w.current, RootCAs: w.Roots(), Log: slog.New(slog.DiscardHandler)}
}

func (w *world) overHTTPS() publisher.Config {
	return publisher.Config{Provider: w.provider, API: w.API, Issuer: w.Issuer, Certificate: w.current, RootCAs: w.Roots(), Log: slog.New(slog.DiscardHandler)}
}

// leakless checks, when everything else of the test has ended, that no
// publisher left a goroutine behind.
func leakless(t *testing.T) {
	t.Cleanup(func() {
		eventually(t, "the publishers' goroutines end", func() bool {
			stacks := make([]byte, 1<<20)
			return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "client/publisher.(*")
		})
	})
}

// open opens a publisher that is closed with the test.
func open(t *testing.T, cfg publisher.Config) *publisher.Publisher {
	t.Helper()
	p, err := publisher.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = p.Close(ctx)
	})
	return p
}

// owner is an owner with one app, whose messages are gathered.
type owner struct {
	name        string
	id          keyholder.SubscriptionID
	certificate tls.Certificate

	mu  sync.Mutex // guards got
	got []string
}

func (w *world) owner(name string) *owner {
	w.t.Helper()
	app, _ := w.AddApp("App of "+name, keyholder.AuthSecret, "")
	o := &owner{name: name, id: w.AddSubscription(w.AddAgreement(w.provider, w.AddOwner(name).ID), app.ID, "")}
	o.certificate = w.Certificate(keyholder.ForSubscription, string(o.id))
	return o
}

// consume connects the apps of owners.
func (w *world) consume(owners ...*owner) {
	w.t.Helper()
	pool, err := mqttpool.New(mqttpool.Config{Broker: w.MQTT, RootCAs: w.Roots(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = pool.Close(context.Background()) })
	for _, o := range owners {
		if err := pool.Add(mqttpool.Subscription{ID: o.id, Certificate: func() (*tls.Certificate, error) { return &o.certificate, nil },
			Handler: func(_ context.Context, m mqttpool.Message) error {
				o.mu.Lock()
				defer o.mu.Unlock()
				o.got = append(o.got, string(m.Payload))
				return nil
			}}); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (o *owner) messages() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.got)
}

// item is number n for an owner. Its device is new, so that ingestion pushes
// it.
func (o *owner) item(n int) publisher.Item {
	return publisher.Item{Level: "events", Payload: []byte(fmt.Sprintf(`{"device_id":"%s","generic":{"message_code":"x"},"n":%d}`, o.name, n))}
}

func (o *owner) items(from, to int) []publisher.Item {
	var out []publisher.Item
	for n := from; n < to; n++ {
		out = append(out, o.item(n))
	}
	return out
}

// check waits for items number 0 to n, without n, and checks that each came
// after the one before it, and that nothing came again more than again times.
func (o *owner) check(t *testing.T, n, again int) {
	t.Helper()
	last := string(o.item(n - 1).Payload)
	eventually(t, fmt.Sprintf("item %d of %s arrives", n-1, o.name), func() bool { return slices.Contains(o.messages(), last) })
	next, repeated := 0, 0
	for i, got := range o.messages() {
		if next < n && got == string(o.item(next).Payload) {
			next++
			continue
		}
		if repeated++; !slices.Contains(o.messages()[:i], got) {
			t.Fatalf("message %d of %s is %s, want item %d", i, o.name, got, next)
		}
	}
	if next != n || repeated > again {
		t.Errorf("%s got %d items in order and %d again, want %d and at most %d", o.name, next, repeated, n, again)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// publish fails the test unless the items become durable.
func publish(t *testing.T, p *publisher.Publisher, to string, items ...publisher.Item) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.Publish(ctx, to, items...); err != nil {
		t.Fatalf("publish: %v", err)
	}
}

func send(t *testing.T, p *publisher.Publisher, to string, items ...publisher.Item) *publisher.Delivery {
	t.Helper()
	d, err := p.Send(t.Context(), to, items...)
	if err != nil {
		t.Fatalf("send: %v", err)
	}
	return d
}

// Ensure that items arrive in order for each destination, by both ways, over
// restarts of the server while many are under way, and that all is reported.
func TestPublish(t *testing.T) {
	for name, way := range map[string]struct {
		config func(*world) publisher.Config
		to     func(*owner) string
		again  int // over MQTT the broker may have stored what it could not acknowledge
	}{
		"MQTT":  {(*world).overMQTT, func(o *owner) string { return string(o.id) }, 2 * 32},
		"HTTPS": {(*world).overHTTPS, func(o *owner) string { return o.name }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			owners := []*owner{w.owner("northgate"), w.owner("st-anna"), w.owner("harbour")}
			w.consume(owners...)
			p := open(t, way.config(w))
			for _, o := range owners {
				publish(t, p, way.to(o), o.items(0, 100)...)
			}
			if h := p.Health(); !h.Connected || h.Connects != 1 || h.Durable != 300 || h.Waiting+h.Bytes+h.UnderWay != 0 || h.Failed+h.Again != 0 || h.LastError != "" || h.Since.IsZero() {
				t.Errorf("health %+v", h)
			}
			var all []*publisher.Delivery
			n := 100
			for range 2 {
				for range 10 {
					for _, o := range owners {
						all = append(all, send(t, p, way.to(o), o.items(n, n+20)...))
					}
					n += 20
				}
				w.Restart()
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := p.Flush(ctx); err != nil {
				t.Fatalf("%v %+v", err, p.Health())
			}
			for _, d := range all {
				select {
				case <-d.Done():
				default:
					t.Fatal("flushed, and not done")
				}
				if err := d.Err(); err != nil {
					t.Error(err)
				}
			}
			for _, o := range owners {
				o.check(t, n, way.again)
			}
			if h := p.Health(); h.Durable != uint64(3*n) {
				t.Errorf("health %+v, want %d durable", h, 3*n)
			}
		})
	}
}

// Ensure that a destination that is not the provider's, does not exist or was
// cut is refused for good, by name, and that others are not disturbed.
func TestRefused(t *testing.T) {
	w := newWorld(t)
	ours, cut := w.owner("northgate"), w.owner("st-anna")
	other := &world{Server: w.Server, t: t, provider: w.AddProvider("Fork Inc").ID}
	foreign := other.owner("harbour")
	w.Cut(keyholder.CutSubscription, string(cut.id))
	w.consume(ours)
	mqtt, https := open(t, w.overMQTT()), open(t, w.overHTTPS())
	for i, tt := range []struct {
		p  *publisher.Publisher
		to string
	}{
		{mqtt, string(foreign.id)}, {mqtt, string(cut.id)}, {mqtt, "00000000-0000-4000-8000-000000000000"},
		{https, foreign.name}, {https, "nobody"},
	} {
		err := tt.p.Publish(t.Context(), tt.to, ours.items(0, 3)...)
		var e *publisher.Error
		if !errors.As(err, &e) || !errors.Is(err, publisher.ErrRefused) || e.To != tt.to || !slices.Equal(e.Items, []int{0, 1, 2}) {
			t.Errorf("destination %d: error %v, want refused", i, err)
		}
		if err != nil && strings.Contains(err.Error(), "message_code") {
			t.Errorf("destination %d: the error holds a payload", i)
		}
	}
	publish(t, mqtt, string(ours.id), ours.items(0, 5)...)
	publish(t, https, ours.name, ours.items(5, 10)...)
	ours.check(t, 10, 0)
	if h := mqtt.Health(); h.Failed != 9 || h.Durable != 5 || h.Connects != 1 {
		t.Errorf("health %+v", h)
	}
}

// Ensure that an item is refused if it is too large or malformed, and only it.
func TestUnfitItems(t *testing.T) {
	w := newWorld(t)
	o := w.owner("northgate")
	w.consume(o)
	large := publisher.Item{Level: "events", Payload: []byte(`{"device_id":"x","generic":{"message_code":"` + strings.Repeat("x", 2<<20) + `"}}`)}
	strange := publisher.Item{Level: "events", Payload: []byte(`{"no":"device"}`)}
	mqtt, https := open(t, w.overMQTT()), open(t, w.overHTTPS())
	for name, tt := range map[string]struct {
		p     *publisher.Publisher
		to    string
		items []publisher.Item
		bad   []int
		want  error
	}{
		"too large over MQTT":  {mqtt, string(o.id), []publisher.Item{o.item(0), large, o.item(1)}, []int{1}, publisher.ErrTooLarge},
		"strange over HTTPS":   {https, o.name, []publisher.Item{o.item(0), o.item(1), strange, o.item(2), strange}, []int{2, 4}, publisher.ErrInvalid},
		"too large over HTTPS": {https, o.name, []publisher.Item{o.item(3), large, o.item(4)}, []int{1}, publisher.ErrInvalid},
	} {
		err := tt.p.Publish(t.Context(), tt.to, tt.items...)
		var e *publisher.Error
		if !errors.As(err, &e) || !errors.Is(err, tt.want) || !slices.Equal(e.Items, tt.bad) {
			t.Errorf("%s: error %.300v, want %v of items %v", name, err, tt.want, tt.bad)
		}
	}
	eventually(t, "the good ones arrive", func() bool { return len(o.messages()) == 7 })
}

// Ensure that what cannot be sent at all is refused at once.
func TestSendRefuses(t *testing.T) {
	w := newWorld(t)
	o := w.owner("northgate")
	mqtt, https := open(t, w.overMQTT()), open(t, w.overHTTPS())
	for name, tt := range map[string]struct {
		p    *publisher.Publisher
		to   string
		item publisher.Item
	}{
		"no subscription":     {mqtt, "northgate", o.item(0)},
		"wildcard":            {mqtt, string(o.id), publisher.Item{Level: "+", Payload: []byte("{}")}},
		"no level":            {mqtt, string(o.id), publisher.Item{Payload: []byte("{}")}},
		"more than may wait":  {mqtt, string(o.id), publisher.Item{Level: "events", Payload: make([]byte, 17<<20)}},
		"no owner":            {https, "", o.item(0)},
		"no kind":             {https, o.name, publisher.Item{Level: "x", Payload: []byte("{}")}},
		"not JSON over HTTPS": {https, o.name, publisher.Item{Level: "events", Payload: []byte("{")}},
	} {
		if _, err := tt.p.Send(t.Context(), tt.to, tt.item); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: error %v, want invalid", name, err)
		}
	}
	publish(t, mqtt, string(o.id)) // nothing is done at once
}

// Ensure that an unsafe or incomplete configuration is refused.
func TestNewRefuses(t *testing.T) {
	id := keyholder.ProviderID("00000000-0000-4000-8000-000000000000")
	certificate := func() (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	for name, cfg := range map[string]publisher.Config{
		"nothing":          {},
		"no provider":      {Broker: "mqtts://127.0.0.1:8883", Certificate: certificate},
		"no way":           {Provider: id, Certificate: certificate},
		"both ways":        {Provider: id, Certificate: certificate, Broker: "mqtts://127.0.0.1:8883", API: "https://127.0.0.1"},
		"plain MQTT":       {Provider: id, Certificate: certificate, Broker: "mqtt://127.0.0.1:1883"},
		"no certificate":   {Provider: id, Broker: "mqtts://127.0.0.1:8883"},
		"negative bound":   {Provider: id, Certificate: certificate, Broker: "mqtts://127.0.0.1:8883", MaxWaiting: -1},
		"short keep-alive": {Provider: id, Certificate: certificate, Broker: "mqtts://127.0.0.1:8883", KeepAlive: 1},
		"no issuer":        {Provider: id, API: "https://127.0.0.1", Secret: "x"},
		"plain HTTP":       {Provider: id, API: "http://127.0.0.1", Issuer: "https://127.0.0.1", Secret: "x"},
		"no credential":    {Provider: id, API: "https://127.0.0.1", Issuer: "https://127.0.0.1"},
	} {
		if _, err := publisher.New(cfg); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: error %v, want invalid", name, err)
		}
	}
}

// Ensure that a renewed certificate is used by both ways without anything
// being restarted.
func TestCertificateRenewal(t *testing.T) {
	w := newWorld(t)
	o := w.owner("northgate")
	w.consume(o)
	mqtt, https := open(t, w.overMQTT()), open(t, w.overHTTPS())
	publish(t, mqtt, string(o.id), o.item(0))
	publish(t, https, o.name, o.item(1))
	old := w.certificate.Leaf
	renewed := w.Certificate(keyholder.ForProvider, string(w.provider))
	w.mu.Lock()
	w.certificate = renewed
	w.mu.Unlock()
	w.Cut(keyholder.CutCertificate, keyholder.Serial(old.SerialNumber))
	publish(t, mqtt, string(o.id), o.item(2))
	publish(t, https, o.name, o.item(3))
	o.check(t, 4, 0)
	if h := mqtt.Health(); h.Connects != 2 {
		t.Errorf("health %+v, want two connections", h)
	}
}

// Ensure that two processes of one provider do not chase each other off the
// broker: the one that was pushed out waits, says why, and loses nothing.
func TestTakeover(t *testing.T) {
	w := newWorld(t)
	o := w.owner("northgate")
	w.consume(o)
	first := open(t, w.overMQTT())
	publish(t, first, string(o.id), o.item(0))
	second := open(t, w.overMQTT())
	publish(t, second, string(o.id), o.item(1))
	eventually(t, "the first notices", func() bool {
		return first.Health().LastError == "another connection of the same provider took over"
	})
	publish(t, second, string(o.id), o.items(2, 20)...)
	o.check(t, 20, 0)
	if h := second.Health(); !h.Connected || h.Connects != 1 {
		t.Errorf("health of the second %+v", h)
	}
}

// Ensure that Close delivers what was sent, refuses what comes later, and
// gives up, by name, what the server does not acknowledge in time.
func TestClose(t *testing.T) {
	w := newWorld(t)
	o := w.owner("northgate")
	w.consume(o)
	p := open(t, w.overMQTT())
	done := send(t, p, string(o.id), o.items(0, 50)...)
	if err := p.Close(t.Context()); err != nil || done.Err() != nil {
		t.Errorf("close: %v, delivery: %v", err, done.Err())
	}
	if _, err := p.Send(t.Context(), string(o.id), o.item(50)); !errors.Is(err, publisher.ErrClosed) {
		t.Errorf("error %v, want closed", err)
	}
	o.check(t, 50, 0)

	cfg := w.overMQTT()
	cfg.RootCAs = nil // it never connects
	cfg.MaxWaiting = 2
	p = open(t, cfg)
	left := send(t, p, string(o.id), o.items(0, 2)...)
	eventually(t, "it says that it cannot connect", func() bool { return p.Health().LastError != "" })
	blocked := make(chan error, 1)
	go func() {
		_, err := p.Send(context.Background(), string(o.id), o.item(2))
		blocked <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); keyholder.CodeOf(err) != keyholder.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v, want unavailable", err)
	}
	var e *publisher.Error
	if err := left.Err(); !errors.As(err, &e) || !errors.Is(err, publisher.ErrClosed) || len(e.Items) != 2 {
		t.Errorf("delivery: %v, want closed", err)
	}
	if err := <-blocked; !errors.Is(err, publisher.ErrClosed) {
		t.Errorf("a call that waited for room: %v, want closed", err)
	}
	if h := p.Health(); h.LastError == "" || h.Connected || h.Waiting != 0 || h.Failed != 2 {
		t.Errorf("health %+v", h)
	}
}
