package console_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
)

// Ensure that the socket is the owner's only, replaces one that a killed
// server left, and works under a path that is too long for a Unix socket.
func TestSocket(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{t.TempDir(), long} {
		stale, err := console.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		stale.(*net.UnixListener).SetUnlinkOnClose(false)
		if err := stale.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = console.Dial(dir)
		codeIs(t, "a socket nobody serves", err, keyholder.Unavailable, "keyholder serve")
		b := openIn(t, dir)
		info, err := os.Stat(filepath.Join(dir, console.SocketName))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if _, err := b.Providers(context.Background()); err != nil {
			t.Errorf("%d bytes of path: %v", len(dir), err)
		}
	}
}

// Ensure that a missing folder and a stopped server are told apart, both as
// unavailable with a hint.
func TestDialNobody(t *testing.T) {
	dir := t.TempDir()
	_, err := console.Dial(dir)
	codeIs(t, "no server", err, keyholder.Unavailable, "keyholder serve")
	_, err = console.Dial(filepath.Join(dir, "none"))
	codeIs(t, "no folder", err, keyholder.Unavailable, "keyholder init")
	b := open(t)
	if err := b.server.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = b.Providers(context.Background())
	codeIs(t, "server gone", err, keyholder.Unavailable, "")
}
