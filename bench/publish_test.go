package bench_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// publisher is one connection that publishes to one topic.
type publisher struct {
	mqtt  *paho.Client
	topic string
}

func connect(b *testing.B, address string, c *tls.Config, id, topic string) publisher {
	b.Helper()
	conn, err := tls.Dial("tcp", address, c)
	if err != nil {
		b.Fatal(err)
	}
	m := paho.NewClient(paho.ClientConfig{ClientID: id, Conn: packets.NewThreadSafeConn(conn), PacketTimeout: 30 * time.Second})
	if _, err := m.Connect(b.Context(), &paho.Connect{ClientID: id, CleanStart: true, KeepAlive: 60}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = m.Disconnect(&paho.Disconnect{}) })
	return publisher{m, topic}
}

// BenchmarkPublish compares QoS 1 publishes that are on disk when they are
// acknowledged with those of Mosquitto, which acknowledges from memory. Nobody
// consumes.
func BenchmarkPublish(b *testing.B) {
	payload := []byte(`{"device_id":"FORKINC_D0001_9236","generic":{"device_type":"dispenser","date_time":"2026-03-02T05:08:46Z"},"device_type_specific":{"filling_level":95,"battery_level":75}}`)
	run := func(b *testing.B, publishers []publisher) {
		closedLoop(b, len(publishers), func(w int) error {
			ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
			defer cancel()
			_, err := publishers[w].mqtt.Publish(ctx, &paho.Publish{QoS: 1, Topic: publishers[w].topic, Payload: payload})
			return err
		})
	}
	for _, l := range []load{{1, 1}, {1, 64}, {16, 1}, {64, 1}} {
		b.Run(fmt.Sprintf("keyholder durable/%s", l), func(b *testing.B) {
			w := newWorld(b)
			var publishers []publisher
			for i := range l.connections {
				p := w.AddProvider(fmt.Sprintf("Provider %d", i))
				sub := w.AddSubscription(w.AddAgreement(p.ID, w.owner.ID), w.app.ID, "")
				publishers = append(publishers, connect(b, strings.TrimPrefix(w.MQTT, "mqtts://"), w.TLS(w.Certificate(keyholder.ForProvider, string(p.ID))),
					string(p.ID), keyholder.Topic{Subscription: sub, Level: "statuses"}.String()))
			}
			run(b, slices.Repeat(publishers, l.inFlight))
		})
		b.Run(fmt.Sprintf("mosquitto in memory/%s", l), func(b *testing.B) {
			address, c := startMosquitto(b)
			var publishers []publisher
			for i := range l.connections {
				publishers = append(publishers, connect(b, address, c, fmt.Sprintf("p%d", i), fmt.Sprintf("fds/v2/%d/statuses", i)))
			}
			run(b, slices.Repeat(publishers, l.inFlight))
		})
	}
}

// load is how many connections publish, and how many publishes each keeps
// unacknowledged.
type load struct{ connections, inFlight int }

func (l load) String() string {
	return fmt.Sprintf("connections=%d/in_flight=%d", l.connections, l.inFlight)
}

// startMosquitto runs Debian's broker with mutual TLS on a free port.
func startMosquitto(b *testing.B) (string, *tls.Config) {
	b.Helper()
	path := "/usr/sbin/mosquitto"
	if _, err := os.Stat(path); err != nil {
		path = keyholdertest.RequireProgram(b, "mosquitto")
	}
	s := keyholdertest.Start(b) // for its certificates only
	provider := s.AddProvider("Provider")
	certPEM, keyPEM := s.CertificatePEM(keyholder.ForProvider, string(provider.ID))
	client, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := ln.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	if err := ln.Close(); err != nil {
		b.Fatal(err)
	}
	// The provider's certificate serves as the server's here: a broker's
	// speed does not depend on the name in it.
	for name, data := range map[string]string{"ca.pem": s.RootPEM(), "cert.pem": string(certPEM), "key.pem": string(keyPEM),
		"mosquitto.conf": fmt.Sprintf("listener %s 127.0.0.1\ncafile %[2]s/ca.pem\ncertfile %[2]s/cert.pem\nkeyfile %[2]s/key.pem\nrequire_certificate true\nallow_anonymous true\ntls_version tlsv1.2\nuser root\n", port, dir)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	cmd := exec.CommandContext(b.Context(), path, "-c", filepath.Join(dir, "mosquitto.conf"))
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	c := s.TLS(client)
	c.InsecureSkipVerify = true // the name, see above; this measures speed only
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if conn, err := tls.Dial("tcp", address, c); err == nil {
			_ = conn.Close()
			return address, c
		}
		if time.Now().After(deadline) {
			b.Fatal("mosquitto does not listen")
		}
	}
	return "", nil
}
