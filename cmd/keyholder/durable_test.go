package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
	"github.com/fds-keyholder/keyholder/client/publisher"
	"github.com/fds-keyholder/keyholder/internal/console"
)

// fleet is what a durability test publishes into: some providers, each with
// its share of the subscriptions.
type fleet struct {
	roots     *x509.CertPool
	providers []fleetProvider
	consumers map[keyholder.SubscriptionID]tls.Certificate
}

type fleetProvider struct {
	id            string
	certificate   tls.Certificate
	subscriptions []keyholder.SubscriptionID
}

// onboard makes the fleet through the admin API.
func (s *served) onboard(providers, consumers int) *fleet {
	s.t.Helper()
	ctx := s.t.Context()
	f := &fleet{roots: x509.NewCertPool(), consumers: map[keyholder.SubscriptionID]tls.Certificate{}}
	f.roots.AppendCertsFromPEM([]byte(must(s.admin.Authority(ctx)).Root))
	must(s.admin.AddOwner(ctx, console.NewOwner{Key: northgate, Name: northgate}))
	var agreements []string
	for i := range providers {
		p := must(s.admin.AddProvider(ctx, console.NewProvider{Name: fmt.Sprintf("Provider %d", i)}))
		f.providers = append(f.providers, fleetProvider{id: string(p.ID), certificate: s.certificate(keyholder.ForProvider, string(p.ID))})
		agreements = append(agreements, string(must(s.admin.AddAgreement(ctx, console.NewAgreement{Provider: string(p.ID), Owner: northgate, Purpose: "test"})).ID))
	}
	var app keyholder.AppID
	for i := range consumers {
		if i%providers == 0 {
			app = must(s.admin.AddApp(ctx, console.NewApp{Name: fmt.Sprintf("App %d", i), Authentication: keyholder.AuthCertificate, Grants: []keyholder.GrantType{keyholder.GrantClientCredentials}})).App.ID
		}
		sub := must(s.admin.AddSubscription(ctx, console.NewSubscription{Agreement: agreements[i%providers], App: string(app)}))
		p := &f.providers[i%providers]
		p.subscriptions = append(p.subscriptions, sub.ID)
		f.consumers[sub.ID] = s.certificate(keyholder.ForSubscription, string(sub.ID))
	}
	return f
}

// queue is what one subscription was sent and what came of it.
type queue struct {
	acked int // every message below was acknowledged
}

// publish sends numbered messages to the provider's subscriptions, a few at a
// time to each, until it is to stop, whatever becomes of the server meanwhile.
func (p *fleetProvider) publish(t *testing.T, sdk *publisher.Publisher, queues map[keyholder.SubscriptionID]*queue, stop <-chan struct{}) {
	const batch = 5
	var wg sync.WaitGroup
	for _, id := range p.subscriptions {
		q := queues[id]
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var items []publisher.Item
				for n := range batch {
					items = append(items, publisher.Item{Level: "events", Payload: []byte(strconv.Itoa(q.acked + n))})
				}
				if err := sdk.Publish(t.Context(), string(id), items...); err != nil {
					t.Errorf("publish: %v", err)
					return
				}
				q.acked += batch
			}
		})
	}
	wg.Wait()
}

// rounds is how often a durability test kills the server: few in every run,
// KEYHOLDER_KILL_ROUNDS in a long one.
func rounds(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("KEYHOLDER_KILL_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return 3
}

// received gathers the numbers that the consumers got.
type received struct {
	mu      sync.Mutex
	numbers map[keyholder.SubscriptionID][]int
}

func (r *received) take(_ context.Context, m mqttpool.Message) error {
	n, err := strconv.Atoi(string(m.Payload))
	if err != nil {
		return nil // it will be missed below
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.numbers[m.Subscription] = append(r.numbers[m.Subscription], n)
	return nil
}

// judge checks one subscription: nothing acknowledged is missing, and the
// order is kept: numbers come one after the other, and go back only where a
// kill made a publisher or the broker repeat.
func judge(got []int, acked, kills int) error {
	next, back := 0, 0
	for i, n := range got {
		switch {
		case n > next:
			return fmt.Errorf("%d came where %d was due", n, next)
		case n == next:
			next++
		case i > 0 && n <= got[i-1]:
			back++
		}
	}
	if next < acked {
		return fmt.Errorf("%d messages were acknowledged, %d came", acked, next)
	}
	// A kill can make the publisher repeat and the broker repeat.
	if back > 2*kills {
		return fmt.Errorf("the order went back %d times at %d kills", back, kills)
	}
	return nil
}

// Ensure that a server killed at random moments, while 16 providers publish to
// 200 connected consumers, loses nothing it acknowledged and keeps the order
// of every subscription.
func TestKillUnderLoad(t *testing.T) {
	s := serveData(t)
	f := s.onboard(16, 200)
	got := &received{numbers: map[keyholder.SubscriptionID][]int{}}
	pool := must(mqttpool.New(mqttpool.Config{Broker: "mqtts://" + s.mqtt, RootCAs: f.roots, Log: slog.New(slog.DiscardHandler)}))
	queues := map[keyholder.SubscriptionID]*queue{}
	for id, c := range f.consumers {
		queues[id] = &queue{}
		if err := pool.Add(mqttpool.Subscription{ID: id, Certificate: func() (*tls.Certificate, error) { return &c, nil }, Handler: got.take}); err != nil {
			t.Fatal(err)
		}
	}
	defer func() { _ = pool.Close(context.WithoutCancel(t.Context())) }()

	kills := rounds(t)
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	for _, p := range f.providers {
		sdk := must(publisher.New(publisher.Config{Provider: keyholder.ProviderID(p.id), Broker: "mqtts://" + s.mqtt, RootCAs: f.roots, Log: slog.New(slog.DiscardHandler),
			Certificate: func() (*tls.Certificate, error) { return &p.certificate, nil }}))
		defer func() { _ = sdk.Close(context.WithoutCancel(t.Context())) }()
		publishing.Go(func() { p.publish(t, sdk, queues, stop) })
	}
	for range kills {
		timer := time.NewTimer(300*time.Millisecond + rand.N(1200*time.Millisecond))
		<-timer.C
		s.kill()
		s.start()
	}
	close(stop)
	publishing.Wait()

	total := 0
	for _, q := range queues {
		total += q.acked
	}
	// Every queue ends with what was acknowledged; what comes after it may or
	// may not have been stored.
	deadline, tick := time.After(2*time.Minute), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for !got.complete(queues) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("not everything that was acknowledged came")
		}
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	messages := 0
	for id, q := range queues {
		messages += len(got.numbers[id])
		if err := judge(got.numbers[id], q.acked, kills); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	if total == 0 {
		t.Error("nothing was acknowledged")
	}
	t.Logf("%d kills, %d acknowledged, 0 lost, %d received", kills, total, messages)
}

// complete says whether every subscription got its last acknowledged message.
func (r *received) complete(queues map[keyholder.SubscriptionID]*queue) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, q := range queues {
		highest := -1
		for _, n := range r.numbers[id] {
			highest = max(highest, n)
		}
		if highest < q.acked-1 {
			return false
		}
	}
	return true
}

// smallDisk mounts a small file system on a folder, as nothing else makes a
// disk really full.
func smallDisk(t *testing.T, size string) (dir string, grow func(size string)) {
	t.Helper()
	dir = t.TempDir()
	mount := func(options string) error {
		return exec.Command("mount", "-t", "tmpfs", "-o", options, "none", dir).Run()
	}
	if err := mount("size=" + size + ",mode=700"); err != nil {
		t.Skip("SKIPPED: this user may not mount a file system, so a full disk was not tested:", err)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	return dir, func(size string) {
		if err := mount("remount,size=" + size); err != nil {
			t.Fatal(err)
		}
	}
}

// Ensure that a full disk answers publishers with a refusal, loses nothing
// that was acknowledged, and that the server goes on when there is room again.
func TestDiskFull(t *testing.T) {
	disk, grow := smallDisk(t, "12m")
	s := initIn(t, filepath.Join(disk, "D"))
	s.start()
	f := s.onboard(1, 1)
	p, ctx := f.providers[0], t.Context()
	sub := p.subscriptions[0]
	mqtt := connectPublisher(t, s.mqtt, f.roots, p.certificate, p.id)
	padding := strings.Repeat(" ", 100<<10)
	send := func(n int) (*paho.PublishResponse, error) {
		return mqtt.Publish(ctx, &paho.Publish{QoS: 1, Topic: keyholder.Topic{Subscription: sub, Level: "events"}.String(), Payload: []byte(strconv.Itoa(n) + padding)})
	}
	var acked []int
	next, refused := 0, 0
	for ; refused < 5; next++ {
		if next == 1000 {
			t.Fatal("the disk was never full")
		}
		switch ack, err := send(next); {
		case err == nil:
			acked = append(acked, next)
		case ack != nil && ack.ReasonCode == 0x97: // quota exceeded (MQTT 5 section 3.4.2.1)
			refused++
		default:
			t.Fatalf("publish %d: %v: want a refusal and a living connection", next, err)
		}
	}
	if len(acked) == 0 {
		t.Fatal("nothing was acknowledged before the disk was full")
	}
	// What is too much for a message of 100 KiB may do for a few of these.
	for i := 0; ; i++ {
		_, err := s.admin.AddProvider(ctx, console.NewProvider{Name: "One More"})
		if keyholder.CodeOf(err) == keyholder.Unavailable {
			break
		}
		if err != nil || i == 1000 {
			t.Fatalf("a full disk answers the administrator with %v, want unavailable", err)
		}
	}
	grow("64m")
	for i := range 3 {
		if _, err := send(next + i); err != nil {
			t.Fatalf("there is room again, and publish %d is answered with: %v", next+i, err)
		}
		acked = append(acked, next+i)
	}
	s.kill()
	s.start()
	got := make(chan int, 2000)
	consumer := f.consumers[sub]
	pool := must(mqttpool.New(mqttpool.Config{Broker: "mqtts://" + s.mqtt, RootCAs: f.roots, Log: slog.New(slog.DiscardHandler)}))
	if err := pool.Add(mqttpool.Subscription{ID: sub, Certificate: func() (*tls.Certificate, error) { return &consumer, nil },
		Handler: func(_ context.Context, m mqttpool.Message) error {
			n, _ := strconv.Atoi(strings.TrimSpace(string(m.Payload)))
			got <- n
			return nil
		}}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pool.Close(context.WithoutCancel(ctx)) }()
	for _, want := range acked {
		select {
		case n := <-got:
			if n != want {
				t.Fatalf("%d came where %d was due", n, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%d was acknowledged and did not come", want)
		}
	}
	t.Logf("%d acknowledged, %d refused, 0 lost", len(acked), refused)
}
