package mqttpool

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/fds-keyholder/keyholder"
)

const (
	// leasePoll is how often a replica that stands by asks for the lease.
	leasePoll = 500 * time.Millisecond
	// leaseBeat is how often a replica that has the lease asks whether it still
	// has it, and leaseWithin how long the answer may take.
	leaseBeat   = 2 * time.Second
	leaseWithin = 5 * time.Second
)

// Lease decides which one of an app's replicas connects. A call waits until
// this replica may, or ctx ends. lost is closed when it no longer may; release
// gives the lease back, and is called once, also after lost was closed.
//
// A lease need not be perfect: the broker itself has at most one connection
// for each subscription, and the last one to come wins. If two replicas
// believe for a while that they have the lease, items are handled twice at
// most, as they may be anyway.
type Lease func(ctx context.Context) (lost <-chan struct{}, release func(), err error)

// PostgresLease returns a lease that is an advisory lock in a PostgreSQL
// database that all replicas reach: whoever has it keeps a connection of db.
// It is free as soon as that connection ends. key names the lock in the
// database.
func PostgresLease(db *sql.DB, key int64) Lease {
	return func(ctx context.Context) (<-chan struct{}, func(), error) {
		conn, err := db.Conn(ctx)
		if err != nil {
			return nil, nil, unavailable(err)
		}
		return hold(ctx, func(ctx context.Context) (held bool, err error) {
			err = conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1)", key).Scan(&held)
			return held, err
		}, func(ctx context.Context) error { return conn.PingContext(ctx) }, func() {
			ctx, cancel := context.WithTimeout(context.Background(), leaseWithin)
			defer cancel()
			// A connection goes back to db, so the lock would live on.
			_, _ = conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", key)
			_ = conn.Close()
		})
	}
}

// hold takes a lease by asking again and again, and watches it afterwards.
// free is called in the end, whatever happens.
func hold(ctx context.Context, try func(context.Context) (bool, error), check func(context.Context) error, free func()) (<-chan struct{}, func(), error) {
	poll := time.NewTicker(leasePoll)
	defer poll.Stop()
	for {
		held, err := try(ctx)
		if err != nil {
			free()
			return nil, nil, unavailable(err)
		}
		if held {
			break
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			free()
			return nil, nil, ctx.Err()
		}
	}
	lost, done := make(chan struct{}), make(chan struct{})
	watching, stop := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		if watch(watching, check) != nil && watching.Err() == nil {
			close(lost)
		}
	}()
	return lost, func() { stop(); <-done; free() }, nil
}

// watch checks until a check fails or ctx ends.
func watch(ctx context.Context, check func(context.Context) error) error {
	beat := time.NewTicker(leaseBeat)
	defer beat.Stop()
	for {
		select {
		case <-beat.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		within, cancel := context.WithTimeout(ctx, leaseWithin)
		err := check(within)
		cancel()
		if err != nil {
			return err
		}
	}
}

func unavailable(err error) error {
	return &keyholder.Error{Code: keyholder.Unavailable, Detail: "the lease cannot be asked for", Err: fmt.Errorf("lease: %w", err)}
}
