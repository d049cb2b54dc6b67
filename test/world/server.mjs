// The authorization server: npm oidc-provider, configured. See README.md.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttp } from 'node:http';
import { createServer as createHttps } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { clients, resources } from './clients.mjs';
import { certificates, signingKey } from './fixtures.mjs';
import { logged } from './log.mjs';

// oidc-provider 9 is made for Node 22; this is all that 20 lacks. It must be
// there before the package is loaded.
URL.parse ??= (url, base) => { try { return new URL(url, base); } catch { return null; } };
const { Provider, errors } = await import('oidc-provider');

const configuration = {
  clients,
  jwks: { keys: [signingKey()] },
  scopes: ['read', 'write', 'admin'],
  clientAuthMethods: ['client_secret_basic', 'client_secret_post'],
  ttl: {
    ClientCredentials: (ctx, token) => token.resourceServer?.accessTokenTTL ?? Number(process.env.CC_TTL ?? 600),
  },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: {
      enabled: true,
      allowedPolicy: (ctx, client, token) => client.clientId === 'rs' || client.clientId === token.clientId,
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: (ctx, client, oneOf) => oneOf,
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
async function serve(scheme, server, port) {
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, host, resolve));
  const issuer = `${scheme}://${host}:${server.address().port}`;
  server.on('request', logged(log, new Provider(issuer, configuration).callback()));
  return issuer;
}

const { ca, key, cert } = certificates();
const dir = mkdtempSync(join(tmpdir(), 'world-'));
const caFile = join(dir, 'ca.crt');
writeFileSync(caFile, ca);
process.on('exit', () => rmSync(dir, { recursive: true }));
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0));
if (process.argv.includes('--stdin')) process.stdin.on('end', () => process.exit(0)).resume();

const issuer = await serve('http', createHttp(), Number(process.env.PORT ?? 9400));
const tlsIssuer = await serve('https', createHttps({ key, cert }), Number(process.env.TLS_PORT ?? 9443));
const secrets = Object.fromEntries(clients.map((c) => [c.client_id, c.client_secret]));
process.stdout.write(`${JSON.stringify({ ready: true, issuer, tls_issuer: tlsIssuer, ca_file: caFile, secrets, pid: process.pid })}\n`);
