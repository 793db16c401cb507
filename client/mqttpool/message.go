package mqttpool

import (
	"strconv"
	"strings"

	"github.com/fds-keyholder/keyholder"
)

// propertyMessage is the MQTT 5 user property that names a message.
const propertyMessage = "Keyholder-Message"

// Message is one item that a provider pushed.
type Message struct {
	Subscription keyholder.SubscriptionID
	Level        string // of the topic after the subscription ID, for example "statuses"
	Payload      []byte // as published; not checked

	// Key is the same if the message comes again; empty if the broker names
	// no messages. Use it to recognise repetitions after a restart.
	Key string
}

// parseMessage reads a message of a subscription. It is false if the topic is
// malformed or of another subscription: a broker that delivers such a thing
// is not to be trusted with it.
func parseMessage(sub keyholder.SubscriptionID, topic string, keys []string, payload []byte) (Message, bool) {
	t, err := keyholder.ParseTopic(topic)
	if err != nil || t.Subscription != sub {
		return Message{}, false
	}
	m := Message{Subscription: sub, Level: t.Level, Payload: payload}
	if len(keys) == 1 && isKey(sub, keys[0]) {
		m.Key = keys[0]
	}
	return m, true
}

// isKey says whether s is of the form <subscription_id>/<number>.
func isKey(sub keyholder.SubscriptionID, s string) bool {
	id, number, ok := strings.Cut(s, "/")
	if !ok || id != string(sub) {
		return false
	}
	n, err := strconv.ParseInt(number, 10, 64)
	return err == nil && n > 0 && strconv.FormatInt(n, 10) == number
}
