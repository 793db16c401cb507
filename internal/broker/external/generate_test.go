package external_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nkeys"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/broker/external"
)

var update = flag.Bool("update", false, "write the generated configurations to testdata")

func plan() external.Plan {
	return external.Plan{Name: "mq", Callback: "https://keyholder.example:8445", Issuer: "https://keyholder.example:8443", Folder: "/etc/keyholder-mq",
		MQTT: "8883", Management: "192.0.2.7:15671"}
}

// publicKeys are keys of Keyholder at NATS that everybody knows.
func publicKeys(t *testing.T) []byte {
	var out []byte
	for _, kind := range []nkeys.PrefixByte{nkeys.PrefixByteAccount, nkeys.PrefixByteUser} {
		pair, err := nkeys.FromRawSeed(kind, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		seed, err := pair.Seed()
		if err != nil {
			t.Fatal(err)
		}
		out = append(append(out, seed...), '\n')
	}
	return out
}

// Ensure that the generated configurations are what was looked at and, as far
// as the broker runs in the tests, tried.
func TestGenerate(t *testing.T) {
	local := external.Plan{Name: "hall", Folder: "/etc/mosquitto/keyholder", MQTT: "8883", Management: "8884"}
	bus := external.Plan{Name: "bus", Folder: "/etc/nats/keyholder", MQTT: "8883", Management: "192.0.2.7:4222", Keys: publicKeys(t)}
	buses := bus
	buses.Nodes = []string{"nats1.example:6222", "nats2.example:6222", "nats3.example:6222"}
	cluster := plan()
	cluster.Nodes = []string{"rabbit@mq1", "rabbit@mq2", "rabbit@mq3"}
	for name, tt := range map[string]struct {
		kind external.Kind
		plan external.Plan
	}{"rabbitmq": {external.RabbitMQ, plan()}, "rabbitmq-cluster": {external.RabbitMQ, cluster}, "mosquitto": {external.Mosquitto, local}, "nats": {external.NATS, bus}, "nats-cluster": {external.NATS, buses}} {
		files, err := external.Generate(tt.kind, tt.plan)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join("testdata", name)
		for _, f := range files {
			golden := filepath.Join(dir, f.Name)
			if *update {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(f.Text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), f.Text); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
		}
	}
}

// Ensure that nothing that could change the meaning of a configuration gets
// into it.
func TestGenerateRefuses(t *testing.T) {
	for name, change := range map[string]func(*external.Plan){
		"name with a slash":    func(p *external.Plan) { p.Name = "mq/../x" },
		"no name":              func(p *external.Plan) { p.Name = "" },
		"callback without TLS": func(p *external.Plan) { p.Callback = "http://keyholder.example" },
		"callback with a line": func(p *external.Plan) { p.Callback = "https://keyholder.example\nauth_backends.1 = internal" },
		"callback by address":  func(p *external.Plan) { p.Callback = "https://192.0.2.1:8445" },
		"issuer for a shell":   func(p *external.Plan) { p.Issuer = "https://x.example/$(id)" },
		"relative folder":      func(p *external.Plan) { p.Folder = "etc" },
		"folder with a quote":  func(p *external.Plan) { p.Folder = `/etc/"x` },
		"MQTT by name":         func(p *external.Plan) { p.MQTT = "mq.example:8883" },
		"MQTT by service":      func(p *external.Plan) { p.MQTT = "https" },
		"management port 0":    func(p *external.Plan) { p.Management = "0" },
		"node with a line":     func(p *external.Plan) { p.Nodes = []string{"rabbit@x\ny"} },
	} {
		p := plan()
		change(&p)
		if _, err := external.Generate(external.RabbitMQ, p); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	bus := external.Plan{Name: "bus", Folder: "/etc/nats/keyholder", MQTT: "8883", Management: "4222"}
	for _, keys := range []string{"", "SUAA SUAA", string(bytes.Fields(publicKeys(t))[0])} {
		bus.Keys = []byte(keys)
		if _, err := external.Generate(external.NATS, bus); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("keys of NATS %q: %v", keys, err)
		}
	}
	bus.Keys, bus.Nodes = publicKeys(t), []string{"nats1.example"}
	if _, err := external.Generate(external.NATS, bus); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("a node of NATS without a port: %v", err)
	}
	if _, err := external.Generate("activemq", plan()); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("an unknown kind: %v", err)
	}
}
