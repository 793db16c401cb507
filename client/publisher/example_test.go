package publisher_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"time"

	"github.com/fds-keyholder/keyholder/client/publisher"
)

// A provider publishes statuses over MQTT and waits until they are durable.
func Example() {
	p, err := publisher.New(publisher.Config{
		Provider: "b7e6a1c4-52f8-4d3b-9e07-1a8c6f5d2e90",
		Broker:   "mqtts://broker.example:8883",
		Certificate: func() (*tls.Certificate, error) { // read at each connection
			c, err := tls.LoadX509KeyPair("provider.pem", "provider.key")
			return &c, err
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const northgate = "3f2b8c1e-9d47-4a65-8f01-2c7d9e4b6a10"
	err = p.Publish(ctx, northgate, publisher.Item{Level: "statuses", Payload: []byte(`{"device_id":"SOAPINC_S1_1223"}`)})
	switch {
	case errors.Is(err, publisher.ErrRefused):
		log.Print("the owner's subscription has ended: ", err)
	case err != nil:
		log.Print("try again later: ", err)
	}
	if err := p.Close(ctx); err != nil {
		log.Print(err)
	}
}

// Many items are under way at the same time; what was refused is found out
// afterwards.
func ExamplePublisher_Send() {
	var p *publisher.Publisher // of New
	var feed map[string][]publisher.Item
	ctx := context.Background()
	var sent []*publisher.Delivery
	for subscription, items := range feed {
		d, err := p.Send(ctx, subscription, items...) // waits while there is no room
		if err != nil {
			log.Fatal(err)
		}
		sent = append(sent, d)
	}
	if err := p.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	for _, d := range sent {
		var e *publisher.Error
		if errors.As(d.Err(), &e) {
			log.Printf("%s did not get the items %v: %v", e.To, e.Items, e.Err)
		}
	}
}
