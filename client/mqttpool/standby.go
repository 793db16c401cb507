package mqttpool

import (
	"context"

	"github.com/fds-keyholder/keyholder/client/internal/link"
)

// term is a time in which this replica is the active one. Without a lease
// there is one, which never ends.
type term struct {
	ctx   context.Context
	began chan struct{} // closed when it has begun
}

func newTerm() *term { return &term{began: make(chan struct{})} }

// lead waits for the lease, lets the members connect while it is held, and
// stands by again when it is lost, until ctx ends.
func (p *Pool) lead(ctx context.Context) {
	for try := 1; ctx.Err() == nil; {
		lost, release, err := p.cfg.Lease(ctx)
		if err != nil {
			if ctx.Err() == nil {
				p.cfg.Log.Warn("mqtt pool cannot get its lease", "error", err.Error())
			}
			_ = link.Sleep(ctx, link.Jitter(firstRetry, lastRetry, try))
			try++
			continue
		}
		try = 1
		p.cfg.Log.Info("mqtt pool is active")
		during, end := context.WithCancel(ctx)
		p.begin(during)
		select {
		case <-lost:
			p.cfg.Log.Warn("mqtt pool lost its lease and stands by")
		case <-ctx.Done():
		}
		p.mu.Lock()
		p.term = newTerm()
		p.mu.Unlock()
		end() // and its connections
		release()
	}
}

// begin begins a term, which ends with ctx.
func (p *Pool) begin(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.term.ctx = ctx
	close(p.term.began)
}

// awaitTerm waits until this replica is the active one.
func (p *Pool) awaitTerm(ctx context.Context) (*term, error) {
	p.mu.Lock()
	t := p.term
	p.mu.Unlock()
	select {
	case <-t.began:
		return t, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Active says whether this replica may connect: it has the lease, or there is
// none.
func (p *Pool) Active() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.term.began:
		return true
	default:
		return false
	}
}
