package store

import (
	"database/sql"
	"sync/atomic"
	"time"
)

// SQLite appends every commit to a log (WAL) and copies it into the database
// from time to time. Left to itself it does so in the middle of a commit, for
// whose caller, and all behind it, that is a pause of ten and more
// milliseconds. Here a connection of its own copies while the writer goes on.
// The log begins anew only when nothing in it is left to copy, so once it is
// long the writer copies the little that came meanwhile.
const (
	copyEvery = 100 * time.Millisecond
	longLog   = 4096 // pages, 16 MiB
)

// copier copies the log into the database.
type copier struct {
	db    *sql.DB
	dirty atomic.Bool // something was committed since the log was copied
	long  atomic.Bool // the writer is to copy the rest
	quit  chan struct{}
	done  chan struct{}
}

func newCopier(path string) (*copier, error) {
	db, err := openPool(path, "", 1)
	if err != nil {
		return nil, err
	}
	c := &copier{db: db, quit: make(chan struct{}), done: make(chan struct{})}
	go c.run()
	return c, nil
}

func (c *copier) run() {
	defer close(c.done)
	tick := time.NewTicker(copyEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.quit:
			return
		}
		if !c.dirty.Swap(false) {
			continue
		}
		if pages, err := copyLog(c.db); err == nil && pages > longLog {
			c.long.Store(true)
		}
	}
}

// committed is called by the writer after every commit. What goes wrong in
// copying, such as a full disk, is tried again after the next one; nothing is
// lost meanwhile.
func (c *copier) committed(write *sql.DB) {
	c.dirty.Store(true)
	if c.long.Swap(false) {
		_, _ = copyLog(write)
	}
}

// copyLog copies what it can without waiting for anybody and returns how many
// pages the log has.
func copyLog(db *sql.DB) (pages int, err error) {
	var busy, copied int
	err = db.QueryRow("PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &pages, &copied)
	return pages, err
}

func (c *copier) close() error {
	close(c.quit)
	<-c.done
	return c.db.Close()
}
