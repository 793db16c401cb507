// Drives the authorization server with certified relying-party code, as an app
// would; party.mjs says how.
import assert from 'node:assert/strict'
import * as client from 'openid-client'
import * as oauth from 'oauth4webapi'
import { app, appFetch, authenticationOf, byCertificate, done, issuer, keepsRefreshToken, plainFetch, pushedTokens, refused, settings, signIn } from './party.mjs'

async function withOpenIDClient() {
  const config = await client.discovery(issuer, app.id, undefined, authenticationOf(client), { [client.customFetch]: appFetch })
  config[client.customFetch] = appFetch
  client.enableNonRepudiationChecks(config)
  const gateway = await client.discovery(issuer, settings.gateway.id, undefined, client.ClientSecretBasic(settings.gateway.secret), {
    [client.customFetch]: plainFetch,
  })
  gateway[client.customFetch] = plainFetch
  const active = async (token) => (await client.tokenIntrospection(gateway, token)).active

  async function begin(build) {
    const verifier = client.randomPKCECodeVerifier()
    const checks = { pkceCodeVerifier: verifier, expectedState: client.randomState(), expectedNonce: client.randomNonce(), idTokenExpected: true }
    const address = await build(config, {
      redirect_uri: settings.redirectURI,
      scope: 'openid fds:read',
      code_challenge: await client.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
      state: checks.expectedState,
      nonce: checks.expectedNonce,
    })
    return { back: await signIn(address), checks }
  }

  const tokens = {}
  for (const build of [client.buildAuthorizationUrl, client.buildAuthorizationUrlWithPAR]) {
    const { back, checks } = await begin(build)
    tokens.first = await client.authorizationCodeGrant(config, back, checks)
    assert.equal(tokens.first.token_type, 'bearer')
    assert(tokens.first.claims().sub)
    assert(await active(tokens.first.access_token))
  }

  // Refresh: kept with a private key, rotated with a secret.
  const second = await client.refreshTokenGrant(config, tokens.first.refresh_token)
  assert.equal(second.refresh_token === tokens.first.refresh_token, keepsRefreshToken)
  const again = await client.refreshTokenGrant(config, tokens.first.refresh_token)
  assert.equal(again.refresh_token, second.refresh_token)

  const info = await client.tokenIntrospection(gateway, second.access_token)
  assert.equal(info.client_id, app.id)
  assert.equal(Boolean(info.cnf?.['x5t#S256']), byCertificate)
  assert(info.subscription_id)
  const machine = await client.clientCredentialsGrant(config, { scope: 'fds:read', subscription_id: info.subscription_id })
  assert.equal(machine.refresh_token, undefined)
  assert(await active(machine.access_token))

  await client.tokenRevocation(config, second.refresh_token)
  assert(!(await active(second.access_token)))
  await assert.rejects(client.refreshTokenGrant(config, second.refresh_token), refused('invalid_grant'))

  // What must not work.
  await assert.rejects(client.clientCredentialsGrant(config, { scope: 'fds:push', subscription_id: info.subscription_id }), refused('invalid_scope'))
  await assert.rejects(client.tokenIntrospection(config, machine.access_token))
  {
    const { back, checks } = await begin(client.buildAuthorizationUrl)
    await assert.rejects(client.authorizationCodeGrant(config, back, { ...checks, expectedState: 'another' }))
    const mixedUp = new URL(back)
    mixedUp.searchParams.set('iss', 'https://evil.example')
    await assert.rejects(client.authorizationCodeGrant(config, mixedUp, checks))
    await assert.rejects(client.authorizationCodeGrant(config, back, { ...checks, pkceCodeVerifier: client.randomPKCECodeVerifier() }), refused('invalid_grant'))
    await assert.rejects(client.authorizationCodeGrant(config, back, checks), refused('invalid_grant'))
  }
  {
    const { back, checks } = await begin(client.buildAuthorizationUrl)
    const got = await client.authorizationCodeGrant(config, back, checks)
    await assert.rejects(client.authorizationCodeGrant(config, back, checks), refused('invalid_grant'))
    assert(!(await active(got.access_token)), 'the tokens outlived the replay of their code')
  }
  const stranger = await client.discovery(issuer, app.id, undefined,
    byCertificate ? client.TlsClientAuth() : client.ClientSecretBasic('khs_wrong'), { [client.customFetch]: plainFetch })
  stranger[client.customFetch] = plainFetch
  await assert.rejects(client.clientCredentialsGrant(stranger, { scope: 'fds:read', subscription_id: info.subscription_id }), (error) => {
    const code = error.error ?? error.cause?.[0]?.parameters?.error
    assert(code === 'invalid_client' || error.status === 401, String(error))
    return true
  })
}

async function withOAuth4WebAPI() {
  const own = { client_id: app.id }
  const authentication = authenticationOf(oauth)
  const options = { [oauth.customFetch]: appFetch }
  let as
  for (const algorithm of ['oidc', 'oauth2']) {
    as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm, ...options }))
  }

  const api = new URL(settings.api)
  const resource = await oauth.processResourceDiscoveryResponse(api, await oauth.resourceDiscoveryRequest(api, options))
  assert.deepEqual(resource.authorization_servers, [as.issuer])

  const first = await pushedTokens(oauth, as, authentication, options)
  assert.equal(first.id_token, undefined)

  const second = await oauth.processRefreshTokenResponse(as, own,
    await oauth.refreshTokenGrantRequest(as, own, authentication, first.refresh_token, options))
  assert.equal(second.refresh_token === first.refresh_token, keepsRefreshToken)

  const gateway = { client_id: settings.gateway.id }
  const introspect = async (token) => oauth.processIntrospectionResponse(as, gateway,
    await oauth.introspectionRequest(as, gateway, oauth.ClientSecretPost(settings.gateway.secret), token, { [oauth.customFetch]: plainFetch }))
  const info = await introspect(second.access_token)
  assert.equal(info.active, true)

  const machine = await oauth.processClientCredentialsResponse(as, own,
    await oauth.clientCredentialsGrantRequest(as, own, authentication, { scope: 'fds:read', subscription_id: info.subscription_id }, options))
  await oauth.processRevocationResponse(await oauth.revocationRequest(as, own, authentication, machine.access_token, options))
  assert.equal((await introspect(machine.access_token)).active, false)
  assert.equal((await introspect(second.access_token)).active, true)
}

await withOpenIDClient()
await withOAuth4WebAPI()
done()
