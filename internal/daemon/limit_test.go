package daemon_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder/internal/daemon"
)

// Ensure that a limit of the configuration is the broker's: a second
// connection, beyond the one that may be, is closed at once.
func TestLimitIsTheBrokers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := daemon.Init(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	config, err := daemon.LoadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	config.Listen.Auth, config.Listen.API, config.Listen.MQTT = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	config.MQTT.MaxConnections = 1
	d, err := daemon.Start(t.Context(), daemon.Options{Dir: dir, Config: config, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(t.Context())
	address := strings.Replace(strings.TrimPrefix(d.MQTT, "mqtts://"), "localhost", "127.0.0.1", 1)
	var conns []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	_ = conns[1].SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conns[1].Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the second connection: %v", err)
	}
}
