package broker

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// farewell bounds how long the end of a connection may take: the last packet
// and the TLS close of a client that does not read.
const farewell = 250 * time.Millisecond

// connection is one client from the TLS handshake to the end.
type connection struct {
	b          *Broker
	tls        *tls.Conn
	raw        net.Conn
	thumbprint keyholder.Thumbprint
	serial     string // of the certificate
	subject    string // of the certificate: the only client ID it may use
	use        keyholder.CertificateUse
	until      atomic.Int64 // Unix microseconds when the right must be looked at again; 0: never

	ctx    context.Context // ends when the connection does
	cancel context.CancelFunc
	done   chan struct{} // closed when everything about it is finished
	close  sync.Once

	writing sync.Mutex // held while a packet is written
	mu      sync.Mutex // guards the two fields below
	hurried bool       // it is being ended by us
	cause   string     // why we ended it

	// Set by CONNECT and not changed afterwards, by the goroutine that serves
	// the connection.
	refused     bool // CONNECT was refused and reported
	terms       terms
	established atomic.Bool // CONNACK was sent
	present     bool        // session present
	subscriber  *subscriber // of a consumer
	publisher   *publisher  // of a provider

	one [1]byte // of the fixed header that is being read
}

// tlsConfig asks for a client certificate, verifies it, and asks the ledger
// about it. VerifyConnection runs for resumed sessions too.
func (b *Broker) tlsConfig() *tls.Config {
	c := b.cfg.TLS.Config()
	if b.cfg.GetCertificate != nil {
		c.GetCertificate = b.cfg.GetCertificate
	} else {
		c.Certificates = []tls.Certificate{b.cfg.Certificate}
	}
	c.ClientCAs = b.cfg.ClientCAs
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.Time = b.cfg.Now
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if err := pki.VerifyClient(s); err != nil {
			return err
		}
		if len(s.PeerCertificates) == 0 {
			return errors.New("no client certificate")
		}
		peer := b.cfg.Ledger.Peer(sha256.Sum256(s.PeerCertificates[0].Raw))
		if v := peer.Permit(b.cfg.Now()); !v.Allowed {
			return &refusal{verdict: v, subject: peer.Certificate.Subject, serial: peer.Certificate.Serial}
		}
		return nil
	}
	return c
}

// refusal is a verdict on its way through the TLS handshake.
type refusal struct {
	verdict         keyholder.Verdict
	subject, serial string // empty if the ledger does not know the certificate
}

func (r *refusal) Error() string { return r.verdict.Reason }

// handle serves one connection from the handshake to the end. The handshake
// and CONNECT grow the stack of their goroutine, and a stack is slow to shrink:
// an idle connection, of which there may be thousands, waits on a fresh one.
func (b *Broker) handle(raw net.Conn) {
	c, err := b.handshake(raw)
	b.mu.Lock()
	b.pending--
	if err == nil && b.closed {
		err = errClosed
	}
	if err == nil {
		b.conns[c] = struct{}{}
	}
	b.mu.Unlock()
	if err != nil {
		_ = raw.Close()
		b.denials.handshake(raw, err)
		b.wg.Done()
		return
	}
	if err := c.guarded(c.connect); err != nil {
		c.finish(err)
		b.wg.Done()
		return
	}
	go func() {
		defer b.wg.Done()
		c.finish(c.guarded(c.serve))
	}()
}

func (b *Broker) handshake(raw net.Conn) (*connection, error) {
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.HandshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, b.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	state := conn.ConnectionState()
	c := &connection{b: b, tls: conn, raw: raw, thumbprint: sha256.Sum256(state.PeerCertificates[0].Raw), done: make(chan struct{})}
	peer := b.cfg.Ledger.Peer(c.thumbprint)
	c.serial, c.subject, c.use = peer.Certificate.Serial, peer.Certificate.Subject, peer.Certificate.Use
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := conn.SetReadDeadline(time.Now().Add(b.cfg.ConnectTimeout)); err != nil {
		return nil, err
	}
	return c, nil
}

// guarded runs a part of the protocol. A panic in the codec, which a malformed
// packet can cause, ends this connection only.
func (c *connection) guarded(part func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
			c.b.cfg.Log.Error("an MQTT packet was not understood by the protocol engine", c.attrs("error", err, "stack", string(debug.Stack()))...)
		}
	}()
	return part()
}

// finish ends everything that belongs to the connection and remembers the
// session.
func (c *connection) finish(err error) {
	b := c.b
	_ = c.Close()
	if c.publisher != nil {
		c.publisher.finish()
	}
	if c.subscriber != nil {
		c.subscriber.finish()
	}
	b.mu.Lock()
	delete(b.conns, c)
	if b.live[c.subject] == c {
		delete(b.live, c.subject)
	}
	b.mu.Unlock()
	close(c.done)
	if c.established.Load() {
		b.cfg.Log.Info("mqtt disconnected", c.attrs("reason", c.why(err))...)
	} else {
		b.denials.unconnected(c, c.why(err))
	}
}

// why is the reason for the end of the connection, for the log.
func (c *connection) why(err error) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cause != "":
		return c.cause
	case err == nil:
		return "the connection ended"
	}
	return err.Error()
}

// attrs names the connection in a log line.
func (c *connection) attrs(more ...any) []any {
	return append([]any{"client", c.subject, "certificate", c.serial, "remote", c.raw.RemoteAddr().String()}, more...)
}

// due says whether the right of the connection must be looked at again.
func (c *connection) due(now time.Time) bool {
	until := c.until.Load()
	return until != 0 && now.UnixMicro() >= until
}

// recheck asks whether the certificate still proves an identity and notes
// when to ask again.
func (c *connection) recheck(now time.Time) keyholder.Verdict {
	peer := c.b.cfg.Ledger.Peer(c.thumbprint)
	until := peer.Certificate.NotAfter
	if u := peer.Standing.Until(); !u.IsZero() && u.Before(until) {
		until = u
	}
	c.until.Store(max(until.UnixMicro(), now.UnixMicro()))
	return peer.Permit(now)
}

// Close ends the connection within the farewell time.
func (c *connection) Close() error {
	err := net.ErrClosed
	c.close.Do(func() {
		c.cancel()
		force := time.AfterFunc(farewell, func() { _ = c.raw.Close() })
		defer force.Stop()
		err = c.tls.Close()
	})
	return err
}

// drop ends the connection for a reason of ours: it tells an MQTT 5 client
// the code and closes. It does not wait for the rest to finish and takes no
// longer than twice the farewell time.
func (c *connection) drop(code packets.Code, why string) {
	c.mu.Lock()
	if c.hurried { // somebody else's reason came first
		c.mu.Unlock()
		return
	}
	c.cause, c.hurried = why, true
	_ = c.tls.SetWriteDeadline(time.Now().Add(farewell))
	c.mu.Unlock()
	c.cancel()
	if c.established.Load() && c.terms.version == 5 {
		_ = c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: code.Code,
			Properties: packets.Properties{ReasonString: code.Reason}})
	}
	_ = c.Close()
}
