package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
	"github.com/fds-keyholder/keyholder/conformance"
)

const demoHelp = `Runs the whole fabric on loopback in a temporary folder: a provider, two
owners, two apps, real TLS, real sign-in, a facility's data by pull, MQTT and
webhook, attacks that must be refused, and one cut. It prints the story and
the table of the sixteen FDS requirements, and then stays up.

With -env it tells no story: it loads the facility, writes a file with
KEYHOLDER_* variables in shell syntax for other tools, and waits.

example:
  $ keyholder demo -once && echo everything held
  $ keyholder demo -env /tmp/demo.env &
  $ . /tmp/demo.env; curl --cacert $KEYHOLDER_CA $KEYHOLDER_ISSUER/jwks`

// demo is one run: two Keyholders (the provider's, and one that an app runs
// for its webhook), the parties, and what they have sent and received.
type demo struct {
	story *story
	dir   string
	env   *environment

	fabric  *fabric // the provider's Keyholder
	appSide *fabric // the authorization server in front of an app's webhook

	provider, provider2 *demoProvider
	owners              map[string]*demoOwner // by key
	apps                [2]*demoApp
	subs                map[string]*demoSubscription // "A".."D"
	receiver            *demoReceiver
	facility            *sample
	report              conformance.Report
}

type demoOwner struct {
	keyholder.Owner
	login, password string
	agreement       keyholder.AgreementID
}

type demoProvider struct {
	keyholder.Provider
	certificate tls.Certificate
	certFile    string
	keyFile     string
	backend     *client.Provider
}

type demoApp struct {
	keyholder.App
	secret            string
	certificate       *tls.Certificate
	certFile, keyFile string
	client            *client.Client
	pool              *mqttpool.Pool
}

// demoSubscription is one owner's data for one app: its session for pulling,
// its certificate for MQTT, and what went through.
type demoSubscription struct {
	id                keyholder.SubscriptionID
	owner             *demoOwner
	app               *demoApp
	session           *client.Session
	certificate       tls.Certificate
	certFile, keyFile string
	tally             tally
}

// The demo's owners, as the sample facility names them.
const (
	northgate = "northgate"
	stAnna    = "st-anna"
)

func runDemo(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "demo", demoHelp)
	once := f.Bool("once", false, "end after the story; exit 0 only if everything held")
	envFile := f.value("env", "write `FILE` with variables for other tools, and wait")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if *once && *envFile != "" {
		return f.wrong("-once and -env do not go together: -env waits for other tools")
	}
	dir, err := os.MkdirTemp("", "keyholder-demo-")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	d := &demo{story: newStory(env.stdout), dir: dir, env: env, owners: map[string]*demoOwner{}, subs: map[string]*demoSubscription{}}
	defer d.close(ctx)

	if *envFile != "" {
		return d.serveEnv(ctx, *envFile)
	}
	if err := d.tell(ctx); err != nil {
		return fmt.Errorf("the demo broke off: %w", err)
	}
	if *once {
		if len(d.story.failures) > 0 {
			return errNo
		}
		return nil
	}
	d.stay(ctx)
	return nil
}

// tell runs the chapters in order.
func (d *demo) tell(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{
		d.start, d.onboard, d.signIn, d.ingest, d.pull, d.push, d.webhook, d.attack, d.checkRequirements, d.cut,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return d.conclude()
}

func (d *demo) conclude() error {
	d.story.chapter("The sixteen requirements of FDS 2.6.4")
	if err := d.report.WriteTable(d.story.w, d.story.terminal); err != nil {
		return err
	}
	took := time.Since(d.story.began).Seconds()
	if n := len(d.story.failures); n > 0 {
		fmt.Fprintf(d.story.w, "\n%s after %.1f s:\n", d.story.style("31;1", fmt.Sprintf("%d things did not hold", n)), took)
		for _, f := range d.story.failures {
			fmt.Fprintf(d.story.w, "   - %s\n", f)
		}
		return nil
	}
	fmt.Fprintf(d.story.w, "\n%s in %.1f s.\n", d.story.style("32;1", "Everything held"), took)
	return nil
}

// stay keeps the fabric up until the user interrupts.
func (d *demo) stay(ctx context.Context) {
	fmt.Fprintf(d.story.w, "\nStill up; stop with Ctrl-C:\n   authorization server  %s\n   Web API               %s/fds/v2/\n   MQTT broker           %s\n   data folder           %s   (keyholder subscription list -data ...)\n",
		d.fabric.daemon.Issuer, d.fabric.daemon.API, d.fabric.daemon.MQTT, d.fabric.dir)
	_ = d.fabric.daemon.Wait(ctx)
}

// close stops everything the demo started and removes its folder.
func (d *demo) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var errs []error
	for _, a := range d.apps {
		if a != nil && a.pool != nil {
			errs = append(errs, a.pool.Close(ctx))
		}
	}
	if d.receiver != nil && d.receiver.server != nil {
		d.receiver.close()
	}
	for _, f := range []*fabric{d.fabric, d.appSide} {
		if f != nil {
			errs = append(errs, f.close(ctx))
		}
	}
	errs = append(errs, os.RemoveAll(d.dir))
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(d.env.stderr, "keyholder: clean up the demo:", err)
	}
}

// write puts a file into the demo's folder, for its owner only.
func (d *demo) write(name string, data []byte) (string, error) {
	path := filepath.Join(d.dir, name)
	return path, os.WriteFile(path, data, 0o600)
}

// deviceOf returns the device an item speaks of, or "".
func deviceOf(item json.RawMessage) string {
	var i struct {
		DeviceID string `json:"device_id"`
		Generic  struct {
			DeviceID string `json:"device_id"`
		} `json:"generic"`
	}
	if json.Unmarshal(item, &i) != nil {
		return ""
	}
	if i.DeviceID != "" {
		return i.DeviceID
	}
	return i.Generic.DeviceID
}
