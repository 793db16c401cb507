package broker_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// BenchmarkPublishQoS1Durable measures publishes of 512 bytes from providers
// that keep 64 under way each, over TLS, until the PUBACK that says they are
// on disk. Each publisher has its own subscription; nobody receives.
func BenchmarkPublishQoS1Durable(b *testing.B) {
	for _, publishers := range []int{1, 16} {
		b.Run(fmt.Sprintf("publishers=%d", publishers), func(b *testing.B) {
			w := newWorld(b, func(w *world) { w.box.MaxMessages, w.box.MaxBytes = 1<<40, 1<<40 })
			payload := make([]byte, 512)
			var clients []*raw
			var topics []string
			for i := range publishers {
				provider := w.provider(fmt.Sprint("p", i))
				topics = append(topics, topic(w.subscription(provider, fmt.Sprint("owner", i)), "events"))
				clients = append(clients, w.join(provider, 5))
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for i, r := range clients {
				wg.Go(func() {
					underway := 0
					id := uint16(0)
					for {
						for underway < 64 && left.Add(-1) >= 0 {
							if id++; id == 0 {
								id++
							}
							r.publish(topics[i], payload, 1, id)
							underway++
						}
						if underway == 0 {
							return
						}
						if ack, err := r.read(); err != nil || ack.FixedHeader.Type != packets.Puback || ack.ReasonCode != 0 {
							b.Errorf("PUBACK %#x, err %v", ack.ReasonCode, err)
							return
						}
						underway--
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "publishes/s")
		})
	}
}

// BenchmarkDeliver measures messages of 512 bytes all the way from a
// provider's publish to a consumer's acknowledgement.
func BenchmarkDeliver(b *testing.B) {
	w := newWorld(b)
	provider := w.provider("p")
	sub := w.subscription(provider, "a")
	consumer, publisher := w.join(sub, 5), w.join(provider, 5)
	consumer.subscribe(1, topic(sub, "#"))
	payload := make([]byte, 512)
	b.ResetTimer()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range b.N {
			consumer.message()
		}
	}()
	sent, acked := 0, 0
	for acked < b.N {
		for sent < b.N && sent-acked < 64 {
			publisher.publish(topic(sub, "events"), payload, 1, uint16(sent%60_000+1))
			sent++
		}
		publisher.expect(packets.Puback)
		acked++
	}
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkIdleConnections reports the resident memory of the server for each
// idle consumer, from a server in a process of its own.
func BenchmarkIdleConnections(b *testing.B) {
	const count = 500
	w := newWorld(b)
	provider := w.provider("p")
	var parties []party
	for i := range count {
		parties = append(parties, w.subscription(provider, fmt.Sprint("owner", i)))
	}
	w.close()
	defer w.open()
	for range b.N {
		server := w.startServer()
		w.join(parties[0], 5)
		before := resident(b, server.Process.Pid)
		for _, p := range parties[1:] {
			w.join(p, 5, persistent).subscribe(1, topic(p, "#"))
		}
		after := resident(b, server.Process.Pid)
		b.ReportMetric(float64(after-before)/(count-1), "KiB/connection")
		_ = server.Process.Kill()
		_ = server.Wait()
	}
}

// resident is the resident memory of a process in KiB, or 0 where /proc does
// not say.
func resident(b *testing.B, pid int) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skip("SKIPPED: there is no /proc here")
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	return must(strconv.Atoi(fields[0]))
}
