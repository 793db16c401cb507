package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Times of the lease. The active process asks its session for a sign of life
// every leaseBeat. Without one for leaseTerm it has lost the lease, and the
// server ends a session that is silent for as long. A standby that gets the
// lock waits leaseWait before it acts, so that the process before it has
// closed its doors even where it only lost its way to the server.
const (
	leaseBeat = time.Second
	leaseTerm = 5 * time.Second
	leaseWait = leaseTerm + 3*time.Second
)

// leaseKey names the advisory lock of a database. Its value means nothing.
const leaseKey = 0x4b484c44

// lease is the right to write to a PostgreSQL database: an advisory lock that
// belongs to one session, which is also the one that writes. So a process
// that has lost the lock has lost its way to write.
type lease struct {
	conn *sql.Conn
	busy sync.Mutex // held while conn is used

	heard    atomic.Int64 // when what was last answered was sent, in Unix nanoseconds
	wire     atomic.Pointer[net.Conn]
	lost     chan struct{} // closed when the lease is lost
	lose     func()        // closes it, once
	quit     chan struct{}
	watching sync.WaitGroup
}

func newLease() *lease {
	l := &lease{lost: make(chan struct{}), quit: make(chan struct{})}
	l.lose = sync.OnceFunc(func() {
		close(l.lost)
		// A statement may wait for an answer that never comes.
		if wire := l.wire.Load(); wire != nil {
			_ = (*wire).Close()
		}
	})
	return l
}

// answered notes that the server has answered what was sent then.
func (l *lease) answered(sent time.Time) { l.heard.Store(sent.UnixNano()) }

// acquire opens the writing session and waits until it has the lock, as long
// as that takes. Once it has to wait, it connects again where it must.
func (l *lease) acquire(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	for standby := false; ; standby = true {
		locked, err := l.lock(ctx, db)
		switch {
		case err != nil && !standby:
			return unreachable(err)
		case locked:
			l.watching.Go(l.watch)
			if !standby {
				return nil
			}
			log.Info("the keyholder that was active has ended; taking over", "in", leaseWait)
			return l.pause(ctx, leaseWait)
		case !standby:
			log.Info("standby: another keyholder is active on this database")
		}
		if err := l.pause(ctx, leaseBeat); err != nil {
			return err
		}
	}
}

// lock tries to get the lock, in a new session if there is none.
func (l *lease) lock(ctx context.Context, db *sql.DB) (bool, error) {
	if l.conn == nil {
		var err error
		if l.conn, err = db.Conn(ctx); err != nil {
			return false, err
		}
	}
	locked, err := l.ask(ctx, time.Now(), "SELECT pg_try_advisory_lock(?)")
	if err != nil {
		_ = l.conn.Close()
		l.conn = nil
	}
	return locked, err
}

// pause waits, unless the lease is lost meanwhile.
func (l *lease) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-l.lost:
		return ErrLost
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watch asks for signs of life until the lease is lost or closed. While the
// writer is at work its statements are the signs.
func (l *lease) watch() {
	tick := time.NewTicker(leaseBeat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.quit:
			return
		}
		if l.busy.TryLock() {
			l.confirm()
			l.busy.Unlock()
		}
		if time.Since(time.Unix(0, l.heard.Load())) > leaseTerm {
			l.lose()
		}
	}
}

// confirm loses the lease unless its session answers that it has the lock.
// The caller holds busy.
func (l *lease) confirm() {
	held, err := l.ask(context.Background(), time.Unix(0, l.heard.Load()), "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid = ?)")
	if err != nil || !held {
		l.lose()
	}
}

// ask asks the session a question about the lock, until leaseTerm after since.
func (l *lease) ask(ctx context.Context, since time.Time, question string) (bool, error) {
	ctx, cancel := context.WithDeadline(ctx, since.Add(leaseTerm))
	defer cancel()
	var yes bool
	err := l.conn.QueryRowContext(ctx, question, leaseKey).Scan(&yes)
	return yes, err
}

// close gives the lock back.
func (l *lease) close() error {
	if l.conn == nil {
		return nil
	}
	close(l.quit)
	l.watching.Wait()
	if err := l.conn.Close(); !errors.Is(err, sql.ErrConnDone) { // which is how it ends when it is lost
		return err
	}
	return nil
}
