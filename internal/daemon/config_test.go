package daemon_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
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
