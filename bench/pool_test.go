package bench_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
	"github.com/fds-keyholder/keyholder/internal/daemon"
)

// restart kills the server, without a farewell, and starts it again on the
// same address. It returns when it listens.
func (f *fleet) restart(tb testing.TB) {
	tb.Helper()
	check(tb, f.cmd.Process.Kill())
	_ = f.cmd.Wait() // it was killed
	path := filepath.Join(f.dir, daemon.ConfigName)
	config, err := os.ReadFile(path)
	check(tb, err)
	check(tb, os.WriteFile(path, bytes.Replace(config, []byte("mqtt: 127.0.0.1:0"), []byte("mqtt: "+f.address), 1), 0o600))
	before := f.address
	if f.serve(tb); f.address != before {
		tb.Fatalf("it listens at %s, before at %s", f.address, before)
	}
}

// used is the memory of this process that is in use, in bytes.
func used() uint64 {
	runtime.GC()
	runtime.GC() // what the first one found to be finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// BenchmarkPool reports what the subscriptions of an app cost it: how long it
// takes to connect them all, the memory of each that is connected and idle,
// and how long it takes until all are back after the server was killed and
// listens again.
func BenchmarkPool(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("subscriptions=%d", n), func(b *testing.B) {
			f := newFleet(b, 1, n)
			b.ResetTimer()
			for range b.N {
				runPool(b, f)
			}
		})
	}
}

func runPool(b *testing.B, f *fleet) {
	before, begun := used(), time.Now()
	p, err := mqttpool.New(mqttpool.Config{Broker: "mqtts://" + f.address, RootCAs: f.roots, Log: slog.New(slog.DiscardHandler)})
	check(b, err)
	for _, m := range f.consumers {
		check(b, p.Add(mqttpool.Subscription{ID: keyholder.SubscriptionID(m.id), Certificate: func() (*tls.Certificate, error) { return &m.certificate, nil },
			Handler: func(context.Context, mqttpool.Message) error { return nil }}))
	}
	f.awaitAll(b, p, 1)
	b.ReportMetric(time.Since(begun).Seconds(), "s_to_connect")
	b.ReportMetric(float64(used()-before)/float64(len(f.consumers))/1024, "KiB/subscription")
	b.ReportMetric(float64(runtime.NumGoroutine())/float64(len(f.consumers)), "goroutines/subscription")
	f.restart(b)
	begun = time.Now()
	f.awaitAll(b, p, 2)
	b.ReportMetric(time.Since(begun).Seconds(), "s_to_recover")
	check(b, p.Close(b.Context()))
}

// awaitAll waits until every subscription of a pool was connected as often.
func (f *fleet) awaitAll(b *testing.B, p *mqttpool.Pool, connects int) {
	b.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(5 * time.Minute)
	for _, m := range f.consumers {
		for {
			h, _ := p.Health(keyholder.SubscriptionID(m.id))
			if h.Connected && h.Connects >= connects {
				break
			}
			select {
			case <-tick.C:
			case <-deadline:
				b.Fatalf("not all are connected: %+v", h)
			}
		}
	}
}
