package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	keyholder "github.com/fds-keyholder/keyholder"
)

// Target describes a deployment: where it is and with which credentials it is
// checked. Everything is optional except that there must be something to
// check; probes that lack something are skipped and say what. File names are
// those of PEM files; in a target file they are relative to its folder.
//
// Secrets may stand in the target itself or, better, in files named by the
// members ending in "_file", so that the target can be shown around.
type Target struct {
	// Name is a free name for reports.
	Name string `json:"name,omitempty"`
	// Issuer is the https URL of the authorization server, exactly as it
	// names itself in its metadata (RFC 8414).
	Issuer string `json:"issuer,omitempty"`
	// API is the https URL before /fds/v2.
	API string `json:"api,omitempty"`
	// MQTT is the broker's address, mqtts://host[:port]; the port is 8883
	// unless given.
	MQTT string `json:"mqtt,omitempty"`
	// CA is a file with the certificates that the servers' chains lead to.
	// Without it the system's are used.
	CA string `json:"ca,omitempty"`
	// ClientCA is a file with the certificates that the MQTT clients' chains
	// lead to: the broker manager's (FDS 2.6.4.2). Without it CA is used.
	ClientCA string `json:"client_ca,omitempty"`
	// SubscriptionClaim is the token's claim that holds the subscription ID.
	// FDS does not name it. Without it "subscription_id" is tried, then any
	// claim with the right value.
	SubscriptionClaim string `json:"subscription_claim,omitempty"`
	// Endpoints are the path segments after /fds/v2/ to check. Without them
	// all of FDS version 2 are tried, and those that answer are checked.
	Endpoints []string `json:"endpoints,omitempty"`
	// CheckLevel is the topic level after the subscription ID that test
	// messages are published to; "check" unless given.
	CheckLevel string `json:"check_level,omitempty"`
	// A and B are two consumers of two different resource owners.
	A *Consumer `json:"consumer_a,omitempty"`
	B *Consumer `json:"consumer_b,omitempty"`
	// Provider is the information provider that issued both subscriptions.
	Provider *Publisher `json:"provider,omitempty"`
	// Provider2 is another provider, with no right to either subscription.
	Provider2 *Publisher `json:"provider2,omitempty"`
	// Revoked is a revoked MQTT certificate of consumer A.
	Revoked *KeyPair `json:"revoked_certificate,omitempty"`
	// ExpiredToken is an access token of consumer A that has expired.
	ExpiredToken     Secret `json:"expired_token,omitempty"`
	ExpiredTokenFile string `json:"expired_token_file,omitempty"`
	// ResourceServer may introspect tokens (RFC 7662). It is needed where
	// access tokens are opaque.
	ResourceServer *Credentials `json:"resource_server,omitempty"`
	// Webhook is a client application's push endpoint, to which the Web API
	// requirements apply too (FDS 2.6.4.1).
	Webhook *Webhook `json:"webhook,omitempty"`
}

// Consumer is a client application on behalf of one resource owner.
type Consumer struct {
	// SubscriptionID is what the provider calls the subscription.
	SubscriptionID string `json:"subscription_id"`
	// MQTT is the certificate for the broker.
	MQTT *KeyPair `json:"mqtt,omitempty"`
	// OAuth says how to get an access token for the Web API.
	OAuth *Credentials `json:"oauth,omitempty"`
}

// KeyPair names the PEM files of a certificate, with its chain, and its key.
type KeyPair struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// Publisher is an information provider at the broker.
type Publisher struct {
	// ID is the MQTT client ID to connect with.
	ID          string `json:"id"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// Ways to an access token, the values of [Credentials.Grant].
const (
	GrantClientCredentials = "client_credentials"
	GrantRefreshToken      = "refresh_token"
	// GrantAccessToken is no grant: the target holds a ready access token,
	// for example one from an authorization code flow.
	GrantAccessToken = "access_token"
)

// Ways of client authentication, the values of [Credentials.AuthMethod].
const (
	AuthBasic       = "client_secret_basic"
	AuthPost        = "client_secret_post"
	AuthCertificate = "tls_client_auth"
)

// Credentials say how a client gets an access token.
type Credentials struct {
	// Grant is one of [GrantClientCredentials] (the default),
	// [GrantRefreshToken] and [GrantAccessToken].
	Grant    string `json:"grant,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	// AuthMethod is [AuthCertificate] if a certificate is given, else
	// [AuthBasic], unless set here.
	AuthMethod string `json:"auth_method,omitempty"`
	Secret     Secret `json:"secret,omitempty"`
	SecretFile string `json:"secret_file,omitempty"`
	// Certificate and Key authenticate the client at the authorization
	// server and are presented to the Web API, where a token may be bound to
	// them (RFC 8705).
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
	AccessToken Secret `json:"access_token,omitempty"`
	// AccessTokenFile holds the token and nothing else.
	AccessTokenFile string `json:"access_token_file,omitempty"`
	RefreshToken    Secret `json:"refresh_token,omitempty"`
	// RefreshTokenFile holds the token and nothing else. If the server
	// answers with a new refresh token, the file is replaced by it, so that
	// the next check can go on.
	RefreshTokenFile string `json:"refresh_token_file,omitempty"`
	// Scope is what is asked for at the token endpoint, if anything.
	Scope string `json:"scope,omitempty"`
	// SubscriptionParameter is the parameter of a client credentials request
	// that names the subscription. Without it none is sent.
	SubscriptionParameter string `json:"subscription_parameter,omitempty"`
	// Parameters are further parameters of the token request, for example
	// resource (RFC 8707).
	Parameters map[string]string `json:"parameters,omitempty"`
}

// Webhook is the push endpoint of a client application.
type Webhook struct {
	URL string `json:"url"`
	// Issuer is the authorization server that protects the endpoint; the
	// target's unless given.
	Issuer string `json:"issuer,omitempty"`
	// SubscriptionID is the subscription that is pushed there.
	SubscriptionID string `json:"subscription_id"`
	// OAuth gets a token of the information provider for pushing.
	OAuth *Credentials `json:"oauth,omitempty"`
}

// Secret is a string that does not show itself: formatting, logging and
// encoding it give "[secret]".
type Secret string

const hidden = "[secret]"

// String returns "[secret]", or "" if there is none.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText is String, so that a [Target] can be encoded and shown.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// maxTargetFile bounds a target file, and each file it names, in bytes.
const maxTargetFile = 1 << 20

// Load reads a target file. It returns a [keyholder.Error] of code Invalid,
// with the line and a hint, for anything it does not understand.
func Load(file string) (Target, error) {
	data, err := readBounded(file)
	if err != nil {
		return Target{}, keyholder.Errorf(keyholder.Invalid, "cannot read the target file: %v", err).
			WithHint("`keyholder check -example` prints one to start from")
	}
	return Parse(data, filepath.Dir(file))
}

// Parse reads the text of a target file: one JSON object, in which lines that
// begin with // are comments. File names in it are taken relative to dir. It
// opens no file. Errors are as for [Load].
func Parse(data []byte, dir string) (Target, error) {
	var t Target
	if err := decode(data, &t); err != nil {
		return Target{}, err
	}
	for _, name := range t.files() {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(dir, *name)
		}
	}
	if err := t.validate(); err != nil {
		return Target{}, err
	}
	return t, nil
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(f, maxTargetFile+1))
	switch {
	case err != nil:
		return nil, err
	case n > maxTargetFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxTargetFile)
	}
	return b.Bytes(), nil
}

// files returns the members that name files.
func (t *Target) files() []*string {
	names := []*string{&t.CA, &t.ClientCA, &t.ExpiredTokenFile}
	pair := func(k *KeyPair) {
		if k != nil {
			names = append(names, &k.Certificate, &k.Key)
		}
	}
	oauth := func(c *Credentials) {
		if c != nil {
			names = append(names, &c.Certificate, &c.Key, &c.SecretFile, &c.AccessTokenFile, &c.RefreshTokenFile)
		}
	}
	for _, c := range []*Consumer{t.A, t.B} {
		if c != nil {
			pair(c.MQTT)
			oauth(c.OAuth)
		}
	}
	for _, p := range []*Publisher{t.Provider, t.Provider2} {
		if p != nil {
			names = append(names, &p.Certificate, &p.Key)
		}
	}
	pair(t.Revoked)
	oauth(t.ResourceServer)
	if t.Webhook != nil {
		oauth(t.Webhook.OAuth)
	}
	return names
}

// validate says what keeps the target from being checked. A subscription ID
// that is no UUID version 4 is not among it: that is a finding, not a typing
// error.
func (t *Target) validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for name, value := range map[string]string{"issuer": t.Issuer, "api": t.API} {
		if value != "" {
			if err := httpsURL(value); err != nil {
				bad("%s: %w", name, err)
			}
		}
	}
	if t.MQTT != "" {
		if _, _, err := mqttAddress(t.MQTT); err != nil {
			bad("mqtt: %w", err)
		}
	}
	if t.Issuer == "" && t.API == "" && t.MQTT == "" && t.Webhook == nil {
		bad("there is nothing to check: give issuer and api, or mqtt, or webhook")
	}
	for _, e := range t.Endpoints {
		if e == "" || strings.ContainsAny(e, "?#% ") || strings.HasPrefix(e, "/") {
			bad("endpoints: %q is not a path below /fds/v2/", clean(e))
		}
	}
	if strings.ContainsAny(t.CheckLevel, "/+#") {
		bad("check_level: must be one topic level")
	}
	if t.ExpiredToken != "" && t.ExpiredTokenFile != "" {
		bad("expired_token and expired_token_file: give one of them")
	}
	problems = append(problems, t.validateParties()...)
	if len(problems) == 0 {
		return nil
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return keyholder.Errorf(keyholder.Invalid, "the target is not usable: %v", strings.ReplaceAll(errors.Join(problems...).Error(), "\n", "; ")).
		WithHint("see the comments of `keyholder check -example`")
}

func (t *Target) validateParties() []error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	pair := func(name, certificate, key string, needed bool) {
		if (certificate == "") != (key == "") || needed && certificate == "" {
			bad("%s: give both certificate and key", name)
		}
	}
	oauth := func(name string, c *Credentials) {
		if c != nil {
			pair(name, c.Certificate, c.Key, false)
			if err := c.validate(); err != nil {
				bad("%s: %w", name, err)
			}
		}
	}
	for name, c := range map[string]*Consumer{"consumer_a": t.A, "consumer_b": t.B} {
		if c == nil {
			continue
		}
		if c.SubscriptionID == "" || len(c.SubscriptionID) > 100 {
			bad("%s: give the subscription_id", name)
		}
		if c.MQTT != nil {
			pair(name+".mqtt", c.MQTT.Certificate, c.MQTT.Key, true)
		}
		oauth(name+".oauth", c.OAuth)
	}
	if t.A != nil && t.B != nil && strings.EqualFold(t.A.SubscriptionID, t.B.SubscriptionID) {
		bad("consumer_a and consumer_b must be two subscriptions, of two resource owners")
	}
	for name, p := range map[string]*Publisher{"provider": t.Provider, "provider2": t.Provider2} {
		if p == nil {
			continue
		}
		if p.ID == "" {
			bad("%s: give the id", name)
		}
		pair(name, p.Certificate, p.Key, true)
	}
	if t.Revoked != nil {
		pair("revoked_certificate", t.Revoked.Certificate, t.Revoked.Key, true)
	}
	oauth("resource_server", t.ResourceServer)
	if w := t.Webhook; w != nil {
		if err := httpsURL(w.URL); err != nil {
			bad("webhook.url: %w", err)
		}
		if w.Issuer != "" {
			if err := httpsURL(w.Issuer); err != nil {
				bad("webhook.issuer: %w", err)
			}
		}
		if w.SubscriptionID == "" {
			bad("webhook: give the subscription_id")
		}
		oauth("webhook.oauth", w.OAuth)
	}
	return problems
}

func (c *Credentials) validate() error {
	for _, two := range [][3]string{
		{"secret", string(c.Secret), c.SecretFile},
		{"access_token", string(c.AccessToken), c.AccessTokenFile},
		{"refresh_token", string(c.RefreshToken), c.RefreshTokenFile},
	} {
		if two[1] != "" && two[2] != "" {
			return fmt.Errorf("give %s or %s_file, not both", two[0], two[0])
		}
	}
	switch c.AuthMethod {
	case "", AuthBasic, AuthPost:
	case AuthCertificate:
		if c.Certificate == "" {
			return fmt.Errorf("auth_method %s needs certificate and key", AuthCertificate)
		}
	default:
		return fmt.Errorf("unknown auth_method: use %s, %s or %s", AuthBasic, AuthPost, AuthCertificate)
	}
	switch c.Grant {
	case GrantAccessToken:
		if c.AccessToken == "" && c.AccessTokenFile == "" {
			return errors.New("grant access_token needs access_token or access_token_file")
		}
		return nil
	case GrantRefreshToken:
		if c.RefreshToken == "" && c.RefreshTokenFile == "" {
			return errors.New("grant refresh_token needs refresh_token or refresh_token_file")
		}
	case "", GrantClientCredentials:
	default:
		return fmt.Errorf("unknown grant: use %s, %s or %s", GrantClientCredentials, GrantRefreshToken, GrantAccessToken)
	}
	if c.ClientID == "" {
		return errors.New("give the client_id")
	}
	if c.Certificate == "" && c.Secret == "" && c.SecretFile == "" {
		return errors.New("give a secret_file, or certificate and key")
	}
	return nil
}

func httpsURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return errors.New("not a URL")
	case u.Scheme != "https":
		return errors.New("must be an https URL: a check never sends a token in the clear")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("must have no user, query or fragment")
	}
	return nil
}

// mqttAddress returns the host and host:port of a broker's URL.
func mqttAddress(s string) (string, string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "":
		return "", "", errors.New("not an address: write mqtts://host:port")
	case !slices.Contains([]string{"mqtts", "ssl", "tls"}, u.Scheme):
		return "", "", errors.New("must be mqtts://host:port: FDS has no MQTT without TLS")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return "", "", errors.New("must be mqtts://host:port and nothing more")
	}
	port := u.Port()
	if port == "" {
		port = "8883"
	}
	return u.Hostname(), net.JoinHostPort(u.Hostname(), port), nil
}
