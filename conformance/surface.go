package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// surface is a TLS listener of the deployment.
type surface struct{ name, host, address string }

// webSurfaces returns the distinct web listeners of the target.
func (d *deployment) webSurfaces() []surface {
	var list []surface
	seen := map[string]bool{}
	add := func(name, url string) {
		if url == "" {
			return
		}
		host, address := webAddress(url)
		if !seen[address] {
			seen[address] = true
			list = append(list, surface{name, host, address})
		}
	}
	add("the Web API", d.target.API)
	add("the authorization server", d.target.Issuer)
	if d.target.Webhook != nil {
		add("the webhook", d.target.Webhook.URL)
	}
	return list
}

// mqttSurface returns the broker's listener.
func (d *deployment) mqttSurface() (surface, error) {
	if d.target.MQTT == "" {
		return surface{}, lacks("mqtt, the broker's address")
	}
	host, address, err := mqttAddress(d.target.MQTT)
	return surface{"the broker", host, address}, err
}

// handshake is what came of one attempt to negotiate TLS.
type handshake struct {
	agreed bool                // the server answered within what was allowed
	state  tls.ConnectionState // if agreed
	cause  error               // why not, if not agreed
}

// negotiate says whether the server would speak TLS as the configuration
// allows, that is, whether it answered with a version, a suite and a
// certificate that passed the configuration's checks. A later refusal of the
// client's certificate does not matter. It returns an error if the server
// could not be reached or gave no answer in time.
func negotiate(ctx context.Context, s surface, c *tls.Config) (handshake, error) {
	conn, err := dial(ctx, s.address)
	if err != nil {
		return handshake{}, err
	}
	defer conn.Close()
	var h handshake
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		h.state, h.agreed = cs, true
		return nil
	}
	h.cause = tls.Client(conn, c).HandshakeContext(ctx)
	if !h.agreed && (ctx.Err() != nil || isTimeout(h.cause)) {
		return handshake{}, fmt.Errorf("%s at %s gave no answer to a TLS handshake: %w", s.name, s.address, h.cause)
	}
	return h, nil
}

// requireTLS12 checks that the surface speaks TLS 1.2 with a sound suite, and
// proves its name with a chain that leads to the target's CA.
func (d *deployment) requireTLS12(ctx context.Context, n *notebook, s surface) error {
	c := d.trust(s.host, nil)
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	h, err := negotiate(ctx, s, c)
	switch {
	case err != nil:
		return err
	case !h.agreed && isTrust(h.cause):
		return wrong("issue the server a certificate for the name in the target, from the CA in the target",
			"%s at %s does not prove its name: %v", s.name, s.address, h.cause)
	case !h.agreed:
		return wrong("switch TLS 1.2 on, with an ECDHE suite with AES-GCM or ChaCha20-Poly1305",
			"%s at %s does not speak TLS 1.2 with a sound suite: %v", s.name, s.address, h.cause)
	}
	leaf := h.state.PeerCertificates[0]
	if problem := weakKey(leaf); problem != "" {
		return wrong("issue the server a certificate with a P-256 key, or RSA of 2048 bits or more", "%s has a weak key: %s", s.name, problem)
	}
	left := leaf.NotAfter.Sub(d.now())
	if left < 14*24*time.Hour && left < leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		n.note("the certificate of %s ends in %s", s.name, left.Round(time.Hour))
	}
	n.saw("%s: TLS 1.2, %s, chain and name valid", s.name, tls.CipherSuiteName(h.state.CipherSuite))
	d.reportTLS13(ctx, n, s)
	return nil
}

// reportTLS13 notes both readings of "TLS 1.2": it never changes a result.
func (d *deployment) reportTLS13(ctx context.Context, n *notebook, s surface) {
	c := d.trust(s.host, nil)
	c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	h, err := negotiate(ctx, s, c)
	switch {
	case err != nil:
		n.note("%s: whether TLS 1.3 is spoken was not found out", s.name)
	case h.agreed:
		n.note("%s also speaks TLS 1.3: fine in the modern reading (1.2 or better), outside the strict one (only TLS 1.2, FDS 2.6.5.2)", s.name)
	default:
		n.note("%s speaks TLS 1.2 only: fine in both readings of FDS, the strict and the modern", s.name)
	}
}

// refuseOldTLS checks that the surface refuses TLS 1.0, TLS 1.1 and the weak
// suites of TLS 1.2, after showing that it answers at all.
func (d *deployment) refuseOldTLS(ctx context.Context, n *notebook, s surface) error {
	// Whose certificate it is does not matter here: requireTLS12 looks at that.
	open := func(low, high uint16, suites []uint16) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, ServerName: s.host, MinVersion: low, MaxVersion: high, CipherSuites: suites}
	}
	alive, err := negotiate(ctx, s, open(tls.VersionTLS12, tls.VersionTLS13, nil))
	if err != nil {
		return err
	}
	if !alive.agreed {
		return fmt.Errorf("%s at %s speaks neither TLS 1.2 nor 1.3, so its refusals prove nothing: %w", s.name, s.address, alive.cause)
	}
	for _, old := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		h, err := negotiate(ctx, s, open(old, old, everySuite()))
		if err != nil {
			return err
		}
		if h.agreed {
			return wrong("set the lowest TLS version of the listener to 1.2", "%s at %s accepts %s", s.name, s.address, tls.VersionName(old))
		}
	}
	weak, err := negotiate(ctx, s, open(tls.VersionTLS12, tls.VersionTLS12, weakSuites()))
	if err != nil {
		return err
	}
	if weak.agreed {
		return wrong("allow only suites with ECDHE and an AEAD cipher", "%s at %s accepts the weak suite %s",
			s.name, s.address, tls.CipherSuiteName(weak.state.CipherSuite))
	}
	n.saw("%s refuses TLS 1.0, TLS 1.1 and %d weak suites", s.name, len(weakSuites()))
	return nil
}

// weakSuites are the suites of TLS 1.2 without forward secrecy or without an
// AEAD cipher.
func weakSuites() []uint16 {
	var weak []uint16
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		old := strings.Contains(s.Name, "_CBC_") || strings.Contains(s.Name, "_RC4_") || strings.HasPrefix(s.Name, "TLS_RSA_")
		if old {
			weak = append(weak, s.ID)
		}
	}
	return weak
}

func everySuite() []uint16 {
	var all []uint16
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		all = append(all, s.ID)
	}
	return all
}

// isTrust says whether a handshake failed because this side does not trust
// the server's certificate.
func isTrust(err error) bool {
	var verification *tls.CertificateVerificationError
	return errors.As(err, &verification)
}

func weakKey(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Sprintf("RSA of %d bits", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 224 {
			return "an elliptic curve of " + fmt.Sprint(k.Curve.Params().BitSize) + " bits"
		}
	}
	return ""
}
