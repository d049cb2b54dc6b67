// The part of GitHub's REST API that an App signs in by, as it is documented at
// docs.github.com/en/rest/apps.
import { randomBytes } from 'node:crypto';
import { jwtVerify } from 'jose';
import { githubApp as app } from './clients.mjs';

const documentation = 'https://docs.github.com/rest';
const levels = ['read', 'write', 'admin'];
const seconds = (time) => new Date(time).toISOString().replace(/\.\d+Z$/, 'Z');

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// authenticateApp refuses all but a JWT of the app's key that began at most a
// minute from now and ends within ten.
async function authenticateApp(req, key) {
  const [scheme, jwt] = (req.headers.authorization ?? '').split(' ');
  if (scheme.toLowerCase() !== 'bearer' || !jwt) throw new Refusal(401, 'Requires authentication');
  let payload;
  try {
    ({ payload } = await jwtVerify(jwt, key, { algorithms: ['RS256'] }));
  } catch (err) {
    if (err.code === 'ERR_JWT_EXPIRED') throw new Refusal(401, "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires");
    throw new Refusal(401, 'A JSON web token could not be decoded');
  }
  const now = Date.now() / 1000;
  const { iss, iat, exp } = payload;
  if (![app.id, `${app.id}`, app.client_id].includes(iss)) throw new Refusal(401, 'A JSON web token could not be decoded');
  if (typeof iat !== 'number' || iat > now + 60) throw new Refusal(401, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued");
  if (typeof exp !== 'number') throw new Refusal(401, "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires");
  if (exp > now + 600) throw new Refusal(401, "'Expiration time' claim ('exp') is too far in the future");
}

async function json(req) {
  const chunks = [];
  for await (const chunk of req) chunks.push(chunk);
  if (chunks.length === 0) return {};
  try {
    return JSON.parse(Buffer.concat(chunks).toString());
  } catch {
    throw new Refusal(400, 'Problems parsing JSON');
  }
}

// A token has what the installation has, or less if less is asked for.
function permissionsOf(wanted) {
  if (!wanted) return app.permissions;
  for (const [name, level] of Object.entries(wanted)) {
    const granted = levels.indexOf(app.permissions[name]);
    if (!levels.includes(level) || levels.indexOf(level) > granted) throw new Refusal(422, 'The permissions requested are not granted to this installation.');
  }
  return { ...wanted, metadata: 'read' };
}

function repositoriesOf(installation, { repositories, repository_ids: ids }) {
  const wanted = [...(repositories ?? []).map((name) => ['name', name]), ...(ids ?? []).map((id) => ['id', id])];
  if (wanted.length === 0) return undefined;
  return wanted.map(([field, value]) => {
    const found = installation.repositories.find((repository) => repository[field] === value);
    if (!found) throw new Refusal(422, 'There is at least one repository that does not exist or is not accessible to the parent installation.');
    return found;
  });
}

export function github(key, lifetime) {
  const tokens = new Map();

  const described = (origin, { id, account, suspended_at: suspended = null }) => ({
    id,
    account,
    app_id: app.id,
    client_id: app.client_id,
    target_type: account.type,
    repository_selection: 'all',
    access_tokens_url: `${origin}/app/installations/${id}/access_tokens`,
    repositories_url: `${origin}/installation/repositories`,
    permissions: app.permissions,
    events: [],
    suspended_at: suspended,
  });

  const byOwner = (login, type) => app.installations.find(({ account }) => account.login.toLowerCase() === login.toLowerCase() && (!type || account.type === type));

  function authenticateInstallation(req) {
    const [scheme, value] = (req.headers.authorization ?? '').split(' ');
    const token = ['bearer', 'token'].includes(scheme.toLowerCase()) && tokens.get(value);
    if (!token || token.expires <= Date.now()) throw new Refusal(401, 'Bad credentials');
    return value;
  }

  const found = (value) => {
    if (!value) throw new Refusal(404, 'Not Found');
    return value;
  };

  // What the app's JWT is for.
  const asApp = [
    ['GET', /^\/app$/, () => [200, {
      id: app.id,
      client_id: app.client_id,
      slug: 'test-world',
      name: 'Test World',
      permissions: app.permissions,
      events: [],
      installations_count: app.installations.length,
    }]],
    ['GET', /^\/app\/installations$/, (origin) => [200, app.installations.map((installation) => described(origin, installation))]],
    ['GET', /^\/orgs\/(?<org>[^/]+)\/installation$/, (origin, { org }) => [200, described(origin, found(byOwner(org, 'Organization')))]],
    ['GET', /^\/users\/(?<user>[^/]+)\/installation$/, (origin, { user }) => [200, described(origin, found(byOwner(user)))]],
    ['GET', /^\/repos\/(?<owner>[^/]+)\/(?<name>[^/]+)\/installation$/, (origin, { owner, name }) => {
      const installation = found(byOwner(owner));
      found(installation.repositories.find((repository) => repository.name.toLowerCase() === name.toLowerCase()));
      return [200, described(origin, installation)];
    }],
    ['POST', /^\/app\/installations\/(?<number>\d+)\/access_tokens$/, async (origin, { number }, req) => {
      const wanted = await json(req);
      const installation = found(app.installations.find(({ id }) => `${id}` === number));
      if (installation.suspended_at) throw new Refusal(403, 'This installation has been suspended');
      const permissions = permissionsOf(wanted.permissions);
      const repositories = repositoriesOf(installation, wanted);
      const token = `ghs_${randomBytes(27).toString('base64url').replace(/[-_]/g, 'x')}`;
      const expires = Math.floor(Date.now() / 1000 + lifetime) * 1000;
      tokens.set(token, { expires, repositories: repositories ?? installation.repositories });
      return [201, { token, expires_at: seconds(expires), permissions, repository_selection: repositories ? 'selected' : 'all', repositories }];
    }],
  ];

  // And what an installation's token is for.
  const asInstallation = [
    ['GET', /^\/installation\/repositories$/, (token) => {
      const { repositories } = tokens.get(token);
      return [200, { total_count: repositories.length, repositories }];
    }],
    ['DELETE', /^\/installation\/token$/, (token) => {
      tokens.delete(token);
      return [204];
    }],
  ];

  async function answer(req) {
    const { origin, pathname: path } = new URL(req.url, `http://${req.headers.host}`);
    const pathname = path.replace(/^\/api\/v3(?=\/)/, ''); // where GitHub Enterprise Server has it
    for (const [routes, authenticated] of [
      [asApp, async () => { await authenticateApp(req, key); return origin; }],
      [asInstallation, () => authenticateInstallation(req)],
    ]) {
      for (const [method, pattern, handler] of routes) {
        const match = req.method === method && pattern.exec(pathname);
        if (match) return handler(await authenticated(), match.groups, req);
      }
    }
    throw new Refusal(404, 'Not Found');
  }

  return async (req, res) => {
    let status;
    let body;
    try {
      if (!req.headers['user-agent']) throw new Refusal(403, 'Request forbidden by administrative rules. Please make sure your request has a User-Agent header');
      [status, body] = await answer(req);
    } catch (err) {
      if (!(err instanceof Refusal)) throw err;
      ({ status } = err);
      body = { message: err.message, documentation_url: documentation, status: `${status}` };
    }
    res.writeHead(status, body && { 'content-type': 'application/json; charset=utf-8' });
    res.end(body && JSON.stringify(body));
  };
}
