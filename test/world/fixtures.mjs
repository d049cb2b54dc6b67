// Keys and certificates, made anew for every server. Needs the openssl program.
import { execFileSync } from 'node:child_process';
import { createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes, X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

// newKey returns a private key. It goes through PEM because Node 20 can
// deadlock if the generated key itself is exported: that holds the key's
// mutex, and should the garbage collector run then, it frees the generator,
// which wants the same mutex.
function newKey(type, options) {
  const { privateKey: pem } = generateKeyPairSync(type, {
    ...options,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
  return createPrivateKey(pem);
}

const newRSA = () => newKey('rsa', { modulusLength: 2048 });
const pem = (key, type) => key.export({ type, format: 'pem' });
const named = (key, alg) => ({ ...key.export({ format: 'jwk' }), kid: alg.toLowerCase(), use: 'sig', alg });

// signingKey returns the server's own private JWK.
export const signingKey = () => named(newRSA(), 'RS256');

// Opens the encrypted keys.
export const passphrase = randomBytes(12).toString('base64url');

function save(dir, name, text) {
  const file = join(dir, name);
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}

// clientKeys makes a key for each algorithm. It returns the files of each one,
// by algorithm, and the public JWKs.
export function clientKeys(dir) {
  const made = {
    RS256: newRSA(),
    PS256: newRSA(),
    ES256: newKey('ec', { namedCurve: 'prime256v1' }),
    EdDSA: newKey('ed25519'),
  };
  const files = {};
  const signers = [];
  for (const [alg, key] of Object.entries(made)) {
    const kid = alg.toLowerCase();
    files[alg] = {
      kid,
      pkcs8: save(dir, `${kid}.pkcs8.pem`, pem(key, 'pkcs8')),
      encrypted: save(dir, `${kid}.encrypted.pem`, key.export({ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase })),
      jwk: save(dir, `${kid}.jwk`, JSON.stringify(named(key, alg))),
    };
    if (key.asymmetricKeyType === 'rsa') files[alg].pkcs1 = save(dir, `${kid}.pkcs1.pem`, pem(key, 'pkcs1'));
    if (key.asymmetricKeyType === 'ec') files[alg].sec1 = save(dir, `${kid}.sec1.pem`, pem(key, 'sec1'));
    signers.push(named(createPublicKey(key), alg));
  }
  return { files, signers };
}

// serviceAccount returns a file as Google's console downloads it, what is in
// it, and the public key.
export function serviceAccount(dir, tokenURL) {
  const key = newRSA();
  const email = 'robot@test-world.iam.gserviceaccount.com';
  const account = {
    type: 'service_account',
    project_id: 'test-world',
    private_key_id: randomBytes(20).toString('hex'),
    private_key: pem(key, 'pkcs8'),
    client_email: email,
    client_id: '104857600000000000001',
    auth_uri: 'https://accounts.google.com/o/oauth2/auth',
    token_uri: tokenURL,
    auth_provider_x509_cert_url: 'https://www.googleapis.com/oauth2/v1/certs',
    client_x509_cert_url: `https://www.googleapis.com/robot/v1/metadata/x509/${encodeURIComponent(email)}`,
    universe_domain: 'googleapis.com',
  };
  return { file: save(dir, 'service-account.json', `${JSON.stringify(account, null, 2)}\n`), account, key: createPublicKey(key) };
}

// appKey returns a file as GitHub downloads it, and the public key.
export function appKey(dir) {
  const key = newRSA();
  return { file: save(dir, 'github-app.private-key.pem', pem(key, 'pkcs1')), key: createPublicKey(key) };
}

// certificates returns the PEM of a CA, and of a loopback server's key and
// certificate signed by it, and the files of the clients' certificates. The
// CA's key is forgotten.
export function certificates(dir) {
  const work = join(dir, 'making');
  mkdirSync(work);
  try {
    const openssl = (...args) => execFileSync('openssl', args, { cwd: work, stdio: ['ignore', 'ignore', 'pipe'] });
    const newEC = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    const selfSigned = (name, subject, ...rest) => openssl('req', '-x509', ...newEC, '-days', '2', '-subj', subject, ...rest, '-keyout', `${name}.key`, '-out', `${name}.crt`);
    const authority = (name, subject) => selfSigned(name, subject, '-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign');
    const leaf = (name, by, subject, names, usage) => {
      writeFileSync(join(work, `${name}.ext`), `subjectAltName=${names}\nextendedKeyUsage=${usage}\nbasicConstraints=CA:FALSE\n`);
      openssl('req', ...newEC, '-subj', subject, '-keyout', `${name}.key`, '-out', `${name}.csr`);
      openssl('x509', '-req', '-in', `${name}.csr`, '-CA', `${by}.crt`, '-CAkey', `${by}.key`, '-CAcreateserial', '-days', '2', '-extfile', `${name}.ext`, '-out', `${name}.crt`);
    };
    authority('ca', '/CN=Test World CA');
    authority('other', '/CN=Test World CA');
    leaf('server', 'ca', '/CN=localhost', 'DNS:localhost,IP:127.0.0.1,IP:::1', 'serverAuth');
    leaf('client', 'ca', '/CN=cc-mtls-ca', 'DNS:cc-mtls-ca.test', 'clientAuth');
    leaf('stranger', 'other', '/CN=cc-mtls-ca', 'DNS:cc-mtls-ca.test', 'clientAuth');
    selfSigned('self-signed', '/CN=cc-mtls-self');
    const read = (name) => readFileSync(join(work, name), 'utf8');
    const pair = (name) => ({ cert: save(dir, `${name}.crt`, read(`${name}.crt`)), key: save(dir, `${name}.key`, read(`${name}.key`)) });
    const { publicKey, raw } = new X509Certificate(read('self-signed.crt'));
    return {
      ca: read('ca.crt'),
      caFile: save(dir, 'ca.crt', read('ca.crt')),
      server: { key: read('server.key'), cert: read('server.crt') },
      files: { ca: pair('client'), self_signed: pair('self-signed'), stranger: pair('stranger') },
      selfSigned: { ...publicKey.export({ format: 'jwk' }), x5c: [raw.toString('base64')] },
    };
  } finally {
    rmSync(work, { recursive: true });
  }
}
