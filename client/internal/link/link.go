// Package link is what the clients of a broker in the SDK have in common: the
// broker's address, mutual TLS to it, and how long they wait before they try
// again.
package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

const (
	// ConnectWithin bounds TCP and TLS handshake, and again CONNECT and what
	// follows it.
	ConnectWithin = 15 * time.Second
	// writeWithin bounds the writing of a packet.
	writeWithin = 20 * time.Second
)

// Bounds of the waits between tries to connect. SessionTakenOver is the reason
// with which a broker ends a connection because of a later one of the same
// client (MQTT 5 section 3.14.2.1).
const (
	FirstWait = time.Second
	LastWait  = time.Minute

	SessionTakenOver = 0x8e
)

// ParseBroker reads the address of a broker, mqtts://host:port. The error is
// an [keyholder.Error] of code Invalid.
func ParseBroker(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "mqtts" || u.Hostname() == "" || !isPort(u.Port()) || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, keyholder.Errorf(keyholder.Invalid, "the broker's address is not of the form mqtts://host:port")
	}
	return u, nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// Dialer makes TLS connections to a broker.
type Dialer struct {
	Broker      *url.URL
	RootCAs     *x509.CertPool // nil: the system's
	TLS         keyholder.TLSProfile
	Certificate func() (*tls.Certificate, error) // asked at each connection
}

// Dial connects within [ConnectWithin].
func (d Dialer) Dial(ctx context.Context) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, ConnectWithin)
	defer cancel()
	cfg := d.TLS.Config()
	cfg.RootCAs, cfg.ServerName = d.RootCAs, d.Broker.Hostname()
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := d.Certificate()
		if err == nil && c == nil {
			err = errors.New("there is no client certificate")
		}
		return c, err
	}
	c, err := (&tls.Dialer{NetDialer: &net.Dialer{}, Config: cfg}).DialContext(ctx, "tcp", d.Broker.Host)
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: c, closed: make(chan struct{})}, nil
}

// Conn is a connection that tells of its end. The mutex keeps the packets of
// several writers apart; paho looks for its Lock and Unlock.
type Conn struct {
	net.Conn
	sync.Mutex
	once   sync.Once
	closed chan struct{}
}

// Write writes within a bounded time: a broker that does not read is gone.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close closes the connection and then tells of it: who hears of it can be
// sure that nothing more is written.
func (c *Conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		close(c.closed)
	})
	return err
}

// Closed is closed after the connection.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// IsClosed says whether the connection is closed at this end.
func (c *Conn) IsClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// Jitter is a random time up to a bound that is first at the first try,
// doubles with each and ends at last.
func Jitter(first, last time.Duration, try int) time.Duration {
	bound := last
	if shift := try - 1; shift < 16 {
		bound = min(first<<shift, last)
	}
	return rand.N(bound) + 1
}

// Rivalry spaces the tries of a client whose connection another one of the
// same client ID took over. The two must not chase each other for ever, so
// with each takeover it leaves the other more time.
type Rivalry struct {
	First time.Duration // the bound of the first wait
	lost  int
}

// rivalryDoubles is how often the bound of a wait doubles.
const rivalryDoubles = 5

// Wait is for how long to leave the broker to the other after a takeover of a
// connection that was held for a time. It is between half its bound and the
// bound, and begins anew after a connection that was held for twice the last
// bound.
func (r *Rivalry) Wait(held time.Duration) time.Duration {
	if held > 2*r.First<<rivalryDoubles {
		r.lost = 0
	}
	bound := r.First << min(r.lost, rivalryDoubles)
	r.lost++
	return bound/2 + rand.N(bound/2+1)
}

// Sleep waits; it returns the error of a context that ends before.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
