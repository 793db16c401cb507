// Program broker is a peer of the benchmarks: NATS with JetStream, or mochi
// with its Badger store, as an MQTT broker with mutual TLS 1.2 that syncs what
// it stores. It is a module of its own, so that Keyholder depends on neither.
// It prints its address and serves until it is killed.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"net"
	"os"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/hooks/storage/badger"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	kind := flag.String("kind", "", "nats, mochi or mochi-synced")
	dir := flag.String("dir", "", "`folder` of its data, with ca.pem, cert.pem and key.pem")
	flag.Parse()
	serve := map[string]func(address, dir string, c *tls.Config) error{"nats": serveNATS, "mochi": serveMochi, "mochi-synced": serveSynced}[*kind]
	if serve == nil {
		log.Fatalf("there is no peer %q", *kind)
	}
	address, err := free()
	if err != nil {
		log.Fatal(err)
	}
	c, err := mutual(*dir)
	if err != nil {
		log.Fatal(err)
	}
	if err := serve(address, *dir, c); err != nil {
		log.Fatal(err)
	}
	fmt.Println(address)
	select {}
}

// free returns an address that nobody listens on: NATS does not say which
// port it took.
func free() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func mutual(dir string) (*tls.Config, error) {
	pem, err := os.ReadFile(dir + "/ca.pem")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	own, err := tls.LoadX509KeyPair(dir+"/cert.pem", dir+"/key.pem")
	return &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}, err
}

// serveNATS stores in files and syncs each before it acknowledges
// (sync_interval: always).
func serveNATS(address, dir string, c *tls.Config) error {
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{ServerName: "peer", Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, SyncAlways: true, JetStreamLimits: server.JSLimitOpts{DefaultMaxConsumers: -1},
		MQTT: server.MQTTOpts{Host: "127.0.0.1", Port: at.Port, TLSConfig: c, TLSTimeout: 30, JSAPITimeout: time.Minute}})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		return errors.New("NATS does not listen")
	}
	return nil
}

// serveMochi stores with its Badger hook. Left alone it does not sync.
func serveMochi(address, dir string, c *tls.Config) error { return mochi(address, dir, c, false) }

// serveSynced is serveMochi with Badger told to sync every write.
func serveSynced(address, dir string, c *tls.Config) error { return mochi(address, dir, c, true) }

func mochi(address, dir string, c *tls.Config, sync bool) error {
	limits := mqtt.NewDefaultServerCapabilities()
	limits.MaximumInflight = math.MaxUint16 // for consumers that are away
	s := mqtt.New(&mqtt.Options{Capabilities: limits, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		return err
	}
	store := badgerdb.DefaultOptions(dir + "/badger").WithSyncWrites(sync)
	if err := s.AddHook(new(badger.Hook), &badger.Options{Path: dir + "/badger", Options: &store}); err != nil {
		return err
	}
	if err := s.AddListener(listeners.NewTCP(listeners.Config{ID: "mqtt", Address: address, TLSConfig: c})); err != nil {
		return err
	}
	return s.Serve()
}
