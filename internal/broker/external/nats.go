package external

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// natsServer answers and carries ends to NATS. Keyholder is a client of its
// system account, by which a server asks who may connect (the auth callout),
// lists and closes connections, and, by an import, keeps what JetStream keeps
// of MQTT sessions. A connection has the rights of the moment it was made, so
// it is closed when they are others.
type natsServer struct {
	broker     *Broker
	addresses  []string
	tls        *tls.Config
	maxTLS     uint16
	user       nkeys.KeyPair // we, where Keyholder signs in
	issuer     nkeys.KeyPair // signs the answers
	issuerName string
	conn       atomic.Pointer[nats.Conn] // nil: not yet

	mu     sync.Mutex // guards the rest
	rights int64      // Door.changes when the connections were looked at
	looked time.Time
}

// natsAccount is that of providers and consumers in the configuration that we
// generate.
const natsAccount = "FDS"

func newNATS(b *Broker, s Setting, secret []byte, c *tls.Config) (*natsServer, error) {
	n := &natsServer{broker: b, addresses: s.API, tls: c, maxTLS: c.MaxVersion}
	var err error
	if n.issuer, n.user, err = parseNATSKeys(secret); err != nil {
		return nil, err
	}
	n.issuerName, err = n.issuer.PublicKey()
	return n, err
}

// run is connected until ctx ends, and answers what is asked.
func (n *natsServer) run(ctx context.Context) {
	log := n.broker.door.log.With("broker", n.broker.name)
	name, err := n.user.PublicKey()
	if err != nil {
		log.Error("an external broker cannot be signed in at", "error", err)
		return
	}
	conn, err := nats.Connect(strings.Join(n.addresses, ","), nats.Name("keyholder"), nats.Secure(n.tls), nats.TLSHandshakeFirst(), nats.Nkey(name, n.user.Sign),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(500*time.Millisecond), nats.IgnoreDiscoveredServers(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Error("the connection to an external broker ended", "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Error("an external broker reports an error", "error", err)
		}))
	if err != nil {
		log.Error("an external broker cannot be reached", "error", err)
		return
	}
	defer conn.Close()
	n.conn.Store(conn)
	for err = n.prepare(ctx); err != nil; err = n.prepare(ctx) {
		if pause(ctx, retryEvery) != nil {
			return
		}
	}
	questions := make(chan *nats.Msg, 1024)
	if _, err := conn.ChanSubscribe(calloutSubject, questions); err != nil {
		log.Error("an external broker cannot ask", "error", err)
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for range parallel {
		wg.Go(func() { n.serve(ctx, questions) })
	}
}

// prepare makes the broker such that clients may connect.
func (n *natsServer) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return n.retainNothing(ctx)
}

// errNATSAbsent is the answer that something is not there.
var errNATSAbsent = errors.New("it is not there")

// ask puts a question to a server or to JetStream and reads the answer into
// answer, unless it is nil.
func (n *natsServer) ask(ctx context.Context, subject string, question, answer any) error {
	conn := n.conn.Load()
	if conn == nil || !conn.IsConnected() {
		return keyholder.Errorf(keyholder.Unavailable, "the broker cannot be reached")
	}
	var data []byte
	if question != nil {
		var err error
		if data, err = json.Marshal(question); err != nil {
			return fmt.Errorf("write the question: %w", err)
		}
	}
	m, err := conn.RequestWithContext(ctx, subject, data)
	if err != nil {
		return &keyholder.Error{Code: keyholder.Unavailable, Detail: "the broker did not answer in time", Err: err}
	}
	return readNATS(m.Data, answer)
}

// readNATS reads an answer. Those of servers and of JetStream have the same
// form when they are errors.
func readNATS(data []byte, answer any) error {
	var failed struct {
		Error *struct {
			Code        int    `json:"code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &failed); err != nil {
		return &keyholder.Error{Code: keyholder.Unavailable, Detail: "the answer of the broker cannot be read", Err: err}
	}
	switch {
	case failed.Error == nil && answer == nil:
		return nil
	case failed.Error == nil:
		return json.Unmarshal(data, answer)
	case failed.Error.Code == http.StatusNotFound:
		return errNATSAbsent
	}
	return keyholder.Errorf(keyholder.Unavailable, "the broker answered: %s", failed.Error.Description)
}

// gatherTime is how long the nodes of a cluster may take to say that they are
// there. It leaves a cut the time to close what is on those that did.
const gatherTime = 400 * time.Millisecond

// servers lists the nodes of the cluster that answer: with an error unless all
// do that they count. A node that is lost they count for up to four minutes.
func (n *natsServer) servers(ctx context.Context) ([]string, error) {
	conn := n.conn.Load()
	if conn == nil || !conn.IsConnected() {
		return nil, keyholder.Errorf(keyholder.Unavailable, "the broker cannot be reached")
	}
	inbox := conn.NewInbox()
	answers, err := conn.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("listen for answers: %w", err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	if err := conn.PublishRequest("$SYS.REQ.SERVER.PING", inbox, nil); err != nil {
		return nil, fmt.Errorf("ask for the servers: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, gatherTime)
	defer cancel()
	var servers []string
	for all := 1; len(servers) < all; {
		m, err := answers.NextMsgWithContext(ctx)
		if err != nil {
			return servers, &keyholder.Error{Code: keyholder.Unavailable, Detail: "a node of the broker did not answer in time", Err: err}
		}
		var answer struct {
			Server struct {
				ID string `json:"id"`
			} `json:"server"`
			Statsz struct {
				ActiveServers int `json:"active_servers"`
			} `json:"statsz"`
		}
		if err := readNATS(m.Data, &answer); err != nil {
			return servers, err
		}
		servers, all = append(servers, answer.Server.ID), max(all, answer.Statsz.ActiveServers)
	}
	return servers, nil
}

// natsConnection is a connection of MQTT.
type natsConnection struct {
	server string
	CID    uint64 `json:"cid"`
	Client string `json:"mqtt_client"`
	User   string `json:"authorized_user"` // as natsUser made it
}

// natsPage is how many connections a server lists at a time.
const natsPage = 1024

// connections lists the connections of providers and consumers, of one client
// unless it is empty. With an error it lists those on the nodes that answered.
func (n *natsServer) connections(ctx context.Context, client string) ([]natsConnection, error) {
	servers, lost := n.servers(ctx)
	var all []natsConnection
	for _, server := range servers {
		for more, offset := true, 0; more; offset += natsPage {
			var answer struct {
				Data struct {
					Connections []natsConnection `json:"connections"`
				} `json:"data"`
			}
			if err := n.ask(ctx, "$SYS.REQ.SERVER."+server+".CONNZ", map[string]any{"auth": true, "acc": natsAccount, "mqtt_client": client, "limit": natsPage, "offset": offset}, &answer); err != nil {
				return all, err
			}
			for _, c := range answer.Data.Connections {
				c.server = server
				all = append(all, c)
			}
			more = len(answer.Data.Connections) == natsPage
		}
	}
	return all, lost
}

// end closes what must not be there: the connections of clients, and all whose
// rights have changed with theirs, of a provider for example. What it returns
// counts the first only.
func (n *natsServer) end(ctx context.Context, clients []string, gone map[string]bool) (int, error) {
	ending := map[string]bool{}
	for _, id := range clients {
		ending[id] = true
	}
	closed, left := n.close(ctx, ending)
	_, err := each(clients, func(id string) (int, error) {
		if !gone[id] {
			return 0, nil
		}
		return 0, n.forget(ctx, id)
	})
	return closed, errors.Join(left, err)
}

// close closes the connections of clients and those that have other rights by
// now, until there are none. It returns how many of the clients there were.
func (n *natsServer) close(ctx context.Context, ending map[string]bool) (int, error) {
	counted := map[natsConnection]bool{}
	for {
		all, lost := n.connections(ctx, "")
		doomed := n.outdated(all, ending)
		for _, c := range doomed {
			if ending[c.Client] {
				counted[c] = true
			}
		}
		if _, err := each(doomed, func(c natsConnection) (int, error) {
			// An error says that it is gone already, or the next list says that it is not.
			err := n.ask(ctx, "$SYS.REQ.SERVER."+c.server+".KICK", map[string]any{"cid": c.CID}, nil)
			if ctx.Err() == nil {
				err = nil
			}
			return 0, err
		}); err != nil {
			return len(counted), err
		}
		if lost != nil || len(doomed) == 0 {
			return len(counted), lost
		}
	}
}

// outdated picks the connections of clients, and those of others that would not
// be permitted now as they were.
func (n *natsServer) outdated(all []natsConnection, ending map[string]bool) []natsConnection {
	subs, now := n.broker.door.ledger.ListSubscriptions(), n.broker.door.now()
	var out []natsConnection
	for _, c := range all {
		if ending[c.Client] || !n.current(c, subs, now) {
			out = append(out, c)
		}
	}
	return out
}

// current says whether a connection has the rights that its certificate gives
// now.
func (n *natsServer) current(c natsConnection, subs []keyholder.Subscription, now time.Time) bool {
	p := n.holder(c)
	return p.Permit(now).Allowed && c.User == natsUser(p, natsRights(n.broker.door.rights(p.Certificate, subs, now)))
}

// holder is who made a connection; its zero value stands for nobody we know.
func (n *natsServer) holder(c natsConnection) ledger.Peer {
	for _, p := range n.broker.door.ledger.PeersOf(c.Client) {
		if strings.HasPrefix(c.User, p.Certificate.Thumbprint.String()) {
			return p
		}
	}
	return ledger.Peer{}
}

// clients lists who is connected or has a session.
func (n *natsServer) clients(ctx context.Context) (map[string]bool, error) {
	present, err := n.sessions(ctx)
	if err != nil {
		return nil, err
	}
	all, err := n.connections(ctx, "")
	for _, c := range all {
		present[c.Client] = true
	}
	return present, err
}

// refresh closes the connections that have other rights by now, if any rights
// changed, and makes sure that nothing is retained.
func (n *natsServer) refresh(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	changes, now := n.broker.door.changes.Load(), n.broker.door.now()
	if age := now.Sub(n.looked); changes == n.rights && age >= 0 && age < refreshAfter {
		return nil
	}
	if err := n.prepare(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := n.close(ctx, nil); err != nil {
		return err
	}
	n.rights, n.looked = changes, now
	return nil
}
