package broker

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// publishBatch bounds how many publishes of one connection share a change of
// the store.
const publishBatch = 128

// publisher stores the publishes of one provider's connection. While one
// batch is being made durable the next one gathers, so that a provider that
// keeps many publishes under way pays for one fsync among them. Acknowledgements
// leave in the order of the publishes, each after its message is on disk.
type publisher struct {
	c       *connection
	work    chan struct{} // holds a token when there is something to store
	room    chan struct{} // holds a token when the queue became shorter
	done    chan struct{} // closed when the goroutine has ended
	started bool
	free    time.Time // when the rate allows the next batch; of the goroutine that stores

	mu       sync.Mutex // guards the fields below
	queue    []publication
	bytes    int  // of payloads in queue
	finished bool // nothing more will be added
	stopped  bool // nothing more may be stored
}

// publication is one PUBLISH on its way into a mailbox.
type publication struct {
	topic      keyholder.Topic
	err        error        // the topic is malformed, or a property is not taken
	code       packets.Code // what the client is told of err
	payload    []byte
	properties []byte // that go on to the consumer
	qos        byte
	id         uint16
}

func newPublisher(c *connection) *publisher {
	return &publisher{c: c, work: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{})}
}

func (p *publisher) start() {
	p.started = true
	go p.run()
}

// finish waits until everything received is stored. A client may publish and
// disconnect at once.
func (p *publisher) finish() {
	if !p.started {
		return
	}
	p.mu.Lock()
	p.finished = true
	p.mu.Unlock()
	signal(p.work)
	<-p.done
}

// add takes a publish. It blocks while too many wait, which keeps the client
// from sending more.
func (p *publisher) add(pk *packets.Packet) {
	m := publication{payload: pk.Payload, qos: pk.FixedHeader.Qos, id: pk.PacketID}
	m.code = packets.ErrTopicNameInvalid
	if m.topic, m.err = keyholder.ParseTopic(pk.TopicName); m.err == nil {
		m.code = packets.ErrImplementationSpecificError
		m.properties, m.err = propertiesOf(pk)
	}
	for !p.push(m) {
		select {
		case <-p.room:
		case <-p.c.ctx.Done():
			return
		}
	}
}

func (p *publisher) push(m publication) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	cfg := &p.c.b.cfg
	switch {
	case p.stopped:
		return true
	case len(p.queue) >= int(cfg.ReceiveMaximum), len(p.queue) > 0 && p.bytes+len(m.payload) > cfg.publishBatchBytes:
		return false
	}
	p.queue = append(p.queue, m)
	p.bytes += len(m.payload)
	signal(p.work)
	return true
}

func (p *publisher) run() {
	defer close(p.done)
	for {
		batch, finished := p.take()
		if len(batch) > 0 {
			p.pace(batch)
			p.store(batch)
			continue
		}
		if finished {
			return
		}
		<-p.work
	}
}

// take removes the next batch from the queue.
func (p *publisher) take() (batch []publication, finished bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.queue), publishBatch)
	batch, p.queue = p.queue[:n:n], p.queue[n:]
	for _, m := range batch {
		p.bytes -= len(m.payload)
	}
	if len(p.queue) == 0 {
		p.queue = nil
	}
	signal(p.room)
	return batch, p.finished
}

// store makes a batch durable and answers it. A batch that fails as a whole
// changed nothing.
func (p *publisher) store(batch []publication) {
	outcome := make([]error, len(batch))
	tried := 0
	err := p.c.b.cfg.Ledger.Store().Write(context.Background(), func(tx *store.Tx) error {
		for i, m := range batch {
			tried = i + 1
			outcome[i] = p.publish(tx, m)
			if outcome[i] == nil {
				continue
			}
			if keyholder.CodeOf(outcome[i]) == "" {
				return outcome[i]
			}
			if p.endsBy(m) {
				// MQTT 3.1.1 cannot refuse one publish. The connection will
				// end, the client will repeat this and what follows, and
				// storing what follows now would turn the order around.
				return nil
			}
		}
		return nil
	})
	if err != nil {
		tried = len(batch) // none of them is stored
	}
	acks := p.c.b.buffer()
	defer p.c.b.release(acks)
	for i, m := range batch[:tried] {
		if err != nil {
			outcome[i] = err
		}
		if !p.answer(acks, m, outcome[i]) {
			p.stop()
			return
		}
	}
	p.c.acknowledge(acks)
}

// pace waits until the provider's rate allows the batch, so that one provider
// cannot take the disk from the others.
func (p *publisher) pace(batch []publication) {
	cfg := &p.c.b.cfg
	bytes := 0
	for _, m := range batch {
		bytes += len(m.payload)
	}
	cost := max(time.Duration(len(batch))*time.Second/time.Duration(cfg.PublishRate), time.Duration(bytes)*time.Second/time.Duration(cfg.PublishBytes))
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	if wait := p.free.Sub(now); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-p.c.ctx.Done():
		}
	}
	p.free = p.free.Add(cost)
}

// publish decides on one publish and appends it. The decision is made inside
// the transaction, where what the ledger knows is exact.
func (p *publisher) publish(tx *store.Tx, m publication) error {
	if m.err != nil {
		return m.err
	}
	b := p.c.b
	v := keyholder.PermitPublish(b.cfg.Ledger.Certificate(p.c.thumbprint), m.topic, b.cfg.Ledger.Standing(m.topic.Subscription), b.cfg.Now())
	if !v.Allowed {
		return &keyholder.Error{Code: keyholder.Denied, Detail: v.Reason, Err: &refusal{verdict: v}}
	}
	_, err := b.cfg.Mailbox.AppendTx(tx, m.topic.Subscription, m.topic.Level, m.payload, m.properties)
	return err
}

// endsBy says whether a refusal of the publish ends the connection.
func (p *publisher) endsBy(m publication) bool { return m.qos > 0 && p.c.terms.version < 5 }

// stop discards what waits: the connection is about to end.
func (p *publisher) stop() {
	p.mu.Lock()
	p.stopped, p.queue, p.bytes = true, nil, 0
	p.mu.Unlock()
	signal(p.room)
}

// answer acknowledges a publish, positively only if it is durable. It returns
// false if the connection ends by it. A QoS 0 publish has no answer. What
// comes before in acks is sent before the connection ends.
func (p *publisher) answer(acks *bytes.Buffer, m publication, err error) bool {
	if err != nil {
		p.c.b.denials.publish(p.c, m.topic, err)
	}
	if m.qos == 0 {
		return true
	}
	code, reason := publishCode(m, err)
	if err != nil && p.endsBy(m) {
		p.c.acknowledge(acks)
		p.c.drop(code, "a publish was not accepted, which MQTT 3.1.1 can only say by closing")
		return false
	}
	if err := p.c.encode(acks, puback(m.id, code, reason)); err != nil {
		p.c.drop(packets.ErrUnspecifiedError, "an acknowledgement could not be written: "+err.Error())
		return false
	}
	return true
}

// puback is the answer to a publish.
func puback(id uint16, code packets.Code, reason string) *packets.Packet {
	return &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: id,
		ReasonCode: code.Code, Properties: packets.Properties{ReasonString: reason}}
}

// acknowledge sends acknowledgements. A client that does not get them will
// repeat the publishes on its next connection.
func (c *connection) acknowledge(acks *bytes.Buffer) {
	if err := c.flush(acks); err != nil && c.ctx.Err() == nil {
		c.drop(packets.ErrUnspecifiedError, "an acknowledgement could not be sent: "+err.Error())
	}
}

// publishCode translates the outcome of a publish into MQTT 5 (section
// 3.4.2.1). Foreign and unknown subscriptions get the same answer.
func publishCode(m publication, err error) (packets.Code, string) {
	switch keyholder.CodeOf(err) {
	case keyholder.Denied:
		return packets.ErrNotAuthorized, packets.ErrNotAuthorized.Reason
	case keyholder.Unavailable:
		return packets.ErrQuotaExceeded, err.Error()
	case keyholder.Invalid:
		return m.code, err.Error()
	}
	if err != nil {
		return packets.ErrUnspecifiedError, "the message was not stored"
	}
	return packets.CodeSuccess, ""
}

// refusePublish answers the publish of a client that is not a provider.
func (c *connection) refusePublish(pk *packets.Packet) error {
	topic, err := keyholder.ParseTopic(pk.TopicName)
	cfg := &c.b.cfg
	v := keyholder.PermitPublish(cfg.Ledger.Certificate(c.thumbprint), topic, cfg.Ledger.Standing(topic.Subscription), cfg.Now())
	if v.Allowed { // only a provider is ever allowed, and it has a publisher
		v = keyholder.Verdict{Requirement: keyholder.M7, Reason: "only information providers publish"}
	}
	if err != nil {
		topic = keyholder.Topic{}
	}
	c.b.denials.publish(c, topic, &keyholder.Error{Code: keyholder.Denied, Detail: v.Reason, Err: &refusal{verdict: v}})
	switch {
	case pk.FixedHeader.Qos == 0:
		return nil
	case c.terms.version == 5:
		return c.send(puback(pk.PacketID, packets.ErrNotAuthorized, packets.ErrNotAuthorized.Reason))
	}
	c.drop(packets.ErrNotAuthorized, "a publish of a consumer, which MQTT 3.1.1 can only refuse by closing")
	return packets.ErrNotAuthorized
}

// signal puts a token into a channel that holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
