package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// maxAnswer bounds what is read of one HTTP answer, in bytes.
const maxAnswer = 16 << 20

// metadata is what the probes need of RFC 8414 and OpenID Connect Discovery.
type metadata struct {
	Issuer           string   `json:"issuer"`
	Token            string   `json:"token_endpoint"`
	Authorization    string   `json:"authorization_endpoint"`
	Keys             string   `json:"jwks_uri"`
	Introspection    string   `json:"introspection_endpoint"`
	Revocation       string   `json:"revocation_endpoint"`
	Grants           []string `json:"grant_types_supported"`
	Responses        []string `json:"response_types_supported"`
	CertificateAlias struct {
		Token         string `json:"token_endpoint"`
		Introspection string `json:"introspection_endpoint"`
	} `json:"mtls_endpoint_aliases"`

	found string // where it was
}

// wellKnown returns the two addresses of an issuer's metadata.
func wellKnown(issuer string) []string {
	trimmed := strings.TrimSuffix(issuer, "/")
	u, err := url.Parse(trimmed)
	if err != nil {
		return nil
	}
	inserted := *u
	inserted.Path = "/.well-known/oauth-authorization-server" + u.Path
	return []string{trimmed + "/.well-known/openid-configuration", inserted.String()}
}

// discover returns the metadata of an issuer, and a finding if there is none
// or it is another's.
func (d *deployment) discover(ctx context.Context, issuer string) (*metadata, error) {
	if issuer == "" {
		return nil, lacks("issuer, the authorization server")
	}
	if m := d.metadata[issuer]; m != nil {
		return m, nil
	}
	var seen []string
	for _, address := range wellKnown(issuer) {
		a, err := d.get(ctx, address, "", nil)
		if err != nil {
			return nil, err
		}
		m := &metadata{found: address}
		if a.status != http.StatusOK || json.Unmarshal(a.body, m) != nil {
			seen = append(seen, fmt.Sprintf("%s answers %d", address, a.status))
			continue
		}
		if m.Issuer != issuer {
			return nil, wrong("give the metadata the same issuer as the target, character by character (RFC 8414 3.3)",
				"the metadata at %s is of issuer %q", address, clean(m.Issuer))
		}
		d.metadata[issuer] = m
		return m, nil
	}
	return nil, wrong("publish the authorization server's metadata (RFC 8414)", "no metadata: %s", strings.Join(seen, "; "))
}

// keys returns the issuer's published keys.
func (d *deployment) keys(ctx context.Context, m *metadata) (jose.JSONWebKeySet, []byte, error) {
	var set jose.JSONWebKeySet
	if m.Keys == "" {
		return set, nil, nil
	}
	if err := httpsURL(strings.SplitN(m.Keys, "?", 2)[0]); err != nil {
		return set, nil, wrong("publish the keys under an https address", "jwks_uri: %v", err)
	}
	a, err := d.get(ctx, m.Keys, "", nil)
	if err != nil {
		return set, nil, err
	}
	if err := json.Unmarshal(a.body, &set); err != nil || a.status != http.StatusOK {
		return set, nil, wrong("publish the signing keys at jwks_uri (RFC 7517)", "jwks_uri answers %d and no key set", a.status)
	}
	return set, a.body, nil
}

// answer is an HTTP answer.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// get requests an address with an Authorization header, if it is not empty.
func (d *deployment) get(ctx context.Context, address, authorization string, presented *credentials) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return answer{}, fmt.Errorf("form a request: %w", err)
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	return d.do(request, presented)
}

// do sends a request, with the certificate of the credentials if they have
// one.
func (d *deployment) do(request *http.Request, presented *credentials) (answer, error) {
	client := d.client(nil)
	if presented != nil && presented.certificate != nil {
		client = d.client(presented.certificate)
	}
	request.Header.Set("Accept", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return answer{}, fmt.Errorf("ask the server: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("read the answer of %s: %w", request.URL.Host, err)
	case len(body) > maxAnswer:
		return answer{}, fmt.Errorf("the answer of %s is larger than %d bytes", request.URL.Host, maxAnswer)
	}
	return answer{response.StatusCode, response.Header, body}, nil
}

// tokenAnswer is an answer of a token endpoint (RFC 6749 5.1, 5.2).
type tokenAnswer struct {
	status  int
	Token   string `json:"access_token"`
	Type    string `json:"token_type"`
	Expires int64  `json:"expires_in"` // seconds
	Refresh string `json:"refresh_token"`
	Error   string `json:"error"`
}

func (a tokenAnswer) String() string {
	if a.Token != "" {
		return fmt.Sprintf("%d with an access token", a.status)
	}
	return fmt.Sprintf("%d %s", a.status, clean(a.Error))
}

// requestToken sends a token request with the client authentication of c and
// returns the answer, whatever it is.
func (d *deployment) requestToken(ctx context.Context, issuer string, c *credentials, form url.Values) (tokenAnswer, error) {
	m, err := d.discover(ctx, issuer)
	if err != nil {
		return tokenAnswer{}, err
	}
	address := m.Token
	if c.certificate != nil && m.CertificateAlias.Token != "" {
		address = m.CertificateAlias.Token
	}
	if err := httpsURL(strings.SplitN(address, "?", 2)[0]); err != nil {
		return tokenAnswer{}, wrong("publish the token endpoint under an https address", "token_endpoint: %v", err)
	}
	a, err := d.post(ctx, address, c, form)
	if err != nil {
		return tokenAnswer{}, err
	}
	out := tokenAnswer{status: a.status}
	// A body that is no JSON leaves the members empty, which is no token.
	if err := json.Unmarshal(a.body, &out); err != nil {
		out = tokenAnswer{status: a.status}
	}
	d.keepSecret(out.Token)
	d.keepSecret(out.Refresh)
	return out, nil
}

// post sends a form with client authentication.
func (d *deployment) post(ctx context.Context, address string, c *credentials, form url.Values) (answer, error) {
	form = clone(form)
	if c.AuthMethod != AuthBasic && c.ClientID != "" {
		form.Set("client_id", c.ClientID)
	}
	if c.AuthMethod == AuthPost {
		form.Set("client_secret", c.secret)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return answer{}, fmt.Errorf("form a request: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if c.AuthMethod == AuthBasic {
		request.SetBasicAuth(url.QueryEscape(c.ClientID), url.QueryEscape(c.secret)) // RFC 6749 2.3.1
	}
	return d.do(request, c)
}

func clone(form url.Values) url.Values {
	out := url.Values{}
	for k, v := range form {
		out[k] = append([]string(nil), v...)
	}
	return out
}

// clientForm is the client credentials request for a subscription, which is
// left out if it is "" or the target names no parameter for it.
func (c *credentials) clientForm(subscription string) url.Values {
	form := url.Values{"grant_type": {"client_credentials"}}
	if c.Scope != "" {
		form.Set("scope", c.Scope)
	}
	if c.SubscriptionParameter != "" && subscription != "" {
		form.Set(c.SubscriptionParameter, subscription)
	}
	for k, v := range c.Parameters {
		form.Set(k, v)
	}
	return form
}

// accessToken is a token with what is known of it.
type accessToken struct {
	raw     string
	header  map[string]any // nil if the token is opaque
	claims  map[string]any // nil if the token is opaque
	expires time.Time      // zero if not known
}

// obtain returns an access token for the credentials, by the way the target
// gives. It asks once and again only when the token is about to end.
func (d *deployment) obtain(ctx context.Context, n *notebook, issuer string, c *credentials, subscription string) (*accessToken, error) {
	if c.Grant == GrantAccessToken {
		if c.token == nil {
			c.token = parseToken(c.accessToken)
		}
		return c.token, nil
	}
	if t := c.token; t != nil && (t.expires.IsZero() || d.now().Add(30*time.Second).Before(t.expires)) {
		return t, nil
	}
	form := c.clientForm(subscription)
	if c.Grant == GrantRefreshToken {
		form = url.Values{"grant_type": {"refresh_token"}, "refresh_token": {c.refresh}}
		for k, v := range c.Parameters {
			form.Set(k, v)
		}
	}
	a, err := d.requestToken(ctx, issuer, c, form)
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK || a.Token == "" {
		return nil, wrong("see the authorization server's log; the credentials in the target must be in force",
			"the token endpoint answers %s to the right credentials of %s", a, clean(c.ClientID))
	}
	if c.Grant == GrantRefreshToken && a.Refresh != "" && a.Refresh != c.refresh {
		if err := c.saveRefresh(a.Refresh); err != nil {
			n.note("%v", err)
		}
	}
	c.token = parseToken(a.Token)
	if c.token.expires.IsZero() && a.Expires > 0 {
		c.token.expires = d.now().Add(time.Duration(min(a.Expires, 86400)) * time.Second)
	}
	return c.token, nil
}

// tokenOf returns a consumer's access token.
func (d *deployment) tokenOf(ctx context.Context, n *notebook, name string, c *consumer) (*accessToken, error) {
	if c == nil || c.oauth == nil {
		return nil, lacks("consumer_%s.oauth, the way to an access token", name)
	}
	return d.obtain(ctx, n, d.target.Issuer, c.oauth, c.subscription)
}
