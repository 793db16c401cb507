package mailbox_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
)

// BenchmarkAppend measures durable appends of 512 bytes by concurrent
// callers, each to its own subscription.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			bench := open(b, mailbox.Config{MaxMessages: 1 << 40, MaxBytes: 1 << 40})
			subs := make([]keyholder.SubscriptionID, callers)
			for i := range subs {
				subs[i] = bench.subscribe(fmt.Sprintf("owner-%d", i))
			}
			body := make([]byte, 512)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for _, sub := range subs {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := bench.Append(context.Background(), sub, "events", body); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
		})
	}
}
