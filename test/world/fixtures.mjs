// Keys and certificates, made anew for every server. Needs the openssl program.
import { execFileSync } from 'node:child_process';
import { createPrivateKey, generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

// signingKey returns a private JWK for RS256. It goes through PEM because Node
// 20 can deadlock if the generated key itself is exported: that holds the key's
// mutex, and should the garbage collector run then, it frees the generator,
// which wants the same mutex.
export function signingKey() {
  const { privateKey: pem } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
  return { ...createPrivateKey(pem).export({ format: 'jwk' }), kid: 'rs256', use: 'sig', alg: 'RS256' };
}

// certificates returns the PEM of a CA, and of a loopback server's key and
// certificate signed by it. The CA's key is forgotten.
export function certificates() {
  const dir = mkdtempSync(join(tmpdir(), 'world-'));
  try {
    const openssl = (...args) => execFileSync('openssl', args, { cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
    const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    openssl('req', '-x509', ...newKey, '-days', '2', '-subj', '/CN=Test World CA',
      '-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign',
      '-keyout', 'ca.key', '-out', 'ca.crt');
    writeFileSync(join(dir, 'server.ext'), 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n');
    openssl('req', ...newKey, '-subj', '/CN=localhost', '-keyout', 'server.key', '-out', 'server.csr');
    openssl('x509', '-req', '-in', 'server.csr', '-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial',
      '-days', '2', '-extfile', 'server.ext', '-out', 'server.crt');
    const read = (name) => readFileSync(join(dir, name), 'utf8');
    return { ca: read('ca.crt'), key: read('server.key'), cert: read('server.crt') };
  } finally {
    rmSync(dir, { recursive: true });
  }
}
