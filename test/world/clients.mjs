// Who may ask this server for what. Add a client here when a test needs it.

// At least 32 bytes, so that it will do for HS256 too.
const secret = 'secret-of-at-least-32-bytes-for-HS256-0123456789';

const clientCredentials = { grant_types: ['client_credentials'], response_types: [], redirect_uris: [] };

const basic = { client_secret: secret, token_endpoint_auth_method: 'client_secret_basic' };

const deviceCode = 'urn:ietf:params:oauth:grant-type:device_code';
const userScope = 'openid offline_access profile email read write';

// The port of a loopback redirect is whatever the client listens on (RFC 8252 7.3).
const native = {
  application_type: 'native',
  redirect_uris: ['http://127.0.0.1/callback', 'http://[::1]/callback', 'http://localhost/callback'],
  response_types: ['code'],
  grant_types: ['authorization_code', 'refresh_token', deviceCode],
  scope: userScope,
};
const publicNative = { token_endpoint_auth_method: 'none', ...native };

const device = { redirect_uris: [], response_types: [], grant_types: [deviceCode, 'refresh_token'], scope: userScope };

// clients takes the public JWKs of those that sign, and the JWK with the
// certificate of the one that has no CA.
export const clients = (signers, selfSigned) => [
  { client_id: 'cc-basic', ...basic, scope: 'read write admin', ...clientCredentials },
  { client_id: 'cc-post', client_secret: secret, token_endpoint_auth_method: 'client_secret_post', scope: 'read write', ...clientCredentials },
  // What RFC 6749 2.3.1 says about form-encoding matters to this one.
  { client_id: 'cc weird:id+%', client_secret: `p@ss:w/rd +%25=&?#;"\\~${secret}`, token_endpoint_auth_method: 'client_secret_basic', scope: 'read', ...clientCredentials },
  { client_id: 'cc-expired', ...basic, client_secret_expires_at: 1, scope: 'read', ...clientCredentials },
  { client_id: 'cc-secret-jwt', client_secret: secret, token_endpoint_auth_method: 'client_secret_jwt', scope: 'read', ...clientCredentials },
  { client_id: 'cc-pkjwt', token_endpoint_auth_method: 'private_key_jwt', jwks: { keys: signers }, scope: 'read write', ...clientCredentials },
  { client_id: 'cc-dpop', ...basic, dpop_bound_access_tokens: true, scope: 'read', ...clientCredentials },
  { client_id: 'cc-dpop-nonce', ...basic, dpop_bound_access_tokens: true, scope: 'read', ...clientCredentials },
  { client_id: 'cc-mtls-ca', token_endpoint_auth_method: 'tls_client_auth', tls_client_auth_san_dns: 'cc-mtls-ca.test', tls_client_certificate_bound_access_tokens: true, scope: 'read', ...clientCredentials },
  { client_id: 'cc-mtls-self', token_endpoint_auth_method: 'self_signed_tls_client_auth', jwks: { keys: [selfSigned] }, tls_client_certificate_bound_access_tokens: true, scope: 'read', ...clientCredentials },

  { client_id: 'native', ...publicNative },
  { client_id: 'native-keep', ...publicNative },
  { client_id: 'native-once', ...publicNative, grant_types: ['authorization_code', deviceCode] },
  { client_id: 'native-dpop', ...publicNative, dpop_bound_access_tokens: true },
  { client_id: 'web', ...basic, ...native },
  { client_id: 'web-par', ...basic, ...native, require_pushed_authorization_requests: true },
  { client_id: 'device', token_endpoint_auth_method: 'none', ...device },
  { client_id: 'device-secret', ...basic, ...device },

  { client_id: 'bearer', token_endpoint_auth_method: 'none', redirect_uris: [], response_types: [], grant_types: ['urn:ietf:params:oauth:grant-type:jwt-bearer'], jwks: { keys: signers }, scope: 'read write' },
  { client_id: 'exchange', ...basic, redirect_uris: [], response_types: [], grant_types: ['urn:ietf:params:oauth:grant-type:token-exchange'] },
  // Google's requests name no client; these tokens are this one's.
  { client_id: 'google', token_endpoint_auth_method: 'none', redirect_uris: [], response_types: [], grant_types: [] },
  // A resource server: it may introspect every token, and get none.
  { client_id: 'rs', ...basic, ...clientCredentials, grant_types: [] },
];

// Whose refresh token stays the same when it is used.
export const keepsRefreshToken = (client) => client.clientId === 'native-keep';

// Whose DPoP proofs must have a nonce.
export const needsNonce = (client) => client?.clientId === 'cc-dpop-nonce';

// What an access token is like, by the resource (RFC 8707) that it is for.
export const resources = {
  'https://api.example/opaque': { audience: 'https://api.example/opaque', scope: 'read write', accessTokenFormat: 'opaque', accessTokenTTL: 300 },
  'https://api.example/jwt': { audience: 'https://api.example/jwt', scope: 'read write', accessTokenFormat: 'jwt', accessTokenTTL: 120, jwt: { sign: { alg: 'RS256' } } },
  'urn:example:short': { scope: 'read', accessTokenFormat: 'opaque', accessTokenTTL: 2 },
};

// For whom a token may be exchanged (RFC 8693).
export const audiences = ['billing', 'https://other.example'];

// What a service account may ask for, and whom it may be (domain-wide delegation).
export const google = {
  scopes: ['https://www.googleapis.com/auth/cloud-platform', 'https://www.googleapis.com/auth/drive.readonly'],
  subjects: ['alice@example.com'],
};

const repository = (id, owner, name) => ({ id, name, full_name: `${owner}/${name}`, private: true, owner: { login: owner } });

// Where the GitHub App is installed, and what it may do there.
export const githubApp = {
  id: 1234567,
  client_id: 'Iv23liTestWorldApp01',
  permissions: { contents: 'read', issues: 'write', metadata: 'read' },
  installations: [
    { id: 51000001, account: { login: 'octo-org', type: 'Organization' }, repositories: [repository(61, 'octo-org', 'widgets'), repository(62, 'octo-org', 'gadgets')] },
    { id: 51000002, account: { login: 'octocat', type: 'User' }, repositories: [repository(63, 'octocat', 'hello-world')] },
    { id: 51000003, account: { login: 'asleep', type: 'Organization' }, repositories: [], suspended_at: '2025-01-01T00:00:00Z' },
  ],
};
