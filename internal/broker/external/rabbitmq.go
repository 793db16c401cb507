package external

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// What the generated configuration of RabbitMQ names.
const (
	rabbitVHost    = "/"
	rabbitExchange = "amq.topic"
	rabbitQueue    = "mqtt-subscription-" // and the client ID and "qos0" or "qos1"
)

// rabbitQuestion is what RabbitMQ asks (plugin rabbitmq_auth_backend_http),
// as a form. Only what is decided on is read.
type rabbitQuestion struct {
	who         claim
	password    string
	hasPassword bool // also an empty one: the client chose its name itself
	hasClient   bool // an MQTT client, not the management API
	vhost       string
	resource    string // queue, exchange or topic
	name        string
	permission  string // configure, write or read
	routingKey  string
}

// parseRabbit reads a question. A parameter that stands twice is an error: of
// two nobody knows which one the broker meant.
func parseRabbit(body []byte) (rabbitQuestion, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return rabbitQuestion{}, keyholder.Errorf(keyholder.Invalid, "the question is no form")
	}
	for name, values := range form {
		if len(values) != 1 {
			return rabbitQuestion{}, keyholder.Errorf(keyholder.Invalid, "the parameter %.40q stands more than once", name)
		}
	}
	q := rabbitQuestion{password: form.Get("password"), hasPassword: form.Has("password"), vhost: form.Get("vhost"), resource: form.Get("resource"),
		name: form.Get("name"), permission: form.Get("permission"), routingKey: form.Get("routing_key")}
	q.who = claim{subject: form.Get("username"), clientID: form.Get("client_id")}
	q.hasClient = form.Has("client_id") || form.Has("variable_map.client_id")
	if form.Has("variable_map.client_id") {
		if form.Has("client_id") && q.who.clientID != form.Get("variable_map.client_id") {
			return rabbitQuestion{}, keyholder.Errorf(keyholder.Invalid, "the question has two client IDs")
		}
		q.who.clientID = form.Get("variable_map.client_id")
	}
	return q, nil
}

// topic turns an AMQP routing key into what the client wrote, as the plugin
// for MQTT turned it into the key. A dot in a level becomes a slash that way,
// for the consumer too.
func (q rabbitQuestion) topic() string {
	t := strings.ReplaceAll(q.routingKey, ".", "/")
	if q.permission == "read" {
		t = strings.ReplaceAll(t, "*", "+")
	}
	return t
}

func (b *Broker) rabbitQuestions() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"user":     b.answerRabbit("user", b.rabbitUser),
		"vhost":    b.answerRabbit("connect", b.rabbitVHost),
		"resource": b.answerRabbit("resource", b.rabbitResource),
		"topic":    b.answerRabbit("topic", b.rabbitTopic),
	}
}

// answerRabbit answers "allow" or "deny", and nothing more on a no.
func (b *Broker) answerRabbit(what string, decide func(rabbitQuestion) (tags string, v keyholder.Verdict)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer := "deny"
		body, err := io.ReadAll(r.Body)
		if err == nil {
			var q rabbitQuestion
			if q, err = parseRabbit(body); err == nil {
				tags, v := decide(q)
				if v.Allowed {
					answer = strings.TrimSpace("allow " + tags)
				} else {
					b.door.denials.deny(b, what, q.who, v)
				}
			}
		}
		if err != nil {
			b.door.log.Warn("external broker: a question was not understood", "broker", b.name, "what", what, "error", err)
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, answer)
	}
}

// refuse is a no that rests on no Permit function: the broker asked for
// something that a client of FDS has no use for.
func refuse(r keyholder.Requirement, why string) keyholder.Verdict {
	return keyholder.Verdict{Requirement: r, Reason: why}
}

// rabbitUser decides whether a name is an identity. A client is named by its
// certificate and has no password; whoever sends one chose the name
// themselves. Keyholder itself signs in at the management API, by its secret,
// which RabbitMQ has us verify.
func (b *Broker) rabbitUser(q rabbitQuestion) (string, keyholder.Verdict) {
	switch {
	case q.who.subject == b.account.user:
		if !q.hasPassword || q.hasClient || !b.account.verify(q.password) {
			return "", refuse(keyholder.M2, "the secret of Keyholder's account is wrong, or an MQTT client used its name")
		}
		return "administrator", keyholder.Verdict{Allowed: true, Requirement: keyholder.M2}
	case q.hasPassword:
		return "", refuse(keyholder.M2, "a user name and password are not an identity here")
	}
	return "", b.door.peer(q.who.subject).Permit(b.door.now())
}

// verify compares a secret in time that does not depend on it.
func (a account) verify(secret string) bool {
	x, y := sha256.Sum256([]byte(a.secret)), sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// rabbitVHost decides on a connection: this is the question that has the
// client ID.
func (b *Broker) rabbitVHost(q rabbitQuestion) (string, keyholder.Verdict) {
	if q.vhost != rabbitVHost {
		return "", refuse(keyholder.M6, "there is no such virtual host for clients of FDS")
	}
	if q.who.subject == b.account.user && !q.hasClient {
		return "", keyholder.Verdict{Allowed: true, Requirement: keyholder.M2}
	}
	_, v := b.door.connect(q.who)
	return "", v
}

// rabbitResource decides on queues and exchanges, which the plugin for MQTT
// uses in the client's name: the queue of its own client ID, and the exchange,
// where the topic decides.
func (b *Broker) rabbitResource(q rabbitQuestion) (string, keyholder.Verdict) {
	if q.vhost != rabbitVHost {
		return "", refuse(keyholder.M6, "there is no such virtual host for clients of FDS")
	}
	if q.who.subject == b.account.user && !q.hasClient {
		if id, ok := clientOfQueue(q.name); ok && q.resource == "queue" && q.permission == "configure" && id != "" {
			return "", keyholder.Verdict{Allowed: true, Requirement: keyholder.M3}
		}
		return "", refuse(keyholder.M6, "Keyholder removes queues of clients and nothing else")
	}
	_, v := b.door.connect(q.who)
	if !v.Allowed {
		return "", v
	}
	switch id, ok := clientOfQueue(q.name); {
	case q.resource == "queue" && ok && id == q.who.clientID && q.permission == "configure":
		return "", v // at a clean start the plugin removes the queue, a provider's too
	case q.resource == "queue" && ok && id == q.who.clientID:
		return "", b.door.subscribe(q.who, keyholder.Filter{Subscription: keyholder.SubscriptionID(id), Pattern: "#"}.String())
	case q.resource == "exchange" && q.name == rabbitExchange && q.permission != "configure":
		return "", v
	}
	return "", refuse(keyholder.M6, "a client of FDS has no use for this resource")
}

// clientOfQueue returns the client ID in the name of a queue of the plugin for
// MQTT.
func clientOfQueue(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, rabbitQueue)
	id, qos0 := strings.CutSuffix(rest, "qos0")
	id, qos1 := strings.CutSuffix(id, "qos1")
	if !ok || qos0 == qos1 {
		return "", false
	}
	_, err := keyholder.ParseID[string](id)
	return id, err == nil
}

// rabbitTopic decides on a publish and on a filter.
func (b *Broker) rabbitTopic(q rabbitQuestion) (string, keyholder.Verdict) {
	switch {
	case q.vhost != rabbitVHost || q.resource != "topic" || q.name != rabbitExchange:
		return "", refuse(keyholder.M6, "there is no such topic exchange for clients of FDS")
	case q.permission == "write":
		return "", b.door.publish(q.who, q.topic())
	case q.permission == "read":
		return "", b.door.subscribe(q.who, q.topic())
	}
	return "", refuse(keyholder.M6, "a topic is written or read")
}

// rabbitmq carries ends to RabbitMQ by its management API.
type rabbitmq struct {
	api
}

func (r *rabbitmq) end(ctx context.Context, clients []string, gone map[string]bool) (int, error) {
	return each(clients, func(id string) (int, error) { return r.endClient(ctx, id, gone[id]) })
}

// endClient closes the connections of a client, waits until they are closed,
// and removes its queues if it is gone.
func (r *rabbitmq) endClient(ctx context.Context, id string, gone bool) (int, error) {
	closed := 0
	for first := true; ; first = false {
		open, all, err := r.connections(ctx, id)
		if err != nil {
			return 0, err
		}
		if len(open) == 0 {
			break
		}
		if first {
			closed = len(open)
		}
		if err := r.close(ctx, id, open, all); err != nil {
			return 0, err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return 0, fmt.Errorf("wait for the end of a connection: %w", err)
		}
	}
	if gone {
		for _, qos := range []string{"qos0", "qos1"} {
			if err := r.remove(ctx, "/api/queues/"+url.PathEscape(rabbitVHost)+"/"+rabbitQueue+url.PathEscape(id)+qos); err != nil {
				return closed, err
			}
		}
	}
	return closed, nil
}

// rabbitConnection is what the management API says of a connection.
type rabbitConnection struct {
	Name string `json:"name"`
	User string `json:"user"`
}

// quick is how long the question for the connections of one client may take.
const quick = 300 * time.Millisecond

func connectionsOf(id string) string { return "/api/connections/username/" + url.PathEscape(id) }

// connections lists the names of a client's connections. In the moment in which
// a node of the cluster is lost, RabbitMQ 3.10 cannot answer for one client;
// then all are listed, which takes longer, and knows a new connection some
// seconds later.
func (r *rabbitmq) connections(ctx context.Context, id string) (names []string, all bool, err error) {
	short, cancel := context.WithTimeout(ctx, quick)
	defer cancel()
	var open []rabbitConnection
	if err := r.get(short, connectionsOf(id), &open); err != nil {
		open, all = nil, true
		if err := r.get(ctx, "/api/connections?columns=user,name", &open); err != nil {
			return nil, false, err
		}
	}
	for _, c := range open {
		if c.User == id {
			names = append(names, c.Name)
		}
	}
	return names, all, nil
}

// close closes all connections of a client, one by one if they were found
// among all.
func (r *rabbitmq) close(ctx context.Context, id string, names []string, all bool) error {
	if !all {
		return r.remove(ctx, connectionsOf(id))
	}
	for _, name := range names {
		if err := r.remove(ctx, "/api/connections/"+url.PathEscape(name)); err != nil {
			return err
		}
	}
	return nil
}

func (r *rabbitmq) clients(ctx context.Context) (map[string]bool, error) {
	var connections []rabbitConnection
	var queues []struct {
		Name string `json:"name"`
	}
	if err := r.get(ctx, "/api/connections?columns=user", &connections); err != nil {
		return nil, err
	}
	if err := r.get(ctx, "/api/queues/"+url.PathEscape(rabbitVHost)+"?columns=name", &queues); err != nil {
		return nil, err
	}
	present := map[string]bool{}
	for _, q := range queues {
		if id, ok := clientOfQueue(q.Name); ok {
			present[id] = false
		}
	}
	for _, c := range connections {
		present[c.User] = true
	}
	return present, nil
}
