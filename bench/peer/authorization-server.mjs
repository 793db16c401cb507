// The peer: the certified oidc-provider, everything in memory, ES256, access
// tokens as JWTs. It gets its settings as JSON in the environment, writes one
// line of JSON (issuer, refresh tokens) to standard output when it listens,
// and serves until it is ended. The refresh tokens are made here, by the
// library's own model, because the sign-in page is not what is measured.
import crypto from 'node:crypto'
import fs from 'node:fs'
import https from 'node:https'
import Provider from 'oidc-provider'

const settings = JSON.parse(process.env.SETTINGS)
const { privateKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' })

const server = https.createServer({
  key: fs.readFileSync(settings.key),
  cert: fs.readFileSync(settings.cert),
  minVersion: 'TLSv1.2',
  maxVersion: 'TLSv1.2',
})

server.listen(0, '127.0.0.1', async () => {
  const issuer = `https://127.0.0.1:${server.address().port}`
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: settings.client,
        client_secret: settings.secret,
        redirect_uris: ['https://127.0.0.1/back'],
        grant_types: ['client_credentials', 'authorization_code', 'refresh_token'],
        id_token_signed_response_alg: 'ES256',
      },
    ],
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig', kid: 'ES256' }] },
    enabledJWA: { idTokenSigningAlgValues: ['ES256'] },
    scopes: ['openid', 'offline_access', 'fds:read'],
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    rotateRefreshToken: true,
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => settings.audience,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, audience) => ({
          scope: 'fds:read',
          audience,
          accessTokenFormat: 'jwt',
          accessTokenTTL: 300,
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  })
  const client = await provider.Client.find(settings.client)
  const refresh = []
  for (let i = 0; i < settings.chains; i++) {
    const accountId = `user-${i}`
    const grant = new provider.Grant({ accountId, clientId: settings.client })
    grant.addOIDCScope('openid offline_access')
    grant.addResourceScope(settings.audience, 'fds:read')
    const token = new provider.RefreshToken({
      accountId,
      client,
      grantId: await grant.save(),
      gty: 'authorization_code',
      scope: 'openid offline_access fds:read',
      resource: settings.audience,
      claims: {},
      authTime: Math.floor(Date.now() / 1000),
      expiresWithSession: false,
    })
    refresh.push(await token.save())
  }
  server.on('request', provider.callback())
  process.stdout.write(JSON.stringify({ issuer, refresh }) + '\n')
})
