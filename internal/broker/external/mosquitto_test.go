package external_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/broker/external"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// hall is a Mosquitto of Debian with the generated configuration, in a folder
// where Keyholder writes its rights.
type hall struct {
	t          testing.TB
	dir        string
	mqtt       string
	management string // the listener for Keyholder
	*keyholdertest.Server
}

func startMosquitto(t testing.TB, s *keyholdertest.Server) *hall {
	t.Helper()
	program := keyholdertest.RequireProgram(t, "mosquitto")
	h := &hall{t: t, dir: t.TempDir(), mqtt: "127.0.0.1:" + freePort(t), management: "127.0.0.1:" + freePort(t), Server: s}
	certPEM, keyPEM := s.ServerCertificatePEM("127.0.0.1")
	write(t, filepath.Join(h.dir, "server.pem"), string(certPEM))
	write(t, filepath.Join(h.dir, "server.key"), string(keyPEM))
	write(t, filepath.Join(h.dir, "keyholder-ca.pem"), s.RootPEM())
	write(t, filepath.Join(s.Dir, "hall.secret"), askedSecret)
	files, err := external.Generate(external.Mosquitto, external.Plan{Name: "hall", Folder: h.dir, MQTT: h.mqtt, Management: h.management})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text := f.Text
		if f.Name == "mosquitto.conf" && os.Geteuid() == 0 {
			text = "user root\n" + text // otherwise it becomes a user who cannot read the test's folder
		}
		write(t, filepath.Join(h.dir, f.Name), text)
	}
	s.UseBrokers(fmt.Sprintf(`[{name: hall, kind: mosquitto, api: ["mqtts://%s"], user: keyholder, secret_file: hall.secret, ca_file: %q, folder: %q, pid_file: %q}]`,
		h.management, filepath.Join(h.dir, "keyholder-ca.pem"), h.dir, filepath.Join(h.dir, "mosquitto.pid")))
	eventually(t, "Keyholder writes the files", 10*time.Second, func() bool {
		_, err := os.Stat(filepath.Join(h.dir, "keyholder.none"))
		_, err2 := os.Stat(filepath.Join(h.dir, "keyholder.crl"))
		_, err3 := os.Stat(filepath.Join(h.dir, "keyholder.passwd"))
		_, err4 := os.Stat(filepath.Join(h.dir, "keyholder.acl"))
		return err == nil && err2 == nil && err3 == nil && err4 == nil
	})
	log, err := os.Create(filepath.Join(h.dir, "out.log"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "-c", filepath.Join(h.dir, "mosquitto.conf"), "-v")
	c.Env = append(os.Environ(), "OPENSSL_CONF="+filepath.Join(h.dir, "openssl.cnf"))
	c.Stdout, c.Stderr = log, log
	begin(t, c, func() {
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("mosquitto: %s", text[max(0, len(text)-6000):])
		}
	})
	eventually(t, "mosquitto listens", 10*time.Second, func() bool {
		conn, err := net.Dial("tcp", h.mqtt)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return h
}

// settle waits until the broker has what Keyholder wrote last: until a
// subscription works that was added after it.
func (h *hall) settle(f *fabric) {
	h.t.Helper()
	by := f.addProvider()
	last := f.addSubscription(by)
	join := func(p party) *raw {
		r, err := dial(h.t, h.mqtt, h.TLS(p.cert), 4)
		if err == nil {
			_, err = r.connect(p.id)
		}
		if err != nil {
			h.t.Fatal(err)
		}
		return r
	}
	publisher, consumer := join(by), join(last)
	defer publisher.leave()
	defer consumer.leave()
	if _, err := consumer.subscribe(last.topic("#")); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "the rights are in force", 10*time.Second, func() bool {
		if _, err := publisher.publish(last.topic("events"), "x", qos(0)); err != nil {
			h.t.Fatal(err)
		}
		if err := consumer.alive(); err != nil {
			h.t.Fatal(err)
		}
		return len(consumer.inbox) > 0
	})
}

// left says whether the broker has a session of a client.
func (h *hall) left(id string, _ keyholder.Receipt) string {
	r, err := dial(h.t, h.management, h.TLS(), 4)
	if err != nil {
		return err.Error()
	}
	defer r.leave()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), Keepalive: 60,
		ClientIdentifier: id, UsernameFlag: true, Username: []byte("keyholder"), PasswordFlag: true, Password: []byte(askedSecret)}}
	if err := r.send(pk); err != nil {
		return err.Error()
	}
	ack, err := r.read(answerLimit)
	if err != nil || ack.ReasonCode != 0 || ack.SessionPresent {
		return fmt.Sprintf("CONNACK %d, session present %v, %v", ack.ReasonCode, ack.SessionPresent, err)
	}
	return "nothing is left"
}

// Ensure that Mosquitto with the generated configuration keeps the rules, but
// for the differences that the matrix names.
func TestMatrixMosquitto(t *testing.T) {
	s := keyholdertest.Start(t)
	h := startMosquitto(t, s)
	broker := &target{name: "mosquitto", addr: h.mqtt, mqtt5: true, left: h.left}
	broker.fabric = populate(t, s)
	broker.settle = func() { h.settle(broker.fabric) }
	run(t, broker)
}
