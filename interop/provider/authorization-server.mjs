// An authorization server that knows nothing of FDS: the certified
// oidc-provider, set up as an operator would who has it already. It gets its
// settings as JSON in the environment, writes its issuer as one line to
// standard output when it listens, and serves until it is ended.
import crypto from 'node:crypto'
import fs from 'node:fs'
import https from 'node:https'
import Provider from 'oidc-provider'

const settings = JSON.parse(process.env.SETTINGS)

function jwk(alg, type, options) {
  const { privateKey } = crypto.generateKeyPairSync(type, options)
  return { ...privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: alg }
}

const server = https.createServer({
  key: fs.readFileSync(settings.key),
  cert: fs.readFileSync(settings.cert),
  ca: fs.readFileSync(settings.ca),
  requestCert: true,
  rejectUnauthorized: false,
})

server.listen(0, '127.0.0.1', () => {
  const issuer = `https://127.0.0.1:${server.address().port}`
  const provider = new Provider(issuer, {
    clients: settings.clients.map(({ id, secret, bound }) => ({
      client_id: id,
      client_secret: secret,
      redirect_uris: [],
      response_types: [],
      grant_types: id === settings.gateway ? [] : ['client_credentials'],
      ...(bound ? { tls_client_certificate_bound_access_tokens: true } : {}),
    })),
    jwks: {
      keys: [
        jwk('ES256', 'ec', { namedCurve: 'P-256' }),
        jwk('PS256', 'rsa', { modulusLength: 2048 }),
        jwk('RS256', 'rsa', { modulusLength: 2048 }),
        jwk('EdDSA', 'ed25519'),
      ],
    },
    scopes: ['fds:read', 'fds:ingest'],
    enabledJWA: { idTokenSigningAlgValues: ['ES256', 'PS256', 'RS256', 'EdDSA', 'Ed25519'] },
    // The mapper: which subscription a client's tokens are for.
    extraTokenClaims: (ctx, token) => settings.clients.find(({ id }) => id === token.clientId)?.claims,
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: (ctx, client) => client.clientId === settings.gateway },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        getCertificate: (ctx) => {
          const { raw } = ctx.socket.getPeerCertificate()
          return raw && new crypto.X509Certificate(raw)
        },
      },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource, client) => {
          const { alg, opaque, lifetime } = settings.clients.find(({ id }) => id === client.clientId)
          return {
            scope: 'fds:read fds:ingest',
            audience: resource,
            accessTokenFormat: opaque ? 'opaque' : 'jwt',
            accessTokenTTL: lifetime ?? 300,
            jwt: { sign: { alg: alg ?? 'ES256' } },
          }
        },
      },
    },
  })
  server.on('request', provider.callback())
  process.stdout.write(issuer + '\n')
})
