package external

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"

	"github.com/fds-keyholder/keyholder"
)

// natsJS begins the subjects of JetStream, as the system account imports them.
const natsJS = "FDS.JS.API."

// What NATS stores for MQTT: the streams of sessions, messages and retained
// messages, and the subjects in them.
const (
	natsSessions     = "$MQTT_sess"
	natsMessages     = "$MQTT_msgs"
	natsRetained     = "$MQTT_rmsgs"
	natsSessionOf    = "$MQTT.sess."
	natsMessageOf    = "$MQTT.msgs."
	natsRetainedOf   = "$MQTT.rmsgs."
	natsSessionLimit = 100_000 // subjects in an answer of JetStream
)

// sessions lists the clients of the ledger that have a session, all as not
// connected. Its subject holds a hash of the client ID.
func (n *natsServer) sessions(ctx context.Context) (map[string]bool, error) {
	present, names := map[string]bool{}, map[string]string{}
	for _, s := range n.broker.door.ledger.ListSubscriptions() {
		names[natsSessionOf+natsHash(string(s.ID))] = string(s.ID)
	}
	for _, p := range n.broker.door.ledger.ListProviders() {
		names[natsSessionOf+natsHash(string(p.ID))] = string(p.ID)
	}
	for more, offset := true, 0; more; offset += natsSessionLimit {
		var answer struct {
			State struct {
				Subjects map[string]int `json:"subjects"`
			} `json:"state"`
		}
		err := n.ask(ctx, natsJS+"STREAM.INFO."+natsSessions, map[string]any{"subjects_filter": natsSessionOf + "*", "offset": offset}, &answer)
		if err != nil && !errors.Is(err, errNATSAbsent) {
			return nil, err
		}
		for subject := range answer.State.Subjects {
			if id, ours := names[subject]; ours {
				present[id] = false
			}
		}
		more = len(answer.State.Subjects) == natsSessionLimit
	}
	return present, nil
}

// forget removes what JetStream keeps of a client: its session and what is
// queued for it.
func (n *natsServer) forget(ctx context.Context, id string) error {
	subject := natsSessionOf + natsHash(id)
	var session struct {
		Message struct {
			Data []byte `json:"data"`
		} `json:"message"`
	}
	if err := n.ask(ctx, natsJS+"STREAM.MSG.GET."+natsSessions, map[string]any{"last_by_subj": subject}, &session); errors.Is(err, errNATSAbsent) {
		return nil // and nothing is stored for who has no session
	} else if err != nil {
		return err
	}
	var kept struct {
		Consumers map[string]*struct {
			Durable string `json:"durable_name"`
		} `json:"cons"`
	}
	if err := json.Unmarshal(session.Message.Data, &kept); err != nil {
		return &keyholder.Error{Code: keyholder.Unavailable, Detail: "a session at the broker cannot be read", Err: err}
	}
	for _, c := range kept.Consumers {
		if c == nil {
			continue
		}
		if err := n.remove(ctx, "CONSUMER.DELETE."+natsMessages+"."+c.Durable, nil); err != nil {
			return err
		}
	}
	// The session last: without it, nobody finds the rest.
	if err := n.remove(ctx, "STREAM.PURGE."+natsMessages, map[string]any{"filter": natsMessageOf + "fds.v2." + id + ".>"}); err != nil {
		return err
	}
	return n.remove(ctx, "STREAM.PURGE."+natsSessions, map[string]any{"filter": subject})
}

// remove has JetStream remove something; what is not there is removed already.
func (n *natsServer) remove(ctx context.Context, what string, question any) error {
	if err := n.ask(ctx, natsJS+what, question, nil); err != nil && !errors.Is(err, errNATSAbsent) {
		return err
	}
	return nil
}

// natsHash is the name of a client ID in the subject of its session (getHash of
// the server): it is on disk, so it stays.
func natsHash(id string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	h := sha256.Sum256([]byte(id))
	name := h[:8]
	for i, b := range name {
		name[i] = digits[int(b)%len(digits)]
	}
	return string(name)
}

// retainNothing makes the stream of retained messages too small for any. NATS
// has no setting for it, and leaves the stream as it is if there is one. The
// settings name all nodes of a cluster, so it is on as many as the other streams.
func (n *natsServer) retainNothing(ctx context.Context) error {
	var stream struct {
		Config map[string]any `json:"config"`
	}
	const size = "max_msg_size"
	err := n.ask(ctx, natsJS+"STREAM.INFO."+natsRetained, nil, &stream)
	switch {
	case errors.Is(err, errNATSAbsent):
		return n.ask(ctx, natsJS+"STREAM.CREATE."+natsRetained, map[string]any{"name": natsRetained, "subjects": []string{natsRetainedOf + ">"},
			"storage": "file", "retention": "limits", "max_msgs_per_subject": 1, size: 1, "num_replicas": min(len(n.addresses), 3)}, nil)
	case err != nil || stream.Config[size] == 1.0:
		return err
	}
	stream.Config[size] = 1
	if err := n.ask(ctx, natsJS+"STREAM.UPDATE."+natsRetained, stream.Config, nil); err != nil {
		return err
	}
	return n.ask(ctx, natsJS+"STREAM.PURGE."+natsRetained, nil, nil)
}
