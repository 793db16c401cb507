//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package mqttpool

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// FileLease returns a lease that is a lock (flock) on a file, which is created
// where it does not exist and must not be removed. Replicas on one machine
// need nothing else; on several machines the file must be on a shared folder
// that passes locks on, as NFS 4 of Linux does. It is free as soon as the
// process that has it ends, however it ends.
func FileLease(path string) Lease {
	return func(ctx context.Context) (<-chan struct{}, func(), error) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, nil, unavailable(err)
		}
		return hold(ctx, func(context.Context) (bool, error) {
			err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
			if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			return true, same(f, path)
		}, func(context.Context) error { return same(f, path) }, func() { _ = f.Close() })
	}
}

// same says whether path is still the file that is locked: another replica
// would lock another file.
func same(f *os.File, path string) error {
	own, err := f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(own, named) {
		return errors.New("the file of the lease was replaced")
	}
	return nil
}
