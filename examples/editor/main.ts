// node main.ts [--start] PROFILE... prints a line per change, as an editor's status
// bar would show it.

import { parseArgs } from "node:util";

import { connectionText, profileText } from "./statusbar.ts";
import { TokenWatcher } from "./tokens.ts";

const { values, positionals } = parseArgs({
  options: { start: { type: "boolean", default: false } },
  allowPositionals: true,
});
if (positionals.length === 0) {
  console.error("usage: node main.ts [--start] PROFILE...");
  process.exit(2);
}
const watcher = new TokenWatcher(positionals, values)
  .on("connection", (problem) => console.log(connectionText(problem)))
  .on("state", (profile, state) => console.log(profileText(profile, state)));
process.once("SIGINT", () => watcher.dispose());
process.once("SIGTERM", () => watcher.dispose());
