package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// webTransport are the probes of W1 and W2.
func webTransport() []probe {
	return []probe{
		positive("W1.https", "every web server answers over HTTPS, and the metadata names https addresses only", probeHTTPS),
		negative("W1.plain", "no web server answers plain HTTP with anything but a redirect to HTTPS", probePlainHTTP),
		positive("W2.tls12", "every web server speaks TLS 1.2 and proves its name", probeWebTLS12),
		negative("W2.weak", "every web server refuses TLS 1.0, TLS 1.1 and weak suites", probeWebWeakTLS),
	}
}

var errNoWeb = lacks("issuer, api and webhook, any web server to check")

func probeHTTPS(ctx context.Context, d *deployment, n *notebook) error {
	surfaces := d.webSurfaces()
	if len(surfaces) == 0 {
		return errNoWeb
	}
	for _, s := range surfaces {
		a, err := d.get(ctx, "https://"+s.address+"/", "", nil)
		if err != nil && (ctx.Err() != nil || isDial(err)) {
			return err // down, which is no fault of this kind
		}
		if err != nil {
			return wrong("serve HTTPS with a certificate for this name", "%s at %s does not answer over HTTPS: %v", s.name, s.address, err)
		}
		n.saw("%s answers over HTTPS (%d)", s.name, a.status)
	}
	if d.target.Issuer == "" {
		return nil
	}
	m, err := d.discover(ctx, d.target.Issuer)
	if err != nil {
		return err
	}
	for name, address := range map[string]string{"token_endpoint": m.Token, "authorization_endpoint": m.Authorization,
		"jwks_uri": m.Keys, "introspection_endpoint": m.Introspection, "revocation_endpoint": m.Revocation} {
		if address != "" && !strings.HasPrefix(address, "https://") {
			return wrong("publish https addresses only", "the metadata's %s is %s", name, clean(address))
		}
	}
	return nil
}

func probePlainHTTP(ctx context.Context, d *deployment, n *notebook) error {
	surfaces := d.webSurfaces()
	if len(surfaces) == 0 {
		return errNoWeb
	}
	for _, s := range surfaces {
		if err := d.aliveTLS(ctx, s); err != nil {
			return err
		}
		addresses := []string{s.address}
		if host, port, err := net.SplitHostPort(s.address); err == nil && port == "443" {
			addresses = append(addresses, net.JoinHostPort(host, "80"))
		}
		for i, address := range addresses {
			for _, path := range d.pathsAt(s) {
				seen, err := d.askPlain(ctx, address, s.host, path)
				if err != nil && i > 0 {
					break // nobody listens on port 80: as good as a refusal
				}
				if err != nil {
					return err
				}
				n.saw("plain http://%s%s: %s", address, path, seen)
			}
		}
	}
	return nil
}

// aliveTLS returns an error if the listener does not answer TLS at all.
func (d *deployment) aliveTLS(ctx context.Context, s surface) error {
	h, err := negotiate(ctx, s, d.trust(s.host, nil))
	if err != nil {
		return err
	}
	if !h.agreed {
		return fmt.Errorf("%s at %s does not answer TLS, so its refusals prove nothing: %w", s.name, s.address, h.cause)
	}
	return nil
}

// pathsAt returns what a listener serves, without a query.
func (d *deployment) pathsAt(s surface) []string {
	var paths []string
	for _, u := range append([]string{d.endpoint("specifications", nil)}, wellKnown(d.target.Issuer)...) {
		parsed, err := url.Parse(u)
		if err != nil || parsed.Host == "" {
			continue
		}
		if _, address := webAddress(u); address == s.address {
			paths = append(paths, parsed.Path)
		}
	}
	if d.target.Webhook != nil {
		if parsed, err := url.Parse(d.target.Webhook.URL); err == nil {
			if _, address := webAddress(d.target.Webhook.URL); address == s.address {
				paths = append(paths, parsed.Path)
			}
		}
	}
	return paths
}

// askPlain asks for a path without TLS and without any credential. It returns
// how that was refused, or a finding.
func (d *deployment) askPlain(ctx context.Context, address, host, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	conn, err := dial(ctx, address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	request, err := http.NewRequest(http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return "", fmt.Errorf("form a request: %w", err)
	}
	request.Close = true
	if err := request.Write(conn); err != nil {
		return "connection closed", nil
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("no answer within %s", d.patience.Round(time.Millisecond)), nil
	case err != nil:
		return "no HTTP answer", nil
	}
	response.Body.Close()
	const todo = "close the plain listener, or let it redirect to https and nothing else"
	location := response.Header.Get("Location")
	switch {
	case response.StatusCode >= 300 && response.StatusCode < 400 && strings.HasPrefix(location, "https://"):
		return "redirect to https", nil
	case response.StatusCode < 400, response.StatusCode == http.StatusUnauthorized, response.Header.Get("WWW-Authenticate") != "":
		return "", wrong(todo, "http://%s%s is answered in the clear with %d", address, path, response.StatusCode)
	}
	return fmt.Sprintf("refused with %d", response.StatusCode), nil
}

func probeWebTLS12(ctx context.Context, d *deployment, n *notebook) error {
	surfaces := d.webSurfaces()
	if len(surfaces) == 0 {
		return errNoWeb
	}
	for _, s := range surfaces {
		if err := d.requireTLS12(ctx, n, s); err != nil {
			return err
		}
	}
	return nil
}

func probeWebWeakTLS(ctx context.Context, d *deployment, n *notebook) error {
	surfaces := d.webSurfaces()
	if len(surfaces) == 0 {
		return errNoWeb
	}
	for _, s := range surfaces {
		if err := d.refuseOldTLS(ctx, n, s); err != nil {
			return err
		}
	}
	return nil
}
