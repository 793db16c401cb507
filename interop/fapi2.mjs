// Drives the profile fapi2 with certified relying-party code, as an app would;
// party.mjs says how. The app has a key for assertions and binds its tokens to
// a DPoP key, or has a certificate and binds them to that.
import assert from 'node:assert/strict'
import * as client from 'openid-client'
import { app, appFetch, authenticationOf, byCertificate, done, issuer, plainFetch, refused, settings, signIn } from './party.mjs'

const config = await client.discovery(issuer, app.id, undefined, authenticationOf(client), { [client.customFetch]: appFetch })
config[client.customFetch] = appFetch
client.enableNonRepudiationChecks(config)
const bound = byCertificate ? undefined : { DPoP: client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256')) }

const checks = { pkceCodeVerifier: client.randomPKCECodeVerifier(), expectedState: client.randomState(), expectedNonce: client.randomNonce(), idTokenExpected: true }
const parameters = {
  redirect_uri: settings.redirectURI,
  scope: 'openid fds:read',
  code_challenge: await client.calculatePKCECodeChallenge(checks.pkceCodeVerifier),
  code_challenge_method: 'S256',
  state: checks.expectedState,
  nonce: checks.expectedNonce,
}
const authorize = async () => signIn(await client.buildAuthorizationUrlWithPAR(config, parameters, bound))

// A request that was not pushed begins nothing.
const answer = await plainFetch(client.buildAuthorizationUrl(config, parameters))
assert.equal(new URL(answer.headers.get('location')).searchParams.get('error'), 'invalid_request')

const tokens = await client.authorizationCodeGrant(config, await authorize(), checks, undefined, bound)
assert.equal(tokens.token_type, byCertificate ? 'bearer' : 'dpop')
const pulled = await client.fetchProtectedResource(config, tokens.access_token, new URL('/fds/v2/statuses', settings.api), 'GET', undefined, undefined, bound)
assert.equal(pulled.status, 200)
const second = await client.refreshTokenGrant(config, tokens.refresh_token, undefined, bound)
assert.equal(second.refresh_token, tokens.refresh_token)
const machine = { scope: 'fds:read', subscription_id: settings.subscription }
await client.clientCredentialsGrant(config, machine, bound)

if (!byCertificate) {
  // A token that whoever holds it could use is not given, and costs no code.
  await assert.rejects(client.clientCredentialsGrant(config, machine), refused('invalid_request'))
  await assert.rejects(client.refreshTokenGrant(config, tokens.refresh_token), refused('invalid_request'))
  // The issuer is the one audience, and a string.
  for (const [name, aud] of Object.entries({ endpoint: issuer.href + 'token', list: [issuer.origin], other: 'https://evil.example' })) {
    const wrong = await client.discovery(issuer, app.id, undefined,
      (as, metadata, body, headers) => authenticationOf({ ...client,
        PrivateKeyJwt: (key) => client.PrivateKeyJwt(key, { [client.modifyAssertion]: (header, claims) => { claims.aud = aud } }) })(as, metadata, body, headers),
      { [client.customFetch]: appFetch })
    wrong[client.customFetch] = appFetch
    await assert.rejects(client.clientCredentialsGrant(wrong, machine, bound), (error) => {
      assert(error.status === 401 || error.error === 'invalid_client', `${name}: ${error}`)
      return true
    })
  }
}
done()
