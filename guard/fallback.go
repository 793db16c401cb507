package guard

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fds-keyholder/keyholder"
)

const (
	// answerMemory is how long the answer of an introspection is used, and
	// how long after a failed one no other is tried.
	answerMemory = time.Second
	// maxAnswers bounds how many answers are remembered.
	maxAnswers = 10_000
)

// heartbeat remembers the last sign of life of a feed. It is read on every
// request.
type heartbeat struct{ at atomic.Pointer[time.Time] }

func (h *heartbeat) beat(now time.Time) { h.at.Store(&now) }

// last returns the zero time if there was none.
func (h *heartbeat) last() time.Time {
	if at := h.at.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// fallback asks the issuer about each token while its feed is silent. Callers
// with the same token share one question.
type fallback struct {
	introspector *introspector
	now          func() time.Time

	mu      sync.Mutex // guards the rest
	answers map[hash]*answer
	failed  time.Time // when an introspection failed last
	failure error
}

// answer is the answer about one token, once done is closed.
type answer struct {
	done chan struct{}
	at   time.Time
	err  error // nil: the token is active
}

// ask returns nil if the token is active. The error is of code Denied if it
// is not, and Unavailable if that cannot be found out.
func (f *fallback) ask(ctx context.Context, raw string, sum hash) error {
	f.mu.Lock()
	now := f.now()
	a, ok := f.answers[sum]
	switch {
	case ok && (a.at.IsZero() || now.Sub(a.at) < answerMemory):
	case f.failure != nil && now.Sub(f.failed) < answerMemory:
		err := f.failure
		f.mu.Unlock()
		return err
	default:
		a = f.start(ctx, raw, sum, now)
	}
	f.mu.Unlock()
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return unavailable("the answer about the token did not come in time", ctx.Err())
	}
}

// start begins an introspection. It does not end with the request that began
// it, as others wait for it too. The caller holds mu.
func (f *fallback) start(ctx context.Context, raw string, sum hash, now time.Time) *answer {
	if f.answers == nil || len(f.answers) >= maxAnswers {
		// Those under way are answered all the same, only no longer shared.
		kept := make(map[hash]*answer)
		maps.Copy(kept, f.answers)
		maps.DeleteFunc(kept, func(_ hash, a *answer) bool { return !a.at.IsZero() && now.Sub(a.at) >= answerMemory })
		if len(kept) >= maxAnswers {
			clear(kept)
		}
		f.answers = kept
	}
	a := &answer{done: make(chan struct{})}
	f.answers[sum] = a
	ctx = context.WithoutCancel(ctx)
	go func() {
		_, err := f.introspector.ask(ctx, raw)
		f.mu.Lock()
		defer f.mu.Unlock()
		a.err, a.at = err, f.now()
		if keyholder.CodeOf(err) == keyholder.Unavailable {
			f.failed, f.failure = a.at, err
		} else {
			f.failure = nil
		}
		close(a.done)
	}()
	return a
}
