package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// Postgres says which PostgreSQL database is used instead of a SQLite file.
type Postgres struct {
	DSNFile string `yaml:"dsn_file"` // mode 0600; relative to the data folder
}

// lostLimit is how long requests under way may take when the database is
// lost. Another server becomes active three seconds after the loss at the
// earliest.
const lostLimit = time.Second

// retryEvery is how often a database that was lost is looked for.
const retryEvery = time.Second

// openStore opens the database and takes the data folder. A SQLite file
// belongs to the folder; on PostgreSQL the database is what is competed for,
// and a standby leaves the folder to the one that is active.
func (d *Daemon) openStore(ctx context.Context, o Options) error {
	postgres := o.Config.Database.Postgres
	if postgres != nil {
		path := postgres.DSNFile
		if !filepath.IsAbs(path) {
			path = filepath.Join(o.Dir, path)
		}
		dsn, err := readDSN(path)
		if err != nil {
			return err
		}
		if d.store, err = store.OpenPostgres(ctx, dsn, d.log); err != nil {
			return err
		}
	}
	var err error
	if d.lock, err = lock(o.Dir); err != nil || postgres != nil {
		return err
	}
	d.store, err = store.Open(ctx, filepath.Join(o.Dir, databaseName))
	return err
}

func readDSN(path string) (string, error) {
	dsn, err := keyfile.ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", keyholder.Errorf(keyholder.Invalid, "there is no file %s with the DSN of the database", path).
			WithHint("write the DSN into it, with mode 0600")
	}
	return string(dsn), err
}

// lost says whether the right to use the database is lost.
func (d *Daemon) lost() bool {
	if d.store == nil {
		return false
	}
	select {
	case <-d.store.Lost():
		return true
	default:
		return false
	}
}

// followStore returns when the database is lost, or ctx is done.
func (d *Daemon) followStore(ctx context.Context) error {
	select {
	case <-d.store.Lost():
		return store.ErrLost
	case <-ctx.Done():
		return nil
	}
}

// Serve is Start and Close until ctx is done. Where the database is lost it
// closes every door at once, because nothing that is in memory can be relied
// upon any longer, and starts anew when the database is there again and no
// other server is active on it. ready is called each time every door answers.
// Errors: those of the first Start, and of any part that ends by itself.
func Serve(ctx context.Context, o Options, ready func(*Daemon)) error {
	d, err := Start(ctx, o)
	for err == nil {
		ready(d)
		failed := d.Wait(ctx)
		d.log.Info("stopping")
		closed := d.Close(ctx)
		if !errors.Is(failed, store.ErrLost) {
			return errors.Join(failed, closed)
		}
		d.log.Error("the database was lost; every door is closed until it is there again", "error", failed)
		d, err = restart(ctx, o, d.log)
	}
	if ctx.Err() != nil {
		return nil // told to stop before it was active
	}
	return err
}

// restart is Start as often as it takes the database to be there again.
func restart(ctx context.Context, o Options, log *slog.Logger) (*Daemon, error) {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for before := ""; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		d, err := Start(ctx, o)
		if code := keyholder.CodeOf(err); err == nil || ctx.Err() != nil || code != "" && code != keyholder.Unavailable {
			return d, err
		}
		if text := fmt.Sprint(err, errors.Unwrap(err)); text != before { // an outage may be long
			log.Warn("cannot start again yet", "error", err, "cause", errors.Unwrap(err))
			before = text
		}
	}
}
