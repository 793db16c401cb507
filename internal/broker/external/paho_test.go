package external_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// pahoTalk has a provider and a consumer talk by paho.golang, as programs do
// that know nothing of these tests.
func pahoTalk(a *attempt) string {
	ctx, cancel := context.WithTimeout(a.Context(), answerLimit)
	defer cancel()
	came := make(chan string, 1)
	consumer, err := a.paho(ctx, a.a, func(r paho.PublishReceived) (bool, error) {
		came <- string(r.Packet.Payload)
		return true, nil
	})
	if err != nil {
		return refused
	}
	defer func() { _ = consumer.Disconnect(&paho.Disconnect{}) }()
	if _, err := consumer.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: a.a.topic("#"), QoS: 1}}}); err != nil {
		return refused
	}
	provider, err := a.paho(ctx, a.provider)
	if err != nil {
		return refused
	}
	defer func() { _ = provider.Disconnect(&paho.Disconnect{}) }()
	payload := fmt.Sprint(time.Now().UnixNano())
	if _, err := provider.Publish(ctx, &paho.Publish{Topic: a.a.topic("events"), QoS: 1, Payload: []byte(payload)}); err != nil {
		return refused
	}
	select {
	case got := <-came:
		if got == payload {
			return delivered
		}
		return got
	case <-ctx.Done():
		return dropped
	}
}

// paho connects a client of that library.
func (a *attempt) paho(ctx context.Context, p party, received ...func(paho.PublishReceived) (bool, error)) (*paho.Client, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: answerLimit}, "tcp", a.addr, a.config(p))
	if err != nil {
		return nil, err
	}
	a.Cleanup(func() { _ = conn.Close() })
	c := paho.NewClient(paho.ClientConfig{ClientID: p.id, Conn: conn, OnPublishReceived: received})
	_, err = c.Connect(ctx, &paho.Connect{ClientID: p.id, CleanStart: true, KeepAlive: 30})
	return c, err
}
