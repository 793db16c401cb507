package external_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/broker/external"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// bus is a node of NATS with the generated configuration.
type bus struct {
	t       testing.TB
	dir     string
	mqtt    string
	api     string // the listener for Keyholder
	keys    []byte
	process *exec.Cmd
	exited  chan struct{}
	server  *keyholdertest.Server
}

// natsProgram builds the server that ./bench/peer/broker pins.
func natsProgram(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "nats-server")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "../../../bench/peer/broker", "-o", program, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err == nil {
		return program
	}
	if os.Getenv("KEYHOLDER_TEST_ALL") != "" {
		t.Fatalf("the NATS server cannot be built, and KEYHOLDER_TEST_ALL forbids to skip: %s", out)
	}
	t.Skipf("SKIPPED: the NATS server cannot be built: %s", out)
	return ""
}

// startNATS runs n nodes, which Keyholder does not know of yet.
func startNATS(t testing.TB, s *keyholdertest.Server, n int) []*bus {
	t.Helper()
	program := natsProgram(t)
	nodes, routes := make([]*bus, n), make([]string, n)
	for i := range nodes {
		nodes[i], routes[i] = &bus{t: t, dir: t.TempDir(), mqtt: "127.0.0.1:" + freePort(t), api: "127.0.0.1:" + freePort(t), server: s}, "127.0.0.1:"+freePort(t)
	}
	authority, certificate, key := nodeCertificate(t)
	for i, b := range nodes {
		write(t, filepath.Join(b.dir, "node-ca.pem"), authority)
		write(t, filepath.Join(b.dir, "node.pem"), certificate)
		write(t, filepath.Join(b.dir, "node.key"), key)
		var others []string
		if n > 1 {
			others = slices.Concat(routes[i:], routes[:i])
		}
		b.start(program, others)
	}
	return nodes
}

// nodeCertificate makes what nodes know each other by, in PEM.
func nodeCertificate(t testing.TB) (authority, certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	node := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nodes"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, node, node, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return certificate, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// start runs the node, as one of nodes if there are any.
func (b *bus) start(program string, nodes []string) {
	b.t.Helper()
	t, s := b.t, b.server
	certPEM, keyPEM := s.ServerCertificatePEM("127.0.0.1")
	write(t, filepath.Join(b.dir, "server.pem"), string(certPEM))
	write(t, filepath.Join(b.dir, "server.key"), string(keyPEM))
	write(t, filepath.Join(b.dir, "keyholder-ca.pem"), s.RootPEM())
	var err error
	if b.keys, err = external.OpenNATSKeys(filepath.Join(s.Dir, "bus.keys")); err != nil {
		t.Fatal(err)
	}
	files, err := external.Generate(external.NATS, external.Plan{Name: "bus", Folder: b.dir, MQTT: b.mqtt, Management: b.api, Keys: b.keys, Nodes: nodes})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		write(t, filepath.Join(b.dir, f.Name), f.Text)
	}
	log, err := os.Create(filepath.Join(b.dir, "out.log"))
	if err != nil {
		t.Fatal(err)
	}
	b.process = exec.Command(program, "-c", filepath.Join(b.dir, "nats.conf"))
	b.process.Stdout, b.process.Stderr = log, log
	b.exited = begin(t, b.process, func() {
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("nats-server: %s", text[max(0, len(text)-6000):])
		}
	})
	eventually(t, "nats-server listens", 10*time.Second, func() bool {
		conn, err := net.Dial("tcp", b.mqtt)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// askFor has Keyholder answer the nodes, and returns when it does.
func askFor(f *fabric, nodes []*bus) {
	f.t.Helper()
	var addresses []string
	for _, b := range nodes {
		addresses = append(addresses, "tls://"+b.api)
	}
	list, err := json.Marshal(addresses)
	if err != nil {
		f.t.Fatal(err)
	}
	f.UseBrokers(fmt.Sprintf(`[{name: bus, kind: nats, api: %s, secret_file: bus.keys, ca_file: %q}]`, list, filepath.Join(nodes[0].dir, "keyholder-ca.pem")))
	for _, b := range nodes {
		eventually(f.t, "Keyholder answers", time.Minute, func() bool {
			r, err := dial(f.t, b.mqtt, f.TLS(f.a.cert), 4)
			if err != nil {
				f.t.Fatal(err)
			}
			defer r.conn.Close()
			code, err := r.connect(f.a.id)
			return err == nil && code == 0
		})
	}
}

// signal signals the server, and waits until it has stopped if it is to.
func (b *bus) signal(s syscall.Signal) {
	b.t.Helper()
	pid := b.process.Process.Pid
	if err := syscall.Kill(-pid, s); err != nil {
		b.t.Fatal(err)
	}
	if s != syscall.SIGSTOP {
		return
	}
	eventually(b.t, "the server has stopped", 10*time.Second, func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return err == nil && len(threads) > 0 && !slices.ContainsFunc(threads, func(name string) bool {
			text, err := os.ReadFile(name)
			return err == nil && !strings.Contains(string(text), ") T ")
		})
	})
}

// system is a connection like Keyholder's.
func (b *bus) system() *nats.Conn {
	b.t.Helper()
	user, err := nkeys.FromSeed(bytes.Fields(b.keys)[1])
	if err != nil {
		b.t.Fatal(err)
	}
	name, err := user.PublicKey()
	if err != nil {
		b.t.Fatal(err)
	}
	conn, err := nats.Connect("tls://"+b.api, nats.Secure(b.server.TLS()), nats.TLSHandshakeFirst(), nats.Nkey(name, user.Sign))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(conn.Close)
	return conn
}

// left says what JetStream has of a client: subjects, and sessions by their
// consumers.
func (b *bus) left(id string, _ keyholder.Receipt) string {
	conn := b.system()
	defer conn.Close()
	for stream, filter := range map[string]string{"$MQTT_msgs": "$MQTT.msgs.fds.v2." + id + ".>", "$MQTT_sess": "$MQTT.sess." + external.NATSHash(id), "$MQTT_rmsgs": ">"} {
		m, err := conn.Request("FDS.JS.API.STREAM.INFO."+stream, fmt.Appendf(nil, `{"subjects_filter": %q}`, filter), answerLimit)
		if err != nil {
			return err.Error()
		}
		var info struct {
			Error any
			State struct{ Subjects map[string]int }
		}
		if err := json.Unmarshal(m.Data, &info); err != nil || info.Error != nil || len(info.State.Subjects) > 0 {
			return fmt.Sprintf("%s: %v, %v, %v", stream, info.State.Subjects, info.Error, err)
		}
	}
	m, err := conn.Request("FDS.JS.API.CONSUMER.NAMES.$MQTT_msgs", nil, answerLimit)
	if err != nil || !strings.Contains(string(m.Data), "consumers") || strings.Contains(string(m.Data), external.NATSHash(id)) {
		return fmt.Sprintf("%s, %v", m.Data, err)
	}
	return "nothing is left"
}

// Ensure that NATS with the generated configuration keeps the rules, but for
// the differences that the matrix names.
func TestMatrixNATS(t *testing.T) {
	s := keyholdertest.Start(t)
	nodes := startNATS(t, s, 1)
	b, f := nodes[0], populate(t, s)
	target := &target{name: "nats", addr: b.mqtt, counts: 1, left: b.left, fabric: f}
	t.Run("without Keyholder", func(t *testing.T) {
		at := time.Now()
		if _, outcome := (&attempt{T: t, target: target, version: 4}).dial(f.a, f.a.id); outcome != refused || time.Since(at) > 5*time.Second {
			t.Errorf("%s after %s", outcome, time.Since(at))
		}
	})
	askFor(f, nodes)
	run(t, target)
	for name, try := range map[string]func(*attempt){
		"a client that does not speak MQTT":       b.otherProtocol,
		"a consent that becomes narrower":         narrows,
		"a right that ends by itself":             b.expires,
		"a restart of Keyholder":                  outlives,
		"topics that mean something else to NATS": strange,
		"a cut while the broker hangs":            func(a *attempt) { cutWhileHanging(a, b.signal) },
	} {
		t.Run(name, func(t *testing.T) { try(&attempt{T: t, target: target, version: 4}) })
	}
}

// Ensure that a cluster of three nodes keeps the rules as one.
func TestNATSCluster(t *testing.T) {
	s := keyholdertest.Start(t)
	nodes := startNATS(t, s, 3)
	f := populate(t, s)
	askFor(f, nodes)
	on := func(t *testing.T, i int) *attempt {
		return &attempt{T: t, version: 4, target: &target{name: "nats", addr: nodes[i].mqtt, counts: 1, fabric: f, left: nodes[2].left}}
	}
	runCluster(t, on, len(nodes), func() {
		nodes[0].signal(syscall.SIGKILL)
		<-nodes[0].exited
	})
}

// otherProtocol connects as a client of NATS.
func (b *bus) otherProtocol(a *attempt) {
	for _, options := range [][]nats.Option{nil, {nats.UserInfo(a.a.id, "x")}, {nats.Token("x")}} {
		conn, err := nats.Connect("tls://"+b.api, append(options, nats.Secure(a.config(a.a)), nats.TLSHandshakeFirst())...)
		if err == nil {
			conn.Close()
			a.Errorf("it is let in with %d options", len(options))
		}
	}
}

// narrows narrows and widens the consent of a connected provider.
func narrows(a *attempt) {
	name := strings.ToLower(a.addProvider().id)
	app, _ := a.AddApp(name, keyholder.AuthSecret, "")
	agreement := a.AddAgreement(keyholder.ProviderID(a.provider.id), a.AddOwner(name).ID)
	s := a.certify(keyholder.ForSubscription, string(a.AddSubscription(agreement, app.ID, "")))
	for _, step := range []struct {
		scope []keyholder.Kind
		want  string
	}{{[]keyholder.Kind{keyholder.Statuses}, "statuses"}, {[]keyholder.Kind{keyholder.Statuses, keyholder.Events}, "statuses events/x"}} {
		p := a.join(a.provider)
		a.AddSubscription(agreement, app.ID, "", step.scope...)
		if !p.ended(5 * time.Second) {
			a.Error("the connection keeps its rights")
		}
		if got := a.passes(s, "statuses", "events/x", "eventsx", "anything"); got != step.want {
			a.Errorf("a consent to %v lets pass: %q, want %q", step.scope, got, step.want)
		}
	}
}

// expires connects a consumer whose consent ends in two seconds, and the
// provider, and waits.
func (b *bus) expires(a *attempt) {
	admin, err := console.Dial(a.Dir)
	if err != nil {
		a.Fatal(err)
	}
	defer admin.Close()
	issuer := a.addProvider()
	name := strings.ToLower(issuer.id)
	app, _ := a.AddApp(name, keyholder.AuthSecret, "")
	agreement := a.AddAgreement(keyholder.ProviderID(issuer.id), a.AddOwner(name).ID)
	end := time.Now().Add(3 * time.Second)
	added, err := admin.AddSubscription(a.Context(), console.NewSubscription{Agreement: string(agreement), App: string(app.ID), Expires: end})
	if err != nil {
		a.Fatal(err)
	}
	s := a.certify(keyholder.ForSubscription, string(added.ID))
	consumer, publisher := a.join(s, persistent), a.join(issuer)
	if _, err := consumer.subscribe(s.topic("#")); err != nil {
		a.Fatal(err)
	}
	if !consumer.ended(time.Until(end) + time.Second) {
		a.Error("the consumer outlives its right by a second")
	}
	if !publisher.ended(20 * time.Second) {
		a.Error("the provider keeps its right")
	}
	eventually(a, "its session is removed", 20*time.Second, func() bool { return b.left(s.id, keyholder.Receipt{}) == "nothing is left" })
	if _, outcome := a.dial(s, s.id); outcome != refused {
		a.Error("the client comes back")
	}
}

// passes says which levels of a subscription, whose consent covers statuses,
// reach its consumer.
func (a *attempt) passes(s party, levels ...string) string {
	a.Helper()
	consumer := a.join(s)
	defer consumer.leave()
	if codes, err := consumer.subscribe(s.topic("#")); err != nil || codes[0] >= 0x80 {
		a.Fatal(codes, err)
	}
	for _, level := range append(levels, "statuses/last") {
		p := a.join(a.provider)
		_, _ = p.publish(s.topic(level), "x")
		p.leave()
	}
	var came []string
	for {
		pk, err := consumer.next(answerLimit)
		if err != nil || pk.FixedHeader.Type != packets.Publish {
			a.Fatal(pk.FixedHeader.Type, err)
		}
		level := strings.TrimPrefix(pk.TopicName, s.topic(""))
		if level == "statuses/last" {
			return strings.Join(came, " ")
		}
		came = append(came, level)
	}
}

// outlives restarts Keyholder: who is connected stays, with the same rights.
func outlives(a *attempt) {
	r := a.join(a.a)
	defer r.leave()
	a.Restart()
	eventually(a, "Keyholder answers", 30*time.Second, func() bool {
		r, outcome := a.dial(a.b, a.b.id)
		if r != nil {
			r.leave()
		}
		return outcome == connected
	})
	if err := r.alive(); err != nil {
		a.Error(err)
	}
	if got := cutEnds(keyholder.CutSubscription)(a); got != ended {
		a.Error(got)
	}
}

// strange publishes and subscribes with the separator and the wildcards of
// NATS, which mean nothing in MQTT.
func strange(a *attempt) {
	s := a.subscription(keyholder.Statuses)
	if got, want := a.passes(s, "statuses/a.b", "*", ">", "events", "statuses.events", "events.statuses", "statuses/*", "statuses/>", "*/statuses", "+"), "statuses/a.b statuses/* statuses/>"; got != want {
		a.Errorf("%q passes, want %q", got, want)
	}
	for _, filter := range []string{">", "*", "*/*/*/*", "fds/v2/*/#", "fds/v2/*/events", "fds/v2/>", "fds.v2.*.events", "fds.v2." + a.b.id + ".>", "$MQTT/msgs/#", "$MQTT/sub/+", "$JS/#", "$JS/API/>"} {
		if got := subscribes(consumerA, text(filter))(a); got != refused {
			a.Errorf("the filter %s is %s", filter, got)
		}
	}
	for _, topic := range []string{"fds/v2/*/events", "fds/v2/>", "fds.v2." + a.a.id + ".events", "$MQTT/msgs/fds/v2/" + a.a.id + "/events", "$MQTT/sess/x", "$JS/API/STREAM/PURGE/$MQTT_msgs", "$SYS/REQ/USER/AUTH"} {
		if got := publishes(stranger, text(topic), consumerA)(a); got != dropped && got != refused {
			a.Errorf("a publish to %s is %s", topic, got)
		}
	}
}

// Ensure that the settings of NATS hold what it has and nothing else.
func TestNATSSettings(t *testing.T) {
	right := external.Setting{Name: "bus", Kind: external.NATS, API: []string{"tls://nats1.example:4222", "tls://nats2.example:4222"}, SecretFile: "bus.keys"}
	if err := external.CheckSettings([]external.Setting{right}); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*external.Setting){
		"a user":             func(s *external.Setting) { s.User = "keyholder" },
		"callers":            func(s *external.Setting) { s.CallersFile = "x.pem" },
		"a folder":           func(s *external.Setting) { s.Folder = "/x" },
		"no keys":            func(s *external.Setting) { s.SecretFile = "" },
		"no address":         func(s *external.Setting) { s.API = nil },
		"an address of HTTP": func(s *external.Setting) { s.API = []string{"https://nats.example:4222"} },
		"no TLS":             func(s *external.Setting) { s.API = []string{"nats://nats.example:4222"} },
		"a secret in it":     func(s *external.Setting) { s.API = []string{"tls://x:y@nats.example:4222"} },
		"no port":            func(s *external.Setting) { s.API = []string{"tls://nats.example"} },
	} {
		s := right
		change(&s)
		if err := external.CheckSettings([]external.Setting{s}); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
