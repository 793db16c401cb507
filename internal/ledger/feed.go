package ledger

import (
	"sync"

	"github.com/fds-keyholder/keyholder"
)

// feed hands committed events to followers, in order, on one goroutine. The
// writer only appends to its queue, so a slow follower never delays a commit.
type feed struct {
	mu        sync.Mutex // guards everything below
	wake      *sync.Cond
	queue     []keyholder.Event
	followers []func(keyholder.Event)
	stopping  bool
	done      chan struct{}
}

// Follow registers f to be called with every event committed from now on.
// Calls come one at a time and in order; f should be quick.
func (l *Ledger) Follow(f func(keyholder.Event)) {
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	l.feed.followers = append(l.feed.followers, f)
}

func (f *feed) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wake = sync.NewCond(&f.mu)
	f.done = make(chan struct{})
	go f.run()
}

func (f *feed) push(e keyholder.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wake == nil {
		return // before start nobody follows
	}
	f.queue = append(f.queue, e)
	f.wake.Signal()
}

func (f *feed) run() {
	defer close(f.done)
	for {
		f.mu.Lock()
		for len(f.queue) == 0 && !f.stopping {
			f.wake.Wait()
		}
		events, followers := f.queue, f.followers
		f.queue = nil
		f.mu.Unlock()
		if len(events) == 0 {
			return
		}
		for _, e := range events {
			for _, follow := range followers {
				follow(e)
			}
		}
	}
}

func (f *feed) stop() {
	f.mu.Lock()
	f.stopping = true
	f.wake.Signal()
	f.mu.Unlock()
	<-f.done
}
