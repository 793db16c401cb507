package publisher_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/publisher"
)

// cutter passes connections on to a server and cuts each after a number of
// bytes that the client has sent.
type cutter struct {
	address string
	after   atomic.Int64
	cuts    atomic.Int64
}

func newCutter(t *testing.T, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{address: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			shut := func() { _ = client.Close(); _ = server.Close() }
			wg.Go(func() { defer shut(); _, _ = io.Copy(client, server) })
			wg.Go(func() {
				defer shut()
				if _, err := io.CopyN(server, client, c.after.Load()); err == nil {
					c.cuts.Add(1)
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return c
}

// Ensure that a connection that breaks again and again in the middle of
// publishes, by both ways, loses nothing and keeps the order.
func TestCutInTheMiddle(t *testing.T) {
	w := newWorld(t)
	a, b := w.owner("northgate"), w.owner("st-anna")
	w.consume(a, b)
	mqttCut := newCutter(t, strings.TrimPrefix(w.MQTT, "mqtts://"))
	httpsCut := newCutter(t, strings.TrimPrefix(w.API, "https://"))
	overMQTT, overHTTPS := w.overMQTT(), w.overHTTPS()
	overMQTT.Broker, overHTTPS.API = "mqtts://"+mqttCut.address, "https://"+httpsCut.address
	for name, tt := range map[string]struct {
		cfg   publisher.Config
		cut   *cutter
		o     *owner
		to    string
		again int
	}{
		"MQTT":  {overMQTT, mqttCut, a, string(a.id), 4 * 32},
		"HTTPS": {overHTTPS, httpsCut, b, b.name, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tt.cut.after.Store(9_000) // some way behind the handshake
			p := open(t, tt.cfg)
			var last *publisher.Delivery
			for n := 0; n < 400; n += 20 {
				last = send(t, p, tt.to, tt.o.items(n, n+20)...)
			}
			eventually(t, "it was cut", func() bool { return tt.cut.cuts.Load() > 0 })
			eventually(t, "some arrive", func() bool { return len(tt.o.messages()) > 0 || tt.cut.cuts.Load() > 2 })
			tt.cut.after.Store(1 << 40)
			<-last.Done()
			if err := p.Flush(t.Context()); err != nil || last.Err() != nil {
				t.Errorf("%v, %v", err, last.Err())
			}
			tt.o.check(t, 400, tt.again)
			if h := p.Health(); h.Durable != 400 || h.Again == 0 {
				t.Errorf("health %+v, want 400 items and some of them again", h)
			}
		})
	}
}

// scripted is a broker over real TLS that answers as a test wants it to: what
// makes a real one answer so is a full disk or a hundred thousand messages.
type scripted struct {
	*world
	connack packets.Properties
	script  func(c *peer)
	number  atomic.Int64 // of connections
}

// peer is one connection of a publisher at a scripted broker.
type peer struct {
	net.Conn
	number int64
	t      *testing.T
}

func (s *scripted) listen(t *testing.T) publisher.Config {
	t.Helper()
	s.world = newWorld(t)
	certificate, key := s.ServerCertificatePEM("127.0.0.1")
	own, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	c := s.TLS(own)
	c.ClientCAs, c.ClientAuth = c.RootCAs, tls.RequireAndVerifyClientCert
	l, err := tls.Listen("tcp", "127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				p, err := packets.ReadPacket(c)
				if err != nil || p.Type != packets.CONNECT {
					return
				}
				_, _ = (&packets.Connack{Properties: &s.connack}).WriteTo(c)
				s.script(&peer{c, s.number.Add(1), t})
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	cfg := s.overMQTT()
	cfg.Broker = "mqtts://" + l.Addr().String()
	return cfg
}

// next returns the next publish, or nil at the end.
func (c *peer) next() *packets.Publish {
	for {
		p, err := packets.ReadPacket(c)
		if err != nil || p.Type == packets.DISCONNECT {
			return nil
		}
		if pub, ok := p.Content.(*packets.Publish); ok {
			return pub
		}
		_, _ = (&packets.Pingresp{}).WriteTo(c)
	}
}

func (c *peer) ack(p *packets.Publish, code byte) {
	_, _ = (&packets.Puback{PacketID: p.PacketID, ReasonCode: code, Properties: &packets.Properties{}}).WriteTo(c)
}

// silent says that nothing comes for a while.
func (c *peer) silent() bool {
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	_, err := packets.ReadPacket(c)
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

const sub = "3f2b8c1e-9d47-4a65-8f01-2c7d9e4b6a10"

func numbered(from, to int) []publisher.Item {
	var out []publisher.Item
	for n := from; n < to; n++ {
		out = append(out, publisher.Item{Level: "events", Payload: []byte(fmt.Sprint(n))})
	}
	return out
}

// Ensure that what a server has no room for is sent again before what follows
// it, one at a time until there is room, and that other answers of a server in
// trouble do the same.
func TestFull(t *testing.T) {
	for name, code := range map[string]byte{"quota exceeded": packets.PubackQuotaExceeded, "unspecified": packets.PubackUnspecifiedError} {
		t.Run(name, func(t *testing.T) {
			var order []string
			full, answered := make(chan struct{}), make(chan struct{})
			s := &scripted{script: func(c *peer) {
				first := c.next()
				c.ack(first, code)
				close(answered)
				<-full
				for p := c.next(); p != nil; p = c.next() {
					order = append(order, string(p.Payload))
					if len(order) < 3 {
						c.ack(p, code)
						continue
					}
					if !c.silent() {
						t.Errorf("another publish is under way beside %s", p.Payload)
					}
					c.ack(p, 0)
				}
			}}
			cfg := s.listen(t)
			cfg.InFlight = 1
			p := open(t, cfg)
			d := send(t, p, sub, numbered(0, 5)...)
			<-answered
			eventually(t, "it says so", func() bool {
				h := p.Health() // the item has been put back, and may be on its way again already
				return h.Waiting == 5 && (h.UnderWay == 0 || h.Again == 1) && (code != packets.PubackQuotaExceeded || slices.Equal(h.Full, []string{sub}))
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			want := publisher.ErrServer
			if code == packets.PubackQuotaExceeded {
				want = publisher.ErrFull
			}
			// What is withdrawn is not sent.
			if err := p.Publish(ctx, sub, numbered(5, 6)...); keyholder.CodeOf(err) != keyholder.Unavailable || !errors.Is(err, want) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want unavailable, because of %v", err, want)
			}
			close(full)
			<-d.Done()
			if err := p.Close(t.Context()); err != nil || d.Err() != nil {
				t.Errorf("close: %v, delivery: %v", err, d.Err())
			}
			if want := []string{"0", "0", "0", "1", "2", "3", "4"}; !slices.Equal(order, want) {
				t.Errorf("published %q, want %q", order, want)
			}
			if h := p.Health(); len(h.Full) != 0 || h.Durable != 5 || h.Again != 3 {
				t.Errorf("health %+v", h)
			}
		})
	}
}

// Ensure that no more is under way than the broker allows, and for one
// destination than the configuration, while a slow broker acknowledges
// nothing; that calls wait then, whose memory is bounded; and that all goes on
// afterwards, in order.
func TestSlowBroker(t *testing.T) {
	other := "3f2b8c1e-9d47-4a65-8f01-2c7d9e4b6a11"
	most := uint16(5)
	underWay, goOn := make(chan int), make(chan struct{})
	got := map[string][]string{}
	s := &scripted{connack: packets.Properties{ReceiveMaximum: &most}, script: func(c *peer) {
		keep := func() *packets.Publish {
			p := c.next()
			if p != nil {
				got[p.Topic] = append(got[p.Topic], string(p.Payload))
			}
			return p
		}
		var held []*packets.Publish
		for range 3 {
			held = append(held, keep())
		}
		if !c.silent() {
			t.Error("more of one destination is under way than configured")
		}
		underWay <- len(held)
		held = append(held, keep(), keep())
		if !c.silent() {
			t.Error("more is under way than the broker allows")
		}
		underWay <- len(held)
		<-goOn
		for _, p := range held {
			c.ack(p, 0)
		}
		for p := keep(); p != nil; p = keep() {
			c.ack(p, 0)
		}
	}}
	cfg := s.listen(t)
	cfg.InFlight, cfg.MaxWaiting = 3, 10
	p := open(t, cfg)
	send(t, p, sub, numbered(0, 10)...)
	<-underWay
	send(t, p, other, numbered(0, 5)...)
	<-underWay
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := p.Send(ctx, sub, numbered(10, 11)...); keyholder.CodeOf(err) != keyholder.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want unavailable: there is no room", err)
	}
	if h := p.Health(); h.Waiting != 15 || h.UnderWay != 5 || h.Bytes != 15 {
		t.Errorf("health %+v", h)
	}
	var waits sync.WaitGroup
	waits.Go(func() { send(t, p, sub, numbered(10, 18)...) })
	send(t, p, other, numbered(5, 10)...) // other destinations have room
	close(goOn)
	waits.Wait()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for to, n := range map[string]int{sub: 18, other: 10} {
		var want []string
		for i := range n {
			want = append(want, fmt.Sprint(i))
		}
		if got := got[keyholder.Topic{Subscription: keyholder.SubscriptionID(to), Level: "events"}.String()]; !slices.Equal(got, want) {
			t.Errorf("%s got %q, want %q", to, got, want)
		}
	}
}

// Ensure that after a connection ended everything that was not acknowledged is
// sent again in order, before what is new, and nothing that was.
func TestNotAcknowledgedComesAgain(t *testing.T) {
	var got [2][]string
	s := &scripted{script: func(c *peer) {
		for p := c.next(); p != nil; p = c.next() {
			got[c.number-1] = append(got[c.number-1], string(p.Payload))
			switch {
			case c.number > 1:
				c.ack(p, 0)
			case len(got[0]) == 4:
				return
			case len(got[0]) < 3:
				c.ack(p, 0)
			}
		}
	}}
	p := open(t, s.listen(t))
	first := send(t, p, sub, numbered(0, 2)...)
	<-first.Done()
	send(t, p, sub, numbered(2, 4)...)
	eventually(t, "the connection is lost", func() bool { return !p.Health().Connected })
	send(t, p, sub, numbered(4, 6)...)
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if want := [2][]string{{"0", "1", "2", "3"}, {"2", "3", "4", "5"}}; !slices.Equal(got[0], want[0]) || !slices.Equal(got[1], want[1]) {
		t.Errorf("published %q, want %q", got, want)
	}
}

// Ensure that a broker that says nonsense is left, and what waits is kept.
func TestHostileBroker(t *testing.T) {
	zero := byte(0)
	for name, s := range map[string]*scripted{
		"acknowledges nothing":      {connack: packets.Properties{MaximumQOS: &zero}, script: func(c *peer) {}},
		"acknowledges what was not": {script: func(c *peer) { c.ack(&packets.Publish{PacketID: 77}, 0); c.next() }},
		"publishes": {script: func(c *peer) {
			_, _ = (&packets.Publish{Topic: "x", Properties: &packets.Properties{}}).WriteTo(c)
			c.next()
		}},
		"says why it ends": {script: func(c *peer) {
			_, _ = (&packets.Disconnect{ReasonCode: 0x8b, Properties: &packets.Properties{}}).WriteTo(c)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, s.listen(t))
			d := send(t, p, sub, numbered(0, 1)...)
			eventually(t, "it notices", func() bool { h := p.Health(); return h.LastError != "" && !h.Connected })
			if err := p.Health().LastError; !strings.Contains(err, "broker") {
				t.Errorf("the error is %q", err)
			}
			select {
			case <-d.Done():
				t.Error("the item is gone")
			default:
			}
		})
	}
}

// Ensure that requests are repeated while the Web API is busy, not before it
// asks for, and that what it stored in part or refuses is told apart.
func TestBusyWebAPI(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var bodies []string
	var at []time.Time
	answers := []func(http.ResponseWriter){
		func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, // the answer is lost
		func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprintf(w, `{"stored":2,"pushed":1,"full":["%s"]}`, sub)
		},
	}
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		bodies, at = append(bodies, string(body)), append(at, time.Now())
		n := len(bodies) - 1
		mu.Unlock()
		if n < len(answers) {
			answers[n](w)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	certificate, key := w.ServerCertificatePEM("127.0.0.1")
	own, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	api.TLS, api.Config.ErrorLog = w.TLS(own), log.New(io.Discard, "", 0)
	api.StartTLS()
	t.Cleanup(api.Close)
	cfg := w.overHTTPS()
	cfg.API = api.URL
	p := open(t, cfg)
	publish(t, p, "northgate", numbered(0, 2)...)
	publish(t, p, "northgate", numbered(2, 3)...)
	if want := []string{"0\n1\n", "0\n1\n", "0\n1\n", "0\n1\n", "2\n"}; !slices.Equal(bodies, want) {
		t.Errorf("requests %q, want %q", bodies, want)
	}
	if wait := at[1].Sub(at[0]); wait < time.Second {
		t.Errorf("the second request came after %v, the API asked for 1 s", wait)
	}
	if h := p.Health(); h.Durable != 3 || h.Unpushed != 1 || h.Again != 4 || !h.Connected || h.LastError != "" {
		t.Errorf("health %+v", h)
	}
}
