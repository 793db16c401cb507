package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
	"github.com/fds-keyholder/keyholder/client/publisher"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/console"
)

// patience is how long the demo waits for a push before it calls it lost.
const patience = 5 * time.Second

// connect opens the MQTT connections of an app: one for each owner (FDS
// 2.6.4.2).
func (d *demo) connect(ctx context.Context, app *demoApp, names ...string) error {
	pool, err := mqttpool.New(mqttpool.Config{Broker: d.fabric.daemon.MQTT, RootCAs: d.fabric.roots, Log: d.fabric.logger})
	if err != nil {
		return err
	}
	app.pool = pool
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, name := range names {
		s := d.subs[name]
		if err := pool.Add(mqttpool.Subscription{
			ID:          s.id,
			Certificate: func() (*tls.Certificate, error) { return &s.certificate, nil },
			Handler: func(_ context.Context, m mqttpool.Message) error {
				s.tally.receive(m.Key, m.Payload, d.foreign(s, m.Payload))
				return nil
			},
		}); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := pool.Ready(ctx, d.subs[name].id); err != nil {
			return fmt.Errorf("%s connects for %s: %w", app.Name, d.subs[name].owner.Key, err)
		}
	}
	return nil
}

// foreign says whether an item is of a device of another owner.
func (d *demo) foreign(s *demoSubscription, item []byte) bool {
	id := deviceOf(item)
	return id != "" && d.facility.owner[id] != s.owner.Key
}

// dialMQTT connects one MQTT 5 client with exactly the identity it is given,
// as the SDK would not: for attacks.
func (d *demo) dialMQTT(ctx context.Context, c *tls.Config, connect *paho.Connect) (*paho.Client, error) {
	dialer := tls.Dialer{Config: c, NetDialer: &net.Dialer{Timeout: 5 * time.Second}}
	conn, err := dialer.DialContext(ctx, "tcp", d.fabric.mqttAddress())
	if err != nil {
		return nil, err
	}
	mqtt := paho.NewClient(paho.ClientConfig{ClientID: connect.ClientID, Conn: packets.NewThreadSafeConn(conn), PacketTimeout: 10 * time.Second})
	connect.KeepAlive = 30
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := mqtt.Connect(ctx, connect); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return mqtt, nil
}

// push replays the feed over MQTT: the provider publishes, the apps receive.
// Northgate's events are left for the webhook's chapter.
func (d *demo) push(ctx context.Context) error {
	d.story.chapter("Push by MQTT: three days of the facility's messages")
	if err := d.connect(ctx, d.apps[0], "A", "D"); err != nil {
		return err
	}
	if err := d.connect(ctx, d.apps[1], "B"); err != nil {
		return err
	}
	p, err := publisher.New(publisher.Config{Provider: d.provider.ID, Broker: d.fabric.daemon.MQTT, RootCAs: d.fabric.roots, Log: d.fabric.logger,
		Certificate: func() (*tls.Certificate, error) { return &d.provider.certificate, nil }})
	if err != nil {
		return err
	}
	defer func() { _ = p.Close(ctx) }()
	began := time.Now()
	published, err := d.replay(ctx, p)
	if err != nil {
		return err
	}
	took := time.Since(began)
	d.story.check(true, fmt.Sprintf("Fork Inc publishes %d messages", published),
		fmt.Sprintf("each acknowledged after it was on disk, %.0f a second", float64(published)/took.Seconds()))
	for _, name := range []string{"A", "B", "D"} {
		d.subs[name].tally.wait(patience)
		held, seen := d.subs[name].tally.result()
		d.story.check(held, fmt.Sprintf("%s receives %s's", d.subs[name].app.Name, d.subs[name].owner.Key), seen)
	}
	return nil
}

// replay publishes the feed, in order for each owner, and waits until all of
// it is durable.
func (d *demo) replay(ctx context.Context, p *publisher.Publisher) (int, error) {
	target := map[string]*demoSubscription{northgate: d.subs["A"], stAnna: d.subs["B"]}
	var sent []*publisher.Delivery
	for _, f := range d.facility.feed {
		if f.owner == northgate && f.kind == keyholder.Events {
			continue
		}
		s := target[f.owner]
		s.tally.send(f.item)
		one, err := p.Send(ctx, string(s.id), publisher.Item{Level: string(f.kind), Payload: f.item})
		if err != nil {
			return 0, fmt.Errorf("publish: %w", err)
		}
		sent = append(sent, one)
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < len(sent); {
		select {
		case <-sent[i].Done():
			if err := sent[i].Err(); err != nil {
				return 0, fmt.Errorf("publish: %w", err)
			}
			i++
		case <-tick.C:
			d.story.count("published", i, len(sent))
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return len(sent), nil
}

// demoReceiver is App 2's webhook: an HTTPS server of the app, behind the
// app's own authorization server.
type demoReceiver struct {
	server *http.Server
	url    string
	// the provider's credential at the app's authorization server
	provider, secret string
	broken           atomic.Bool // answers 503 while true
}

func (r *demoReceiver) close() { _ = r.server.Close() }

// openWebhook starts App 2's receiver for subscription C and registers it
// with the provider. The app's own Keyholder knows the provider as a client
// and the subscriptions by the IDs the provider supplied.
func (d *demo) openWebhook(ctx context.Context) error {
	c := d.subs["C"]
	secret, providerID, err := d.onboardAppSide(ctx)
	if err != nil {
		return err
	}
	g, err := guard.New(guard.Config{Issuer: d.appSide.daemon.Issuer, AudienceFor: keyholder.WebhookAudience,
		Keys: guard.FetchKeys(d.appSide.daemon.Issuer, guard.HTTPClient(d.appSide.roots, keyholder.TLSStrict))})
	if err != nil {
		return err
	}
	d.receiver = &demoReceiver{}
	handler, err := client.NewReceiver(client.ReceiverConfig{
		Guard: func(id keyholder.SubscriptionID) *guard.Guard {
			if id != c.id {
				return nil
			}
			return g
		},
		Log: d.fabric.logger,
		Deliver: func(_ context.Context, p client.Push) error {
			if d.receiver.broken.Load() {
				return errors.New("the receiver is out of order")
			}
			c.tally.receive(p.Key, p.Payload, d.foreign(c, p.Payload))
			return nil
		},
	})
	if err != nil {
		return err
	}
	if err := d.receiver.serve(d, handler, c.id); err != nil {
		return err
	}
	ca, err := d.appSide.admin.Authority(ctx)
	if err != nil {
		return err
	}
	d.receiver.provider, d.receiver.secret = providerID, secret
	_, err = d.fabric.admin.AddWebhook(ctx, console.NewWebhook{Subscription: string(c.id), URL: d.receiver.url,
		Issuer: d.appSide.daemon.Issuer, Client: providerID, Secret: secret, CA: ca.Root})
	return err
}

// onboardAppSide registers the provider and App 2's subscriptions at the app's
// own Keyholder, and returns the provider's secret and ID there.
func (d *demo) onboardAppSide(ctx context.Context) (secret, provider string, err error) {
	admin := d.appSide.admin
	p, err := admin.AddProvider(ctx, console.NewProvider{Name: d.provider.Name})
	if err != nil {
		return "", "", err
	}
	app, err := admin.AddApp(ctx, console.NewApp{Name: d.apps[1].Name, Authentication: keyholder.AuthCertificate,
		Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}})
	if err != nil {
		return "", "", err
	}
	for _, name := range []string{"B", "C"} {
		s := d.subs[name]
		if _, err = admin.AddOwner(ctx, console.NewOwner{Key: s.owner.Key, Name: s.owner.Key}); err != nil {
			return "", "", err
		}
		a, err := admin.AddAgreement(ctx, console.NewAgreement{Provider: string(p.ID), Owner: s.owner.Key, Purpose: "Pushes to our webhook"})
		if err != nil {
			return "", "", err
		}
		if _, err = admin.AddSubscription(ctx, console.NewSubscription{Agreement: string(a.ID), App: string(app.App.ID), ID: string(s.id)}); err != nil {
			return "", "", err
		}
	}
	s, err := admin.AddSecret(ctx, string(p.ID))
	return s.Secret, string(p.ID), err
}

// serve listens with a certificate of the app's own authority.
func (r *demoReceiver) serve(d *demo, h http.Handler, id keyholder.SubscriptionID) error {
	certificate, err := d.appSide.daemon.ServerCertificate([]string{"127.0.0.1"})
	if err != nil {
		return err
	}
	c := keyholder.TLSStrict.Config()
	c.Certificates = []tls.Certificate{certificate}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", c)
	if err != nil {
		return fmt.Errorf("listen for the webhook: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /webhook/{subscription}", h)
	r.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(d.fabric.logger.Handler(), slog.LevelDebug)}
	r.url = (&url.URL{Scheme: "https", Host: ln.Addr().String(), Path: "/webhook/" + string(id)}).String()
	go func() { _ = r.server.Serve(ln) }()
	return nil
}

// webhook ingests northgate's events: App 2 gets them by webhook, App 1 the
// same ones by MQTT.
func (d *demo) webhook(ctx context.Context) error {
	d.story.chapter("Push by webhook: northgate's events to App 2")
	var events []json.RawMessage
	for _, f := range d.facility.feed {
		if f.owner == northgate && f.kind == keyholder.Events {
			events = append(events, f.item)
		}
	}
	d.sent(northgate, events...)
	done, err := d.provider.backend.Ingest(ctx, northgate, keyholder.Events, events)
	if err != nil {
		return err
	}
	d.story.check(done.Pushed == 2*len(events), fmt.Sprintf("Fork Inc stores %d events over HTTPS", len(events)), fmt.Sprintf("%d pushes queued durably", done.Pushed))
	for _, name := range []string{"C", "A"} {
		s, way := d.subs[name], "webhook"
		if name == "A" {
			way = "MQTT"
		}
		s.tally.wait(patience)
		held, seen := s.tally.result()
		d.story.check(held, fmt.Sprintf("%s receives by %s", s.app.Name, way), seen)
	}
	// The chapters that follow play other clients with the same identities.
	for _, a := range d.apps {
		if err := a.pool.Close(ctx); err != nil {
			return err
		}
		a.pool = nil
	}
	return nil
}
