package bench_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// BenchmarkPublish compares QoS 1 publishes, each into the queue of a consumer
// that is away, so that every broker has to keep it. All but Mosquitto have it
// on disk, or are told to, when they acknowledge.
func BenchmarkPublish(b *testing.B) {
	const most = 64
	for _, broker := range brokers {
		b.Run(broker.name, func(b *testing.B) {
			f := broker.start(b, most, 4*most)
			for _, w := range f.joinAll(b, false) {
				w.leave()
			}
			publishers := f.dialAll(b)
			for _, l := range []load{{1, 1}, {1, 64}, {16, 1}, {64, 1}} {
				b.Run(l.String(), func(b *testing.B) { f.pump(b, publishers[:l.connections], l.inFlight) })
			}
		})
	}
}

// load is how many connections publish, and how many publishes each keeps
// unacknowledged.
type load struct{ connections, inFlight int }

func (l load) String() string {
	return fmt.Sprintf("connections=%d/in_flight=%d", l.connections, l.inFlight)
}

// status is what is published.
const status = `{"device_id":"FORKINC_D0001_9236","generic":{"device_type":"dispenser","date_time":"2026-03-02T05:08:46Z"},"device_type_specific":{"filling_level":95,"battery_level":75}}`

// pump publishes b.N messages, closed loop: each connection keeps its number
// unacknowledged and waits.
func (f *fleet) pump(b *testing.B, publishers []*wire, inFlight int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	for i, w := range publishers {
		topics := f.topics(i)
		wg.Go(func() {
			for sent, underway := 0, 0; ; underway-- {
				for ; underway < inFlight && left.Add(-1) >= 0; underway++ {
					if err := w.publish(topics[sent%len(topics)], []byte(status)); err != nil {
						b.Error(err)
						return
					}
					sent++
				}
				if underway == 0 {
					return
				}
				if pk, err := w.read(); err != nil || pk.FixedHeader.Type != packets.Puback {
					b.Errorf("PUBLISH was answered by type %d, %v", pk.FixedHeader.Type, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "per_s")
}
