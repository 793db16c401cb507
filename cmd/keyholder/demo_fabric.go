package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/daemon"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// redirectURI is where the demo's users come back to. Nobody listens there:
// the demo plays the browser and stops at it.
const redirectURI = "http://127.0.0.1:9/callback"

// fabric is a running Keyholder with its admin client, onboarded through the
// admin socket as an operator would.
type fabric struct {
	dir    string
	daemon *daemon.Daemon
	admin  *console.Client
	roots  *x509.CertPool
	caFile string
	log    *os.File
	logger *slog.Logger
}

func startFabric(ctx context.Context, dir string) (*fabric, error) {
	if err := daemon.Init(dir, time.Now()); err != nil {
		return nil, err
	}
	config, err := daemon.ParseConfig(daemon.DefaultConfig)
	if err != nil {
		return nil, err
	}
	config.Hosts = []string{"127.0.0.1", "localhost"}
	config.Listen.Auth, config.Listen.API, config.Listen.MQTT = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	config.Webhooks.AllowPrivate = true // the demo's receiver is on loopback
	f := &fabric{dir: dir, roots: x509.NewCertPool(), caFile: filepath.Join(dir, "ca.pem")}
	if f.log, err = os.OpenFile(filepath.Join(dir, "keyholder.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	f.logger = slog.New(slog.NewTextHandler(f.log, nil))
	if f.daemon, err = daemon.Start(ctx, daemon.Options{Dir: dir, Config: config, Log: f.logger}); err != nil {
		return nil, errors.Join(err, f.log.Close())
	}
	if f.admin, err = console.Dial(dir); err != nil {
		return nil, errors.Join(err, f.close(ctx))
	}
	ca, err := f.admin.Authority(ctx)
	if err != nil {
		return nil, errors.Join(err, f.close(ctx))
	}
	f.roots.AppendCertsFromPEM([]byte(ca.Root))
	return f, os.WriteFile(f.caFile, []byte(ca.Root), 0o600)
}

func (f *fabric) close(ctx context.Context) error {
	if f.admin != nil {
		f.admin.Close()
	}
	return errors.Join(f.daemon.Close(ctx), f.log.Close())
}

// mqttAddress is the broker's address for a dialer.
func (f *fabric) mqttAddress() string { return strings.TrimPrefix(f.daemon.MQTT, "mqtts://") }

// tls returns the strict client configuration that trusts this fabric.
func (f *fabric) tls(certificates ...tls.Certificate) *tls.Config {
	c := keyholder.TLSStrict.Config()
	c.RootCAs = f.roots
	c.Certificates = certificates
	return c
}

// http returns a client for requests that the SDK would not make.
func (f *fabric) http(certificates ...tls.Certificate) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: f.tls(certificates...), DisableKeepAlives: true}, Timeout: 10 * time.Second}
}

// certificate makes a key where the party is and has a certificate issued for
// it; both are kept as files.
func (d *demo) certificate(ctx context.Context, f *fabric, use keyholder.CertificateUse, subject, name string) (c tls.Certificate, certFile, keyFile string, err error) {
	key, err := pki.NewKey()
	if err != nil {
		return c, "", "", err
	}
	request, err := pki.NewRequest(key, name)
	if err != nil {
		return c, "", "", err
	}
	issued, err := f.admin.IssueCertificate(ctx, console.NewCertificate{Use: use, Subject: subject, Request: string(request)})
	if err != nil {
		return c, "", "", err
	}
	if certFile, err = d.write(name+".pem", []byte(issued.PEM)); err != nil {
		return c, "", "", err
	}
	if keyFile, err = d.write(name+".key", key); err != nil {
		return c, "", "", err
	}
	c, err = tls.LoadX509KeyPair(certFile, keyFile)
	return c, certFile, keyFile, err
}

// start is the first chapter.
func (d *demo) start(ctx context.Context) error {
	d.story.chapter("Start: the whole fabric on loopback")
	var err error
	if d.facility, err = loadSample(); err != nil {
		return err
	}
	if d.fabric, err = startFabric(ctx, filepath.Join(d.dir, "provider")); err != nil {
		return err
	}
	d.story.say("authorization server  %s", d.fabric.daemon.Issuer)
	d.story.say("Web API               %s/fds/v2/", d.fabric.daemon.API)
	d.story.say("MQTT broker           %s", d.fabric.daemon.MQTT)
	if d.appSide, err = startFabric(ctx, filepath.Join(d.dir, "app")); err != nil {
		return err
	}
	d.story.say("app 2's own server    %s (in front of its webhook)", d.appSide.daemon.Issuer)
	return nil
}

// onboard is what the provider's operator does before anybody signs in.
func (d *demo) onboard(ctx context.Context) error {
	d.story.chapter("Onboard: parties, agreements, credentials")
	var err error
	if d.provider, err = d.addProvider(ctx, "Fork Inc", "provider"); err != nil {
		return err
	}
	if d.provider2, err = d.addProvider(ctx, "Another provider", "provider2"); err != nil {
		return err
	}
	if d.provider.backend, err = client.NewProvider(client.Config{Issuer: d.fabric.daemon.Issuer, API: d.fabric.daemon.API,
		ClientID: string(d.provider.ID), Certificate: &d.provider.certificate, RootCAs: d.fabric.roots}); err != nil {
		return err
	}
	for _, key := range []string{northgate, stAnna} {
		if err := d.addOwner(ctx, key); err != nil {
			return err
		}
	}
	if d.apps[0], err = d.addApp(ctx, "App 1", keyholder.AuthSecret, "app1"); err != nil {
		return err
	}
	if d.apps[1], err = d.addApp(ctx, "App 2", keyholder.AuthCertificate, "app2"); err != nil {
		return err
	}
	d.story.say("provider %s, owners %s and %s with an agreement each", d.provider.Name, northgate, stAnna)
	d.story.say("App 1 proves itself by a client secret, App 2 by an X.509 certificate")
	return nil
}

func (d *demo) addProvider(ctx context.Context, name, file string) (*demoProvider, error) {
	p, err := d.fabric.admin.AddProvider(ctx, console.NewProvider{Name: name})
	if err != nil {
		return nil, err
	}
	out := &demoProvider{Provider: p}
	out.certificate, out.certFile, out.keyFile, err = d.certificate(ctx, d.fabric, keyholder.ForProvider, string(p.ID), file)
	return out, err
}

func (d *demo) addOwner(ctx context.Context, key string) error {
	o, err := d.fabric.admin.AddOwner(ctx, console.NewOwner{Key: key, Name: key})
	if err != nil {
		return err
	}
	owner := &demoOwner{Owner: o, login: "facility@" + key, password: rand.Text()}
	if _, err := d.fabric.admin.AddUser(ctx, console.NewUser{Owner: key, Login: owner.login, Password: owner.password}); err != nil {
		return err
	}
	a, err := d.fabric.admin.AddAgreement(ctx, console.NewAgreement{Provider: string(d.provider.ID), Owner: key,
		Purpose: "Cleaning on demand", End: time.Now().AddDate(1, 0, 0)})
	if err != nil {
		return err
	}
	owner.agreement = a.ID
	d.owners[key] = owner
	return nil
}

func (d *demo) addApp(ctx context.Context, name string, auth keyholder.AuthMethod, file string) (*demoApp, error) {
	added, err := d.fabric.admin.AddApp(ctx, console.NewApp{Name: name, Authentication: auth, RedirectURIs: []string{redirectURI},
		Grants: []keyholder.GrantType{keyholder.GrantAuthorizationCode, keyholder.GrantRefreshToken, keyholder.GrantClientCredentials}})
	if err != nil {
		return nil, err
	}
	a := &demoApp{App: added.App, secret: added.Secret}
	cfg := client.Config{Issuer: d.fabric.daemon.Issuer, API: d.fabric.daemon.API, ClientID: string(a.ID), Secret: a.secret,
		RedirectURI: redirectURI, RootCAs: d.fabric.roots}
	if auth == keyholder.AuthCertificate {
		c, certFile, keyFile, err := d.certificate(ctx, d.fabric, keyholder.ForApp, string(a.ID), file)
		if err != nil {
			return nil, err
		}
		a.certificate, a.certFile, a.keyFile = &c, certFile, keyFile
		cfg.Certificate = &c
	}
	a.client, err = client.New(cfg)
	return a, err
}
