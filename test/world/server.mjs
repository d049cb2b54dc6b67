// The authorization server: npm oidc-provider, configured. See README.md.
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createHttp } from 'node:http';
import { createServer as createHttps } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { clients, githubApp, keepsRefreshToken, needsNonce, resources } from './clients.mjs';
import { appKey, certificates, clientKeys, passphrase, serviceAccount, signingKey } from './fixtures.mjs';
import { github } from './github.mjs';
import { logged } from './log.mjs';

// oidc-provider 9 is made for Node 22; this is all that 20 lacks. It must be
// there before the package is loaded.
URL.parse ??= (url, base) => { try { return new URL(url, base); } catch { return null; } };
const { Provider, errors } = await import('oidc-provider');
const { addGoogle, addGrants } = await import('./grants.mjs');

const dir = mkdtempSync(join(tmpdir(), 'world-'));
process.on('exit', () => rmSync(dir, { recursive: true }));
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0));
if (process.argv.includes('--stdin')) process.stdin.on('end', () => process.exit(0)).resume();

const seconds = (name, otherwise) => Number(process.env[name] ?? otherwise);
const { ca, caFile, server: tls, files: clientCertificates, selfSigned } = certificates(dir);
const { files: keys, signers } = clientKeys(dir);
const app = appKey(dir);
const signer = signingKey();
const registered = clients(signers, selfSigned);
const initialAccessToken = randomBytes(24).toString('base64url');

const configuration = {
  clients: registered,
  jwks: { keys: [signer] },
  cookies: { keys: [randomBytes(24).toString('base64url')] },
  scopes: ['openid', 'offline_access', 'profile', 'email', 'read', 'write', 'admin'],
  claims: { openid: ['sub'], profile: ['name'], email: ['email'] },
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'tls_client_auth', 'self_signed_tls_client_auth', 'none'],
  pkce: { required: () => true },
  findAccount: (ctx, sub) => ({ accountId: sub, claims: () => ({ sub, name: `User ${sub}`, email: `${sub}@example.com` }) }),
  // Who may refresh needs no offline_access and no prompt=consent for it.
  issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
  expiresWithSession: () => false,
  rotateRefreshToken: (ctx) => !keepsRefreshToken(ctx.oidc.client),
  // What grants.mjs knows of a token.
  extraTokenClaims: (ctx, token) => token.claimed,
  ttl: {
    AccessToken: (ctx, token) => token.resourceServer?.accessTokenTTL ?? seconds('ACCESS_TTL', 3600),
    ClientCredentials: (ctx, token) => token.resourceServer?.accessTokenTTL ?? seconds('CC_TTL', 600),
    RefreshToken: seconds('REFRESH_TTL', 14 * 86400),
    DeviceCode: seconds('DEVICE_TTL', 600),
    AuthorizationCode: 60,
    IdToken: 3600,
    Interaction: 3600,
    Session: 86400,
    Grant: 14 * 86400,
  },
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: {
      enabled: true,
      allowedPolicy: (ctx, client, token) => client.clientId === 'rs' || client.clientId === token.clientId,
    },
    revocation: { enabled: true },
    registrationManagement: { enabled: true, rotateRegistrationAccessToken: true },
    pushedAuthorizationRequests: { enabled: true },
    dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: (ctx) => needsNonce(ctx.oidc?.client) },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      tlsClientAuth: true,
      selfSignedTlsClientAuth: true,
      getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.(),
      certificateAuthorized: (ctx) => ctx.socket.authorized,
      certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_san_dns'
        && ctx.socket.getPeerX509Certificate().subjectAltName.split(', ').includes(`DNS:${expected}`),
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: (ctx, client, oneOf) => oneOf,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, resource) => {
        if (!Object.hasOwn(resources, resource)) throw new errors.InvalidTarget();
        return structuredClone(resources[resource]);
      },
    },
  },
};

const host = '127.0.0.1';
const log = [];

// The issuer has the port in it, so the provider comes after the listener.
async function listen(scheme, server, port) {
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, host, resolve));
  return { server, origin: `${scheme}://${host}:${server.address().port}` };
}

const plain = await listen('http', createHttp(), Number(process.env.PORT ?? 9400));
const secure = await listen('https', createHttps(tls), Number(process.env.TLS_PORT ?? 9443));
// Only here are clients asked for a certificate (RFC 8705 5).
const mutual = await listen('https', createHttps({ ...tls, ca, requestCert: true, rejectUnauthorized: false }), 0);
const hub = await listen('http', createHttp(), 0);

const interval = process.env.DEVICE_INTERVAL;

function provide(issuer, registration, discovery) {
  const provider = new Provider(issuer, { ...configuration, discovery, features: { ...configuration.features, registration } });
  addGrants(provider, signer);
  // oidc-provider says nothing of it, which means 5 s (RFC 8628 3.2).
  if (interval) {
    provider.use(async (ctx, next) => {
      await next();
      if (ctx.body?.device_code) ctx.body.interval = Number(interval);
    });
  }
  return provider;
}

const path = { token_endpoint: '/token', introspection_endpoint: '/token/introspection', revocation_endpoint: '/token/revocation', pushed_authorization_request_endpoint: '/request', device_authorization_endpoint: '/device/auth' };
const aliases = Object.fromEntries(Object.entries(path).map(([name, at]) => [name, mutual.origin + at]));

const plainProvider = provide(plain.origin, { enabled: true, initialAccessToken }, {});
const tokenURL = `${plain.origin}/google/token`;
const robot = serviceAccount(dir, tokenURL);
addGoogle(plainProvider, tokenURL, robot);
plain.server.on('request', logged(log, plainProvider.callback()));
const both = logged(log, provide(secure.origin, { enabled: true }, { mtls_endpoint_aliases: aliases }).callback());
secure.server.on('request', both);
mutual.server.on('request', both);
hub.server.on('request', logged(log, github(app.key, seconds('GITHUB_TTL', 3600))));

process.stdout.write(`${JSON.stringify({
  ready: true,
  issuer: plain.origin,
  tls_issuer: secure.origin,
  ca_file: caFile,
  secrets: Object.fromEntries(registered.map((client) => [client.client_id, client.client_secret])),
  initial_access_token: initialAccessToken,
  keys,
  passphrase,
  certificates: clientCertificates,
  service_account_file: robot.file,
  github: {
    url: hub.origin,
    app_id: githubApp.id,
    client_id: githubApp.client_id,
    key_file: app.file,
    installations: Object.fromEntries(githubApp.installations.map(({ id, account }) => [account.login, id])),
  },
  pid: process.pid,
})}\n`);
