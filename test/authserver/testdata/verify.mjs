// Verifies a JWT access token against a JWK set with nothing but node:crypto.
// Standard input: {"jwks":…,"token":…}. Prints the claims, or fails.
import { createPublicKey, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';

const { jwks, token } = JSON.parse(readFileSync(0, 'utf8'));
const [header, claims, signature] = token.split('.');
const decode = (part) => JSON.parse(Buffer.from(part, 'base64url').toString());
const { alg, typ, kid } = decode(header);
const jwk = jwks.keys.find((k) => k.kid === kid && k.alg === alg);
if (typ !== 'at+jwt' || !jwk) throw new Error('no such key');
const digest = { RS256: 'sha256', EdDSA: null }[alg];
const key = createPublicKey({ key: jwk, format: 'jwk' });
if (!verify(digest, Buffer.from(`${header}.${claims}`), key, Buffer.from(signature, 'base64url'))) {
  throw new Error('wrong signature');
}
process.stdout.write(JSON.stringify(decode(claims)));
