// Package external is the door for MQTT brokers of others: it answers their
// questions about who may connect, publish and subscribe, carries cuts to
// them, and generates their configuration. The answers come from the Permit
// functions of package keyholder with what the ledger knows at that moment, so
// an external broker and our own decide alike; what a broker cannot ask or
// cannot enforce is said in docs/brokers.
package external

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Config says what a door needs. Ledger, Brokers and Revoked are required.
type Config struct {
	Ledger  *ledger.Ledger
	Brokers []Setting
	Dir     string                 // relative file names are looked for in it
	Revoked func() ([]byte, error) // the present revocation list, in DER
	TLS     keyholder.TLSProfile   // of the connections to the brokers; "": strict
	Log     *slog.Logger           // nil: slog.Default
	Now     func() time.Time       // nil: the ledger's
}

// Door answers external brokers and carries cuts to them. Its methods are safe
// for concurrent use.
type Door struct {
	ledger  *ledger.Ledger
	log     *slog.Logger
	now     func() time.Time
	brokers []*Broker
	denials denials
	changes atomic.Int64 // events of the ledger so far
}

// Broker is one external broker: a plane of the cut.
type Broker struct {
	name    string
	door    *Door
	callers map[keyholder.Thumbprint]bool // certificates that its nodes present
	account account
	driver  driver

	mu     sync.Mutex
	undone map[string]unfinished // by client ID: what has still to be ended
}

// driver carries the end of clients to a kind of broker.
type driver interface {
	// end closes the connections of clients, and removes what is queued for
	// those in gone, the clients that will never come back. It returns how
	// many connections it closed, and nil only if none of them is left.
	end(ctx context.Context, clients []string, gone map[string]bool) (int, error)
	// clients lists the IDs of clients that have a queue or are connected, true
	// for these.
	clients(ctx context.Context) (map[string]bool, error)
	// refresh brings the broker what it keeps of the rights itself.
	refresh(ctx context.Context) error
}

// account is what Keyholder signs in with at a broker.
type account struct {
	user, secret string
}

// New reads the files that the settings name and returns the door. Errors:
// Invalid, Denied for a secret that others may read.
func New(cfg Config) (*Door, error) {
	if cfg.Ledger == nil || len(cfg.Brokers) == 0 {
		return nil, errors.New("open the door for external brokers: a ledger and a broker are needed")
	}
	if cfg.Revoked == nil {
		return nil, errors.New("open the door for external brokers: a revocation list is needed")
	}
	if err := CheckSettings(cfg.Brokers); err != nil {
		return nil, err
	}
	d := &Door{ledger: cfg.Ledger, log: cfg.Log, now: cfg.Now}
	if d.log == nil {
		d.log = slog.Default()
	}
	if d.now == nil {
		d.now = cfg.Ledger.Now
	}
	d.denials = denials{door: d, queue: make(chan denial, 256), limit: ledger.NewLimit(denialsPerMinute, d.now)}
	for _, s := range cfg.Brokers {
		b, err := d.open(s, cfg)
		if err != nil {
			return nil, fmt.Errorf("external_brokers, %s: %w", s.Name, err)
		}
		d.brokers = append(d.brokers, b)
	}
	d.ledger.Follow(func(keyholder.Event) { d.changes.Add(1) })
	return d, nil
}

func (d *Door) open(s Setting, cfg Config) (*Broker, error) {
	b := &Broker{name: s.Name, door: d, undone: map[string]unfinished{}}
	secret, err := keyfile.ReadPrivate(s.path(cfg.Dir, s.SecretFile))
	if err != nil {
		return nil, explainFile("secret_file", err)
	}
	if s.Kind != NATS {
		if b.account, err = newAccount(s.User, secret); err != nil {
			return nil, err
		}
	}
	if s.Kind == RabbitMQ || s.Kind == EMQX {
		if b.callers, err = readCallers(s, cfg.Dir); err != nil {
			return nil, err
		}
	}
	secured, err := s.tls(cfg)
	if err != nil {
		return nil, err
	}
	switch s.Kind {
	case RabbitMQ:
		b.driver = &rabbitmq{newAPI(s, secured, b.account)}
	case EMQX:
		b.driver = &emqx{newAPI(s, secured, b.account)}
	case Mosquitto:
		b.driver, err = newMosquitto(d, s, cfg, b.account, secured)
	case NATS:
		b.driver, err = newNATS(b, s, secret, secured)
	}
	return b, err
}

// readCallers reads the certificates that the nodes of a broker present.
func readCallers(s Setting, dir string) (map[keyholder.Thumbprint]bool, error) {
	text, err := keyfile.Read(s.path(dir, s.CallersFile))
	if err != nil {
		return nil, explainFile("callers_file", err)
	}
	callers := map[keyholder.Thumbprint]bool{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			callers[keyholder.ThumbprintOf(block.Bytes)] = true
		}
	}
	if len(callers) == 0 {
		return nil, keyholder.Errorf(keyholder.Invalid, "the file of callers_file holds no certificate in PEM form")
	}
	return callers, nil
}

// Brokers returns the brokers, each of which is a plane.
func (d *Door) Brokers() []*Broker { return d.brokers }

// Name returns the name of the plane.
func (b *Broker) Name() string { return "broker:" + b.name }

// TLS completes the configuration of the listener for [Door.Handler], which has
// the server's certificate and nothing about clients: a caller must present one of the certificates that the settings name. That they are
// named one by one is the trust; who issued them does not matter.
func (d *Door) TLS(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error {
		for _, b := range d.brokers {
			if b.calls(&s, d.now()) {
				return nil
			}
		}
		return keyholder.Errorf(keyholder.Denied, "the caller is no external broker of the configuration")
	}
	return c
}

// calls says whether a connection comes from the broker.
func (b *Broker) calls(s *tls.ConnectionState, now time.Time) bool {
	if s == nil || len(s.PeerCertificates) == 0 {
		return false
	}
	leaf := s.PeerCertificates[0]
	return b.callers[keyholder.ThumbprintOf(leaf.Raw)] && !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter)
}

// Handler answers the questions of the brokers, each under its name.
func (d *Door) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, b := range d.brokers {
		for what, answer := range b.questions() {
			mux.Handle("POST /"+b.name+"/"+what, b.authenticated(answer))
		}
	}
	return mux
}

// questions are the paths below a broker's name.
func (b *Broker) questions() map[string]http.HandlerFunc {
	switch b.driver.(type) {
	case *rabbitmq:
		return b.rabbitQuestions()
	case *emqx:
		return b.emqxQuestions()
	}
	return nil // Mosquitto asks nothing, and NATS by a connection of ours
}

// maxQuestion bounds the body of a question: a topic, an ID and names.
const maxQuestion = 16 << 10

// authenticated lets only the broker itself ask, not another of the
// configuration.
func (b *Broker) authenticated(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !b.calls(r.TLS, b.door.now()) {
			http.Error(w, "deny", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxQuestion)
		w.Header().Set("Cache-Control", "no-store")
		next(w, r)
	})
}

// Run carries on what could not be ended at once, looks for connections whose
// right has ended, and records refusals, until ctx ends.
func (d *Door) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { d.denials.record(ctx) })
	for _, b := range d.brokers {
		wg.Go(func() { b.run(ctx) })
		if n, ok := b.driver.(*natsServer); ok {
			wg.Go(func() { n.run(ctx) })
		}
	}
	wg.Wait()
	return nil
}

// Times of the repetition. A cut is tried again every second; everything that
// is at the broker is compared with the ledger every sweepEvery, because a
// right can end by itself, and a connection can have been permitted in the
// moment before a cut.
const (
	retryEvery = time.Second
	sweepEvery = 15 * time.Second
	callLimit  = 20 * time.Second // RabbitMQ waits long for the lost node of a queue's three
)

func (b *Broker) run(ctx context.Context) {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		if err := b.driver.refresh(ctx); err != nil {
			b.door.log.Error("an external broker does not get the rights", "broker", b.name, "error", reason(err), "cause", err)
		}
		b.retry(ctx)
		if n%int(sweepEvery/retryEvery) == 0 {
			b.sweep(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// cutLimit is how long a broker may take before the receipt says that it did
// not confirm. It is less than what the ledger waits, so that the receipt
// gives the reason.
const cutLimit = 900 * time.Millisecond

// newAccount checks what Keyholder signs in with.
func newAccount(user string, secret []byte) (account, error) {
	a := account{user: user, secret: trimNewline(string(secret))}
	if len(a.secret) < 16 {
		return account{}, keyholder.Errorf(keyholder.Invalid, "the file of secret_file holds less than 16 characters").
			WithHint("openssl rand -hex 32 > FILE; chmod 600 FILE")
	}
	return a, nil
}

// reason is what may be said of an error: in a receipt, the audit trail, a log.
func reason(err error) string {
	var e *keyholder.Error
	if errors.As(err, &e) {
		return e.Detail
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return cmp.Or(err.Error(), "unknown")
}
