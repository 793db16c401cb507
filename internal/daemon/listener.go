package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder/internal/pki"
)

// identity is the server certificate of the listeners. It is made at the
// start and again when two thirds of its life are over.
type identity struct {
	authority *pki.Authority
	hosts     []string
	now       func() time.Time

	mu      sync.Mutex // guards the rest
	current *tls.Certificate
	renew   time.Time
}

// certificate is a tls.Config.GetCertificate.
func (i *identity) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.now()
	if i.current == nil || now.After(i.renew) {
		c, err := i.authority.ServerCertificate(i.hosts, now)
		if err != nil {
			return nil, fmt.Errorf("make a server certificate: %w", err)
		}
		i.current = &c
		i.renew = now.Add(c.Leaf.NotAfter.Sub(now) * 2 / 3)
	}
	return i.current, nil
}

// httpServer returns a server with every limit set.
func httpServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    16 << 10,
		// Failed handshakes are the daily noise of a public port.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// serveHTTPS serves until the server is closed.
func serveHTTPS(s *http.Server, ln net.Listener, c *tls.Config) error {
	c = c.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	s.TLSConfig = c
	if err := s.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serveSocket serves the admin API until the server is closed.
func serveSocket(s *http.Server, ln net.Listener) error {
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
