package publisher

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/internal/link"
)

// firstRetry and lastRetry bound the waits before an item is sent again that
// the server could not take.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// queue keeps what is not acknowledged, in memory, in a lane for each
// destination. It decides what is sent next; the two ways of sending take from
// it and say what came of it.
type queue struct {
	maxWaiting, maxBytes, inFlight int

	wake chan struct{} // holds a token when there may be something to take

	mu       sync.Mutex // guards the fields below and everything in lanes
	lanes    map[string]*lane
	ready    []*lane       // those with something to take, each once, in turn
	room     chan struct{} // closed when there is more room, and replaced
	closed   bool
	bytes    int
	items    int
	underWay int
	durable  uint64
	failed   uint64
	again    uint64
	unpushed uint64
}

// lane is what one destination has not acknowledged. It exists while there is
// something.
type lane struct {
	to       string
	turn     chan struct{} // held by the call that waits for room, so that calls keep their order
	waiters  int           // calls that have or want the turn
	entries  []*entry      // in the order of sending
	bytes    int
	underWay int
	listed   bool // in ready
	// What the server had no room for must not be overtaken any further: from
	// then on entries go one at a time, until all are gone.
	careful bool
	tries   int   // failures since the last success
	trouble error // of the last failure
	resting bool  // nothing is sent before a timer ends it
}

// entry is one item that is not acknowledged.
type entry struct {
	lane     *lane
	item     Item
	delivery *Delivery
	index    int // in the call
	state    state
	tried    bool
}

type state byte

const (
	waiting state = iota
	underWay
	over
)

// Delivery is what comes of the items of one call.
type Delivery struct {
	to   string
	done chan struct{}
	// Guarded by the queue's mutex until done is closed.
	left   int
	failed []int
	err    error
}

// Done is closed when every item is acknowledged or given up.
func (d *Delivery) Done() <-chan struct{} { return d.done }

// Err returns nil before Done is closed, and if all items are durable; else an
// [*Error].
func (d *Delivery) Err() error {
	select {
	case <-d.done:
	default:
		return nil
	}
	if len(d.failed) == 0 {
		return nil
	}
	return &Error{To: d.to, Items: d.failed, Err: d.err}
}

func newQueue(maxWaiting, maxBytes, inFlight int) *queue {
	return &queue{maxWaiting: maxWaiting, maxBytes: maxBytes, inFlight: inFlight,
		wake: make(chan struct{}, 1), lanes: map[string]*lane{}, room: make(chan struct{})}
}

// add takes the items of one call as soon as there is room for them.
func (q *queue) add(ctx context.Context, to string, items []Item) (*Delivery, error) {
	size := 0
	for _, item := range items {
		size += len(item.Payload)
	}
	if len(items) > q.maxWaiting || size > q.maxBytes/4 {
		return nil, keyholder.Errorf(keyholder.Invalid, "more items at once than may wait for one destination: %d items, %d bytes", q.maxWaiting, q.maxBytes/4).
			WithHint("send them in several calls")
	}
	l := q.join(to)
	defer q.leave(l)
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, q.noRoom(l, ctx.Err())
	}
	for {
		d, room, err := q.tryAdd(l, items, size)
		if d != nil || err != nil {
			return d, err
		}
		select {
		case <-room:
		case <-ctx.Done():
			return nil, q.noRoom(l, ctx.Err())
		}
	}
}

// join returns the lane of a destination and keeps it there until leave.
func (q *queue) join(to string) *lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[to]
	if l == nil {
		l = &lane{to: to, turn: make(chan struct{}, 1)}
		q.lanes[to] = l
	}
	l.waiters++
	return l
}

func (q *queue) leave(l *lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.waiters--
	q.drop(l)
}

// drop removes a lane that nothing needs. The caller holds mu.
func (q *queue) drop(l *lane) {
	if len(l.entries) == 0 && l.waiters == 0 {
		delete(q.lanes, l.to)
	}
}

// tryAdd takes items if there is room; else it returns what is closed when
// there is more.
func (q *queue) tryAdd(l *lane, items []Item, size int) (*Delivery, <-chan struct{}, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return nil, nil, ErrClosed
	case len(l.entries)+len(items) > q.maxWaiting, l.bytes+size > q.maxBytes/4, q.bytes+size > q.maxBytes:
		return nil, q.room, nil
	}
	d := &Delivery{to: l.to, done: make(chan struct{}), left: len(items)}
	if len(items) == 0 {
		close(d.done)
		return d, nil, nil
	}
	for i, item := range items {
		l.entries = append(l.entries, &entry{lane: l, item: item, delivery: d, index: i})
	}
	l.bytes += size
	q.bytes += size
	q.items += len(items)
	q.list(l)
	return d, nil, nil
}

func (q *queue) noRoom(l *lane, cause error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l.trouble != nil {
		cause = fmt.Errorf("%w: %w", cause, l.trouble)
	}
	return &keyholder.Error{Code: keyholder.Unavailable, Detail: "there was no room for the items in time", Err: cause}
}

// list puts a lane among the ready ones if something of it may be sent. The
// caller holds mu.
func (q *queue) list(l *lane) {
	if l.listed || l.resting || l.underWay >= q.window(l) || l.next() < 0 {
		return
	}
	l.listed = true
	q.ready = append(q.ready, l)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// window is how many entries of a lane may be under way.
func (q *queue) window(l *lane) int {
	if l.careful {
		return 1
	}
	return q.inFlight
}

// next returns the index of the first entry that is not under way, or -1.
func (l *lane) next() int {
	return slices.IndexFunc(l.entries, func(e *entry) bool { return e.state == waiting })
}

// take returns what is to be sent now, entries of one lane of one level: over
// MQTT one, over HTTPS up to the bounds of a request. It returns nil if there
// is nothing.
func (q *queue) take(most, mostBytes int) []*entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ready) > 0 {
		l := q.ready[0]
		q.ready[0] = nil
		q.ready = q.ready[1:]
		l.listed = false
		i := l.next()
		if i < 0 || l.resting || l.underWay >= q.window(l) {
			continue
		}
		var batch []*entry
		bytes := 0
		for _, e := range l.entries[i:] {
			bytes += len(e.item.Payload)
			if len(batch) > 0 && (len(batch) == most || bytes > mostBytes || e.item.Level != batch[0].item.Level) {
				break
			}
			if e.state = underWay; e.tried {
				q.again++
			}
			e.tried = true
			batch = append(batch, e)
		}
		l.underWay += len(batch)
		q.underWay += len(batch)
		q.list(l)
		return batch
	}
	return nil
}

// pending signals a taker if there is something to take.
func (q *queue) pending() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ready) > 0 {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// settle ends entries that were under way: they are durable, or err is final.
func (q *queue) settle(err error, entries ...*entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range entries {
		e.lane.underWay--
		q.underWay--
		if err == nil {
			e.lane.tries, e.lane.trouble = 0, nil
		}
		q.end(e, err)
	}
	q.tidy(entries[0].lane)
}

// end takes an entry out of all sums. The caller holds mu and tidies the lane.
func (q *queue) end(e *entry, err error) {
	e.state = over
	e.lane.bytes -= len(e.item.Payload)
	q.bytes -= len(e.item.Payload)
	q.items--
	d := e.delivery
	if err == nil {
		q.durable++
	} else {
		q.failed++
		d.failed = append(d.failed, e.index)
		if d.err == nil {
			d.err = err
		}
	}
	if d.left--; d.left == 0 {
		slices.Sort(d.failed)
		close(d.done)
	}
	e.item.Payload = nil
}

// tidy removes what is over from the front of a lane and lets what waits for
// it go on. The caller holds mu.
func (q *queue) tidy(l *lane) {
	n := 0
	for n < len(l.entries) && l.entries[n].state == over {
		l.entries[n] = nil
		n++
	}
	if l.entries = l.entries[n:]; len(l.entries) == 0 {
		l.entries, l.careful = nil, false
	}
	q.drop(l)
	q.list(l)
	close(q.room)
	q.room = make(chan struct{})
}

// putBack makes entries of one lane wait that were under way: the server could
// not take them now. They are sent again after a while, at least atLeast. It
// says whether this is the first failure since something was taken.
func (q *queue) putBack(cause error, atLeast time.Duration, entries ...*entry) (first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := entries[0].lane
	for _, e := range entries {
		e.state = waiting
	}
	l.underWay -= len(entries)
	q.underWay -= len(entries)
	l.careful, l.trouble = true, cause
	if l.resting {
		return false // several that were under way fail together, which is one failure
	}
	l.tries++
	l.resting = true
	time.AfterFunc(max(atLeast, link.Jitter(firstRetry, lastRetry, l.tries)), func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		l.resting = false
		q.list(l)
	})
	return l.tries == 1
}

// lost makes everything wait that was under way: the connection is gone.
func (q *queue) lost() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lanes {
		for _, e := range l.entries {
			if e.state == underWay {
				e.state = waiting
			}
		}
		l.underWay = 0
		q.list(l)
	}
	q.underWay = 0
}

// settled says whether an entry is over.
func (e *entry) settled(q *queue) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return e.state == over
}

func (q *queue) countUnpushed(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unpushed += uint64(n)
}

// withdraw takes what is not under way of a call out of the queue and returns
// the error of the call.
func (q *queue) withdraw(d *Delivery, cause error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[d.to]
	if d.left == 0 || l == nil {
		return d.Err()
	}
	if l.trouble != nil {
		cause = fmt.Errorf("%w: %w", cause, l.trouble)
	}
	err := unavailable(d.left, cause)
	for _, e := range l.entries {
		if e.delivery == d && e.state == waiting {
			q.end(e, err)
		}
	}
	l.entries = slices.DeleteFunc(l.entries, func(e *entry) bool { return e.state == over })
	q.tidy(l)
	return err
}

// deliveries returns those that are not done.
func (q *queue) deliveries() []*Delivery {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []*Delivery
	for _, l := range q.lanes {
		for _, e := range l.entries {
			if e.state != over && (len(out) == 0 || out[len(out)-1] != e.delivery) {
				out = append(out, e.delivery)
			}
		}
	}
	return out
}

func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.items
}

// close refuses what comes from now on.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	close(q.room)
	q.room = make(chan struct{})
}

// giveUp ends everything that is left. Nothing is under way any more.
func (q *queue) giveUp() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lanes {
		for _, e := range l.entries {
			if e.state != over {
				q.end(e, ErrClosed)
			}
		}
		l.entries, l.underWay = nil, 0
	}
	clear(q.lanes)
	q.underWay = 0
}

// describe fills in what the queue knows.
func (q *queue) describe(h *Health) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h.Waiting, h.Bytes, h.UnderWay = q.items, q.bytes, q.underWay
	h.Durable, h.Failed, h.Again, h.Unpushed = q.durable, q.failed, q.again, q.unpushed
	for to, l := range q.lanes {
		if l.trouble == ErrFull { //nolint:errorlint // it is put there as it is
			h.Full = append(h.Full, to)
		}
	}
	slices.Sort(h.Full)
}
