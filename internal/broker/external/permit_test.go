package external_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// asked is a Keyholder that two brokers may ask, mq and emq. Neither of them
// runs: this is about what they ask.
type asked struct {
	*fabric
	mq, emq *http.Client // with the certificate of that broker
}

const askedSecret = "a secret of 16 or more"

func newAsked(t *testing.T) *asked {
	t.Helper()
	s := keyholdertest.Start(t)
	client := func(name string) *http.Client {
		certPEM, keyPEM := s.ServerCertificatePEM(name)
		write(t, filepath.Join(s.Dir, name+".pem"), string(certPEM))
		c, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		return s.HTTP(c)
	}
	a := &asked{mq: client("mq"), emq: client("emq")}
	write(t, filepath.Join(s.Dir, "broker.secret"), askedSecret)
	closed := "https://127.0.0.1:" + freePort(t)
	s.UseBrokers(fmt.Sprintf(`[{name: mq, kind: rabbitmq, api: [%q], user: keyholder, secret_file: broker.secret, callers_file: mq.pem},
		{name: emq, kind: emqx, api: [%q], user: keyholder, secret_file: broker.secret, callers_file: emq.pem}]`, closed, closed))
	a.fabric = populate(t, s)
	return a
}

// post asks, and returns the status and the answer.
func post(t *testing.T, c *http.Client, address, contentType, body string) (int, string) {
	t.Helper()
	resp, err := c.Post(address, contentType, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

const formType = "application/x-www-form-urlencoded"

// Ensure that nobody but a broker of the configuration is heard, and each
// under its own name only.
func TestCallers(t *testing.T) {
	a := newAsked(t)
	question := url.Values{"username": {a.a.id}}.Encode()
	for name, c := range map[string]*http.Client{"no certificate": a.HTTP(), "a consumer's": a.HTTP(a.a.cert), "a provider's": a.HTTP(a.provider.cert), "a server's": a.HTTP(a.asServer().cert)} {
		if resp, err := c.Post(a.Permits+"/mq/user", formType, strings.NewReader(question)); err == nil {
			t.Errorf("%s: answered %s", name, resp.Status)
			_ = resp.Body.Close()
		}
	}
	if status, answer := post(t, a.mq, a.Permits+"/mq/user", formType, question); status != http.StatusOK || answer != "allow" {
		t.Errorf("the broker itself: %d %s", status, answer)
	}
	for path, want := range map[string]int{"/emq/authenticate": http.StatusForbidden, "/emq/user": http.StatusNotFound, "/mq/authenticate": http.StatusNotFound, "/": http.StatusNotFound} {
		if status, answer := post(t, a.mq, a.Permits+path, formType, question); status != want || strings.Contains(answer, "allow") {
			t.Errorf("mq asks %s: %d %s, want %d", path, status, answer, want)
		}
	}
	resp, err := a.mq.Get(a.Permits + "/mq/user?" + question)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %s", resp.Status)
	}
	if status, answer := post(t, a.mq, a.Permits+"/mq/user", formType, question+"&x="+strings.Repeat("x", 17<<10)); status != http.StatusOK || answer != "deny" {
		t.Errorf("too long: %d %s", status, answer)
	}
}

// Ensure that each question of RabbitMQ gets the answer of the Permit
// functions.
func TestRabbitMQQuestions(t *testing.T) {
	a := newAsked(t)
	id, key := a.a.id, "fds.v2."+a.a.id+"."
	queue := func(id, qos string) string { return "mqtt-subscription-" + id + qos }
	topic := func(user, client, permission, routingKey string) url.Values {
		return url.Values{"username": {user}, "vhost": {"/"}, "resource": {"topic"}, "name": {"amq.topic"}, "permission": {permission}, "routing_key": {routingKey},
			"variable_map.client_id": {client}, "variable_map.username": {user}, "variable_map.vhost": {"/"}, "tags": {""}}
	}
	resource := func(user, client, kind, name, permission string) url.Values {
		v := url.Values{"username": {user}, "vhost": {"/"}, "resource": {kind}, "name": {name}, "permission": {permission}, "tags": {""}}
		if client != "" {
			v.Set("client_id", client)
		}
		return v
	}
	with := func(v url.Values, name, value string) url.Values { v[name] = []string{value}; return v }
	for name, tt := range map[string]struct {
		path string
		form url.Values
		want string
	}{
		"consumer":                       {"user", url.Values{"username": {id}}, "allow"},
		"provider":                       {"user", url.Values{"username": {a.provider.id}}, "allow"},
		"unknown":                        {"user", url.Values{"username": {a.unknown.id}}, "deny"},
		"cut":                            {"user", url.Values{"username": {a.gone.id}}, "deny"},
		"nobody":                         {"user", url.Values{}, "deny"},
		"a password":                     {"user", url.Values{"username": {id}, "password": {"x"}}, "deny"},
		"an empty password":              {"user", url.Values{"username": {id}, "password": {""}}, "deny"},
		"Keyholder":                      {"user", url.Values{"username": {"keyholder"}, "password": {askedSecret}}, "allow administrator"},
		"Keyholder, wrong secret":        {"user", url.Values{"username": {"keyholder"}, "password": {askedSecret + "x"}}, "deny"},
		"Keyholder, no secret":           {"user", url.Values{"username": {"keyholder"}}, "deny"},
		"Keyholder as MQTT client":       {"user", url.Values{"username": {"keyholder"}, "password": {askedSecret}, "client_id": {"keyholder"}}, "deny"},
		"twice":                          {"user", url.Values{"username": {id, a.b.id}}, "deny"},
		"connect":                        {"vhost", url.Values{"username": {id}, "vhost": {"/"}, "client_id": {id}}, "allow"},
		"connect under another ID":       {"vhost", url.Values{"username": {id}, "vhost": {"/"}, "client_id": {a.b.id}}, "deny"},
		"connect without an ID":          {"vhost", url.Values{"username": {id}, "vhost": {"/"}}, "deny"},
		"connect to another host":        {"vhost", url.Values{"username": {id}, "vhost": {"other"}, "client_id": {id}}, "deny"},
		"app":                            {"vhost", url.Values{"username": {a.app.id}, "vhost": {"/"}, "client_id": {a.app.id}}, "deny"},
		"Keyholder's connection":         {"vhost", url.Values{"username": {"keyholder"}, "vhost": {"/"}}, "allow"},
		"Keyholder's MQTT connection":    {"vhost", url.Values{"username": {"keyholder"}, "vhost": {"/"}, "client_id": {"keyholder"}}, "deny"},
		"own queue":                      {"resource", resource(id, id, "queue", queue(id, "qos1"), "configure"), "allow"},
		"read the own queue":             {"resource", resource(id, id, "queue", queue(id, "qos0"), "read"), "allow"},
		"another queue":                  {"resource", resource(id, id, "queue", queue(a.b.id, "qos1"), "read"), "deny"},
		"a queue of another form":        {"resource", resource(id, id, "queue", "mqtt-subscription-"+id, "read"), "deny"},
		"a provider reads its queue":     {"resource", resource(a.provider.id, a.provider.id, "queue", queue(a.provider.id, "qos1"), "read"), "deny"},
		"a provider clears its session":  {"resource", resource(a.provider.id, a.provider.id, "queue", queue(a.provider.id, "qos1"), "configure"), "allow"},
		"the exchange":                   {"resource", resource(id, id, "exchange", "amq.topic", "read"), "allow"},
		"change the exchange":            {"resource", resource(id, id, "exchange", "amq.topic", "configure"), "deny"},
		"another exchange":               {"resource", resource(a.provider.id, a.provider.id, "exchange", "amq.fanout", "write"), "deny"},
		"Keyholder removes a queue":      {"resource", resource("keyholder", "", "queue", queue(id, "qos1"), "configure"), "allow"},
		"Keyholder reads a queue":        {"resource", resource("keyholder", "", "queue", queue(id, "qos1"), "read"), "deny"},
		"Keyholder removes another":      {"resource", resource("keyholder", "", "queue", "orders", "configure"), "deny"},
		"own filter":                     {"topic", topic(id, id, "read", key+"#"), "allow"},
		"own filter +":                   {"topic", topic(id, id, "read", key+"*.x"), "allow"},
		"all":                            {"topic", topic(id, id, "read", "#"), "deny"},
		"every subscription":             {"topic", topic(id, id, "read", "fds.v2.*.events"), "deny"},
		"another subscription":           {"topic", topic(id, id, "read", "fds.v2."+a.b.id+".#"), "deny"},
		"own filter, foreign client ID":  {"topic", topic(id, a.b.id, "read", key+"#"), "deny"},
		"publish":                        {"topic", topic(a.provider.id, a.provider.id, "write", key+"events"), "allow"},
		"publish to a wildcard":          {"topic", topic(a.provider.id, a.provider.id, "write", key+"#"), "deny"},
		"publish, foreign":               {"topic", topic(a.provider.id, a.provider.id, "write", "fds.v2."+a.foreign.id+".events"), "deny"},
		"publish, unknown":               {"topic", topic(a.provider.id, a.provider.id, "write", "fds.v2."+a.unknown.id+".events"), "deny"},
		"publish, cut":                   {"topic", topic(a.provider.id, a.provider.id, "write", "fds.v2."+a.gone.id+".events"), "deny"},
		"publish by a consumer":          {"topic", topic(id, id, "write", key+"events"), "deny"},
		"subscribe by a provider":        {"topic", topic(a.provider.id, a.provider.id, "read", key+"#"), "deny"},
		"configure a topic":              {"topic", topic(id, id, "configure", key+"#"), "deny"},
		"another topic exchange":         {"topic", with(topic(id, id, "read", key+"#"), "name", "other"), "deny"},
		"client ID stands in both forms": {"topic", with(topic(id, id, "read", key+"#"), "client_id", a.b.id), "deny"},
	} {
		if status, answer := post(t, a.mq, a.Permits+"/mq/"+tt.path, formType, tt.form.Encode()); status != http.StatusOK || answer != tt.want {
			t.Errorf("%s: %d %q, want %q", name, status, answer, tt.want)
		}
	}
}

// Ensure that each question of EMQX gets the answer of the Permit functions,
// always with status 200, because EMQX goes on to the next after any other.
func TestEMQXQuestions(t *testing.T) {
	a := newAsked(t)
	id := a.a.id
	question := func(cn, client, action, topic, retain string) string {
		m := map[string]string{"cert_common_name": cn, "clientid": client}
		if action != "" {
			m["action"], m["topic"], m["retain"] = action, topic, retain
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, tt := range map[string]struct {
		path, body string
		allow      bool
	}{
		"connect":                 {"authenticate", question(id, id, "", "", ""), true},
		"provider":                {"authenticate", question(a.provider.id, a.provider.id, "", "", ""), true},
		"another client ID":       {"authenticate", question(id, a.b.id, "", "", ""), false},
		"cut":                     {"authenticate", question(a.gone.id, a.gone.id, "", "", ""), false},
		"app":                     {"authenticate", question(a.app.id, a.app.id, "", "", ""), false},
		"no certificate":          {"authenticate", question("", id, "", "", ""), false},
		"own filter":              {"authorize", question(id, id, "subscribe", a.a.topic("#"), ""), true},
		"another filter":          {"authorize", question(id, id, "subscribe", a.b.topic("#"), ""), false},
		"$share":                  {"authorize", question(id, id, "subscribe", "$share/g/"+a.a.topic("#"), ""), false},
		"publish":                 {"authorize", question(a.provider.id, a.provider.id, "publish", a.a.topic("events"), "false"), true},
		"retained":                {"authorize", question(a.provider.id, a.provider.id, "publish", a.a.topic("events"), "true"), false},
		"foreign":                 {"authorize", question(a.provider.id, a.provider.id, "publish", a.foreign.topic("events"), "false"), false},
		"a consumer publishes":    {"authorize", question(id, id, "publish", a.a.topic("events"), "false"), false},
		"another action":          {"authorize", question(id, id, "all", a.a.topic("#"), ""), false},
		"an unknown member":       {"authenticate", `{"cert_common_name":"` + id + `","clientid":"` + id + `","is_superuser":true}`, false},
		"two objects":             {"authenticate", question(id, id, "", "", "") + question(id, id, "", "", ""), false},
		"no object":               {"authenticate", "null", false},
		"the name in another way": {"authenticate", `{"clientid":"` + id + `","username":"` + id + `"}`, false},
	} {
		status, answer := post(t, a.emq, a.Permits+"/emq/"+tt.path, "application/json", tt.body)
		want := `{"result":"deny"}`
		if tt.allow {
			want = `{"result":"allow","is_superuser":false}`
		}
		if status != http.StatusOK || answer != want {
			t.Errorf("%s: %d %s, want %s", name, status, answer, want)
		}
	}
}

// Ensure that refusals of known clients are on the audit trail, within a
// bound, and a cut that a broker does not take is too, with the reason in the
// receipt and within the second.
func TestUnreachableBroker(t *testing.T) {
	a := newAsked(t)
	for range 30 {
		post(t, a.mq, a.Permits+"/mq/vhost", formType, url.Values{"username": {a.a.id}, "vhost": {"/"}, "client_id": {a.b.id}}.Encode())
	}
	eventually(t, "twenty refusals are recorded", 5*time.Second, func() bool { return a.count(keyholder.EventDenied) == 20 })
	at := time.Now()
	receipt := a.Cut(keyholder.CutSubscription, a.a.id)
	if took := time.Since(at); took > 2*time.Second {
		t.Errorf("the cut took %s", took)
	}
	for _, p := range receipt.Planes {
		external := p.Plane == "broker:mq" || p.Plane == "broker:emq"
		if external != strings.Contains(p.Failed, "the management API cannot be reached") || p.Took > time.Second {
			t.Errorf("%s: %q after %s", p.Plane, p.Failed, p.Took)
		}
	}
	eventually(t, "both are recorded", 5*time.Second, func() bool { return a.count(keyholder.EventCutUnfinished) >= 2 })
}
