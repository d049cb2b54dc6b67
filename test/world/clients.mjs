// Who may ask this server for what. Add a client here when a test needs it.

// At least 32 bytes, so that it will do for HS256 too.
const secret = 'secret-of-at-least-32-bytes-for-HS256-0123456789';

const clientCredentials = { grant_types: ['client_credentials'], response_types: [], redirect_uris: [] };

export const clients = [
  { client_id: 'cc-basic', client_secret: secret, token_endpoint_auth_method: 'client_secret_basic', scope: 'read write admin', ...clientCredentials },
  { client_id: 'cc-post', client_secret: secret, token_endpoint_auth_method: 'client_secret_post', scope: 'read write', ...clientCredentials },
  // What RFC 6749 2.3.1 says about form-encoding matters to this one.
  { client_id: 'cc weird:id+%', client_secret: `p@ss:w/rd +%25=&?#;"\\~${secret}`, token_endpoint_auth_method: 'client_secret_basic', scope: 'read', ...clientCredentials },
  { client_id: 'cc-expired', client_secret: secret, client_secret_expires_at: 1, token_endpoint_auth_method: 'client_secret_basic', scope: 'read', ...clientCredentials },
  // A resource server: it may introspect every token, and get none.
  { client_id: 'rs', client_secret: secret, token_endpoint_auth_method: 'client_secret_basic', ...clientCredentials, grant_types: [] },
];

// What an access token is like, by the resource (RFC 8707) that it is for.
export const resources = {
  'https://api.example/opaque': { audience: 'https://api.example/opaque', scope: 'read write', accessTokenFormat: 'opaque', accessTokenTTL: 300 },
  'https://api.example/jwt': { audience: 'https://api.example/jwt', scope: 'read write', accessTokenFormat: 'jwt', accessTokenTTL: 120, jwt: { sign: { alg: 'RS256' } } },
  'urn:example:short': { scope: 'read', accessTokenFormat: 'opaque', accessTokenTTL: 2 },
};
