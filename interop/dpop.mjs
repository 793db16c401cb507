// Drives DPoP (RFC 9449) and resource indicators (RFC 8707) with certified
// relying-party code, as an app would; party.mjs says how.
import assert from 'node:assert/strict'
import { createHash, randomUUID } from 'node:crypto'
import * as client from 'openid-client'
import * as oauth from 'oauth4webapi'
import { app, appFetch, authenticationOf, byCertificate, done, issuer, plainFetch, pushedTokens, refused, settings, signIn } from './party.mjs'

const statuses = new URL('/fds/v2/statuses', settings.api)
const base64url = (data) => Buffer.from(data).toString('base64url')

// proofOf makes a proof by hand, so that it can be wrong.
async function proofOf(pair, claims) {
  const { kty, crv, x, y } = await crypto.subtle.exportKey('jwk', pair.publicKey)
  const header = { typ: 'dpop+jwt', alg: 'ES256', jwk: { kty, crv, x, y } }
  const content = { jti: randomUUID(), iat: Math.floor(Date.now() / 1000), ...claims }
  const input = `${base64url(JSON.stringify(header))}.${base64url(JSON.stringify(content))}`
  const signature = await crypto.subtle.sign({ name: 'ECDSA', hash: 'SHA-256' }, pair.privateKey, Buffer.from(input))
  return `${input}.${base64url(signature)}`
}

// pull calls the Web API with a token and a proof, and says what came of it.
async function pull(token, proof, scheme = 'DPoP') {
  const headers = { authorization: `${scheme} ${token}` }
  if (proof) headers.dpop = proof
  const answer = await appFetch(statuses, { headers })
  return `${answer.status} ${/DPoP error="(\w+)"/.exec(answer.headers.get('www-authenticate') ?? '')?.[1] ?? ''}`.trim()
}

async function attack(token, pair, stranger) {
  const ath = createHash('sha256').update(token).digest('base64url')
  const good = { htm: 'GET', htu: statuses.href, ath }
  const once = await proofOf(pair, good)
  assert.equal(await pull(token, once), '200')
  assert.equal(await pull(token, once), '401 invalid_dpop_proof', 'a replayed proof')
  assert.equal(await pull(token, await proofOf(stranger, good)), '401', "another's key")
  for (const [name, wrong] of Object.entries({
    'another address': { htu: new URL('/fds/v2/events', settings.api).href },
    'another host': { htu: 'https://evil.example/fds/v2/statuses' },
    'another method': { htm: 'POST' },
    'no token': { ath: undefined },
    'another token': { ath: createHash('sha256').update('x').digest('base64url') },
    'too old': { iat: Math.floor(Date.now() / 1000) - 120 },
  })) {
    assert.equal(await pull(token, await proofOf(pair, { ...good, ...wrong })), '401 invalid_dpop_proof', name)
  }
  assert.equal(await pull(token, undefined), '401 invalid_dpop_proof', 'no proof')
  assert.equal(await pull(token, undefined, 'Bearer'), '401', 'as a bearer token')
}

async function withOpenIDClient() {
  const authentication = authenticationOf(client)
  const config = await client.discovery(issuer, app.id, undefined, authentication, { [client.customFetch]: appFetch })
  config[client.customFetch] = appFetch
  assert(config.serverMetadata().dpop_signing_alg_values_supported.includes('ES256'))
  const gateway = await client.discovery(issuer, settings.gateway.id, undefined, client.ClientSecretBasic(settings.gateway.secret), {
    [client.customFetch]: plainFetch,
  })
  gateway[client.customFetch] = plainFetch
  const pair = await client.randomDPoPKeyPair('ES256', { extractable: true })
  const stranger = await client.randomDPoPKeyPair('ES256', { extractable: true })
  const DPoP = client.getDPoPHandle(config, pair)
  const others = client.getDPoPHandle(config, stranger)
  const jkt = await DPoP.calculateThumbprint()

  async function begin(build, more, ...options) {
    const checks = { pkceCodeVerifier: client.randomPKCECodeVerifier(), expectedState: client.randomState() }
    const address = await build(config, {
      redirect_uri: settings.redirectURI,
      scope: 'fds:read',
      code_challenge: await client.calculatePKCECodeChallenge(checks.pkceCodeVerifier),
      code_challenge_method: 'S256',
      state: checks.expectedState,
      ...more,
    }, ...options)
    return { back: await signIn(address), checks }
  }

  // The key is named by the address, or proved when the request is pushed.
  let tokens
  for (const [build, more, ...options] of [
    [client.buildAuthorizationUrl, { dpop_jkt: jkt, resource: settings.api }],
    [client.buildAuthorizationUrlWithPAR, { resource: settings.api }, { DPoP }],
  ]) {
    const { back, checks } = await begin(build, more, ...options)
    tokens = await client.authorizationCodeGrant(config, back, checks, { resource: settings.api }, { DPoP })
    assert.equal(tokens.token_type, 'dpop')
    const info = await client.tokenIntrospection(gateway, tokens.access_token)
    assert.equal(info.cnf.jkt, jkt)
    assert.equal(Boolean(info.cnf['x5t#S256']), byCertificate)
    assert.equal(info.aud, settings.api)
  }
  {
    const { back, checks } = await begin(client.buildAuthorizationUrl, { dpop_jkt: jkt })
    await assert.rejects(client.authorizationCodeGrant(config, back, checks, undefined, { DPoP: others }), refused('invalid_dpop_proof'))
  }

  const answer = await client.fetchProtectedResource(config, tokens.access_token, statuses, 'GET', undefined, undefined, { DPoP })
  assert.equal(answer.status, 200)
  await attack(tokens.access_token, pair, stranger)

  await assert.rejects(client.refreshTokenGrant(config, tokens.refresh_token), refused('invalid_request'))
  const renewed = await client.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP })
  assert.equal(renewed.token_type, 'dpop')
  await attack(renewed.access_token, pair, stranger)

  const info = await client.tokenIntrospection(gateway, renewed.access_token)
  const machine = await client.clientCredentialsGrant(config,
    { scope: 'fds:read', subscription_id: info.subscription_id, resource: settings.api }, { DPoP: others })
  await attack(machine.access_token, stranger, pair)

  // A proof is good for one request for tokens.
  let used
  const replaying = await client.discovery(issuer, app.id, undefined, authentication, { [client.customFetch]: appFetch })
  replaying[client.customFetch] = (address, init) => {
    const headers = new Headers(init.headers)
    if (used) headers.set('dpop', used)
    used = headers.get('dpop')
    return appFetch(address, { ...init, headers })
  }
  const again = () => client.clientCredentialsGrant(replaying, { scope: 'fds:read', subscription_id: info.subscription_id }, { DPoP })
  await again()
  await assert.rejects(again(), refused('invalid_dpop_proof'))

  await assert.rejects(client.clientCredentialsGrant(config,
    { scope: 'fds:read', subscription_id: info.subscription_id, resource: 'https://evil.example' }, { DPoP }), refused('invalid_target'))
  const { back, checks } = await begin(client.buildAuthorizationUrl, { resource: settings.api })
  await assert.rejects(client.authorizationCodeGrant(config, back, checks, { resource: 'https://evil.example' }), refused('invalid_target'))
}

async function withOAuth4WebAPI() {
  const own = { client_id: app.id }
  const authentication = authenticationOf(oauth)
  const pair = await oauth.generateKeyPair('ES256', { extractable: true })
  const options = { DPoP: oauth.DPoP(own, pair), [oauth.customFetch]: appFetch }
  const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, options))
  const api = new URL(settings.api)
  const resource = await oauth.processResourceDiscoveryResponse(api, await oauth.resourceDiscoveryRequest(api, options))
  assert(resource.dpop_signing_alg_values_supported.includes('ES256'))

  const first = await pushedTokens(oauth, as, authentication, options)
  assert.equal(first.token_type, 'dpop')
  const second = await oauth.processRefreshTokenResponse(as, own,
    await oauth.refreshTokenGrantRequest(as, own, authentication, first.refresh_token, options))
  assert.equal(second.token_type, 'dpop')
  for (const tokens of [first, second]) {
    const answer = await oauth.protectedResourceRequest(tokens.access_token, 'GET', statuses, undefined, undefined, options)
    assert.equal(answer.status, 200)
  }
  await attack(second.access_token, pair, await oauth.generateKeyPair('ES256', { extractable: true }))
}

await withOpenIDClient()
await withOAuth4WebAPI()
done()
