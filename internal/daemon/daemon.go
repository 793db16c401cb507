package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/authserver"
	"github.com/fds-keyholder/keyholder/internal/broker"
	"github.com/fds-keyholder/keyholder/internal/broker/external"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/facility"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
	"github.com/fds-keyholder/keyholder/internal/keyring"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/pki"
	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/webapi"
	"github.com/fds-keyholder/keyholder/internal/webhook"
)

// Options says what Start needs. Dir and Config are required.
type Options struct {
	Dir    string
	Config Config
	Log    *slog.Logger     // nil: slog.Default
	Now    func() time.Time // nil: time.Now
}

// Daemon is a running Keyholder.
type Daemon struct {
	// Issuer, API and MQTT are the addresses under which it is reached:
	// https://host:port, https://host:port and mqtts://host:port.
	Issuer, API, MQTT string
	// Permits is where external brokers ask, https://host:port; empty if there
	// are none.
	Permits string

	dir      string
	log      *slog.Logger
	lock     *os.File
	store    *store.Store
	ledger   *ledger.Ledger
	seal     *keyfile.Seal // of private keys and secrets; nil: they are plain
	pki      *pki.Authority
	keys     *keyring.Ring
	mailbox  *mailbox.Mailbox
	facility *facility.Facility
	auth     *authserver.Server
	broker   *broker.Broker
	webhook  *webhook.Webhook

	permits *external.Door // nil: there are no external brokers

	listeners map[string]net.Listener
	servers   []*http.Server
	running   sync.WaitGroup
	failed    chan error // the first listener or worker that ended by itself
	stop      context.CancelFunc
	closing   sync.Once
	closed    error
}

// Start opens the data folder and serves it until Close. When it returns,
// every door answers; on PostgreSQL that may take until another server has
// ended. Errors: Invalid or Conflict for what the operator can mend,
// Unavailable for a database that does not answer.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	d := &Daemon{dir: o.Dir, log: o.Log, listeners: map[string]net.Listener{}, failed: make(chan error, 8)}
	if d.log == nil {
		d.log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := d.start(ctx, o); err != nil {
		return nil, errors.Join(err, d.Close(ctx))
	}
	d.log.Info("serving", "issuer", d.Issuer, "api", d.API, "mqtt", d.MQTT, "tls", o.Config.TLS, "data", o.Dir)
	return d, nil
}

func (d *Daemon) start(ctx context.Context, o Options) error {
	if err := d.openMemories(ctx, o); err != nil {
		return err
	}
	if err := d.listen(o.Config); err != nil {
		return err
	}
	return d.serve(ctx, o)
}

// openMemories opens everything that is kept on disk.
func (d *Daemon) openMemories(ctx context.Context, o Options) error {
	if err := checkFolder(o.Dir); err != nil {
		return err
	}
	err := d.openStore(ctx, o)
	if err != nil {
		return err
	}
	d.seal, err = o.Config.Keys.seal(o.Dir)
	if err != nil {
		return err
	}
	if d.seal == nil {
		d.log.Info("private keys are not sealed: a copy of the data folder holds them", "setting", "keys.seal_file")
	}
	if d.pki, err = pki.OpenSealed(o.Dir, d.seal); err != nil {
		return err
	}
	if d.keys, err = keyring.OpenRing(keyring.Config{Dir: o.Dir, Seal: d.seal, HSM: o.Config.Keys.hsm(o.Dir), Now: o.Now}); err != nil {
		return err
	}
	factorKey, err := keyring.FactorKey(o.Dir, d.seal)
	if err != nil {
		return err
	}
	var lifetime time.Duration // of tokens; 0: of our own
	if e := o.Config.Auth.External; e != nil {
		lifetime = cmp.Or(e.MaxLifetime, time.Hour)
	}
	if d.ledger, err = ledger.Open(ctx, ledger.Config{
		Store: d.store, Now: o.Now, Log: d.log, TokenLifetime: lifetime, FactorKey: factorKey,
		Sign: func(p []byte) (string, error) { return d.keys.Sign(p, keyholder.ReceiptType) },
	}); err != nil {
		return err
	}
	if err := d.retireEnded(); err != nil {
		return err
	}
	if d.mailbox, err = mailbox.Open(d.store, d.ledger, mailbox.Config{Log: d.log}); err != nil {
		return err
	}
	if d.facility, err = facility.Open(facility.Config{Store: d.store, Now: o.Now}); err != nil {
		return err
	}
	return nil
}

// listen binds every door and derives the public addresses, so that a port of
// 0 works.
func (d *Daemon) listen(c Config) error {
	doors := map[string]string{"auth": c.Listen.Auth, "api": c.Listen.API, "mqtt": c.Listen.MQTT}
	if len(c.ExternalBrokers) > 0 {
		doors["permits"] = c.Listen.Permits
	}
	for name, address := range doors {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			return &keyholder.Error{Code: keyholder.Unavailable, Detail: fmt.Sprintf("cannot listen on %s (listen.%s)", address, name),
				Hint: "another program may hold the port; change it in " + ConfigName, Err: err}
		}
		d.listeners[name] = ln
	}
	d.Issuer, d.API = c.Issuer, c.API
	if d.Issuer == "" {
		d.Issuer = strings.TrimSuffix("https://"+d.address(c, "auth"), ":443")
	}
	if d.API == "" {
		d.API = strings.TrimSuffix("https://"+d.address(c, "api"), ":443")
	}
	d.MQTT = "mqtts://" + d.address(c, "mqtt")
	if len(c.ExternalBrokers) > 0 {
		d.Permits = "https://" + d.address(c, "permits")
	}
	return nil
}

// address is the first host name with the port a door is bound to.
func (d *Daemon) address(c Config, door string) string {
	_, port, err := net.SplitHostPort(d.listeners[door].Addr().String())
	if err != nil {
		return ""
	}
	return net.JoinHostPort(c.Hosts[0], port)
}

// serve builds the doors and starts them.
func (d *Daemon) serve(ctx context.Context, o Options) error {
	id := &identity{authority: d.pki, hosts: o.Config.Hosts, now: o.Now}
	if _, err := id.certificate(nil); err != nil {
		return err
	}
	trusted, err := d.guardConfig(o)
	if err != nil {
		return err
	}
	g, err := guard.New(trusted)
	if err != nil {
		return err
	}
	federation, err := clientTrusting(o, "auth.federation.ca_file", o.Config.Auth.Federation.CAFile)
	if err != nil {
		return err
	}
	if d.auth, err = authserver.New(authserver.Config{Ledger: d.ledger, Keyring: d.keys, Authority: d.pki, Issuer: d.Issuer, Audiences: append([]string{d.API}, o.Config.Auth.Audiences...), External: o.Config.Auth.External != nil, Federation: federation, Log: d.log, Now: o.Now}); err != nil {
		return err
	}
	api, err := webapi.New(webapi.Config{Ledger: d.ledger, Facility: d.facility, Mailbox: d.mailbox, Guard: g, Issuer: trusted.Issuer, BaseURL: d.API, Log: d.log, Now: o.Now})
	if err != nil {
		return err
	}
	if d.broker, err = broker.New(broker.Config{Limits: o.Config.MQTT, Ledger: d.ledger, Mailbox: d.mailbox, ClientCAs: d.pki.Pool(), GetCertificate: id.certificate, TLS: o.Config.TLS, Log: d.log, Now: o.Now}); err != nil {
		return err
	}
	if d.webhook, err = webhook.New(webhook.Config{Ledger: d.ledger, Mailbox: d.mailbox, Dir: o.Dir, Seal: d.seal, AllowPrivate: o.Config.Webhooks.AllowPrivate, TLS: o.Config.TLS, Log: d.log, Now: o.Now}); err != nil {
		return err
	}
	if err := d.openPermits(o); err != nil {
		return err
	}
	admin, err := console.New(console.Config{Ledger: d.ledger, Authority: d.pki, Keyring: d.keys, Mailbox: d.mailbox, Issuer: d.Issuer, Dir: o.Dir, Seal: d.seal, Log: d.log, Now: o.Now})
	if err != nil {
		return err
	}
	d.ledger.AddPlane("authserver", d.auth.End)
	d.ledger.AddPlane("webapi", func(_ context.Context, c keyholder.Cut) (int, error) { return g.End(c), nil })
	d.ledger.AddPlane("broker", d.broker.End)
	d.ledger.AddPlane("mailbox", d.mailbox.End)
	d.ledger.AddPlane("pki", d.publishRevoked)
	d.ledger.AddPlane("webhook", d.webhook.End)
	d.ledger.AddPlane("console", admin.End)

	ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	secure := httpsConfig(o.Config.TLS, id, d.ledger)
	d.serveHTTPS(d.auth.Handler(), d.listeners["auth"], secure)
	d.serveHTTPS(api.Handler(), d.listeners["api"], secure)
	d.run("mqtt", func() error { return d.broker.Serve(d.listeners["mqtt"]) })
	d.run("database", func() error { return d.followStore(ctx) })
	d.run("keys", func() error { return d.tendKeys(ctx, o.Config.Keys) })
	d.run("webhook", func() error { return d.webhook.Run(ctx) })
	if d.permits != nil {
		asking := o.Config.TLS.Config()
		asking.GetCertificate = id.certificate
		d.serveHTTPS(d.permits.Handler(), d.listeners["permits"], d.permits.TLS(asking))
		d.run("external brokers", func() error { return d.permits.Run(ctx) })
	}
	socket, err := console.Listen(o.Dir)
	if err != nil {
		return err
	}
	server := httpServer(admin.Handler(), d.log)
	d.servers = append(d.servers, server)
	d.run("admin", func() error { return serveSocket(server, socket) })
	return nil
}

// openPermits opens the door for external brokers, each of which is a plane.
func (d *Daemon) openPermits(o Options) error {
	if len(o.Config.ExternalBrokers) == 0 {
		return nil
	}
	var err error
	if d.permits, err = external.New(external.Config{Ledger: d.ledger, Brokers: o.Config.ExternalBrokers, Dir: o.Dir,
		Revoked: func() ([]byte, error) { return d.pki.CRL(d.ledger.ListRevoked(), d.ledger.Now()) }, TLS: o.Config.TLS, Log: d.log, Now: o.Now}); err != nil {
		return err
	}
	for _, b := range d.permits.Brokers() {
		d.ledger.AddPlane(b.Name(), b.End)
	}
	return nil
}

// publishRevoked is the plane of the certificate authority: a fresh
// revocation list for those who check certificates without asking us.
func (d *Daemon) publishRevoked(_ context.Context, c keyholder.Cut) (int, error) {
	if len(c.Ended.Certificates) == 0 {
		return 0, nil
	}
	return len(c.Ended.Certificates), d.writeRevoked()
}

func (d *Daemon) writeRevoked() error {
	der, err := d.pki.CRL(d.ledger.ListRevoked(), d.ledger.Now())
	if err != nil {
		return fmt.Errorf("make the revocation list: %w", err)
	}
	path := filepath.Join(d.dir, pkiName, "issuing.crl")
	if err := os.WriteFile(path+".new", der, 0o600); err != nil {
		return fmt.Errorf("write the revocation list: %w", err)
	}
	return os.Rename(path+".new", path)
}

func (d *Daemon) serveHTTPS(h http.Handler, ln net.Listener, c *tls.Config) {
	s := httpServer(h, d.log)
	d.servers = append(d.servers, s)
	d.run(ln.Addr().String(), func() error { return serveHTTPS(s, ln, c) })
}

// run starts a part that ends only when the daemon closes; one that ends
// before ends the daemon.
func (d *Daemon) run(name string, serve func() error) {
	d.running.Go(func() {
		if err := serve(); err != nil {
			select {
			case d.failed <- fmt.Errorf("%s: %w", name, err):
			default:
			}
		}
	})
}

// Wait returns when ctx is done, or with the error of a part that ended by
// itself.
func (d *Daemon) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.failed:
		return err
	}
}

// stopLimit is how long requests under way may take when the daemon closes.
const stopLimit = 10 * time.Second

// Close stops the doors, lets requests under way finish, and closes the
// files. It is safe to call more than once.
func (d *Daemon) Close(ctx context.Context) error {
	d.closing.Do(func() {
		limit := stopLimit
		if d.lost() {
			limit = lostLimit
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		d.closed = d.close(ctx)
	})
	return d.closed
}

func (d *Daemon) close(ctx context.Context) error {
	var errs []error
	if d.stop != nil {
		d.stop()
	}
	if d.auth != nil {
		d.auth.Close()
	}
	for _, s := range d.servers {
		if err := s.Shutdown(ctx); err != nil {
			errs = append(errs, s.Close())
		}
	}
	if d.broker != nil {
		errs = append(errs, d.broker.Close(ctx))
	}
	for _, ln := range d.listeners {
		_ = ln.Close() // those that were never served; closing twice is harmless
	}
	d.running.Wait()
	if d.mailbox != nil {
		errs = append(errs, d.mailbox.Close())
	}
	if d.ledger != nil {
		d.ledger.Close()
	}
	if d.keys != nil {
		errs = append(errs, d.keys.Close())
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// ServerCertificate makes a certificate for another server of the same
// operator, for example the one that receives webhooks.
func (d *Daemon) ServerCertificate(hosts []string) (tls.Certificate, error) {
	return d.pki.ServerCertificate(hosts, d.ledger.Now())
}
