package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/fds-keyholder/keyholder"
)

// maxBatch bounds how many changes share one commit.
const maxBatch = 256

// Tx is the transaction a change runs in. It is used only within the change
// and only by its goroutine.
type Tx struct {
	*sql.Tx
	after []func()
}

// After registers f to run once the transaction is durable, before the caller
// of Write gets its answer and before any later change runs: the place to
// bring a view in memory up to date. Of a change that fails nothing runs. f
// must not block and must not call Write.
func (tx *Tx) After(f func()) { tx.after = append(tx.after, f) }

// change is one caller's work and where its answer goes.
type change struct {
	do    func(*Tx) error
	alone bool
	err   chan error
	after []func()
}

// Write runs do in a transaction and returns nil only when its effect is on
// disk. Changes of concurrent callers share a commit; each has its own
// savepoint, so an error of one undoes that one alone and is returned as it
// is. A failed commit returns an error of code Unavailable to all that shared
// it, and nothing of them remains; only where the connection to PostgreSQL
// breaks while it commits can the changes be there all the same. ctx is heeded until the change is
// accepted; after that its outcome is awaited, so that an answer is never a
// guess. do must use only its transaction and must not call Write.
func (s *Store) Write(ctx context.Context, do func(*Tx) error) error {
	return s.submit(ctx, &change{do: do, err: make(chan error, 1)})
}

// WriteAlone is Write in a transaction of its own: everything accepted before
// is committed first, and what was registered with After has run before the
// next change begins. Changes of rights use it, so that a view kept in memory
// is exact while any change runs.
func (s *Store) WriteAlone(ctx context.Context, do func(*Tx) error) error {
	return s.submit(ctx, &change{do: do, alone: true, err: make(chan error, 1)})
}

func (s *Store) submit(ctx context.Context, c *change) error {
	if err := s.enqueue(ctx, c); err != nil {
		return err
	}
	return <-c.err
}

func (s *Store) enqueue(ctx context.Context, c *change) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return errClosed
	}
	select {
	case s.queue <- c:
		return nil
	case <-s.Lost():
		return ErrLost
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writer owns the writing connection: it takes what waits, applies it and
// commits once.
func (s *Store) writer() {
	defer close(s.done)
	for first := range s.queue {
		var alone *change
		batch := []*change{first}
		if first.alone {
			batch, alone = nil, first
		}
		for alone == nil && len(batch) < maxBatch {
			c, ok := s.waiting()
			if !ok {
				break
			}
			if c.alone {
				alone = c
				break
			}
			batch = append(batch, c)
		}
		if len(batch) > 0 {
			s.commit(batch)
		}
		if alone != nil {
			s.commit([]*change{alone})
		}
	}
}

// waiting returns the next change if one is waiting already.
func (s *Store) waiting() (*change, bool) {
	select {
	case c, ok := <-s.queue:
		return c, ok
	default:
		return nil, false
	}
}

// commit applies a batch and answers every caller.
func (s *Store) commit(batch []*change) {
	applied, err := s.applyLeased(batch)
	for _, c := range applied {
		if err == nil {
			for _, f := range c.after {
				f()
			}
		}
		c.err <- err
	}
	if s.log != nil {
		s.log.committed(s.write)
	}
}

// applyLeased is apply, where there is a lease under it: a failure may be the
// first sign that it is lost, and then the callers are told no sooner than
// everybody else.
func (s *Store) applyLeased(batch []*change) ([]*change, error) {
	if s.lease == nil {
		return s.apply(batch)
	}
	s.lease.busy.Lock()
	defer s.lease.busy.Unlock()
	applied, err := s.apply(batch)
	if err != nil {
		s.lease.confirm()
	}
	return applied, err
}

// apply runs the batch in one transaction. Callers whose own change failed
// are answered here; the rest are returned with the outcome of the commit.
func (s *Store) apply(batch []*change) ([]*change, error) {
	sqlTx, err := s.begin(context.Background(), nil)
	if err != nil {
		return batch, unavailable(err)
	}
	var applied []*change
	var failed error
	for i, c := range batch {
		tx := &Tx{Tx: sqlTx}
		switch failed = runChange(tx, c.do, len(batch) > 1); {
		case failed == nil:
			c.after = tx.after
			applied = append(applied, c)
		case errors.As(failed, new(*brokenTx)):
			// The transaction itself is lost: nobody in it has anything.
			return append(applied, batch[i:]...), errors.Join(unavailable(failed), ignoreDone(sqlTx.Rollback()))
		default:
			c.err <- failed
		}
	}
	if len(applied) == 0 {
		return nil, ignoreDone(sqlTx.Rollback())
	}
	if err := sqlTx.Commit(); err != nil {
		return applied, errors.Join(unavailable(err), ignoreDone(sqlTx.Rollback()))
	}
	return applied, nil
}

// brokenTx marks a failure of the shared transaction, not of one change.
type brokenTx struct{ err error }

func (b *brokenTx) Error() string { return b.err.Error() }
func (b *brokenTx) Unwrap() error { return b.err }

// runChange runs one change, behind a savepoint if it shares the transaction
// with others; an error goes back to that. A panic of the change becomes its
// error: the writer serves everybody and must live.
func runChange(tx *Tx, do func(*Tx) error, shares bool) error {
	mark := func(statement string) error {
		if !shares {
			return nil
		}
		if _, err := tx.Exec(statement); err != nil {
			return &brokenTx{err}
		}
		return nil
	}
	if err := mark("SAVEPOINT change"); err != nil {
		return err
	}
	err := func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("panic in a change: %v\n%s", r, debug.Stack())
			}
		}()
		return do(tx)
	}()
	if err != nil {
		if back := mark("ROLLBACK TO change"); back != nil {
			return errors.Join(err, back)
		}
	}
	if lost := mark("RELEASE change"); lost != nil {
		return lost
	}
	return err
}

func unavailable(err error) error {
	return &keyholder.Error{Code: keyholder.Unavailable, Detail: "the database did not take the change",
		Hint: "check that the database runs, and the free space and health of its disk, then try again", Err: err}
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}
