package bench_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// resident is the memory of a process in KiB.
func resident(b *testing.B, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(b, err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	check(b, err)
	return n
}

// settled waits until the memory of a process has not fallen for a while: the
// collector gives memory back some time after a burst.
func settled(b *testing.B, pid int) int {
	least, since := resident(b, pid), time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range tick.C {
		if now := resident(b, pid); now < least-least/200 {
			least, since = now, time.Now()
		}
		if time.Since(since) > 20*time.Second {
			return least
		}
	}
	return 0
}

// BenchmarkConnection reports what an idle consumer costs the server:
// resident memory for each connection with mutual TLS 1.2, one filter and an
// empty mailbox.
func BenchmarkConnection(b *testing.B) {
	for _, n := range []int{2_000, 10_000} {
		b.Run(fmt.Sprintf("idle/%d", n), func(b *testing.B) {
			f := newFleet(b, 1, n)
			before := settled(b, f.pid)
			b.ResetTimer()
			for range b.N {
				begun := time.Now()
				wires := f.joinAll(b, true)
				b.ReportMetric(float64(n)/time.Since(begun).Seconds(), "connects/s")
				b.ReportMetric(float64(settled(b, f.pid)-before)/float64(n), "KiB/connection")
				closeAll(wires)
			}
		})
	}
}
