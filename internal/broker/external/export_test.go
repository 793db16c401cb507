package external

import "context"

// NATSHash is the name of a client's session.
func NATSHash(id string) string { return natsHash(id) }

// AnswerNATS is what the NATS broker of a door is answered.
func (d *Door) AnswerNATS(ctx context.Context, token []byte) (string, error) {
	for _, b := range d.brokers {
		if n, ok := b.driver.(*natsServer); ok {
			return n.answer(ctx, token)
		}
	}
	panic("the door has no NATS broker")
}
