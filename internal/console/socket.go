package console

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/fds-keyholder/keyholder"
)

// SocketName is the name of the admin socket in the data folder.
const SocketName = "admin.sock"

// maxSocketPath is the length of a path that every system takes for a Unix
// socket (104 bytes on some, 108 on Linux, with a final zero).
const maxSocketPath = 103

// Listen opens the admin socket of a data folder, for its owner only (mode
// 0600; the folder itself is 0700). The caller holds the folder's lock, so a
// socket that is there was left by a server that was killed, and is replaced.
func Listen(dir string) (net.Listener, error) {
	path := filepath.Join(dir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove an old admin socket: %w", err)
	}
	var ln net.Listener
	err := throughFolder(dir, func(path string) error {
		var err error
		ln, err = net.Listen("unix", path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the admin socket: %w", err), ln.Close())
	}
	return ln, nil
}

// throughFolder calls use with a path of the socket that is short enough. A
// long one is taken through the open folder where the system can do that.
func throughFolder(dir string, use func(path string) error) error {
	path := filepath.Join(dir, SocketName)
	if len(path) <= maxSocketPath {
		return use(path)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	short := fmt.Sprintf("/proc/self/fd/%d", d.Fd())
	if _, err := os.Stat(short); err != nil {
		return keyholder.Errorf(keyholder.Invalid, "the path of the data folder is too long for a Unix socket on this system").
			WithHint("use a folder with a path of less than %d bytes, or a symbolic link to it", maxSocketPath-len(SocketName))
	}
	return use(filepath.Join(short, SocketName))
}
