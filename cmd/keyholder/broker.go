package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fds-keyholder/keyholder/internal/broker/external"
)

func runBrokerConfig(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "broker config", `
Generates the configuration of an MQTT broker that asks Keyholder for every
right (KIND rabbitmq) or connection (KIND nats), or takes the rights as files
(KIND mosquitto). The broker must also stand in keyholder.yaml, under
external_brokers; docs/brokers says what is enforced, and how to begin. With
-out the files are written into a new folder, otherwise they are printed.
RabbitMQ needs -permits and -issuer, NATS needs -keys.

example:
  $ keyholder broker config rabbitmq -name mq -permits https://keyholder.example:8445 -issuer https://keyholder.example:8443 -folder /etc/rabbitmq/keyholder -out mq`, "KIND")
	name := f.need("name", "`NAME` of the broker in keyholder.yaml")
	permits := f.value("permits", "`URL`: https address of listen.permits, as the broker reaches it")
	issuer := f.value("issuer", "`URL`: https address of the authorization server, which publishes the revocation list")
	folder := f.need("folder", "`DIR` on the broker's machine, for these files, certificates and keys")
	keys := f.value("keys", "`FILE` of Keyholder's keys at NATS, secret_file in keyholder.yaml; made if it does not exist")
	mqtt := f.value("mqtt", "`ADDRESS` where MQTT listens: port or IP:port (default 8883)")
	management := f.value("management", "`ADDRESS` of the management API: port or IP:port (default 15671, Mosquitto 8884, NATS 4222)")
	nodes := f.values("node", "`NODE` of a cluster: rabbit@mq1; of NATS nats1.example:6222, that of the server first")
	out := f.value("out", "`DIR`: new folder for the files")
	kind, err := f.parse(args)
	if err != nil {
		return err
	}
	plan := external.Plan{Name: *name, Callback: *permits, Issuer: *issuer, Folder: *folder, MQTT: cmp.Or(*mqtt, "8883"), Nodes: *nodes,
		Management: cmp.Or(*management, map[external.Kind]string{external.Mosquitto: "8884", external.NATS: "4222"}[external.Kind(kind[0])], "15671")}
	if external.Kind(kind[0]) == external.NATS {
		if *keys == "" {
			return &usageError{"-keys is missing", "name the file that is secret_file in keyholder.yaml; it is made if it does not exist"}
		}
		if plan.Keys, err = external.OpenNATSKeys(*keys); err != nil {
			return err
		}
	}
	files, err := external.Generate(external.Kind(kind[0]), plan)
	if err != nil {
		return err
	}
	if *out == "" {
		for _, file := range files {
			fmt.Fprintf(env.stdout, "### %s\n\n%s\n", file.Name, file.Text)
		}
		return nil
	}
	if err := os.Mkdir(*out, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return &usageError{*out + " exists", "give a new folder: what is in it may be in use"}
		}
		return &usageError{"cannot make the folder: " + err.Error(), ""}
	}
	for _, file := range files {
		path := filepath.Join(*out, file.Name)
		if err := os.WriteFile(path, []byte(file.Text), 0o644); err != nil {
			return fmt.Errorf("write the configuration: %w", err)
		}
		fmt.Fprintln(env.stdout, path)
	}
	return nil
}
