package bench_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"sync/atomic"
	"testing"
)

// workers is how many clients ask at the same time.
const workers = 16

// closedLoop runs do by several workers, each waiting for its answer, and
// reports how many were done a second.
func closedLoop(b *testing.B, workers int, do func(worker int) error) {
	b.Helper()
	var next atomic.Int64
	errs := make(chan error, workers)
	b.ResetTimer()
	for w := range workers {
		go func() {
			for next.Add(1) <= int64(b.N) {
				if err := do(w); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "per_s")
}

// BenchmarkToken compares tokens issued over HTTPS by client credentials with
// the cheapest answer of the same server and client, and with signing alone.
func BenchmarkToken(b *testing.B) {
	w := newWorld(b)
	b.Run("client credentials", func(b *testing.B) {
		closedLoop(b, workers, func(int) error {
			_, err := w.token(b.Context())
			return err
		})
	})
	b.Run("bare request to the same listener", func(b *testing.B) {
		closedLoop(b, workers, func(int) error {
			resp, err := w.http.Get(w.Issuer + "/jwks")
			if err != nil {
				return err
			}
			return drain(resp)
		})
	})
	b.Run("ES256 signature on one core", func(b *testing.B) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		hash := sha256.Sum256([]byte("claims"))
		for b.Loop() {
			if _, err := ecdsa.SignASN1(rand.Reader, key, hash[:]); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "per_s")
	})
}

func drain(resp *http.Response) error {
	var buf [4096]byte
	for {
		if _, err := resp.Body.Read(buf[:]); err != nil {
			return resp.Body.Close()
		}
	}
}
