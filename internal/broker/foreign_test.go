package broker_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// Ensure that Mosquitto's command line clients work over mutual TLS, in MQTT
// 3.1.1 and 5, and are refused where they must be.
func TestMosquitto(t *testing.T) {
	pub, sub := keyholdertest.RequireProgram(t, "mosquitto_pub"), keyholdertest.RequireProgram(t, "mosquitto_sub")
	for _, protocol := range []string{"311", "5"} {
		t.Run(protocol, func(t *testing.T) {
			w := newWorld(t)
			provider := w.provider("p")
			consumer, other := w.subscription(provider, "a"), w.subscription(provider, "b")
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			run := func(path string, p party, more ...string) (string, error) {
				ca, cert, key := p.write(t, w.authority.RootPEM())
				_, port, _ := strings.Cut(w.addr, ":")
				args := append([]string{"-h", "127.0.0.1", "-p", port, "-V", protocol, "--cafile", ca, "--cert", cert, "--key", key,
					"--tls-version", "tlsv1.2", "-i", p.id}, more...)
				out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
				return string(out), err
			}
			received := make(chan string, 1)
			go func() {
				out, err := run(sub, consumer, "-q", "1", "-t", topic(consumer, "#"), "-C", "3", "-F", "%t %p")
				received <- fmt.Sprint(out, err)
			}()
			for i := 1; i <= 3; i++ {
				if out, err := run(pub, provider, "-q", "1", "-t", topic(consumer, "events"), "-m", string(body(i))); err != nil {
					t.Fatalf("publish %d: %v\n%s", i, err, out)
				}
			}
			want := ""
			for i := 1; i <= 3; i++ {
				want += topic(consumer, "events") + " " + string(body(i)) + "\n"
			}
			if got := <-received; got != want+"<nil>" {
				t.Errorf("received %q, want %q", got, want)
			}
			for name, try := range map[string]func() (string, error){
				"foreign client ID": func() (string, error) {
					return run(sub, consumer, "-i", other.id, "-t", topic(other, "#"), "-C", "1", "-W", "5")
				},
				"foreign topic": func() (string, error) {
					return run(sub, consumer, "-q", "1", "-t", topic(other, "#"), "-C", "1", "-W", "5")
				},
				"everything": func() (string, error) { return run(sub, consumer, "-q", "1", "-t", "#", "-C", "1", "-W", "5") },
				"retained": func() (string, error) {
					return run(pub, provider, "-q", "1", "-r", "-t", topic(consumer, "events"), "-m", "x")
				},
			} {
				if name == "retained" && protocol == "5" {
					continue // the client reads in CONNACK that there is none, and does not ask for it
				}
				if out, err := try(); err == nil && !strings.Contains(out, "denied") && !strings.Contains(strings.ToLower(out), "not authori") {
					t.Errorf("%s: not refused: %q", name, out)
				}
			}
		})
	}
}
