// The grants that oidc-provider leaves to its user: RFC 7523 as anyone may use
// it and as Google does, and RFC 8693. Signatures are checked by jose.
import { randomUUID } from 'node:crypto';
import { createLocalJWKSet, importJWK, jwtVerify, SignJWT } from 'jose';
import { errors } from 'oidc-provider';
import { audiences, google, resources } from './clients.mjs';

const jwtBearer = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const tokenExchange = 'urn:ietf:params:oauth:grant-type:token-exchange';
const accessTokenType = 'urn:ietf:params:oauth:token-type:access_token';
const idJag = 'urn:ietf:params:oauth:token-type:id-jag';

const many = (param) => [].concat(param ?? []);
const words = (text) => (text ?? '').split(' ').filter(Boolean);
const outside = (wanted, allowed) => wanted.find((word) => !allowed.includes(word));

// verified returns the claims of an assertion that has all RFC 7523 3 asks
// for: made by issuer, for one of audiences, within the hour, and not seen
// before. No clock but the maker's may be wrong, and that by a minute.
async function verified(provider, assertion, { key, algorithms, issuer, recipients }) {
  let payload;
  try {
    ({ payload } = await jwtVerify(assertion, key, { algorithms, issuer, requiredClaims: ['iat', 'exp', 'aud'] }));
  } catch (cause) {
    throw new errors.InvalidGrant(`invalid assertion: ${cause.code}`, undefined, { cause });
  }
  const { aud, iat, exp, jti } = payload;
  if (!recipients.includes(aud)) throw new errors.InvalidGrant('invalid assertion: aud is not this endpoint');
  if (iat > Date.now() / 1000 + 60) throw new errors.InvalidGrant('invalid assertion: iat is in the future');
  if (exp - iat > 3600) throw new errors.InvalidGrant('invalid assertion: lives for more than an hour');
  if (jti !== undefined && !await provider.ReplayDetection.unique(issuer, jti, exp)) {
    throw new errors.InvalidGrant('invalid assertion: seen before');
  }
  return payload;
}

async function answer(ctx, token, rest) {
  const value = await token.save();
  ctx.body = { access_token: value, token_type: token.tokenType, expires_in: token.expiration, scope: token.scope || undefined, ...rest };
}

// A client asserts by its own registered key who a token is for.
async function bearer(provider, ctx) {
  const { params: { assertion, scope }, client } = ctx.oidc;
  if (!assertion) throw new errors.InvalidRequest("missing required parameter 'assertion'");
  const { sub } = await verified(provider, assertion, {
    key: createLocalJWKSet(client.jwks),
    algorithms: ['RS256', 'PS256', 'ES256', 'EdDSA'],
    issuer: client.clientId,
    recipients: [provider.issuer, ctx.oidc.urlFor('token')],
  });
  if (typeof sub !== 'string' || sub === '') throw new errors.InvalidGrant('invalid assertion: no sub');
  const excess = outside(words(scope), words(client.scope));
  if (excess) throw new errors.InvalidScope('requested scope is not allowed', excess);
  const token = new provider.ClientCredentials({ client, scope });
  token.claimed = { sub };
  await answer(ctx, token);
}

// What Google's token endpoint does with a service account's assertion: who
// asks, for what and for whom stands there, and there only.
async function serviceAccount(provider, tokenURL, { account, key }, ctx) {
  if (!ctx.is('application/x-www-form-urlencoded')) throw new errors.InvalidRequest('the body is no form');
  const chunks = [];
  for await (const chunk of ctx.req) chunks.push(chunk);
  const form = new URLSearchParams(Buffer.concat(chunks).toString());
  if (form.get('grant_type') !== jwtBearer) throw new errors.UnsupportedGrantType(`Invalid grant_type: ${form.get('grant_type')}`);
  if (!form.get('assertion')) throw new errors.InvalidRequest('Missing required parameter: assertion');
  const { scope, sub } = await verified(provider, form.get('assertion'), {
    key: ({ kid }) => {
      if (kid !== account.private_key_id) throw Object.assign(new Error(), { code: 'unknown kid' });
      return key;
    },
    algorithms: ['RS256'],
    issuer: account.client_email,
    recipients: [tokenURL],
  });
  const wanted = typeof scope === 'string' ? words(scope) : [];
  if (wanted.length === 0) throw new errors.InvalidScope('Empty or missing scope not allowed.');
  const excess = outside(wanted, google.scopes);
  if (excess) throw new errors.InvalidScope('Some requested scopes were invalid.', excess);
  if (sub !== undefined && sub !== account.client_email && !google.subjects.includes(sub)) {
    throw new errors.UnauthorizedClient('Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested.');
  }
  const token = new provider.ClientCredentials({ client: await provider.Client.find('google'), scope: wanted.join(' ') });
  token.claimed = { sub: sub ?? account.client_email };
  await answer(ctx, token);
}

// living returns what this server knows of an access token of its own.
async function living(provider, publicKeys, value, type, name) {
  if (type !== accessTokenType) throw new errors.InvalidRequest(`${name}_type is not ${accessTokenType}`);
  const token = await provider.AccessToken.find(value) ?? await provider.ClientCredentials.find(value);
  if (token) {
    if (token.isSenderConstrained()) throw new errors.InvalidRequest(`${name} is bound to a key`);
    return { sub: token.accountId ?? token.clientId, scope: token.scope };
  }
  try {
    const { payload } = await jwtVerify(value, publicKeys, { algorithms: ['RS256'], issuer: provider.issuer, typ: 'at+jwt' });
    if (payload.cnf) throw new errors.InvalidRequest(`${name} is bound to a key`);
    return payload;
  } catch (cause) {
    if (cause instanceof errors.InvalidRequest) throw cause;
    throw new errors.InvalidRequest(`${name} is invalid`, undefined, { cause });
  }
}

async function exchange(provider, signer, publicKeys, ctx) {
  const { params, client } = ctx.oidc;
  for (const name of ['subject_token', 'subject_token_type']) {
    if (!params[name]) throw new errors.InvalidRequest(`missing required parameter '${name}'`);
  }
  if (!params.actor_token !== !params.actor_token_type) throw new errors.InvalidRequest('actor_token and actor_token_type go together');
  const subject = await living(provider, publicKeys, params.subject_token, params.subject_token_type, 'subject_token');
  const actor = params.actor_token && await living(provider, publicKeys, params.actor_token, params.actor_token_type, 'actor_token');
  const wantedAudiences = many(params.audience);
  const wantedResources = many(params.resource);
  const target = outside(wantedAudiences, audiences) ?? outside(wantedResources, Object.keys(resources));
  if (target !== undefined) throw new errors.InvalidTarget();
  const scope = params.scope ?? subject.scope;
  const excess = outside(words(scope), words(subject.scope));
  if (excess) throw new errors.InvalidScope('subject_token has less scope', excess);
  const claimed = { sub: subject.sub, ...(actor && { act: { sub: actor.sub } }) };

  switch (params.requested_token_type) {
    case undefined:
    case accessTokenType: {
      if (wantedAudiences.length + wantedResources.length > 1) throw new errors.InvalidTarget('a token is for one audience');
      const token = new provider.ClientCredentials({ client, scope });
      if (wantedAudiences.length) token.aud = wantedAudiences[0];
      if (wantedResources.length) token.resourceServer = new provider.ResourceServer(wantedResources[0], structuredClone(resources[wantedResources[0]]));
      token.claimed = claimed;
      await answer(ctx, token, { issued_token_type: accessTokenType });
      return;
    }
    // An assertion for another authorization server, of no use as an access token.
    case idJag: {
      if (wantedAudiences.length !== 1) throw new errors.InvalidRequest('an ID-JAG is for one audience');
      const expiresIn = 300;
      const now = Math.floor(Date.now() / 1000);
      const jwt = await new SignJWT({ ...claimed, client_id: client.clientId, scope, ...(wantedResources.length && { resource: wantedResources }) })
        .setProtectedHeader({ alg: signer.alg, kid: signer.kid, typ: 'oauth-id-jag+jwt' })
        .setIssuer(provider.issuer).setAudience(wantedAudiences[0]).setJti(randomUUID()).setIssuedAt(now).setExpirationTime(now + expiresIn)
        .sign(await importJWK(signer));
      ctx.body = { access_token: jwt, issued_token_type: idJag, token_type: 'N_A', expires_in: expiresIn, scope: scope || undefined };
      return;
    }
    default:
      throw new errors.InvalidRequest('requested_token_type is not supported');
  }
}

// addGrants has provider's token endpoint answer these grants, and sign with
// its own key what it has to sign.
export function addGrants(provider, signer) {
  const { kty, n, e, kid, alg } = signer;
  const publicKeys = createLocalJWKSet({ keys: [{ kty, n, e, kid, alg }] });
  provider.registerGrantType(jwtBearer, (ctx) => bearer(provider, ctx), ['assertion', 'scope']);
  provider.registerGrantType(
    tokenExchange,
    (ctx) => exchange(provider, signer, publicKeys, ctx),
    ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type', 'audience', 'resource', 'scope'],
    ['audience', 'resource'],
  );
}

// addGoogle has provider answer as Google does. The endpoint is one of its own
// because Google's requests name no client.
export function addGoogle(provider, tokenURL, robot) {
  const { pathname } = new URL(tokenURL);
  provider.use(async (ctx, next) => {
    if (ctx.path !== pathname || ctx.method !== 'POST') return next();
    ctx.set('cache-control', 'no-store');
    try {
      await serviceAccount(provider, tokenURL, robot, ctx);
    } catch (err) {
      if (!(err instanceof errors.OIDCProviderError)) throw err;
      ctx.status = err.statusCode;
      ctx.body = { error: err.error, error_description: err.error_description };
    }
  });
}
