package broker

import (
	"bytes"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
)

// messageProperty is the MQTT 5 user property that names a message, for
// receivers that must know a repetition: <subscription_id>/<number>.
const messageProperty = "Keyholder-Message"

// propertiesOf returns those properties of a publish that go on to the
// consumer (MQTT 5 section 3.3.2.3), as they are kept with the message, nil if
// there are none. A response topic is refused: no consumer may publish
// anywhere, and it would name topics of others. So is a property that passes
// for ours.
func propertiesOf(pk *packets.Packet) ([]byte, error) {
	p := &pk.Properties
	if p.ResponseTopic != "" {
		return nil, keyholder.Errorf(keyholder.Invalid, "a publish has no response topic here: consumers do not publish")
	}
	for _, u := range p.User {
		if u.Key == messageProperty {
			return nil, keyholder.Errorf(keyholder.Invalid, "the user property %s is the broker's own", messageProperty)
		}
	}
	if !p.PayloadFormatFlag && p.MessageExpiryInterval == 0 && p.ContentType == "" && len(p.CorrelationData) == 0 && len(p.User) == 0 {
		return nil, nil
	}
	onward := packets.Properties{PayloadFormatFlag: p.PayloadFormatFlag, PayloadFormat: p.PayloadFormat, MessageExpiryInterval: p.MessageExpiryInterval,
		ContentType: p.ContentType, CorrelationData: p.CorrelationData, User: p.User}
	var buf bytes.Buffer
	onward.Encode(packets.Publish, packets.Mods{AllowResponseInfo: true}, &buf, 0)
	if buf.Len() > mailbox.MaxProperties {
		return nil, keyholder.Errorf(keyholder.Invalid, "the properties of the message are larger than %d bytes", mailbox.MaxProperties)
	}
	return buf.Bytes(), nil
}

// onward returns the properties that a message leaves with, and whether it may
// still leave: what its publisher gave it to live shrinks while it waits.
func onward(msg mailbox.Message, name string, now time.Time) (p packets.Properties, alive bool, err error) {
	if len(msg.Properties) > 0 {
		if _, err := p.Decode(packets.Publish, bytes.NewBuffer(msg.Properties)); err != nil {
			return p, false, err
		}
	}
	if p.MessageExpiryInterval > 0 {
		left := int64(p.MessageExpiryInterval) - int64(max(now.Sub(msg.At), 0)/time.Second)
		if left <= 0 {
			return p, false, nil
		}
		p.MessageExpiryInterval = uint32(left)
	}
	p.User = append(p.User, packets.UserProperty{Key: messageProperty, Val: name})
	return p, true, nil
}
