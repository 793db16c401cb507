package daemon

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/broker"
	"github.com/fds-keyholder/keyholder/internal/broker/external"
)

// ConfigName is the name of the configuration file in the data folder.
const ConfigName = "keyholder.yaml"

// DefaultConfig is the commented configuration that init writes. It is also
// the manual of every key.
//
//go:embed keyholder.yaml
var DefaultConfig []byte

// Config is what an operator decides. The comments of [DefaultConfig] explain
// each key; a key that is not here refuses to start.
type Config struct {
	TLS    keyholder.TLSProfile `yaml:"tls"`
	Hosts  []string             `yaml:"hosts"`
	Listen struct {
		Auth string `yaml:"auth"`
		API  string `yaml:"api"`
		MQTT string `yaml:"mqtt"`
		// Permits is where external brokers ask; it is bound only if there are any.
		Permits string `yaml:"permits"`
	} `yaml:"listen"`
	Issuer   string `yaml:"issuer"`
	API      string `yaml:"api"`
	Database struct {
		Postgres *Postgres `yaml:"postgres"` // nil: the SQLite file of the data folder
	} `yaml:"database"`
	Auth struct {
		Audiences  []string  `yaml:"audiences"` // of tokens, beside the Web API
		External   *External `yaml:"external"`  // nil: our own authorization server issues the tokens
		Federation struct {
			CAFile string `yaml:"ca_file"` // empty: the system's authorities
		} `yaml:"federation"`
	} `yaml:"auth"`
	MQTT            broker.Limits      `yaml:"mqtt"`
	ExternalBrokers []external.Setting `yaml:"external_brokers"`
	Keys            Keys               `yaml:"keys"`
	Webhooks        struct {
		AllowPrivate bool `yaml:"allow_private"`
	} `yaml:"webhooks"`
	Log struct {
		Level slog.Level `yaml:"level"`
	} `yaml:"log"`
}

// LoadConfig reads and checks the configuration of a data folder. Errors:
// Invalid, with the nearest known key where one was misspelt.
func LoadConfig(dir string) (Config, error) {
	path := filepath.Join(dir, ConfigName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, keyholder.Errorf(keyholder.Invalid, "there is no %s in %s", ConfigName, dir).
			WithHint("create the data folder with `keyholder init -data %s`", dir)
	}
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	return ParseConfig(text)
}

// ParseConfig reads and checks a configuration. Errors: Invalid.
func ParseConfig(text []byte) (Config, error) {
	var c Config
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, explainYAML(err)
	}
	if err := d.Decode(new(Config)); !errors.Is(err, io.EOF) {
		return Config{}, keyholder.Errorf(keyholder.Invalid, "the configuration holds more than one YAML document")
	}
	return c, c.check()
}

func (c *Config) check() error {
	if c.TLS == "" {
		c.TLS = keyholder.TLSStrict
	}
	if _, err := keyholder.ParseTLSProfile(string(c.TLS)); err != nil {
		return err
	}
	if len(c.Hosts) == 0 {
		return keyholder.Errorf(keyholder.Invalid, "hosts is empty").
			WithHint("list the DNS names and addresses under which this server is reached")
	}
	listen := map[string]string{"listen.auth": c.Listen.Auth, "listen.api": c.Listen.API, "listen.mqtt": c.Listen.MQTT}
	if len(c.ExternalBrokers) > 0 {
		listen["listen.permits"] = c.Listen.Permits
	}
	for key, addr := range listen {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return keyholder.Errorf(keyholder.Invalid, "%s is not an address of the form host:port", key)
		}
	}
	for key, s := range map[string]string{"issuer": c.Issuer, "api": c.API} {
		if s == "" {
			continue
		}
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(s, "/") {
			return keyholder.Errorf(keyholder.Invalid, "%s is not an https address without query, fragment and final slash", key)
		}
	}
	if p := c.Database.Postgres; p != nil && p.DSNFile == "" {
		return keyholder.Errorf(keyholder.Invalid, "database.postgres has no dsn_file").
			WithHint("write the DSN into a file of mode 0600 and name it there")
	}
	if err := c.MQTT.Check(); err != nil {
		return err
	}
	if err := external.CheckSettings(c.ExternalBrokers); err != nil {
		return err
	}
	for _, a := range c.Auth.Audiences {
		if u, err := url.Parse(a); err != nil || u.Scheme != "https" || u.Host == "" || u.Fragment != "" || strings.ContainsAny(a, " #") {
			return keyholder.Errorf(keyholder.Invalid, "auth.audiences holds one that is not an https address without fragment")
		}
	}
	if err := c.Keys.check(); err != nil {
		return err
	}
	if c.Auth.External == nil {
		return nil
	}
	if len(c.Auth.Audiences) > 0 {
		return keyholder.Errorf(keyholder.Invalid, "auth.audiences has no meaning with auth.external, whose issuer names the audience")
	}
	if c.Auth.Federation.CAFile != "" {
		return keyholder.Errorf(keyholder.Invalid, "auth.federation has no meaning with auth.external, where nobody signs in here")
	}
	return c.Auth.External.check()
}

var unknownField = regexp.MustCompile(`line (\d+): field (\S+) not found`)

// explainYAML turns the library's message into one for the operator.
func explainYAML(err error) error {
	m := unknownField.FindStringSubmatch(err.Error())
	if m == nil {
		return &keyholder.Error{Code: keyholder.Invalid, Detail: "the configuration cannot be read: " + strings.TrimPrefix(err.Error(), "yaml: "), Err: err}
	}
	e := keyholder.Errorf(keyholder.Invalid, "line %s of the configuration: there is no key %q", m[1], m[2])
	if near := keyholder.Nearest(m[2], keys(reflect.TypeFor[Config]())); near != "" {
		return e.WithHint("did you mean %q?", near)
	}
	return e.WithHint("`keyholder init` writes a configuration with every key explained")
}

// keys lists the YAML keys of a struct and of the structs in it.
func keys(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		out = append(out, f.Tag.Get("yaml"))
		inner := f.Type
		if inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			out = append(out, keys(inner)...)
		}
	}
	return out
}
