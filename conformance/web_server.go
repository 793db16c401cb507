package conformance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// webServer are the probes of W3 and W4.
func webServer() []probe {
	return []probe{
		positive("W3.metadata", "the authorization server publishes valid metadata and public keys only", probeMetadata),
		negative("W3.forged", "the Web API refuses tokens that the authorization server did not issue", probeForged),
		positive("W4.authenticated", "the authorization server issues a token to an authenticated client application", probeAuthenticated),
		negative("W4.wrong", "the authorization server refuses wrong, unknown and missing client credentials", probeWrongCredentials),
		negative("W4.copied", "the authorization server refuses a self-made certificate with a client's name", probeCopiedClient),
		negative("W4.unbound", "a token bound to a certificate is refused without it", probeBound),
		negative("W4.introspection", "introspection is refused to strangers", probeStrangerIntrospects),
	}
}

func probeMetadata(ctx context.Context, d *deployment, n *notebook) error {
	m, err := d.discover(ctx, d.target.Issuer)
	if err != nil {
		return err
	}
	if m.Token == "" {
		return wrong("publish the token endpoint (RFC 8414)", "the metadata names no token_endpoint")
	}
	set, _, err := d.keys(ctx, m)
	if err != nil {
		return err
	}
	for _, k := range set.Keys {
		if !k.IsPublic() {
			return wrong("take the private keys out of the key set at once and replace them", "the key set at jwks_uri shows a private or secret key")
		}
	}
	n.saw("%s: metadata of the issuer, %d public keys", m.found, len(set.Keys))
	for _, old := range []string{"implicit", "password"} {
		if slices.Contains(m.Grants, old) {
			n.note("the authorization server offers the %s grant, which RFC 9700 forbids and FDS only names as negotiable", old)
		}
	}
	if _, server := webAddress(d.target.Issuer); d.target.API != "" {
		if _, api := webAddress(d.target.API); api == server {
			n.note("the authorization server and the Web API share one address: whether the server is dedicated cannot be seen from outside")
		}
	}
	return nil
}

func probeForged(ctx context.Context, d *deployment, n *notebook) error {
	offered, err := d.needAPI(ctx, n)
	if err != nil {
		return control(err)
	}
	t, err := d.tokenOf(ctx, n, "a", d.a)
	if err != nil {
		return control(err)
	}
	forged, err := d.forge(ctx, t, d.a)
	if err != nil {
		return control(err)
	}
	for _, f := range forged {
		a, err := d.get(ctx, d.endpoint(offered[0], nil), "Bearer "+f.raw, d.a.oauth)
		if err != nil {
			return err
		}
		if err := unauthorized(a, f.name); err != nil {
			return err
		}
		n.saw("%s: 401", f.name)
	}
	return nil
}

// needClient returns consumer A's credentials if they get tokens, after
// showing that they do.
func (d *deployment) needClient(ctx context.Context, n *notebook) (*credentials, error) {
	if d.a == nil || d.a.oauth == nil || d.a.oauth.Grant == GrantAccessToken {
		return nil, lacks("consumer_a.oauth with client credentials or a refresh token")
	}
	_, err := d.tokenOf(ctx, n, "a", d.a)
	return d.a.oauth, err
}

func probeAuthenticated(ctx context.Context, d *deployment, n *notebook) error {
	c, err := d.needClient(ctx, n)
	if err != nil {
		return err
	}
	n.saw("consumer A gets a token by %s with %s", c.Grant, c.AuthMethod)
	if d.b != nil && d.b.oauth != nil && d.b.oauth.Grant != GrantAccessToken {
		if _, err := d.tokenOf(ctx, n, "b", d.b); err != nil {
			return err
		}
		n.saw("consumer B by %s with %s", d.b.oauth.Grant, d.b.oauth.AuthMethod)
	}
	return nil
}

// refuseToken sends a token request that must be refused.
func (d *deployment) refuseToken(ctx context.Context, n *notebook, what string, c *credentials, form url.Values) error {
	a, err := d.requestToken(ctx, d.target.Issuer, c, form)
	own := d.a != nil && c == d.a.oauth
	if err != nil && c.certificate != nil && !own && ctx.Err() == nil && !unreachable(err) {
		n.saw("%s: refused in the TLS handshake", what)
		return nil
	}
	if err != nil {
		return control(err)
	}
	if a.Token != "" || a.status < 400 || a.status >= 500 {
		return wrong("authenticate the client before anything else (RFC 6749 2.3)", "%s: the token endpoint answers %s", what, a)
	}
	n.saw("%s: %s", what, a)
	return nil
}

// unreachable says whether an error came before any TLS handshake, so that it
// is no refusal of a certificate.
func unreachable(err error) bool {
	var f *finding
	return errors.As(err, &f) || isTrust(err) || isDial(err)
}

// isDial says whether no connection came about at all.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func probeWrongCredentials(ctx context.Context, d *deployment, n *notebook) error {
	right, err := d.needClient(ctx, n)
	if err != nil {
		return control(err)
	}
	// The requests ask for client credentials even if the grant is another:
	// a fault here must not use up the refresh token.
	form := right.clientForm(d.a.subscription)
	stranger := &credentials{Credentials: Credentials{ClientID: strangerID(), AuthMethod: AuthBasic}, secret: rand.Text()}
	wrongSecret := &credentials{Credentials: Credentials{ClientID: right.ClientID, AuthMethod: AuthBasic}, secret: rand.Text()}
	if right.AuthMethod == AuthPost {
		stranger.AuthMethod, wrongSecret.AuthMethod = AuthPost, AuthPost
	}
	if err := d.refuseToken(ctx, n, "unknown client", stranger, form); err != nil {
		return err
	}
	if err := d.refuseToken(ctx, n, "wrong secret", wrongSecret, form); err != nil {
		return err
	}
	// AuthPost with no secret sends the name alone.
	bare := &credentials{Credentials: Credentials{ClientID: right.ClientID, AuthMethod: AuthCertificate}}
	return d.refuseToken(ctx, n, "client ID alone", bare, form)
}

func probeCopiedClient(ctx context.Context, d *deployment, n *notebook) error {
	var c *consumer
	for _, candidate := range []*consumer{d.a, d.b} {
		if c == nil && candidate != nil && candidate.oauth != nil && candidate.oauth.AuthMethod == AuthCertificate && candidate.oauth.certificate != nil &&
			candidate.oauth.Grant != GrantAccessToken {
			c = candidate
		}
	}
	if c == nil {
		return lacks("a consumer whose oauth client authenticates with a certificate")
	}
	if _, err := d.tokenOf(ctx, n, strings.ToLower(c.name), c); err != nil {
		return control(err)
	}
	copies, err := forgeCertificates(c.oauth.certificate.Leaf, d.now())
	if err != nil {
		return err
	}
	for _, forged := range copies {
		liar := &credentials{Credentials: c.oauth.Credentials, certificate: forged.certificate}
		if err := d.refuseToken(ctx, n, forged.name, liar, c.oauth.clientForm(c.subscription)); err != nil {
			return err
		}
	}
	return nil
}

func probeBound(ctx context.Context, d *deployment, n *notebook) error {
	offered, err := d.needAPI(ctx, n)
	if err != nil {
		return control(err)
	}
	for _, c := range []*consumer{d.a, d.b} {
		if c == nil || c.oauth == nil {
			continue
		}
		t, err := d.tokenOf(ctx, n, strings.ToLower(c.name), c)
		if err != nil {
			return control(err)
		}
		if !t.bound() {
			continue
		}
		right, err := d.get(ctx, d.endpoint(offered[0], nil), "Bearer "+t.raw, c.oauth)
		if err != nil {
			return err
		}
		if right.status != http.StatusOK {
			return fmt.Errorf("consumer %s's bound token is refused with its certificate too (%d), so a refusal proves nothing", c.name, right.status)
		}
		a, err := d.get(ctx, d.endpoint(offered[0], nil), "Bearer "+t.raw, nil)
		if err != nil {
			return err
		}
		if err := unauthorized(a, "a bound token without its certificate"); err != nil {
			return err
		}
		n.saw("consumer %s's bound token without its certificate: 401", c.name)
		return nil
	}
	return lacks("a consumer whose token is bound to a certificate (RFC 8705); nothing is wrong if no token is")
}

func probeStrangerIntrospects(ctx context.Context, d *deployment, n *notebook) error {
	m, err := d.discover(ctx, d.target.Issuer)
	if err != nil {
		return control(err)
	}
	if m.Introspection == "" {
		return lacks("an issuer with an introspection endpoint; nothing is wrong if it has none")
	}
	t, err := d.tokenOf(ctx, n, "a", d.a)
	if err != nil {
		return control(err)
	}
	stranger := &credentials{Credentials: Credentials{ClientID: strangerID(), AuthMethod: AuthBasic}, secret: rand.Text()}
	a, err := d.post(ctx, m.Introspection, stranger, url.Values{"token": {t.raw}})
	if err != nil {
		return err
	}
	if a.status < 400 || a.status >= 500 {
		return wrong("let only registered resource servers introspect (RFC 7662 2.1)", "introspection answers a stranger with %d", a.status)
	}
	n.saw("introspection refuses a stranger with %d", a.status)
	return nil
}
