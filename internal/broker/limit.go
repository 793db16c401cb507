package broker

import (
	"cmp"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
)

// Limits are the bounds that an operator may set (mqtt in keyholder.yaml).
// Zero stands for the default named.
type Limits struct {
	MaxConnections    int           `yaml:"max_connections"`     // more are closed at once; 0: 20,000
	ConnectsPerMinute int           `yaml:"connects_per_minute"` // of each client, more are refused; 0: 60
	PublishRate       int           `yaml:"publish_rate"`        // messages a second of each provider, more wait; 0: 20,000
	PublishBytes      int           `yaml:"publish_bytes"`       // payload bytes a second of each provider, more wait; 0: 64 MiB
	MaxPacket         int           `yaml:"max_packet"`          // bytes of a packet of a client; 0: the most there can be, 1 MiB of payload and 8 KiB
	ReceiveMaximum    uint16        `yaml:"receive_maximum"`     // unacknowledged publishes of a provider; 0: 256
	MaxInflight       uint16        `yaml:"max_inflight"`        // unacknowledged messages to a consumer; 0: 256
	MaxKeepAlive      time.Duration `yaml:"max_keep_alive"`      // longer keep-alives, and none, are cut to it; 0: 20 min
	MaxSessionExpiry  time.Duration `yaml:"max_session_expiry"`  // of a consumer's session; 0: 30 days
}

// mostPacket is room for the largest payload, its topic and properties.
const mostPacket = mailbox.MaxPayload + 8<<10

// WithDefaults returns the limits with every default in its place.
func (l Limits) WithDefaults() Limits {
	l.MaxConnections = cmp.Or(l.MaxConnections, 20_000)
	l.ConnectsPerMinute = cmp.Or(l.ConnectsPerMinute, 60)
	l.PublishRate = cmp.Or(l.PublishRate, 20_000)
	l.PublishBytes = cmp.Or(l.PublishBytes, 64<<20)
	l.MaxPacket = cmp.Or(l.MaxPacket, mostPacket)
	l.ReceiveMaximum = cmp.Or(l.ReceiveMaximum, 256)
	l.MaxInflight = cmp.Or(l.MaxInflight, 256)
	l.MaxKeepAlive = cmp.Or(l.MaxKeepAlive, 20*time.Minute)
	l.MaxSessionExpiry = cmp.Or(l.MaxSessionExpiry, 30*24*time.Hour)
	return l
}

// Check says whether every limit is one that the broker can keep. Errors:
// Invalid, with the key.
func (l Limits) Check() error {
	l = l.WithDefaults()
	for _, n := range []struct {
		key         string
		value       int
		least, most int
	}{
		{"max_connections", l.MaxConnections, 1, 1_000_000},
		{"connects_per_minute", l.ConnectsPerMinute, 1, 1_000_000},
		{"publish_rate", l.PublishRate, 1, 1_000_000},
		{"publish_bytes", l.PublishBytes, 1 << 10, 1 << 40},
		{"max_packet", l.MaxPacket, 1 << 10, mostPacket},
	} {
		if n.value < n.least || n.value > n.most {
			return keyholder.Errorf(keyholder.Invalid, "mqtt.%s is not between %d and %d", n.key, n.least, n.most).WithHint("0 stands for the default")
		}
	}
	for _, d := range []struct {
		key         string
		value, most time.Duration
		text        string
	}{
		{"max_keep_alive", l.MaxKeepAlive, 12 * time.Hour, "12h"}, // MQTT counts its seconds in 16 bits
		{"max_session_expiry", l.MaxSessionExpiry, 10 * 365 * 24 * time.Hour, "87600h"},
	} {
		if d.value < time.Second || d.value > d.most {
			return keyholder.Errorf(keyholder.Invalid, "mqtt.%s is not between 1s and %s", d.key, d.text).WithHint("0s stands for the default")
		}
	}
	return nil
}
