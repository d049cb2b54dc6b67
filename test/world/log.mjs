// Keeps what the server was really asked: GET and DELETE /_world/log.
import { createHash } from 'node:crypto';

const open = new Set([
  'actor_token_type', 'audience', 'client_assertion_type', 'client_id', 'code_challenge_method', 'grant_type', 'redirect_uri',
  'requested_token_type', 'resource', 'response_type', 'scope', 'subject_token_type', 'token_type_hint',
]);
const digest = (value) => `sha256:${createHash('sha256').update(value).digest('hex').slice(0, 8)}`;

export function logged(log, handler) {
  return (req, res) => {
    const path = req.url.split('?')[0];
    if (path === '/_world/log') {
      if (req.method === 'DELETE') log.length = 0;
      res.setHeader('content-type', 'application/json');
      res.end(JSON.stringify(log));
      return;
    }
    const entry = { time: new Date().toISOString(), method: req.method, path, auth: req.headers.authorization?.split(' ')[0] ?? '', form: {}, status: 0 };
    log.push(entry);
    // The body is looked at while the server reads it; only the server consumes it.
    const chunks = [];
    const { push } = req;
    req.push = function (chunk, ...rest) {
      if (chunk) {
        chunks.push(chunk);
      } else if (/urlencoded/.test(req.headers['content-type'])) {
        for (const [name, value] of new URLSearchParams(Buffer.concat(chunks).toString())) {
          (entry.form[name] ??= []).push(open.has(name) ? value : digest(value));
        }
      }
      return push.call(this, chunk, ...rest);
    };
    // Before the client can have the answer, it is in the log.
    const { writeHead } = res;
    res.writeHead = function (status, ...rest) {
      entry.status = status;
      return writeHead.call(this, status, ...rest);
    };
    handler(req, res);
  };
}
