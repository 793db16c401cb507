// The OpenID provider of an owner: the certified oidc-provider, at which one
// person is signed in already, or does not want to sign in. It gets its
// settings as JSON in the environment, writes its issuer as one line to
// standard output when it listens, and serves until it is ended.
import crypto from 'node:crypto'
import fs from 'node:fs'
import https from 'node:https'
import Provider from 'oidc-provider'

const settings = JSON.parse(process.env.SETTINGS)
const { privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 })
const server = https.createServer({ key: fs.readFileSync(settings.key), cert: fs.readFileSync(settings.cert) })

server.listen(0, '127.0.0.1', () => {
  const issuer = `https://127.0.0.1:${server.address().port}`
  const provider = new Provider(issuer, {
    clients: [{ client_id: settings.client, client_secret: settings.secret, redirect_uris: [settings.redirect] }],
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig', kid: 'RS256' }] },
    cookies: { keys: [crypto.randomUUID()] },
    claims: { openid: ['sub', 'amr'] },
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  })
  const answer = provider.callback()
  server.on('request', async (request, response) => {
    if (!request.url.startsWith('/interaction/')) {
      return answer(request, response)
    }
    const { params } = await provider.interactionDetails(request, response)
    const subject = fs.readFileSync(settings.subject, 'utf8')
    if (subject === '') {
      return provider.interactionFinished(request, response, { error: 'access_denied' })
    }
    const grant = new provider.Grant({ accountId: subject, clientId: params.client_id })
    grant.addOIDCScope('openid')
    await provider.interactionFinished(request, response, {
      login: { accountId: subject, amr: settings.amr, remember: false },
      consent: { grantId: await grant.save() },
    })
  })
  process.stdout.write(issuer + '\n')
})
