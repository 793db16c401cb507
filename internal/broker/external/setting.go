package external

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// Kind is a kind of broker that there is a driver for.
type Kind string

// The kinds of brokers.
const (
	RabbitMQ  Kind = "rabbitmq"
	EMQX      Kind = "emqx"
	Mosquitto Kind = "mosquitto"
	NATS      Kind = "nats"
)

// Setting is one external broker as keyholder.yaml describes it; the comments
// there explain the keys.
type Setting struct {
	Name        string   `yaml:"name"`
	Kind        Kind     `yaml:"kind"`
	API         []string `yaml:"api"`
	User        string   `yaml:"user"`
	SecretFile  string   `yaml:"secret_file"`
	CAFile      string   `yaml:"ca_file"`
	CallersFile string   `yaml:"callers_file"`
	Folder      string   `yaml:"folder"`
	PIDFile     string   `yaml:"pid_file"`
}

var (
	settingName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	settingUser = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// CheckSettings checks the settings for themselves, without opening a file.
// Errors: Invalid.
func CheckSettings(settings []Setting) error {
	seen := map[string]bool{}
	for i, s := range settings {
		if !settingName.MatchString(s.Name) {
			return keyholder.Errorf(keyholder.Invalid, "external_brokers: the name of broker %d is not of lower-case letters, digits and hyphens", i+1)
		}
		if seen[s.Name] {
			return keyholder.Errorf(keyholder.Invalid, "external_brokers: two are named %s", s.Name)
		}
		seen[s.Name] = true
		if err := s.check(); err != nil {
			return err
		}
	}
	return nil
}

func (s Setting) check() error {
	wrong := func(format string, args ...any) *keyholder.Error {
		return keyholder.Errorf(keyholder.Invalid, "external_brokers, %s: %s", s.Name, fmt.Sprintf(format, args...))
	}
	required, forbidden := map[string]string{"user": s.User, "secret_file": s.SecretFile}, map[string]string{}
	scheme := "https"
	switch s.Kind {
	case RabbitMQ, EMQX:
		required["callers_file"] = s.CallersFile
		forbidden = map[string]string{"folder": s.Folder, "pid_file": s.PIDFile}
	case Mosquitto:
		scheme = "mqtts"
		required["folder"], required["pid_file"] = s.Folder, s.PIDFile
		forbidden["callers_file"] = s.CallersFile
		if len(s.API) > 1 {
			return wrong("api holds more than one address, and Mosquitto is no cluster")
		}
	case NATS:
		scheme = "tls"
		delete(required, "user")
		forbidden = map[string]string{"user": s.User, "callers_file": s.CallersFile, "folder": s.Folder, "pid_file": s.PIDFile}
	default:
		return wrong("there is no driver for this kind of broker").WithHint("the kinds are rabbitmq, emqx, mosquitto and nats")
	}
	for key, value := range required {
		if value == "" {
			return wrong("%s is empty", key)
		}
	}
	for key, value := range forbidden {
		if value != "" {
			return wrong("%s has no meaning for %s", key, s.Kind)
		}
	}
	if s.Kind != NATS && !settingUser.MatchString(s.User) {
		return wrong("user is not of letters, digits, hyphens and underscores")
	}
	if _, err := keyholder.ParseID[string](s.User); err == nil {
		return wrong("user is an ID, which names a client and not Keyholder")
	}
	if len(s.API) == 0 {
		return wrong("api is empty").WithHint("list the addresses by which Keyholder carries a cut")
	}
	for _, a := range s.API {
		if u, err := url.Parse(a); err != nil || u.Scheme != scheme || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
			strings.HasSuffix(a, "/") || scheme != "https" && (u.Port() == "" || u.Path != "") {
			return wrong("api holds what is not an address of the form %s://host:port", scheme)
		}
	}
	return nil
}

// path names a file from the data folder.
func (s Setting) path(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// tls is the client's side of the connections to the broker.
func (s Setting) tls(cfg Config) (*tls.Config, error) {
	c := cfg.TLS.Config()
	if s.CAFile == "" {
		return c, nil
	}
	text, err := keyfile.Read(s.path(cfg.Dir, s.CAFile))
	if err != nil {
		return nil, explainFile("ca_file", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(text) {
		return nil, keyholder.Errorf(keyholder.Invalid, "the file of ca_file holds no certificate in PEM form")
	}
	return c, nil
}

func explainFile(key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &keyholder.Error{Code: keyholder.Invalid, Detail: "the file of " + key + " does not exist",
			Hint: "a relative name is looked for in the data folder", Err: err}
	}
	return err
}

func trimNewline(s string) string { return strings.TrimRight(s, "\r\n") }
