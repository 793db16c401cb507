package conformance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// parseToken looks into a token. It verifies nothing: the deployment's own
// answer to the token is what counts here.
func parseToken(raw string) *accessToken {
	t := &accessToken{raw: raw}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return t
	}
	header, claims := decodePart(parts[0]), decodePart(parts[1])
	if header == nil || claims == nil {
		return t
	}
	t.header, t.claims = header, claims
	if exp, ok := claims["exp"].(json.Number); ok {
		if seconds, err := exp.Float64(); err == nil && seconds > 0 && seconds < 1e12 {
			t.expires = time.Unix(int64(seconds), 0)
		}
	}
	return t
}

func decodePart(s string) map[string]any {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if dec.Decode(&m) != nil {
		return nil
	}
	return m
}

func encodePart(m map[string]any) (string, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("encode a token: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}

// bound says whether the token is bound to a certificate (RFC 8705).
func (t *accessToken) bound() bool {
	cnf, _ := t.claims["cnf"].(map[string]any)
	_, ok := cnf["x5t#S256"]
	return ok
}

// claimOf returns the name of the claim that holds the subscription ID, or "".
func (d *deployment) claimOf(claims map[string]any, subscription string) string {
	if name := d.target.SubscriptionClaim; name != "" {
		if claims[name] == subscription {
			return name
		}
		return ""
	}
	if claims["subscription_id"] == subscription {
		return "subscription_id"
	}
	var names []string
	for name, value := range claims {
		if value == subscription {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return slices.Min(names)
}

// claimsOf returns what a consumer's token says: its own claims, or what the
// server says of it if it is opaque.
func (d *deployment) claimsOf(ctx context.Context, n *notebook, t *accessToken) (map[string]any, error) {
	if t.claims != nil {
		return t.claims, nil
	}
	return d.introspect(ctx, n, t.raw)
}

// introspect asks the authorization server what a token is worth (RFC 7662).
func (d *deployment) introspect(ctx context.Context, n *notebook, raw string) (map[string]any, error) {
	if d.server == nil {
		return nil, lacks("resource_server, who may introspect: the access tokens are opaque")
	}
	m, err := d.discover(ctx, d.target.Issuer)
	if err != nil {
		return nil, err
	}
	address := m.Introspection
	if d.server.certificate != nil && m.CertificateAlias.Introspection != "" {
		address = m.CertificateAlias.Introspection
	}
	if address == "" {
		return nil, wrong("publish the introspection endpoint", "tokens are opaque, and the metadata names no introspection_endpoint")
	}
	a, err := d.post(ctx, address, d.server, url.Values{"token": {raw}})
	if err != nil {
		return nil, err
	}
	claims := map[string]any{}
	dec := json.NewDecoder(bytes.NewReader(a.body))
	dec.UseNumber()
	if err := dec.Decode(&claims); err != nil || a.status != 200 {
		return nil, fmt.Errorf("introspection answers %d", a.status)
	}
	return claims, nil
}

// forgery is a token that the authorization server never issued.
type forgery struct{ name, raw string }

// claimsToForge returns the claims of the token, or plausible ones if it is
// opaque, with dates that leave no other reason to refuse it.
func (d *deployment) claimsToForge(t *accessToken, c *consumer) map[string]any {
	claims := map[string]any{}
	for k, v := range t.claims {
		claims[k] = v
	}
	if t.claims == nil {
		name := d.target.SubscriptionClaim
		if name == "" {
			name = "subscription_id"
		}
		claims = map[string]any{"iss": d.target.Issuer, "aud": d.target.API, "sub": c.oauth.ClientID, "client_id": c.oauth.ClientID,
			"scope": c.oauth.Scope, name: c.subscription}
	}
	now := d.now().Unix()
	claims["iat"], claims["nbf"], claims["exp"], claims["jti"] = now, now, now+300, rand.Text()
	return claims
}

// forge returns tokens with right claims and no right signature.
func (d *deployment) forge(ctx context.Context, t *accessToken, c *consumer) ([]forgery, error) {
	claims := d.claimsToForge(t, c)
	payload, err := json.Marshal(claims)
	if err != nil {
		return nil, fmt.Errorf("encode a token: %w", err)
	}
	typ, _ := t.header["typ"].(string)
	if typ == "" {
		typ = "at+jwt"
	}
	kid, _ := t.header["kid"].(string)
	none, err := unsigned(map[string]any{"alg": "none", "typ": typ}, claims)
	if err != nil {
		return nil, err
	}
	list := []forgery{{"a token with alg none", none}}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw a key: %w", err)
	}
	for _, embed := range []bool{false, true} {
		options := (&jose.SignerOptions{EmbedJWK: embed}).WithType(jose.ContentType(typ))
		name := "a token signed with a stranger's key"
		if embed {
			name = "a token that brings its own key"
		} else if kid != "" {
			options = options.WithHeader("kid", kid)
		}
		raw, err := sign(jose.SigningKey{Algorithm: jose.ES256, Key: key}, options, payload)
		if err != nil {
			return nil, err
		}
		list = append(list, forgery{name, raw})
	}
	confused, err := d.confuse(ctx, typ, kid, payload)
	return append(list, confused...), err
}

// confuse returns tokens whose HMAC key is the server's public key, which
// fools verifiers that let the token choose the algorithm.
func (d *deployment) confuse(ctx context.Context, typ, kid string, payload []byte) ([]forgery, error) {
	m, err := d.discover(ctx, d.target.Issuer)
	if err != nil {
		return nil, err
	}
	set, _, err := d.keys(ctx, m)
	if err != nil {
		return nil, err
	}
	var list []forgery
	for _, k := range set.Keys {
		if kid != "" && k.KeyID != kid || !k.Valid() || !k.IsPublic() {
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(k.Key)
		if err != nil {
			continue
		}
		secret := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		options := (&jose.SignerOptions{}).WithType(jose.ContentType(typ)).WithHeader("kid", k.KeyID)
		raw, err := sign(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, options, payload)
		if err != nil {
			return nil, err
		}
		list = append(list, forgery{"a token with the public key as HMAC secret", raw})
	}
	return list, nil
}

func sign(key jose.SigningKey, options *jose.SignerOptions, payload []byte) (string, error) {
	signer, err := jose.NewSigner(key, options)
	if err != nil {
		return "", fmt.Errorf("make a signer: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return signed.CompactSerialize()
}

func unsigned(header, claims map[string]any) (string, error) {
	h, err := encodePart(header)
	if err != nil {
		return "", err
	}
	c, err := encodePart(claims)
	return h + "." + c + ".", err
}

// tampered returns the token with its claims changed and its signature kept,
// or for an opaque token with one character changed.
func (t *accessToken) tampered(change func(claims map[string]any)) (string, error) {
	if t.claims == nil {
		i := len(t.raw) / 2
		if i == 0 {
			return "", fmt.Errorf("the access token is too short to tamper with")
		}
		swap := byte('A')
		if t.raw[i] == 'A' {
			swap = 'B'
		}
		return t.raw[:i] + string(swap) + t.raw[i+1:], nil
	}
	claims := map[string]any{}
	for k, v := range t.claims {
		claims[k] = v
	}
	change(claims)
	c, err := encodePart(claims)
	if err != nil {
		return "", err
	}
	parts := strings.Split(t.raw, ".")
	return parts[0] + "." + c + "." + parts[2], nil
}
