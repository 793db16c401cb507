package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/fds-keyholder/keyholder"
)

const (
	// maxMetadata bounds the metadata of an authorization server, in bytes.
	maxMetadata = 256 << 10
	// maxToken bounds an access token, in bytes.
	maxToken = 16 << 10
	// renewBefore is how long before its expiry a token is no longer used.
	renewBefore = 20 * time.Second
	// unknownLife is how long a token is used whose lifetime is not told; a
	// 401 ends it earlier.
	unknownLife = time.Minute
)

// metadata of an authorization server (RFC 8414), as far as it is used.
type serverMetadata struct {
	Issuer      string   `json:"issuer"`
	Token       string   `json:"token_endpoint"`
	AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
	Aliases     struct {
		Token string `json:"token_endpoint"`
	} `json:"mtls_endpoint_aliases"` // RFC 8705 section 5
}

// errIssuer is in the chain of every failure at the receiver's authorization
// server.
var errIssuer = errors.New("the receiver's authorization server")

// issuerError says in words of ours what is wrong there.
type issuerError struct{ what string }

func (e *issuerError) Error() string        { return e.what }
func (e *issuerError) Is(target error) bool { return target == errIssuer }

func wrong(format string, args ...any) error {
	return &issuerError{fmt.Sprintf(format, args...)}
}

// discover finds the token endpoint of an issuer: by RFC 8414, and where that
// is not served by OpenID Connect Discovery.
func discover(ctx context.Context, client *http.Client, issuer string) (serverMetadata, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return serverMetadata{}, wrong("the issuer is not an https address")
	}
	base, path := "https://"+u.Host, strings.TrimSuffix(u.EscapedPath(), "/")
	m, status, err := fetchMetadata(ctx, client, base+"/.well-known/oauth-authorization-server"+path)
	if err == nil && status != http.StatusOK {
		m, status, err = fetchMetadata(ctx, client, base+path+"/.well-known/openid-configuration")
	}
	switch {
	case err != nil:
		return serverMetadata{}, err
	case status != http.StatusOK:
		return serverMetadata{}, wrong("its metadata gives status %d", status)
	case m.Issuer != issuer:
		return serverMetadata{}, wrong("its metadata is of another issuer")
	}
	for _, s := range []string{m.Token, m.Aliases.Token} {
		if s == "" && s != m.Token {
			continue
		}
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
			return serverMetadata{}, wrong("its token endpoint is not an https address")
		}
	}
	return m, nil
}

func fetchMetadata(ctx context.Context, client *http.Client, address string) (serverMetadata, int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return serverMetadata{}, 0, fmt.Errorf("%w: %w", errIssuer, err)
	}
	req.Header.Set("Accept", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return serverMetadata{}, 0, fmt.Errorf("%w: %w", errIssuer, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return serverMetadata{}, res.StatusCode, nil
	}
	var m serverMetadata
	body, err := io.ReadAll(io.LimitReader(res.Body, maxMetadata+1))
	if err != nil || len(body) > maxMetadata || json.Unmarshal(body, &m) != nil {
		return serverMetadata{}, 0, wrong("its metadata can not be read")
	}
	return m, res.StatusCode, nil
}

// fetchToken gets an access token for pushing by client credentials (RFC 6749
// section 4.4), authenticated by certificate (RFC 8705) or secret. The
// subscription is named in the request, since the token must include it
// (FDS 2.6.4.1).
func fetchToken(ctx context.Context, client *http.Client, m serverMetadata, id string, c credential, sub keyholder.SubscriptionID) (*oauth2.Token, error) {
	cfg := clientcredentials.Config{ClientID: id, TokenURL: m.Token, Scopes: []string{keyholder.ScopePush},
		EndpointParams: url.Values{"subscription_id": {string(sub)}}, AuthStyle: oauth2.AuthStyleInHeader}
	switch {
	case c.certificate != nil:
		cfg.AuthStyle = oauth2.AuthStyleInParams // the client ID alone; the certificate is in TLS
		if m.Aliases.Token != "" {
			cfg.TokenURL = m.Aliases.Token
		}
	default:
		cfg.ClientSecret = c.secret
		if len(m.AuthMethods) > 0 && !slices.Contains(m.AuthMethods, "client_secret_basic") {
			cfg.AuthStyle = oauth2.AuthStyleInParams
		}
	}
	t, err := cfg.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIssuer, err)
	}
	if !strings.EqualFold(t.Type(), "Bearer") || len(t.AccessToken) > maxToken || !visible(t.AccessToken) {
		return nil, wrong("what it issues is not a bearer token")
	}
	return t, nil
}

// visible says whether s is of visible ASCII characters only, as a token in a
// header must be (RFC 6750 section 2.1).
func visible(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r <= 0x20 || r >= 0x7f }) < 0
}
