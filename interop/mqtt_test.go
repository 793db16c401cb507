package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// Ensure that MQTT.js, in MQTT 3.1.1 and 5, publishes, receives in order,
// resumes its session, is refused what is not its own in the way its version
// has for it, and is ended by a cut.
func TestMQTTJS(t *testing.T) {
	node, dir := keyholdertest.NodePackage(t, "mqtt/package.json", "mqtt/package-lock.json", "mqtt/client.mjs")
	s := keyholdertest.Start(t)
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	party := func(use keyholder.CertificateUse, id string) identity {
		cert, key := s.CertificatePEM(use, id)
		return identity{ID: id, Cert: file(id+".pem", cert), Key: file(id+".key", key)}
	}
	ca := file("ca.pem", []byte(s.RootPEM()))
	app, _ := s.AddApp("Cleaner", keyholder.AuthSecret, "")
	for _, version := range []int{4, 5} {
		t.Run(map[int]string{4: "3.1.1", 5: "5"}[version], func(t *testing.T) {
			provider, stranger := s.AddProvider("Soap Inc"), s.AddProvider("Foam Ltd")
			owner := s.AddOwner(map[int]string{4: "northgate", 5: "southgate"}[version])
			sub := s.AddSubscription(s.AddAgreement(provider.ID, owner.ID), app.ID, "")
			foreign := s.AddSubscription(s.AddAgreement(stranger.ID, owner.ID), app.ID, "")
			settings, err := json.Marshal(map[string]any{"address": s.MQTT, "ca": ca, "version": version, "foreign": foreign,
				"provider": party(keyholder.ForProvider, string(provider.ID)), "consumer": party(keyholder.ForSubscription, string(sub))})
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			script := exec.CommandContext(ctx, node, "client.mjs")
			script.Dir, script.Env = dir, append(os.Environ(), "SETTINGS="+string(settings))
			var complaint bytes.Buffer
			script.Stderr = &complaint
			out, err := script.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := script.Start(); err != nil {
				t.Fatal(err)
			}
			cuts := 0
			for lines := bufio.NewScanner(out); lines.Scan(); cuts++ {
				s.Cut(keyholder.CutSubscription, string(sub))
			}
			if err := script.Wait(); err != nil {
				t.Fatalf("%v\n%s", err, complaint.Bytes())
			}
			if cuts != 1 {
				t.Errorf("the script asked for %d cuts", cuts)
			}
		})
	}
}
