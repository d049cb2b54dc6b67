// Where tokend listens, and whether it is this user's. tokenctl goes by the same
// rules; it alone reads the configuration file.

import { lstatSync, readFileSync, type Stats } from "node:fs";
import { connect } from "node:net";
import { homedir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";

/** Nobody listens on any of the sockets that tokend may have. */
export class NotRunningError extends Error {
  override name = "NotRunningError";

  constructor() {
    super("tokend is not running");
  }
}

/**
 * Returns the path of the socket that tokend listens on. Throws NotRunningError,
 * or an error that says why a socket is not to be used: somebody else could have
 * put it there.
 */
export async function findSocket(): Promise<string> {
  for (const path of socketPaths()) {
    if (isOurs(path) && (await listens(path))) {
      return path;
    }
  }
  throw new NotRunningError();
}

function socketPaths(): string[] {
  const paths = [setting("TOKEND_SOCKET") ?? join(runtimeDir(), "tokend.sock")];
  // The lock of the store names the socket of the daemon that has it, wherever
  // an editor that was started from a desktop would look for it.
  const store = setting("TOKEND_DIR") ?? join(xdg("XDG_DATA_HOME", ".local/share"), "tokend");
  try {
    const [holder, end] = readFileSync(join(store, "lock"), "utf8").split("\n");
    // Without its newline the name may be half-written.
    if (holder && end !== undefined) {
      paths.push(holder);
    }
  } catch {
    // There has been no daemon yet.
  }
  return paths;
}

/** A setting that is a path, or undefined. */
export function setting(name: "TOKEND_SOCKET" | "TOKEND_DIR"): string | undefined {
  const value = process.env[name]?.replace(/^~\//, homedir() + "/");
  if (value && !isAbsolute(value)) {
    throw new Error(`${name} must be an absolute path`);
  }
  return value || undefined;
}

function runtimeDir(): string {
  for (const dir of [process.env["XDG_RUNTIME_DIR"] ?? "", `/run/user/${process.geteuid?.()}`]) {
    const stats = isAbsolute(dir) && stat(dir);
    if (stats && stats.isDirectory() && stats.uid === process.geteuid?.()) {
      return join(dir, "tokend");
    }
  }
  return join(xdg("XDG_STATE_HOME", ".local/state"), "tokend", "run");
}

function xdg(name: string, fallback: string): string {
  const dir = process.env[name] ?? "";
  return isAbsolute(dir) ? dir : join(homedir(), fallback);
}

/**
 * Says whether there is a socket at path. Throws where somebody else could have
 * put it there. Node cannot ask who is at the other end, as tokenctl does besides.
 */
function isOurs(path: string): boolean {
  const dir = dirname(path);
  for (const [name, stats, is] of [
    [dir, stat(dir), (s: Stats) => s.isDirectory()],
    [path, stat(path), (s: Stats) => s.isSocket()],
  ] as const) {
    if (!stats) {
      return false;
    }
    if (!is(stats)) {
      throw new Error(`${name} is not what it should be for tokend's socket`);
    }
    if (stats.uid !== process.geteuid?.()) {
      throw new Error(`${name} belongs to user ${stats.uid}: tokend's socket cannot be there`);
    }
    if (stats.mode & 0o077) {
      throw new Error(`${name} is open to others: tokend's socket cannot be there`);
    }
  }
  return true;
}

function stat(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

/** A daemon that was killed leaves its socket behind. */
function listens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path)
      .on("connect", () => {
        probe.destroy();
        resolve(true);
      })
      .on("error", () => resolve(false));
  });
}
