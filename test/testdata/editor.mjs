// Drives examples/editor for editor_example_test.go: prints what a TokenWatcher says
// as lines of JSON, and obeys lines of JSON on standard input until that ends.
//
//     node editor.mjs RESOURCE PROFILE...
//
// Each token that follows another one is tried at RESOURCE at once, and so is the
// one before it.

import { createInterface } from "node:readline/promises";
import { inspect } from "node:util";

import { TokenWatcher } from "../../examples/editor/tokens.ts";

const [resource, ...profiles] = process.argv.slice(2);
const say = (event) => console.log(JSON.stringify({ ...event, at: Math.round(performance.now()) }));
const watcher = new TokenWatcher(profiles, { timeout: 5_000 });
const last = new Map();

watcher.on("connection", (problem) => say({ event: "connection", ...problem }));
watcher.on("refused", (profile, message) => say({ event: "refused", profile, message }));
watcher.on("state", async (profile, { token, problem }) => {
  say({ event: "state", profile, fingerprint: token?.fingerprint, ...problem });
  if (!token) {
    last.delete(profile);
    return;
  }
  const before = last.get(profile);
  last.set(profile, token);
  if (before && before.fingerprint !== token.fingerprint) {
    const left = before.expiresAt - Date.now();
    const [old, now] = await Promise.all([before, token].map(status));
    say({ event: "renewed", profile, left, old, now });
  }
});

async function status(token) {
  const response = await fetch(resource, { headers: { Authorization: token.header } });
  await response.text();
  return response.status;
}

const commands = {
  async fetch({ profile, url, stream }) {
    const body = stream && new Blob(["x"]).stream();
    const init = body ? { method: "POST", body, duplex: "half" } : {};
    const response = await watcher.fetch(profile, url, init);
    await response.text();
    return { status: response.status };
  },
  async header({ profile }) {
    return { scheme: (await watcher.header(profile)).split(" ")[0] };
  },
  async show({ profile }) {
    const { token } = watcher.state(profile);
    return { message: inspect([watcher, token], { depth: Infinity, showHidden: true }) + JSON.stringify(token) + `${token}` };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    say({ event: "answer", ...(await commands[command.do](command)) });
  } catch (err) {
    say({ event: "answer", error: err.message });
  }
}
watcher.dispose();
