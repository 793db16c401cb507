// What the scripts that play an app have in common. They get their settings as
// JSON in the environment, write the address of every sign-in as a line to
// standard output, and read the address that the browser came back with as a
// line from standard input. A script ends with status 0 if, and only if, all
// went as it must.
import assert from 'node:assert/strict'
import fs from 'node:fs'
import https from 'node:https'
import readline from 'node:readline'

export const settings = JSON.parse(process.env.SETTINGS)
export const issuer = new URL(settings.issuer)
export const app = settings.app
export const byCertificate = Boolean(app.cert) // and so are its tokens
export const keepsRefreshToken = !app.secret

// signingKey is the app's key for private_key_jwt.
export const signingKey = app.jwk && {
  key: await crypto.subtle.importKey('jwk', app.jwk, { name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign']),
  kid: app.jwk.kid,
}

// authenticationOf chooses from the ways that a library has.
export const authenticationOf = (library) => ({
  client_secret_basic: () => library.ClientSecretBasic(app.secret),
  client_secret_post: () => library.ClientSecretPost(app.secret),
  private_key_jwt: () => library.PrivateKeyJwt(signingKey),
  tls_client_auth: () => library.TlsClientAuth(),
  self_signed_tls_client_auth: () => library.TlsClientAuth(),
})[app.method]()

const input = readline.createInterface({ input: process.stdin })
const lines = input[Symbol.asyncIterator]()

// done ends the reading of lines, for which the process would wait.
export const done = () => input.close()

export async function signIn(address) {
  process.stdout.write(address.href + '\n')
  const { value, done } = await lines.next()
  assert(!done, 'the browser did not come back')
  return new URL(value)
}

// fetchWith returns a fetch that presents a client certificate.
export function fetchWith(files) {
  const ca = fs.readFileSync(settings.ca)
  const own = files ? { cert: fs.readFileSync(files.cert), key: fs.readFileSync(files.key) } : {}
  return (input, init = {}) =>
    new Promise((resolve, reject) => {
      const body = init.body === undefined || init.body === null ? undefined : String(init.body)
      const headers = Object.fromEntries(new Headers(init.headers))
      if (body !== undefined) headers['content-length'] = Buffer.byteLength(body)
      const request = https.request(input, { method: init.method ?? 'GET', headers, ca, ...own, agent: false }, (answer) => {
        const parts = []
        answer.on('data', (part) => parts.push(part))
        answer.on('error', reject)
        answer.on('end', () =>
          resolve(new Response(parts.length ? Buffer.concat(parts) : null, { status: answer.statusCode, headers: answer.headers })))
      })
      request.on('error', reject)
      request.end(body)
    })
}

export const appFetch = fetchWith(byCertificate ? app : undefined)
export const plainFetch = fetchWith()

export const refused = (code) => (error) => {
  assert.equal(error.error, code, String(error))
  return true
}

// pushedTokens goes the whole way with oauth4webapi: a pushed request, the
// sign-in, and the tokens for the code.
export async function pushedTokens(oauth, as, authentication, options) {
  const own = { client_id: app.id }
  const verifier = oauth.generateRandomCodeVerifier()
  const state = oauth.generateRandomState()
  const pushed = await oauth.processPushedAuthorizationResponse(as, own, await oauth.pushedAuthorizationRequest(as, own, authentication, {
    response_type: 'code',
    redirect_uri: settings.redirectURI,
    scope: 'fds:read',
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    state,
  }, options))
  assert(pushed.expires_in <= 60)
  const address = new URL(as.authorization_endpoint)
  address.search = new URLSearchParams({ client_id: app.id, request_uri: pushed.request_uri })
  const parameters = oauth.validateAuthResponse(as, own, await signIn(address), state)
  return oauth.processAuthorizationCodeResponse(as, own,
    await oauth.authorizationCodeGrantRequest(as, own, authentication, parameters, settings.redirectURI, verifier, options))
}
