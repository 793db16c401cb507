package daemon

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// introspection is the value of auth.external.tokens for tokens of any form,
// about which the issuer is asked.
const introspection = "introspection"

// maxTokenLifetime is the longest life that tokens of an external issuer may
// be given; the end of an agreement does not shorten it.
const maxTokenLifetime = 24 * time.Hour

// External is an authorization server of somebody else that issues the tokens
// for the Web API and ingestion; see the comments of [DefaultConfig].
type External struct {
	Issuer            string            `yaml:"issuer"`
	Audience          string            `yaml:"audience"`
	Tokens            string            `yaml:"tokens"`
	Algorithms        []string          `yaml:"algorithms"`
	SubscriptionClaim string            `yaml:"subscription_claim"`
	MaxLifetime       time.Duration     `yaml:"max_lifetime"`
	Clients           map[string]string `yaml:"clients"`
	ClientID          string            `yaml:"client_id"`
	SecretFile        string            `yaml:"secret_file"`
	CAFile            string            `yaml:"ca_file"`
}

func (e *External) check() error {
	if u, err := url.Parse(e.Issuer); err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return keyholder.Errorf(keyholder.Invalid, "auth.external.issuer is not an https address without query and fragment").
			WithHint("write it exactly as the issuer's metadata do")
	}
	if e.MaxLifetime < 0 || e.MaxLifetime > maxTokenLifetime {
		return keyholder.Errorf(keyholder.Invalid, "auth.external.max_lifetime is not between 0 and %s", maxTokenLifetime)
	}
	for _, alg := range e.Algorithms {
		if !slices.Contains([]string{"ES256", "PS256", "RS256", "EdDSA"}, alg) {
			return keyholder.Errorf(keyholder.Invalid, "auth.external.algorithms holds one that is not accepted").
				WithHint("the algorithms are ES256, PS256, RS256 and EdDSA")
		}
	}
	if err := e.checkTokens(); err != nil {
		return err
	}
	return e.checkClients()
}

// checkTokens checks what belongs together: credentials are for introspection
// only, algorithms for signed tokens only.
func (e *External) checkTokens() error {
	switch {
	case e.Tokens == "":
		return keyholder.Errorf(keyholder.Invalid, "auth.external.tokens is empty").
			WithHint("rfc9068, keycloak, hydra, entra or introspection")
	case e.Tokens != introspection:
		if e.ClientID != "" || e.SecretFile != "" {
			return keyholder.Errorf(keyholder.Invalid, "auth.external.client_id and secret_file are for tokens: introspection")
		}
		_, err := guard.ParseDialect(e.Tokens)
		return err
	case e.ClientID == "" || e.SecretFile == "":
		return keyholder.Errorf(keyholder.Invalid, "tokens: introspection needs auth.external.client_id and secret_file")
	case len(e.Algorithms) > 0:
		return keyholder.Errorf(keyholder.Invalid, "auth.external.algorithms has no meaning with tokens: introspection")
	}
	return nil
}

// checkClients checks that each client of the issuer stands for one app or
// provider, and each of these for one client: who is who must not be a guess.
func (e *External) checkClients() error {
	if len(e.Clients) == 0 {
		return keyholder.Errorf(keyholder.Invalid, "auth.external.clients is empty, so nobody could use a token").
			WithHint("name the app or provider that each client of the issuer stands for")
	}
	known := map[string]bool{}
	for client, id := range e.Clients {
		if _, err := keyholder.ParseID[string](id); err != nil || client == "" {
			return keyholder.Errorf(keyholder.Invalid, "auth.external.clients holds a line that is not of the form client: ID").
				WithHint("`keyholder app list` and `keyholder provider list` show the IDs")
		}
		if known[id] {
			return keyholder.Errorf(keyholder.Invalid, "auth.external.clients names %s twice", id)
		}
		known[id] = true
	}
	return nil
}

// guardConfig is the configuration of the guard of the Web API. Files are
// named from the data folder.
func (d *Daemon) guardConfig(o Options) (guard.Config, error) {
	c := guard.Config{Issuer: d.Issuer, Audience: d.API, BaseURL: d.API, Ended: d.ledger.TokenEnded, Now: o.Now}
	e := o.Config.Auth.External
	if e == nil {
		c.Keys = d.publicKey
		return c, nil
	}
	c.Issuer, c.Algorithms, c.SubscriptionClaim, c.MaxLifetime = e.Issuer, e.Algorithms, e.SubscriptionClaim, e.MaxLifetime
	if e.Audience != "" {
		c.Audience = e.Audience
	}
	clients := maps.Clone(e.Clients)
	c.Client = func(id string) string { return clients[id] }
	client, err := clientTrusting(o, "auth.external.ca_file", e.CAFile)
	if err != nil {
		return guard.Config{}, err
	}
	if e.Tokens != introspection {
		c.Dialect, c.Keys = guard.Dialect(e.Tokens), guard.FetchKeys(e.Issuer, client)
		return c, nil
	}
	secret, err := keyfile.ReadPrivate(inFolder(o.Dir, e.SecretFile))
	if err != nil {
		return guard.Config{}, explainFile("auth.external.secret_file", err)
	}
	c.Introspection = &guard.Introspection{ClientID: e.ClientID, Secret: strings.TrimSpace(string(secret)), HTTP: client}
	if c.Introspection.Secret == "" {
		return guard.Config{}, keyholder.Errorf(keyholder.Invalid, "the file of auth.external.secret_file is empty")
	}
	return c, nil
}

// clientTrusting is a client for the servers of somebody else, which trusts
// the system's authorities unless a file, the value of a key, names another.
func clientTrusting(o Options, key, file string) (*http.Client, error) {
	if file == "" {
		return guard.HTTPClient(nil, o.Config.TLS), nil
	}
	text, err := keyfile.Read(inFolder(o.Dir, file))
	if err != nil {
		return nil, explainFile(key, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, keyholder.Errorf(keyholder.Invalid, "the file of %s holds no certificate in PEM form", key)
	}
	return guard.HTTPClient(roots, o.Config.TLS), nil
}

func inFolder(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

func explainFile(key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &keyholder.Error{Code: keyholder.Invalid, Detail: "the file of " + key + " does not exist",
			Hint: "a relative name is looked for in the data folder", Err: err}
	}
	if keyholder.CodeOf(err) != "" {
		return err
	}
	return fmt.Errorf("read the file of %s: %w", key, err)
}
