package daemon_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/broker"
	"github.com/fds-keyholder/keyholder/internal/daemon"
)

// Ensure that the configuration init writes is accepted as it is.
func TestDefaultConfig(t *testing.T) {
	c, err := daemon.ParseConfig(daemon.DefaultConfig)
	if err != nil {
		t.Fatal(err)
	}
	if c.TLS != keyholder.TLSStrict || c.Listen.MQTT != "127.0.0.1:8883" || c.Webhooks.AllowPrivate {
		t.Errorf("the default is not what it says: %+v", c)
	}
	if def := (broker.Limits{}).WithDefaults(); c.MQTT != def {
		t.Errorf("the limits of the broker are written as %+v, the default is %+v", c.MQTT, def)
	}
}

// Ensure that each fault of a configuration is named, with a hint where one
// can be given.
func TestParseConfigRefuses(t *testing.T) {
	def := string(daemon.DefaultConfig)
	for _, tt := range []struct{ name, text, detail, hint string }{
		{"misspelt key", strings.Replace(def, "\nhosts:", "\nhost:", 1), `"host"`, `"hosts"`},
		{"misspelt inner key", strings.Replace(def, "allow_private", "alow_private", 1), `"alow_private"`, `"allow_private"`},
		{"strange key", def + "\nzzzzzzzzzzzz: 1\n", `"zzzzzzzzzzzz"`, "init"},
		{"TLS profile", strings.Replace(def, "tls: strict", "tls: none", 1), "TLS profile", "strict"},
		{"no hosts", strings.Replace(def, "[localhost, 127.0.0.1]", "[]", 1), "hosts", "DNS"},
		{"address", strings.Replace(def, "127.0.0.1:8883", "8883", 1), "listen.mqtt", ""},
		{"issuer", strings.Replace(def, `issuer: ""`, `issuer: "http://x"`, 1), "issuer", ""},
		{"wrong type", strings.Replace(def, "allow_private: false", "allow_private: maybe", 1), "cannot be read", ""},
		{"plain audience", strings.Replace(def, "auth: {}", "auth: {audiences: ['http://x.example']}", 1), "auth.audiences", ""},
		{"audience with a fragment", strings.Replace(def, "auth: {}", "auth: {audiences: ['https://x.example/#a']}", 1), "auth.audiences", ""},
		{"audiences and external", strings.Replace(external(""), "{external:", "{audiences: ['https://x.example'], external:", 1), "auth.audiences", ""},
		{"external: strange key", external("jwks: x"), `"jwks"`, ""},
		{"external: misspelt key", external("sbscription_claim: x"), `"sbscription_claim"`, `"subscription_claim"`},
		{"external: plain issuer", strings.Replace(external(""), "https://login", "http://login", 1), "auth.external.issuer", "metadata"},
		{"external: no tokens", strings.Replace(external(""), "tokens: rfc9068", "tokens: ''", 1), "auth.external.tokens", "introspection"},
		{"external: unknown tokens", strings.Replace(external(""), "rfc9068", "saml", 1), "form of access tokens", "keycloak"},
		{"external: symmetric algorithm", external("algorithms: [HS256]"), "algorithms", "ES256"},
		{"external: lifetime", external("max_lifetime: 25h"), "max_lifetime", ""},
		{"external: no clients", strings.Replace(external(""), "{cleaner: 6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30}", "{}", 1), "clients", "app"},
		{"external: client of no ID", strings.Replace(external(""), "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30", "cleaner", 1), "clients", "list"},
		{"external: two clients of one app", strings.Replace(external(""), "{cleaner", "{tidy: 6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30, cleaner", 1), "twice", ""},
		{"external: secret for signed tokens", external("secret_file: x"), "introspection", ""},
		{"external: introspection without secret", strings.Replace(external("client_id: x"), "rfc9068", "introspection", 1), "secret_file", ""},
		{"external: introspection with algorithms", strings.Replace(external("client_id: x, secret_file: x, algorithms: [ES256]"), "rfc9068", "introspection", 1), "algorithms", ""},
		{"database without DSN", strings.Replace(def, "database: {}", "database: {postgres: {}}", 1), "dsn_file", "0600"},
		{"DSN in the configuration", strings.Replace(def, "database: {}", "database: {postgres: {dsn: x}}", 1), `"dsn"`, "init"},
		{"mqtt: misspelt key", strings.Replace(def, "publish_rate:", "publish_rat:", 1), `"publish_rat"`, `"publish_rate"`},
		{"mqtt: negative", strings.Replace(def, "connects_per_minute: 60", "connects_per_minute: -1", 1), "mqtt.connects_per_minute", "default"},
		{"mqtt: packet too large", strings.Replace(def, "max_packet: 1056768", "max_packet: 1056769", 1), "mqtt.max_packet", "default"},
		{"mqtt: 17 bits", strings.Replace(def, "receive_maximum: 256", "receive_maximum: 65536", 1), "cannot be read", ""},
		{"mqtt: keep-alive", strings.Replace(def, "max_keep_alive: 20m", "max_keep_alive: 13h", 1), "mqtt.max_keep_alive", "default"},
		{"mqtt: session expiry", strings.Replace(def, "max_session_expiry: 720h", "max_session_expiry: 10ms", 1), "mqtt.max_session_expiry", "default"},
		{"no YAML", "\x00", "cannot be read", ""},
		{"two documents", def + "\n---\ntls: strict\n", "more than one", ""},
		{"duplicate key", def + "\ntls: strict\n", "cannot be read", ""},
	} {
		_, err := daemon.ParseConfig([]byte(tt.text))
		var e *keyholder.Error
		if !errors.As(err, &e) || e.Code != keyholder.Invalid {
			t.Errorf("%s: got %v, want an invalid configuration", tt.name, err)
			continue
		}
		if !strings.Contains(e.Detail, tt.detail) || !strings.Contains(e.Hint, tt.hint) {
			t.Errorf("%s: got %q, hint %q", tt.name, e.Detail, e.Hint)
		}
	}
}

// external is the default configuration with an external authorization
// server, and more keys of it.
func external(more string) string {
	return strings.Replace(string(daemon.DefaultConfig), "\nauth: {}\n", `
auth: {external: {issuer: https://login.example/realms/x, tokens: rfc9068, clients: {cleaner: 6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30}, `+more+`}}
`, 1)
}

// Ensure that the external authorization server of the comments is accepted,
// and that what its keys may hold is.
func TestExternalConfig(t *testing.T) {
	def := string(daemon.DefaultConfig)
	_, block, found := strings.Cut(def, "\nauth: {}\n")
	block, _, _ = strings.Cut(block, "\n\n")
	commented := strings.Replace(def, "auth: {}", "auth:\n"+strings.ReplaceAll("\n"+block, "\n# ", "\n "), 1)
	c, err := daemon.ParseConfig([]byte(commented))
	if err != nil || !found || c.Auth.External == nil || c.Auth.External.Tokens != "rfc9068" || len(c.Auth.External.Clients) != 1 {
		t.Errorf("the commented example: %v, %+v", err, c.Auth.External)
	}
	for name, text := range map[string]string{
		"signed":        external("algorithms: [ES256, PS256, RS256, EdDSA], max_lifetime: 90m, subscription_claim: fds"),
		"dialect":       strings.Replace(external(""), "rfc9068", "entra", 1),
		"introspection": strings.Replace(external("client_id: x, secret_file: y"), "rfc9068", "introspection", 1),
	} {
		if _, err := daemon.ParseConfig([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParseConfig: no text makes the parser panic, and what it accepts passes
// its own checks.
func FuzzParseConfig(f *testing.F) {
	f.Add(daemon.DefaultConfig)
	f.Add([]byte("tls: strict"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := daemon.ParseConfig(text)
		if err == nil && (len(c.Hosts) == 0 || c.TLS != keyholder.TLSStrict && c.TLS != keyholder.TLSModern) {
			t.Errorf("accepted %+v", c)
		}
	})
}
