package mqttpool_test

import (
	"context"
	"crypto/tls"
	"log"
	"os"
	"os/signal"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
)

// An app of several replicas receives the items of two owners. One replica is
// connected, the others stand by.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	pool, err := mqttpool.New(mqttpool.Config{Broker: "mqtts://broker.example:8883", Lease: mqttpool.FileLease("/shared/app/lease")})
	if err != nil {
		log.Fatal(err)
	}
	for _, id := range []keyholder.SubscriptionID{"3f2b8c1e-9d47-4a65-8f01-2c7d9e4b6a10", "9a1d3c5e-7b20-4f68-a3c1-5e0f8d2b4c67"} {
		err := pool.Add(mqttpool.Subscription{
			ID: id,
			// The files are read at each connection: a renewed certificate is
			// used from the next one on.
			Certificate: func() (*tls.Certificate, error) {
				c, err := tls.LoadX509KeyPair(string(id)+".pem", string(id)+".key")
				return &c, err
			},
			Handler: func(ctx context.Context, m mqttpool.Message) error {
				// Store m.Payload and m.Key in one transaction, and skip a key
				// that is there already. The message is acknowledged when this
				// returns nil, and comes again after an error.
				log.Print(m.Subscription, " ", m.Level, ": ", len(m.Payload), " bytes")
				return nil
			},
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	<-ctx.Done()
	if err := pool.Close(context.Background()); err != nil {
		log.Print(err)
	}
}
