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

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// farewell bounds how long the end of a connection may take: the last packet
// and the TLS close of a client that does not read.
const farewell = 250 * time.Millisecond

// connection is one client from the TLS handshake to the end. mochi has it as
// its net.Conn, which is how the hook finds it.
type connection struct {
	*tls.Conn
	b          *Broker
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

	mu      sync.Mutex // guards the fields below
	hurried bool       // it is being ended by us
	cause   string     // why we ended it

	// Set before the session is established and not changed afterwards, by
	// the goroutine that serves the connection.
	refused     bool // CONNECT was refused and reported
	cl          *mqtt.Client
	version     byte
	established atomic.Bool // CONNACK was sent
	present     bool        // session present
	subscriber  *subscriber // of a consumer
	publisher   *publisher  // of a provider
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

// handle serves one connection from the handshake to the end.
func (b *Broker) handle(raw net.Conn) {
	defer b.wg.Done()
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
		return
	}
	err = c.serve()
	c.finish(err)
}

func (b *Broker) handshake(raw net.Conn) (*connection, error) {
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.HandshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, b.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	state := conn.ConnectionState()
	c := &connection{Conn: conn, b: b, raw: raw, thumbprint: sha256.Sum256(state.PeerCertificates[0].Raw), done: make(chan struct{})}
	peer := b.cfg.Ledger.Peer(c.thumbprint)
	c.serial, c.subject, c.use = peer.Certificate.Serial, peer.Certificate.Subject, peer.Certificate.Use
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := conn.SetReadDeadline(time.Now().Add(b.cfg.ConnectTimeout)); err != nil {
		return nil, err
	}
	return c, nil
}

// serve runs mochi on the connection. A panic there, which a malformed packet
// can cause, ends this connection only.
func (c *connection) serve() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
			c.b.cfg.Log.Error("an MQTT packet was not understood by the protocol engine", c.attrs("error", err, "stack", string(debug.Stack()))...)
		}
	}()
	return c.b.server.EstablishConnection("mqtt", c)
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
	if c.cl != nil {
		c.cl.Stop(nil)
		b.server.UnsubscribeClient(c.cl)
		if known, ok := b.server.Clients.Get(c.cl.ID); ok && known == c.cl {
			b.server.Clients.Delete(c.cl.ID)
		}
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
	} else if c.cl == nil {
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
		return "the client disconnected"
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

// Write gives every packet its own time. It is what mochi calls.
func (c *connection) Write(p []byte) (int, error) {
	c.mu.Lock()
	if !c.hurried {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(c.b.cfg.WriteTimeout))
	}
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// SetDeadline sets the deadline for reading only: mochi means the keep-alive.
func (c *connection) SetDeadline(t time.Time) error { return c.Conn.SetReadDeadline(t) }

// Close ends the connection within the farewell time.
func (c *connection) Close() error {
	err := net.ErrClosed
	c.close.Do(func() {
		c.cancel()
		force := time.AfterFunc(farewell, func() { _ = c.raw.Close() })
		defer force.Stop()
		err = c.Conn.Close()
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
	_ = c.Conn.SetWriteDeadline(time.Now().Add(farewell))
	c.mu.Unlock()
	c.cancel()
	if c.established.Load() {
		if c.version == 5 {
			_ = c.b.server.DisconnectClient(c.cl, code)
		}
		c.cl.Stop(code)
	}
	_ = c.Close()
}
