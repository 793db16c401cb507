package external

import (
	"bytes"
	"embed"
	"fmt"
	"net"
	"net/url"
	"path"
	"regexp"
	"strings"
	"text/template"

	"github.com/fds-keyholder/keyholder"
)

//go:embed template
var templates embed.FS

// Plan is what a broker's configuration is generated from.
type Plan struct {
	Name       string   // of the broker in keyholder.yaml
	Callback   string   // https address of Keyholder's listen.permits, as the broker reaches it
	Issuer     string   // https address of Keyholder's authorization server, which publishes the revocation list
	Folder     string   // on the broker's machine, with certificates and keys
	MQTT       string   // where MQTT listens: port or host:port
	Management string   // where the management API listens: port or host:port
	Nodes      []string // of a cluster, for NATS with the one that it is for first; none: a broker alone
	Keys       []byte   // of Keyholder at NATS (OpenNATSKeys), of which the public ones are written
}

// GeneratedFile is one file of a broker's configuration.
type GeneratedFile struct {
	Name, Text string
}

// generated lists the templates of each kind.
var generated = map[Kind][]string{
	RabbitMQ:  {"rabbitmq.conf", "advanced.config", "enabled_plugins", "definitions.json", "crl.sh"},
	Mosquitto: {"mosquitto.conf", "openssl.cnf"},
	NATS:      {"nats.conf"},
}

var (
	planFolder = regexp.MustCompile(`^/[A-Za-z0-9._/-]{1,200}$`)
	planNode   = regexp.MustCompile(`^[a-z0-9_-]{1,64}@[A-Za-z0-9.-]{1,200}$`)
	planRoute  = regexp.MustCompile(`^[A-Za-z0-9.-]{1,200}:[0-9]{1,5}$`)
)

// Generate makes the configuration of a broker. Errors: Invalid.
func Generate(k Kind, p Plan) ([]GeneratedFile, error) {
	names, ok := generated[k]
	if !ok {
		return nil, keyholder.Errorf(keyholder.Invalid, "no configuration is generated for this kind of broker")
	}
	if err := p.check(k); err != nil {
		return nil, err
	}
	var files []GeneratedFile
	for _, name := range names {
		t, err := template.New(name).Option("missingkey=error").Funcs(template.FuncMap{"inc": func(i int) int { return i + 1 }}).ParseFS(templates, path.Join("template", name))
		if err != nil {
			return nil, fmt.Errorf("read the template %s: %w", name, err)
		}
		var text bytes.Buffer
		if err := t.Execute(&text, p); err != nil {
			return nil, fmt.Errorf("generate %s: %w", name, err)
		}
		files = append(files, GeneratedFile{Name: name, Text: text.String()})
	}
	return files, nil
}

// check lets nothing into a configuration that could change its meaning.
func (p Plan) check(k Kind) error {
	if !settingName.MatchString(p.Name) {
		return keyholder.Errorf(keyholder.Invalid, "the name of the broker is not of lower-case letters, digits and hyphens")
	}
	switch k {
	case RabbitMQ: // the others neither call nor fetch anything
		if err := p.checkAddresses(); err != nil {
			return err
		}
	case NATS:
		if _, _, err := parseNATSKeys(p.Keys); err != nil {
			return err
		}
	}
	if !planFolder.MatchString(p.Folder) || strings.HasSuffix(p.Folder, "/") {
		return keyholder.Errorf(keyholder.Invalid, "the folder is not an absolute path of letters, digits, dots and hyphens")
	}
	for what, address := range map[string]string{"MQTT": p.MQTT, "management": p.Management} {
		if host, port := splitAddress(address); !isPort(port) || host != "" && net.ParseIP(host) == nil {
			return keyholder.Errorf(keyholder.Invalid, "the %s address is neither a port nor an IP address with one", what)
		}
	}
	form, name := planNode, "name@host"
	if k == NATS {
		form, name = planRoute, "host:port"
	}
	for _, n := range p.Nodes {
		if !form.MatchString(n) {
			return keyholder.Errorf(keyholder.Invalid, "a node is not of the form %s", name)
		}
	}
	return nil
}

func (p Plan) checkAddresses() error {
	for what, address := range map[string]string{"callback": p.Callback, "issuer": p.Issuer} {
		if u, err := url.Parse(address); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
			strings.HasSuffix(address, "/") || strings.ContainsAny(address, " \"'`$\\\n") {
			return keyholder.Errorf(keyholder.Invalid, "the %s is not an https address without query and final slash", what)
		}
	}
	if u, err := url.Parse(p.Callback); err != nil || net.ParseIP(u.Hostname()) != nil {
		return keyholder.Errorf(keyholder.Invalid, "the callback is an IP address").
			WithHint("give a DNS name of hosts in keyholder.yaml: RabbitMQ verifies the name of the server that it asks, and cannot verify an address")
	}
	return nil
}

// MQTTHost is the host of MQTT, empty for all.
func (p Plan) MQTTHost() string { host, _ := splitAddress(p.MQTT); return host }

// MQTTPort is the port of MQTT.
func (p Plan) MQTTPort() string { _, port := splitAddress(p.MQTT); return port }

// ManagementHost is the host of Management, empty for all.
func (p Plan) ManagementHost() string { host, _ := splitAddress(p.Management); return host }

// ManagementPort is the port of Management.
func (p Plan) ManagementPort() string { _, port := splitAddress(p.Management); return port }

// NodePort is where the first node listens for the others.
func (p Plan) NodePort() string { _, port := splitAddress(p.Nodes[0]); return port }

// SigningKey is the public key by which NATS knows Keyholder's answers.
func (p Plan) SigningKey() (string, error) {
	issuer, _, err := parseNATSKeys(p.Keys)
	if err != nil {
		return "", err
	}
	return issuer.PublicKey()
}

// UserKey is the public key by which NATS knows Keyholder.
func (p Plan) UserKey() (string, error) {
	_, user, err := parseNATSKeys(p.Keys)
	if err != nil {
		return "", err
	}
	return user.PublicKey()
}

func splitAddress(s string) (host, port string) {
	if host, port, err := net.SplitHostPort(s); err == nil {
		return host, port
	}
	return "", s
}

func isPort(s string) bool {
	n, err := net.LookupPort("tcp", s)
	return err == nil && n > 0 && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}
