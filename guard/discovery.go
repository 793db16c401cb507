package guard

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// maxDocument bounds a discovery document or key set, in bytes.
	maxDocument = 256 << 10
	// fetchTimeout bounds each request to an authorization server.
	fetchTimeout = 10 * time.Second
)

// Metadata is what an authorization server says of itself (RFC 8414, OpenID
// Connect Discovery 1.0), as far as guards and apps need it.
type Metadata struct {
	Issuer                string `json:"issuer"`
	AuthorizationEndpoint string `json:"authorization_endpoint"`
	TokenEndpoint         string `json:"token_endpoint"`
	RevocationEndpoint    string `json:"revocation_endpoint"`
	IntrospectionEndpoint string `json:"introspection_endpoint"`
	JWKSURI               string `json:"jwks_uri"`
	// EndingsEndpoint is the feed of a Keyholder that [Follow] follows.
	EndingsEndpoint string `json:"keyholder_endings_endpoint"`
	// IssuerInResponse means that authorization responses carry the
	// parameter iss (RFC 9207).
	IssuerInResponse bool `json:"authorization_response_iss_parameter_supported"`
	// MTLS holds endpoints to be used instead with a client certificate
	// (RFC 8705 section 5).
	MTLS struct {
		TokenEndpoint      string `json:"token_endpoint"`
		RevocationEndpoint string `json:"revocation_endpoint"`
	} `json:"mtls_endpoint_aliases"`
}

// Discover returns the metadata of an issuer, from the OpenID Connect
// location or else that of RFC 8414. Issuer and endpoints must be https URLs,
// and the document must name the same issuer (RFC 8414 section 3.3).
// Redirects are not followed. A nil client means one of the strict TLS
// profile that trusts the system's roots; see [HTTPClient].
//
// The error is an [keyholder.Error]: Invalid if issuer or document are wrong,
// Unavailable if the document cannot be had now.
func Discover(ctx context.Context, issuer string, client *http.Client) (Metadata, error) {
	u, err := parseIssuer(issuer)
	if err != nil {
		return Metadata{}, err
	}
	path := strings.TrimSuffix(u.Path, "/")
	openID, oauth := *u, *u
	openID.Path = path + "/.well-known/openid-configuration"
	oauth.Path = "/.well-known/oauth-authorization-server" + path
	client = fetcher(client)
	body, found, err := fetch(ctx, client, openID.String())
	if err == nil && !found {
		body, found, err = fetch(ctx, client, oauth.String())
	}
	if err != nil {
		return Metadata{}, err
	}
	if !found {
		return Metadata{}, keyholder.Errorf(keyholder.Invalid, "the issuer publishes no metadata")
	}
	var m Metadata
	if err := json.Unmarshal(body, &m); err != nil {
		return Metadata{}, invalid("the issuer's metadata are malformed", err)
	}
	if m.Issuer != issuer {
		return Metadata{}, keyholder.Errorf(keyholder.Invalid, "the metadata are of another issuer").
			WithHint("write the issuer exactly as its metadata do, with or without a final slash")
	}
	for _, endpoint := range []string{m.AuthorizationEndpoint, m.TokenEndpoint, m.RevocationEndpoint,
		m.IntrospectionEndpoint, m.EndingsEndpoint, m.JWKSURI,
		m.MTLS.TokenEndpoint, m.MTLS.RevocationEndpoint} {
		if endpoint != "" && !secureURL(endpoint) {
			return Metadata{}, keyholder.Errorf(keyholder.Invalid, "the metadata name an endpoint that is not an https URL")
		}
	}
	return m, nil
}

// parseIssuer checks the form of an issuer identifier (RFC 8414 section 2).
func parseIssuer(issuer string) (*url.URL, error) {
	u, err := url.Parse(issuer)
	if err != nil || !secureURL(issuer) || u.RawQuery != "" || u.ForceQuery {
		return nil, keyholder.Errorf(keyholder.Invalid, "the issuer is not an https URL without query and fragment")
	}
	return u, nil
}

// secureURL says whether s is an absolute https URL without user or fragment.
func secureURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.Fragment == "" && !strings.Contains(s, "#")
}

// HTTPClient returns a client for the servers of a deployment: it speaks the
// TLS profile, trusts roots, or the system's if that is nil, and presents no
// certificate. Give it to [Discover] and [FetchKeys].
func HTTPClient(roots *x509.CertPool, profile keyholder.TLSProfile) *http.Client {
	c := profile.Config()
	c.RootCAs = roots
	return &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     c,
		TLSHandshakeTimeout: fetchTimeout,
		MaxIdleConns:        4,
		IdleConnTimeout:     time.Minute,
		ForceAttemptHTTP2:   true,
	}}
}

// fetcher returns a copy of client that follows no redirect and does not wait
// for ever.
func fetcher(client *http.Client) *http.Client {
	if client == nil {
		client = HTTPClient(nil, keyholder.TLSStrict)
	}
	c := *client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if c.Timeout == 0 {
		c.Timeout = fetchTimeout
	}
	return &c
}

// fetch gets a JSON document and says whether there is one.
func fetch(ctx context.Context, client *http.Client, address string) ([]byte, bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, false, invalid("the address of the authorization server is malformed", err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, false, unavailable("the authorization server does not answer", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, false, nil
	default:
		return nil, false, unavailable("the authorization server does not serve its documents",
			fmt.Errorf("get metadata or keys: status %d", resp.StatusCode))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, false, unavailable("the authorization server broke off", err)
	}
	if len(body) > maxDocument {
		return nil, false, keyholder.Errorf(keyholder.Invalid, "a document of the authorization server is longer than %d bytes", maxDocument)
	}
	return body, true, nil
}

func invalid(detail string, cause error) error {
	return &keyholder.Error{Code: keyholder.Invalid, Detail: detail, Err: cause}
}

func unavailable(detail string, cause error) error {
	return &keyholder.Error{Code: keyholder.Unavailable, Detail: detail, Err: cause}
}
