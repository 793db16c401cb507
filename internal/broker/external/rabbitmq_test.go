package external_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/broker/external"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// rabbit is one node of RabbitMQ, from Debian's package, with the generated
// configuration and everything of its own: folders, ports, name daemon.
type rabbit struct {
	t          testing.TB
	dir        string
	node       string // name@localhost
	mqtt, api  string // host:port
	env        []string
	dist       string // port between nodes
	process    *exec.Cmd
	exited     chan struct{}
	started    string // file that holds the log
	keyholder  *keyholdertest.Server
	otherNodes []string
}

const rabbitSecret = "the secret of Keyholder at RabbitMQ"

// startRabbit runs a cluster of n nodes that ask the server, and returns when
// all of them serve.
func startRabbit(t testing.TB, s *keyholdertest.Server, n int) []*rabbit {
	t.Helper()
	server := rabbitProgram(t)
	keyholdertest.RequireProgram(t, "openssl")
	keyholdertest.RequireProgram(t, "curl")
	epmd := freePort(t)
	daemon := exec.Command(keyholdertest.RequireProgram(t, "epmd"), "-port", epmd, "-address", "127.0.0.1")
	begin(t, daemon, nil)
	nodes := make([]*rabbit, n)
	var names []string
	for i := range nodes {
		nodes[i] = &rabbit{t: t, dir: t.TempDir(), node: fmt.Sprintf("kh%d-%s@localhost", i, epmd), dist: freePort(t), keyholder: s,
			mqtt: "127.0.0.1:" + freePort(t), api: "127.0.0.1:" + freePort(t)}
		names = append(names, nodes[i].node)
	}
	if n == 1 {
		names = nil
	}
	certPEM, keyPEM := s.ServerCertificatePEM("127.0.0.1", "localhost")
	callerPEM, callerKey := s.ServerCertificatePEM("rabbitmq")
	write(t, filepath.Join(s.Dir, "mq.secret"), rabbitSecret+"\n")
	write(t, filepath.Join(s.Dir, "mq-callers.pem"), string(callerPEM))
	write(t, filepath.Join(s.Dir, "mq-ca.pem"), s.RootPEM())
	var apis []string
	for _, r := range nodes {
		apis = append(apis, "https://"+r.api)
	}
	list, err := json.Marshal(apis)
	if err != nil {
		t.Fatal(err)
	}
	s.UseBrokers(fmt.Sprintf(`[{name: mq, kind: rabbitmq, api: %s, user: keyholder, secret_file: mq.secret, ca_file: mq-ca.pem, callers_file: mq-callers.pem}]`, list))
	for i, r := range nodes {
		r.otherNodes = names
		r.configure(certPEM, keyPEM, callerPEM, callerKey)
		r.env = append(os.Environ(), "HOME="+nodes[0].dir, "RABBITMQ_NODENAME="+r.node, "RABBITMQ_MNESIA_BASE="+filepath.Join(r.dir, "mnesia"),
			"RABBITMQ_LOG_BASE="+filepath.Join(r.dir, "log"), "RABBITMQ_CONFIG_FILE="+filepath.Join(r.dir, "rabbitmq"),
			"RABBITMQ_ADVANCED_CONFIG_FILE="+filepath.Join(r.dir, "advanced.config"), "RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(r.dir, "enabled_plugins"),
			"RABBITMQ_DIST_PORT="+r.dist, "ERL_EPMD_PORT="+epmd, "RABBITMQ_PID_FILE="+filepath.Join(r.dir, "pid"), "RABBITMQ_CONF_ENV_FILE=/dev/null",
			// Two cores serve all of it.
			"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 1:1 +sbwt none")
		// One after the other: of nodes that begin at once, each may keep the
		// client IDs for itself.
		r.start(server)
		r.await(i + 1)
	}
	return nodes
}

// rabbitProgram is the server without the wrapper of Debian, which changes the
// user.
func rabbitProgram(t testing.TB) string {
	keyholdertest.RequireProgram(t, "rabbitmq-server")
	const program = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("rabbitmq-server is not that of Debian: %v", err)
	}
	return program
}

// configure writes the generated configuration and what it names.
func (r *rabbit) configure(certPEM, keyPEM, callerPEM, callerKey []byte) {
	r.t.Helper()
	files, err := external.Generate(external.RabbitMQ, external.Plan{Name: "mq", Callback: strings.Replace(r.keyholder.Permits, "127.0.0.1", "localhost", 1), Issuer: r.keyholder.Issuer,
		Folder: r.dir, MQTT: r.mqtt, Management: r.api, Nodes: r.otherNodes})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range files {
		write(r.t, filepath.Join(r.dir, f.Name), f.Text)
	}
	for name, text := range map[string][]byte{"server.pem": certPEM, "server.key": keyPEM, "caller.pem": callerPEM, "caller.key": callerKey,
		"keyholder-ca.pem": []byte(r.keyholder.RootPEM()), "server-ca.pem": []byte(r.keyholder.RootPEM())} {
		write(r.t, filepath.Join(r.dir, name), string(text))
	}
	write(r.t, filepath.Join(r.dir, ".erlang.cookie"), "cookieofthetest")
	r.fetchRevoked()
}

// fetchRevoked runs the generated script, as the operator's timer would.
func (r *rabbit) fetchRevoked() {
	if out, err := exec.Command("sh", filepath.Join(r.dir, "crl.sh")).CombinedOutput(); err != nil {
		r.t.Fatalf("crl.sh: %v: %s", err, out)
	}
}

func (r *rabbit) start(program string) {
	r.t.Helper()
	log, err := os.Create(filepath.Join(r.dir, "out.log"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.process = exec.Command(program)
	r.process.Env, r.process.Dir = r.env, r.dir
	r.process.Stdout, r.process.Stderr = log, log
	r.started = log.Name()
	r.exited = begin(r.t, r.process, func() {
		if r.t.Failed() {
			for _, name := range []string{r.started, filepath.Join(r.dir, "log", r.node+".log")} {
				text, _ := os.ReadFile(name)
				r.t.Logf("%s: %s", name, text[max(0, len(text)-6000):])
			}
		}
	})
}

// begin starts a program in a process group of its own, and ends the group
// with the test.
func begin(t testing.TB, c *exec.Cmd, after func()) chan struct{} {
	t.Helper()
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = c.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		<-exited
		if after != nil {
			after()
		}
	})
	return exited
}

// await waits until the node serves, in a cluster of n.
func (r *rabbit) await(n int) {
	r.t.Helper()
	var last error
	defer func() {
		if r.t.Failed() {
			r.t.Log(last)
		}
	}()
	eventually(r.t, r.node+" serves", 2*time.Minute, func() bool {
		select {
		case <-r.exited:
			r.t.Fatalf("%s ended", r.node)
		default:
		}
		var nodes []struct {
			Running bool `json:"running"`
		}
		if last = r.ask("/api/nodes", &nodes); last != nil {
			return false
		}
		running := 0
		for _, node := range nodes {
			if node.Running {
				running++
			}
		}
		conn, err := net.Dial("tcp", r.mqtt)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return running == n
	})
}

// ask reads from the management API as the operator.
func (r *rabbit) ask(path string, v any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.api+path, nil)
	if err != nil {
		return err
	}
	q.SetBasicAuth("keyholder", rabbitSecret)
	client := r.keyholder.HTTP()
	resp, err := client.Do(q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

// left says what of a client is at the broker.
func (r *rabbit) left(id string, _ keyholder.Receipt) string {
	var connections, queues []struct {
		Name string `json:"name"`
		User string `json:"user"`
	}
	if err := errors.Join(r.ask("/api/connections?columns=user", &connections), r.ask("/api/queues/"+url.PathEscape("/"), &queues)); err != nil {
		return err.Error()
	}
	for _, q := range queues {
		if strings.Contains(q.Name, id) {
			return "its queue"
		}
	}
	for _, c := range connections {
		if c.User == id {
			return "its connection"
		}
	}
	return "nothing is left"
}

func freePort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Ensure that RabbitMQ with the generated configuration keeps the rules, but
// for the differences that the matrix names.
func TestMatrixRabbitMQ(t *testing.T) {
	s := keyholdertest.Start(t)
	r := startRabbit(t, s, 1)[0]
	b := &target{name: "rabbitmq", addr: r.mqtt, counts: 1, fabric: populate(t, s), settle: r.fetchRevoked, left: r.left}
	run(t, b)
	t.Run("a cut while the broker hangs", func(t *testing.T) { cutWhileHanging(&attempt{T: t, target: b, version: 4}, r.signal) })
}

// cutWhileHanging stops the broker's process, cuts, and lets it go on: the
// receipt says what was not ended and why, and it is ended afterwards.
func cutWhileHanging(a *attempt, signal func(syscall.Signal)) {
	s := a.subscription()
	consumer := a.join(s, persistent)
	if _, err := consumer.subscribe(s.topic("#")); err != nil {
		a.Fatal(err)
	}
	signal(syscall.SIGSTOP)
	at := time.Now()
	receipt := a.Cut(keyholder.CutSubscription, s.id)
	if took := time.Since(at); took > 2*time.Second {
		a.Errorf("the cut took %s", took)
	}
	if n, failed := planes(receipt); n != 0 || !strings.Contains(failed, "did not answer in time") {
		a.Errorf("the receipt says: %d ended, %q", n, failed)
	}
	signal(syscall.SIGCONT)
	if !consumer.ended(20 * time.Second) {
		a.Error("the connection is still there")
	}
	eventually(a, "its end is on the audit trail", 20*time.Second, func() bool {
		finished := false
		for _, e := range a.Audit() {
			finished = finished || e.Kind == keyholder.EventCutFinished && e.Subject == s.id && e.Detail["receipt"] == string(receipt.Receipt)
		}
		return finished
	})
	if left := a.left(s.id, receipt); left != "nothing is left" {
		a.Error(left)
	}
	if _, outcome := a.dial(s, s.id); outcome != refused {
		a.Error("the client comes back")
	}
}

// signal signals the node and everything it started.
func (r *rabbit) signal(s syscall.Signal) {
	if err := syscall.Kill(-r.process.Process.Pid, s); err != nil {
		r.t.Fatal(err)
	}
}

// Ensure that a cluster of three nodes keeps the rules as one.
func TestRabbitMQCluster(t *testing.T) {
	s := keyholdertest.Start(t)
	nodes := startRabbit(t, s, 3)
	f := populate(t, s)
	on := func(t *testing.T, i int) *attempt {
		return &attempt{T: t, version: 4, target: &target{name: "rabbitmq", addr: nodes[i].mqtt, counts: 1, fabric: f, left: nodes[2].left,
			settle: func() {
				for _, r := range nodes {
					r.fetchRevoked()
				}
			}}}
	}
	for i := range nodes {
		// A node that has just joined does not know yet who keeps the client IDs.
		eventually(t, "the node lets clients in", time.Minute, func() bool {
			r, outcome := on(t, i).dial(f.b, f.b.id)
			if r != nil {
				r.leave()
			}
			return outcome == connected
		})
	}
	runCluster(t, on, len(nodes), func() {
		nodes[0].signal(syscall.SIGKILL)
		<-nodes[0].exited
	})
}
