package conformance_test

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder/conformance"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// Ensure that the checker works on a broker of another make: Mosquitto with
// an access control list, as an administrator would set it up by its manual.
// What it keeps is found kept, and its known deviations are found: it grants
// every filter in the SUBACK and filters on delivery only, does not bind the
// client ID to the certificate, and takes a last will without complaint.
func TestMosquitto(t *testing.T) {
	t.Parallel()
	program := keyholdertest.RequireProgram(t, "mosquitto")
	r := newRig(t)
	address := startMosquitto(t, r, program)
	r.Target.MQTT = "mqtts://" + address
	report := r.check("M1", "M2", "M3", "M4", "M5", "M6", "M7", "M8")
	t.Logf("\n%s", table(t, report))
	want := map[string]conformance.Status{
		"M4.mixed": conformance.Failed, "M5.other": conformance.Failed, "M5.victim": conformance.Failed,
		"M6.foreign": conformance.Failed, "M8.provider": conformance.Failed,
	}
	for _, q := range report.Requirements {
		for _, p := range q.Probes {
			expected, ok := want[p.ID]
			if !ok {
				expected = conformance.Passed
			}
			if p.Status != expected {
				t.Errorf("%s: %s (%s), want %s", p.ID, p.Status, p.Seen, expected)
			}
		}
	}
}

func startMosquitto(t *testing.T, r *rig, program string) string {
	t.Helper()
	// The port is free now; Mosquitto cannot say which one it chose itself.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()

	server := r.pair("mosquitto", r.ca.issue(t, "127.0.0.1"))
	revoked, err := x509.ParseCertificate([]byte(r.revokedKey))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: revoked.SerialNumber, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked.SerialNumber, RevocationTime: now.Add(-time.Minute)}},
	}, r.ca.certificate, r.ca.key)
	if err != nil {
		t.Fatal(err)
	}
	acl := r.save("acl", []byte(fmt.Sprintf("user %s\ntopic write fds/v2/+/check\n\nuser %s\ntopic deny #\n\nuser %s\ntopic read fds/v2/%s/#\n\nuser %s\ntopic read fds/v2/%s/#\n",
		r.provider, r.provider2, r.subA, r.subA, r.subB, r.subB)))
	configuration := r.save("mosquitto.conf", []byte(fmt.Sprintf(`
listener %s 127.0.0.1
cafile %s
certfile %s
keyfile %s
crlfile %s
require_certificate true
use_identity_as_username true
tls_version tlsv1.2
ciphers ECDHE+AESGCM
acl_file %s
allow_anonymous false
allow_zero_length_clientid false
`, port, r.Target.CA, server.Certificate, server.Key, r.save("crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: crl})), acl)))

	command := exec.Command(program, "-c", configuration)
	var out strings.Builder
	command.Stdout, command.Stderr = &out, &out
	if os.Geteuid() == 0 { // else it gives up root and cannot read the files
		data, err := os.ReadFile(configuration)
		if err != nil {
			t.Fatal(err)
		}
		r.save("mosquitto.conf", append(data, "user root\n"...))
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		command.Process.Kill()
		command.Wait()
		if t.Failed() {
			t.Logf("mosquitto: %s", out.String())
		}
	})
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-ticker.C {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatal("mosquitto does not listen")
		}
	}
}
