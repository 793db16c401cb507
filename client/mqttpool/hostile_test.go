package mqttpool_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// hostile is a broker over real TLS that does what a good one never would.
type hostile struct {
	t         *testing.T
	authority *pki.Authority
	listener  net.Listener
	script    func(c net.Conn, number int) error // what to do after CONNECT

	mu       sync.Mutex // guards the fields below
	connects []*packets.Connect
	at       []time.Time
}

func newHostile(t *testing.T, script func(c net.Conn, number int) error) *hostile {
	t.Helper()
	dir := t.TempDir()
	if err := pki.Init(dir, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	a, err := pki.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	own, err := a.ServerCertificate([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg := keyholder.TLSStrict.Config()
	cfg.Certificates, cfg.ClientCAs, cfg.ClientAuth = []tls.Certificate{own}, a.Pool(), tls.RequireAndVerifyClientCert
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := &hostile{t: t, authority: a, listener: l, script: script}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { h.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return h
}

func (h *hostile) serve(c net.Conn) {
	defer c.Close()
	p, err := packets.ReadPacket(c)
	if err != nil {
		return
	}
	connect, ok := p.Content.(*packets.Connect)
	if !ok {
		h.t.Errorf("%s before CONNECT", p.PacketType())
		return
	}
	h.mu.Lock()
	h.connects, h.at = append(h.connects, connect), append(h.at, time.Now())
	number := len(h.connects)
	h.mu.Unlock()
	// That the client went away is no fault; what it should not have done is.
	var gone net.Error
	if err := h.script(c, number); err != nil && !errors.As(err, &gone) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		h.t.Errorf("connection %d: %v", number, err)
	}
}

func (h *hostile) connections() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.connects)
}

// subscriber is one whose certificate the broker trusts.
func (h *hostile) subscriber() *subscriber {
	h.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		h.t.Fatal(err)
	}
	csr, err := pki.NewRequest(key, "test")
	if err != nil {
		h.t.Fatal(err)
	}
	request, err := pki.ParseRequest(csr)
	if err != nil {
		h.t.Fatal(err)
	}
	now := time.Now()
	pem, _, err := h.authority.Sign(request, keyholder.ForSubscription, testSub, now.Add(-time.Minute), now.Add(time.Hour))
	if err != nil {
		h.t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pem, key)
	if err != nil {
		h.t.Fatal(err)
	}
	return &subscriber{owner: "northgate", id: testSub, certificate: certificate}
}

func (h *hostile) pool() *mqttpool.Pool {
	h.t.Helper()
	p, err := mqttpool.New(mqttpool.Config{
		Broker: "mqtts://" + h.listener.Addr().String(), RootCAs: h.authority.Pool(), Log: slog.New(slog.DiscardHandler),
		ReceiveMaximum: 7, KeepAlive: 90 * time.Second, SessionExpiry: time.Hour,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			h.t.Errorf("close the pool: %v", err)
		}
	})
	return p
}

// read reads packets until one of the kind wanted comes; pings and the end of
// the client's own accord are allowed.
func read[T any](c net.Conn) (T, error) {
	var none T
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return none, io.EOF
		}
		switch content := p.Content.(type) {
		case T:
			return content, nil
		case *packets.Pingreq:
			if _, err := packets.NewControlPacket(packets.PINGRESP).WriteTo(c); err != nil {
				return none, io.EOF
			}
		case *packets.Disconnect:
			return none, io.EOF
		default:
			return none, errors.New("an unexpected packet: " + p.PacketType())
		}
	}
}

// welcome answers CONNECT and SUBSCRIBE with the given codes.
func welcome(c net.Conn, connack, suback byte) (*packets.Subscribe, error) {
	if _, err := (&packets.Connack{ReasonCode: connack, Properties: &packets.Properties{}}).WriteTo(c); err != nil || connack >= 0x80 {
		return nil, err
	}
	s, err := read[*packets.Subscribe](c)
	if err != nil {
		return nil, err
	}
	_, err = (&packets.Suback{PacketID: s.PacketID, Reasons: []byte{suback}, Properties: &packets.Properties{}}).WriteTo(c)
	return s, err
}

// Ensure that CONNECT and SUBSCRIBE are what FDS and the configuration ask
// for, and that messages with a foreign or malformed topic never reach the
// handler, are counted, and hold up nothing.
func TestForeignTopics(t *testing.T) {
	acknowledged := make(chan uint16, 100)
	filters := make(chan []packets.SubOptions, 10)
	topics := []string{
		"fds/v2/" + otherSub + "/events", "fds/v2/" + testSub, "fds/v2/" + testSub + "/", "$SYS/x", "",
		"fds/v2/" + testSub + "/events",
	}
	h := newHostile(t, func(c net.Conn, _ int) error {
		s, err := welcome(c, 0, 1)
		if err != nil {
			return err
		}
		filters <- s.Subscriptions
		for i, topic := range topics {
			p := &packets.Publish{Topic: topic, QoS: 1, PacketID: uint16(i + 1), Payload: []byte("{}"), Properties: &packets.Properties{}}
			if _, err := p.WriteTo(c); err != nil {
				return err
			}
		}
		for {
			a, err := read[*packets.Puback](c)
			if err != nil {
				return err
			}
			acknowledged <- a.PacketID
		}
	})
	s := h.subscriber()
	p := h.pool()
	add(t, p, s)
	var ids []uint16
	for range topics {
		ids = append(ids, <-acknowledged)
	}
	if !slices.Equal(ids, []uint16{1, 2, 3, 4, 5, 6}) {
		t.Errorf("acknowledged %v", ids)
	}
	if got := s.messages(); len(got) != 1 || got[0].Level != "events" || got[0].Key != "" {
		t.Errorf("the handler got %v", got)
	}
	if got := health(t, p, s); got.Dropped != 5 || got.Handled != 1 {
		t.Errorf("health %+v", got)
	}
	if f := <-filters; len(f) != 1 || f[0].Topic != "fds/v2/"+testSub+"/#" || f[0].QoS != 1 {
		t.Errorf("subscribed to %+v", f)
	}
	c := h.connects[0]
	if c.ClientID != testSub || c.CleanStart || c.WillFlag || c.UsernameFlag || c.PasswordFlag || c.KeepAlive != 90 ||
		c.ProtocolVersion != 5 || *c.Properties.SessionExpiryInterval != 3600 || *c.Properties.ReceiveMaximum != 7 {
		t.Errorf("CONNECT %+v with %+v", c, c.Properties)
	}
}

// Ensure that a broker that refuses the connection or the subscription is
// tried again, but not at once each time, and that the pool says why.
func TestRefused(t *testing.T) {
	tests := map[string]struct {
		connack, suback byte
		want            string
	}{
		"connection":   {0x87, 0, "the broker refused the connection with code 0x87"},
		"subscription": {0, 0x87, "subscribe: failed to subscribe to topic: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHostile(t, func(c net.Conn, _ int) error {
				if _, err := welcome(c, tt.connack, tt.suback); err != nil {
					return err
				}
				_, err := read[*packets.Disconnect](c)
				return err
			})
			s := h.subscriber()
			p := h.pool()
			if err := p.Add(s.subscription()); err != nil {
				t.Fatal(err)
			}
			seen := false
			eventually(t, "three tries", func() bool {
				seen = seen || health(t, p, s).LastError == tt.want
				return h.connections() >= 3
			})
			got := health(t, p, s)
			if got.Connected || got.Connects != 0 || !seen {
				t.Errorf("health %+v", got)
			}
		})
	}
}

// Ensure that what was sent behind a message that was not taken, on a
// connection that is lost, is not handled before that message comes again.
func TestNothingOvertakes(t *testing.T) {
	taken := make(chan struct{})
	h := newHostile(t, func(c net.Conn, number int) error {
		if _, err := welcome(c, 0, 1); err != nil {
			return err
		}
		for i, payload := range []string{"one", "two", "three"} {
			p := &packets.Publish{Topic: "fds/v2/" + testSub + "/events", QoS: 1, PacketID: uint16(i + 1), Duplicate: number > 1, Payload: []byte(payload),
				Properties: &packets.Properties{User: []packets.User{{Key: "Keyholder-Message", Value: testSub + "/" + string(rune('1'+i))}}}}
			if _, err := p.WriteTo(c); err != nil {
				return err
			}
		}
		if number == 1 {
			<-taken
			return nil // the connection is lost
		}
		for want := uint16(1); want <= 3; want++ {
			a, err := read[*packets.Puback](c)
			if err != nil {
				return err
			}
			if a.PacketID != want {
				t.Errorf("acknowledged %d, want %d", a.PacketID, want)
			}
		}
		_, err := read[*packets.Disconnect](c)
		return err
	})
	s := h.subscriber()
	var once sync.Once
	var mu sync.Mutex
	lost := true
	s.set(func(_ context.Context, m mqttpool.Message) error {
		mu.Lock()
		defer mu.Unlock()
		if lost {
			once.Do(func() { close(taken) })
			lost = h.connections() < 2
			return errors.New("not now")
		}
		return nil
	})
	p := h.pool()
	if err := p.Add(s.subscription()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are handled", func() bool { return len(s.messages()) >= 3 })
	var got []string
	for _, m := range s.messages() {
		got = append(got, string(m.Payload))
	}
	if !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("handled %v", got)
	}
}

// Ensure that a message whose handler gives up because its subscription is
// removed is never acknowledged.
func TestGivenUpIsNotAcknowledged(t *testing.T) {
	h := newHostile(t, func(c net.Conn, _ int) error {
		if _, err := welcome(c, 0, 1); err != nil {
			return err
		}
		p := &packets.Publish{Topic: "fds/v2/" + testSub + "/events", QoS: 1, PacketID: 1, Payload: []byte("{}"), Properties: &packets.Properties{}}
		if _, err := p.WriteTo(c); err != nil {
			return err
		}
		for {
			p, err := packets.ReadPacket(c)
			if err != nil {
				return nil // the end of the connection
			}
			if p.Type == packets.PUBACK {
				return errors.New("a message was acknowledged that nobody took")
			}
		}
	})
	s := h.subscriber()
	entered := make(chan struct{})
	s.set(func(ctx context.Context, _ mqttpool.Message) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	p := h.pool()
	for range 20 { // it is a matter of timing
		if err := p.Add(s.subscription()); err != nil {
			t.Fatal(err)
		}
		<-entered
		p.Remove(s.id)
	}
}

// Ensure that after a takeover a pool does not come back at once.
func TestTakenOverStaysAway(t *testing.T) {
	h := newHostile(t, func(c net.Conn, _ int) error {
		if _, err := welcome(c, 0, 1); err != nil {
			return err
		}
		_, err := (&packets.Disconnect{ReasonCode: packets.DisconnectSessionTakenOver, Properties: &packets.Properties{}}).WriteTo(c)
		if err != nil {
			return err
		}
		_, err = read[*packets.Disconnect](c)
		return err
	})
	s := h.subscriber()
	p := h.pool()
	if err := p.Add(s.subscription()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says why", func() bool {
		return health(t, p, s).LastError == "another connection of the same subscription took over"
	})
	over := time.After(time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if h.connections() > 1 {
				t.Fatal("it came back within a second")
			}
		case <-over:
			return
		}
	}
}
