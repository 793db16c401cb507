// Drives the MQTT broker with MQTT.js, as a provider and an app would. It says
// "cut" when the subscription is to be cut, and ends with status 0 if all held.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import mqtt from 'mqtt'

const { address, ca, version, provider, consumer, foreign } = JSON.parse(process.env.SETTINGS)
const five = version === 5
const NOT_AUTHORIZED = 0x87, ADMINISTRATIVE_ACTION = 0x98
const below = (id) => `fds/v2/${id}/#`
const statuses = (id) => `fds/v2/${id}/statuses`

// open begins a session that outlives its connection. Nothing reconnects by
// itself: what becomes of a connection is what is looked at.
function open(party, id = party.id) {
  const client = mqtt.connect(address, {
    ca: readFileSync(ca), cert: readFileSync(party.cert), key: readFileSync(party.key), minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2',
    protocolVersion: version, clientId: id, clean: false, reconnectPeriod: 0, connectTimeout: 20_000,
    properties: five ? { sessionExpiryInterval: 3600 } : undefined,
  })
  client.received = []
  client.on('message', (topic, payload) => client.received.push([topic, String(payload)]))
  client.on('disconnect', (packet) => { client.told = packet.reasonCode })
  return client
}

// connect is open that succeeds; it returns the client and whether the broker
// knew the session.
async function connect(party) {
  const client = open(party)
  const [connack] = await once(client, 'connect')
  client.on('error', () => {}) // the end of a connection shows as "close"
  return [client, connack.sessionPresent]
}

// publish returns the reason of a refusal, or 0.
async function publish(client, topic, payload) {
  const closed = once(client, 'close').then(() => 'closed')
  const answered = client.publishAsync(topic, payload, { qos: 1 }).then(() => 0, (err) => err.code ?? 'closed')
  return Promise.race([answered, closed])
}

// expect waits until the client has received messages, and checks them and
// their order.
async function expect(client, from, to) {
  while (client.received.length < to - from) await once(client, 'message')
  assert.deepEqual(client.received.splice(0), Array.from({ length: to - from }, (_, i) => [statuses(consumer.id), String(from + i)]))
}

async function subscribe(client, filter) {
  return new Promise((resolve) => client.subscribe(filter, { qos: 1 }, (err, granted, packet) => resolve(packet.granted[0])))
}

let [app, present] = await connect(consumer)
assert.equal(present, false)
assert.equal(await subscribe(app, below(consumer.id)), 1)
for (const filter of [below(foreign), 'fds/v2/#', 'fds/v2/+/statuses', '#', '$SYS/#']) {
  assert.equal(await subscribe(app, filter), five ? NOT_AUTHORIZED : 0x80, filter)
}

// In order, with many under way.
const [supply] = await connect(provider)
const send = async (from, to) => {
  const answers = Array.from({ length: to - from }, (_, i) => publish(supply, statuses(consumer.id), String(from + i)))
  assert((await Promise.all(answers)).every((code) => code === 0))
}
await send(0, 200)
await expect(app, 0, 200)

// The session waits for its client, and so does what came meanwhile.
await app.endAsync()
await send(200, 210)
;[app, present] = await connect(consumer)
assert.equal(present, true)
await expect(app, 200, 210)

// Nobody publishes but a provider into its own subscriptions. MQTT 3.1.1 can
// only refuse by closing.
assert.equal(await publish(app, statuses(consumer.id), 'forged'), five ? NOT_AUTHORIZED : 'closed')
assert.equal(await publish(supply, statuses(foreign), 'forged'), five ? NOT_AUTHORIZED : 'closed')
await supply.endAsync(true)

// Nobody connects as somebody else.
const thief = open(consumer, foreign)
const [refusal] = await once(thief, 'error')
assert.equal(refusal.code, five ? NOT_AUTHORIZED : 5)
thief.end(true)

if (!five) {
  ;[app, present] = await connect(consumer)
  assert.equal(present, true)
}
const closed = once(app, 'close')
console.log('cut')
await closed
if (five) assert.equal(app.told, ADMINISTRATIVE_ACTION)
const again = open(consumer)
const [error] = await Promise.race([once(again, 'error'), once(again, 'connect').then(() => [undefined])])
assert(error, 'the cut subscription connected')
again.end(true)
