package bench_test

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// BenchmarkLatency compares how long a QoS 1 message takes from the moment it
// is due until its consumer has it: 1,000 messages a second from 10
// publishers, one after the other to each of 1,000 consumers, for ten seconds.
func BenchmarkLatency(b *testing.B) {
	for _, broker := range brokers {
		b.Run(broker.name, func(b *testing.B) {
			f := broker.start(b, 10, 1_000)
			s := &stream{fleet: f, consumers: f.joinAll(b, true), publishers: f.dialAll(b)}
			b.ResetTimer()
			for range b.N {
				took := s.run(b, 10_000, time.Millisecond)
				b.ReportMetric(quantile(took, 0.50), "p50_ms")
				b.ReportMetric(quantile(took, 0.99), "p99_ms")
			}
		})
	}
}

func quantile(sorted []time.Duration, q float64) float64 {
	return float64(sorted[int(q*float64(len(sorted)-1))]) / float64(time.Millisecond)
}

// stream sends numbered messages.
type stream struct {
	*fleet
	consumers, publishers []*wire
}

// run sends a message each period and returns how long each took, sorted. A
// message that could not leave in time was due all the same.
func (s *stream) run(b *testing.B, messages int, period time.Duration) []time.Duration {
	took := make([]time.Duration, messages)
	begun := time.Now().Add(100 * time.Millisecond)
	due := func(n int) time.Time { return begun.Add(time.Duration(n) * period) }
	limit := due(messages).Add(30 * time.Second)
	var readers sync.WaitGroup
	for i, w := range s.consumers {
		_ = w.conn.SetReadDeadline(limit)
		readers.Go(func() {
			for range messages / len(s.consumers) {
				pk, err := w.read()
				if err != nil || pk.FixedHeader.Type != packets.Publish {
					b.Errorf("consumer %d got type %d, %v", i, pk.FixedHeader.Type, err)
					return
				}
				n, err := strconv.Atoi(string(pk.Payload[5:13]))
				if err != nil {
					b.Error(err)
					return
				}
				took[n] = time.Since(due(n))
				if err := w.write(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i, w := range s.publishers {
		_ = w.conn.SetReadDeadline(limit)
		readers.Go(func() {
			for range messages / len(s.publishers) {
				if pk, err := w.read(); err != nil || pk.FixedHeader.Type != packets.Puback {
					b.Errorf("publisher %d got type %d, %v", i, pk.FixedHeader.Type, err)
					return
				}
			}
		})
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for n := 0; n < messages; <-tick.C {
		for ; n < messages && !due(n).After(time.Now()); n++ {
			to := n % len(s.consumers)
			payload := fmt.Appendf(nil, `{"n":%08d,"status":%s}`, n, status)
			check(b, s.publishers[to%len(s.publishers)].publish(s.fleet.consumers[to].prefix()+"statuses", payload))
		}
	}
	readers.Wait()
	slices.Sort(took)
	return took
}
