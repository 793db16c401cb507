package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// admission decides in the handshake of the HTTPS doors on the certificate of
// a client.
type admission struct {
	authority *pki.Authority
	ledger    *ledger.Ledger

	mu     sync.Mutex // guards the rest
	pool   *x509.CertPool
	pooled int // how many vouchers are in the pool
}

// httpsConfig is the TLS of the HTTPS doors: a client certificate is optional,
// but one that is presented must prove an identity in force. The TLS stack
// checks that the client holds its key; who vouches for it differs from app to
// app, so that is checked by admit, for resumed sessions too.
func httpsConfig(profile keyholder.TLSProfile, id *identity, l *ledger.Ledger) *tls.Config {
	a := &admission{authority: id.authority, ledger: l}
	c := profile.Config()
	c.GetCertificate = id.certificate
	c.ClientAuth = tls.RequestClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error { return a.admit(s.PeerCertificates) }
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		asking := c.Clone()
		asking.GetConfigForClient = nil
		asking.ClientCAs = a.named()
		return asking, nil
	}
	return c
}

// maxNamed bounds the names in a handshake, which has room for 64 KiB.
const maxNamed = 256

// named is what a client is told in the handshake that it may present: names
// of authorities, and of self-signed certificates, which are their own. Clients
// choose by it, and a browser would ask its user for just any certificate if
// nothing were named. It decides nothing. Where there are too many to name, nil
// stands for any.
func (a *admission) named() *x509.CertPool {
	vouchers := a.ledger.Vouchers()
	if len(vouchers) > maxNamed {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pool == nil || a.pooled != len(vouchers) {
		a.pool, a.pooled = a.authority.Pool(), len(vouchers)
		for _, pem := range vouchers {
			a.pool.AppendCertsFromPEM([]byte(pem))
		}
	}
	return a.pool
}

// recordLimit is how long a handshake waits for a certificate to be recorded.
const recordLimit = 5 * time.Second

// admit decides whether the chain that a client presented, its own certificate
// first, proves an identity. What does so depends on who vouches for the
// certificate on record: our authority or a pinned one by its signature, for a
// self-signed one the record itself, which names these very bytes. A
// certificate that is not on record proves nothing, unless an authority that is
// pinned for an app vouches for it: then it comes on record now, and can be
// revoked like any other.
func (a *admission) admit(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return nil
	}
	now := a.ledger.Now()
	thumbprint := keyholder.ThumbprintOf(chain[0].Raw)
	peer := a.ledger.Peer(thumbprint)
	if peer.Certificate.Serial == "" {
		if err := a.record(chain, now); err != nil {
			return err
		}
		peer = a.ledger.Peer(thumbprint)
	}
	var err error
	switch peer.Certificate.Origin {
	case keyholder.OriginIssued:
		err = a.authority.VerifyClient(chain, now)
	case keyholder.OriginPinned:
		_, err = pki.VerifyPinned(peer.App.Pinned, peer.App.ID, chain, now)
	}
	if err != nil {
		return err
	}
	return peer.Permit(now).Err()
}

// record puts a certificate on record for the app whose pinned authority
// vouches for it, if there is one.
func (a *admission) record(chain []*x509.Certificate, now time.Time) error {
	for _, app := range a.ledger.PinnedApps() {
		c, err := pki.VerifyPinned(app.Pinned, app.ID, chain, now)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), recordLimit)
		defer cancel()
		err = a.ledger.AddCertificate(ctx, ledger.System, c, string(pki.CertificatePEM(chain[0])))
		if keyholder.CodeOf(err) == keyholder.Conflict {
			return nil // another handshake was first
		}
		return err
	}
	return nil
}
