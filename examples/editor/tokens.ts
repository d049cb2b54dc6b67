// Access tokens for an editor's extension, over tokend's WatchToken: copy this
// file and socket.ts, and the folder proto/.

import { execFile } from "node:child_process";
import { EventEmitter } from "node:events";
import { uptime } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import { findSocket, NotRunningError, setting } from "./socket.ts";

/** An access token. Its text is in a private field, which neither JSON.stringify nor
 * console.log shows. */
export class Token {
  readonly #accessToken: string;
  readonly #end: number;
  /** "Bearer" (RFC 6750) or "DPoP" (RFC 9449). */
  readonly type: string;
  /** By the wall clock, for showing it. */
  readonly expiresAt: Date;
  /** Names the token without being it. */
  readonly fingerprint: string;
  /** Where it may be sent to; empty: the profile does not say (API_URL). */
  readonly apiOrigins: readonly string[];

  constructor(from: GetTokenResponse) {
    this.#accessToken = from.accessToken;
    this.#end = uptime() + seconds(from.expiresIn);
    this.type = from.tokenType;
    this.expiresAt = new Date(seconds(from.expiresAt) * 1000);
    this.fingerprint = from.fingerprint;
    this.apiOrigins = from.apiOrigins;
  }

  /** Opaque: do not parse it (RFC 6749 1.4), log it, or write it to disk. */
  get accessToken(): string {
    return this.#accessToken;
  }

  /** The value of an Authorization field. */
  get header(): string {
    return `${this.type} ${this.#accessToken}`;
  }

  /** It has not ended, by a clock that nobody sets and that counts suspend. */
  get lives(): boolean {
    return uptime() < this.#end;
  }
}

/** Why there is no token, or none to follow the one that still lives. */
export interface Problem {
  /** Such as "LOGIN_REQUIRED" (proto/tokend/v1/reason.proto), or empty: tokend
   * cannot be reached. */
  readonly reason: string;
  /** One printable line. */
  readonly message: string;
  /** What the user can run, such as "tokenctl login dev/me", or empty. */
  readonly command: string;
  /** In seconds, or 0: when something changes. */
  readonly retryAfter: number;
}

/** A Problem, thrown. */
export class TokenError extends Error {
  override name = "TokenError";
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.message + (problem.command && `; run: ${problem.command}`));
    this.problem = problem;
  }
}

/** What is known of a profile: nothing yet; a token; a problem; or a token that
 * lives and cannot be renewed. */
export interface State {
  readonly token?: Token | undefined;
  readonly problem?: Problem | undefined;
}

export interface Options {
  /** Folder with tokend/v1/*.proto; by default that of this repository. */
  protoDir?: string;
  /** Run `tokenctl daemon start` where no daemon listens. */
  start?: boolean;
  /** How long token() waits, in milliseconds; 10 s by default. */
  timeout?: number;
}

// They are emitted in microtasks of their own: a listener that throws is not to look
// like a lost connection.
interface Events {
  /** The newest of a profile, each time that something changes. */
  state: [profile: string, state: State];
  /** tokend is there, or why it is not. Tokens are good meanwhile. */
  connection: [problem: Problem | undefined];
  /** An API has refused a token, and what tokend says of that. */
  refused: [profile: string, message: string];
}

/**
 * Keeps the newest token of each profile in memory, by one stream for all of them,
 * until dispose. What it tells its listeners and throws has no secret in it but
 * State.token.
 */
export class TokenWatcher extends EventEmitter<Events> {
  readonly #profiles = new Map<string, Watched>();
  readonly #options: Options;
  readonly #service: TokenServiceConstructor;
  readonly #disposed = new AbortController();
  #client: TokenService | undefined;
  #stream: grpc.ClientReadableStream<WatchTokenResponse> | undefined;
  #connection: Problem | undefined = unreachable("tokend has not answered yet");

  constructor(profiles: Iterable<string>, options: Options = {}) {
    super();
    this.#options = options;
    this.#service = tokenService(options.protoDir);
    for (const profile of profiles) {
      // A workspace may name it, and it ends up in a command for a terminal.
      if (!/^[A-Za-z0-9][\w.-]*(\/[A-Za-z0-9][\w.-]*)*$/.test(profile)) {
        throw new RangeError(`not a profile's name: ${JSON.stringify(profile)}`);
      }
      this.#profiles.set(profile, new Watched());
    }
    void this.#run();
  }

  /** Why tokend is not there, or undefined. */
  get connection(): Problem | undefined {
    return this.#connection;
  }

  state(profile: string): State {
    return this.#watched(profile).state;
  }

  /** The profile's token, as soon as there is one. Throws TokenError. */
  token(profile: string): Promise<Token> {
    return this.#next(profile);
  }

  /** The same as the value of an Authorization field. */
  async header(profile: string): Promise<string> {
    return (await this.token(profile)).header;
  }

  /**
   * Sends a request with the profile's token to one of the profile's API_URL
   * origins, and to no other. A refused token is reported; where tokend has another
   * one then, the request is sent once more, if its body can be. Redirects are not
   * followed, whatever init says. Throws TokenError, and what the global fetch
   * throws.
   */
  async fetch(profile: string, url: string | URL, init: RequestInit = {}): Promise<Response> {
    let token = await this.token(profile);
    for (let replayed = false; ; replayed = true) {
      const { problem } = this.state(profile);
      const response = await send(token, new URL(url), init);
      if (response.status !== 401) {
        return response;
      }
      const another = await this.#report(profile, token, response, problem);
      if (!another || replayed || !isReplayable(init.body)) {
        return response;
      }
      try {
        token = await this.#next(profile, token.fingerprint);
      } catch {
        return response; // listeners have been told why there is no other token
      }
      await response.body?.cancel();
    }
  }

  /** Ends the stream, and all that waits. */
  dispose(): void {
    this.#disposed.abort();
    this.#stream?.cancel();
    for (const watched of this.#profiles.values()) {
      watched.wake();
    }
    this.removeAllListeners();
  }

  #watched(profile: string): Watched {
    const watched = this.#profiles.get(profile);
    if (!watched) {
      throw new RangeError(`not watched: ${JSON.stringify(profile)}`);
    }
    return watched;
  }

  /** Waits for a living token other than the refused one, or a problem. */
  async #next(profile: string, refused = ""): Promise<Token> {
    const watched = this.#watched(profile);
    const timeout = AbortSignal.timeout(this.#options.timeout ?? 10_000);
    for (;;) {
      const { token, problem } = watched.state;
      if (this.#disposed.signal.aborted) {
        throw new TokenError(unreachable("no longer watched"));
      }
      if (token?.lives && token.fingerprint !== refused) {
        return token;
      }
      if (problem) {
        throw new TokenError(problem);
      }
      if (timeout.aborted) {
        throw new TokenError(this.#connection ?? unreachable("tokend has no answer yet"));
      }
      await watched.changed(timeout);
    }
  }

  /** Says whether there is, or will be, another token than the one refused. */
  async #report(profile: string, token: Token, response: Response, before?: Problem): Promise<boolean> {
    const challenges = response.headers.get("www-authenticate");
    const request = {
      profile,
      fingerprint: token.fingerprint,
      httpStatus: response.status,
      wwwAuthenticate: challenges && challenges.length <= 8 << 10 ? [challenges] : [],
    };
    const client = this.#client;
    const answer = await new Promise<ReportTokenResponse | undefined>((resolve) => {
      if (!client) {
        return resolve(undefined);
      }
      client.reportToken(request, metadata(), { deadline: Date.now() + 10_000 }, (_, value) => resolve(value));
    });
    if (!answer) {
      return false; // nobody to tell; the next refusal is reported
    }
    queueMicrotask(() => this.emit("refused", profile, printable(answer.message)));
    if (answer.outcome !== "OUTCOME_EVICTED" && answer.outcome !== "OUTCOME_SUPERSEDED") {
      return false;
    }
    const watched = this.#watched(profile);
    // What has come since the request belongs to the next token.
    const { state } = watched;
    watched.set({
      token: state.token?.fingerprint === token.fingerprint ? undefined : state.token,
      problem: state.problem === before ? undefined : state.problem,
    });
    return true;
  }

  async #run(): Promise<void> {
    const { signal } = this.#disposed;
    for (let attempt = 0; !signal.aborted; attempt++) {
      const since = uptime();
      try {
        await this.#watch(await this.#find());
      } catch (err) {
        if (!signal.aborted) {
          this.#lost(problemOf(err));
        }
      }
      if (uptime() - since > maxPause / 1000) {
        attempt = 0;
      }
      const pause = Math.min(maxPause, firstPause * 2 ** attempt);
      await sleep(pause * (0.5 + Math.random() / 2), undefined, { signal }).catch(() => {});
    }
  }

  async #find(): Promise<string> {
    try {
      return await findSocket();
    } catch (err) {
      if (!(err instanceof NotRunningError) || !this.#options.start) {
        throw err;
      }
    }
    // In the root folder a relative entry of PATH means nothing of a workspace's.
    const { signal } = this.#disposed;
    await promisify(execFile)("tokenctl", ["daemon", "start"], { cwd: "/", timeout: 30_000, signal });
    return findSocket();
  }

  /** Goes on until the stream ends, which throws. */
  async #watch(socket: string): Promise<void> {
    const client = new this.#service(`unix:${socket}`, grpc.credentials.createInsecure(), {
      // Or the next one would wait for what this one has learnt.
      "grpc.use_local_subchannel_pool": 1,
    });
    try {
      await promisify(client.waitForReady.bind(client))(Date.now() + 5_000);
      this.#disposed.signal.throwIfAborted();
      this.#client = client;
      this.#connected(undefined);
      const names = [...this.#profiles.keys()];
      const stream = client.watchToken({ tokens: names.map((profile) => ({ profile })) }, metadata());
      this.#stream = stream;
      for await (const message of stream as AsyncIterable<WatchTokenResponse>) {
        const profile = names[message.index];
        if (profile !== undefined) {
          this.#changed(profile, message);
        }
      }
      throw new NotRunningError(); // it does not end well of itself
    } finally {
      this.#client = this.#stream = undefined;
      client.close();
    }
  }

  #changed(profile: string, message: WatchTokenResponse): void {
    const watched = this.#watched(profile);
    if (message.token) {
      watched.set({ token: new Token(message.token) });
    } else if (message.problem) {
      const { token } = watched.state;
      const lives = message.problem.tokenLives;
      watched.set({ token: lives ? token : undefined, problem: problemIn(profile, message.problem) });
    } else {
      return; // of a kind that is newer than this file
    }
    const { state } = watched;
    queueMicrotask(() => this.emit("state", profile, state));
  }

  #lost(problem: Problem): void {
    for (const watched of this.#profiles.values()) {
      // Nobody would tell when it is over. A token is good for as long as it lives.
      watched.set({ token: watched.state.token });
    }
    this.#connected(problem);
  }

  #connected(problem: Problem | undefined): void {
    const told = this.#connection?.message === problem?.message;
    this.#connection = problem;
    if (!told) {
      queueMicrotask(() => this.emit("connection", problem));
    }
  }
}

// Between attempts to reach tokend, in milliseconds. A look is cheap, and a user
// who has just started it does not want to wait.
const firstPause = 250;
const maxPause = 5_000;

/** One profile's state, and who waits for the next one. */
class Watched {
  state: State = {};
  readonly #waiting = new Set<() => void>();

  set(state: State): void {
    this.state = state;
    this.wake();
  }

  wake(): void {
    for (const done of this.#waiting) {
      done();
    }
  }

  /** Returns when there is another state, or when the signal says so. */
  changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.#waiting.delete(done);
        signal.removeEventListener("abort", done);
        resolve();
      };
      this.#waiting.add(done);
      signal.addEventListener("abort", done);
    });
  }
}

function send(token: Token, url: URL, init: RequestInit): Promise<Response> {
  if (!token.apiOrigins.includes(url.origin)) {
    const says = token.apiOrigins.join(" ") || "nothing";
    throw denied(`${url.origin} is not to get this token: the profile's API_URL says ${says}`);
  }
  if (token.type !== "Bearer") {
    throw denied(`a ${token.type} token needs a proof with each request, which is not made here`);
  }
  const headers = new Headers(init.headers);
  headers.set("Authorization", token.header);
  return fetch(url, { ...init, headers, redirect: "manual" });
}

function denied(message: string): TokenError {
  return new TokenError({ reason: "DENIED", message, command: "", retryAfter: 0 });
}

function isReplayable(body: RequestInit["body"]): boolean {
  return (
    body == null ||
    typeof body === "string" ||
    ArrayBuffer.isView(body) ||
    [ArrayBuffer, Blob, FormData, URLSearchParams].some((type) => body instanceof type)
  );
}

// How to go on, by reason. What is missing here ends by itself.
const commands: Record<string, string> = {
  LOGIN_REQUIRED: "tokenctl login PROFILE",
  LOCKED: "tokenctl unlock",
  NOT_INITIALIZED: "tokenctl init",
  PROFILE_NOT_FOUND: "tokenctl add PROFILE",
  UNTRUSTED: "tokenctl trust PROFILE",
  CLIENT_REFUSED: "tokenctl edit PROFILE",
  REQUEST_REFUSED: "tokenctl edit PROFILE",
  PROFILE_INVALID: "tokenctl edit PROFILE",
  SETTINGS_INVALID: "tokenctl status",
  STORE_UNAVAILABLE: "tokenctl status",
};

function problemIn(profile: string, from: WireProblem): Problem {
  const reason = from.reason.replace(/^REASON_/, "");
  // Nobody can log in where the session came with the text.
  const command = from.variable === "OAUTH2_REFRESH_TOKEN" ? "tokenctl edit PROFILE" : (commands[reason] ?? "");
  return {
    reason,
    message: printable(from.message),
    command: command.replace("PROFILE", profile),
    retryAfter: seconds(from.retryAfter),
  };
}

/** Why tokend cannot be reached, or does not watch. */
function problemOf(err: unknown): Problem {
  if (err instanceof NotRunningError) {
    return unreachable(err.message, "tokenctl daemon start");
  }
  const { code, details, metadata, stderr } = err as Partial<grpc.ServiceError> & { stderr?: string };
  // What tokend says has details; without them gRPC says that it is gone.
  if (code === grpc.status.UNAVAILABLE && !metadata?.get("grpc-status-details-bin").length) {
    return problemOf(new NotRunningError());
  }
  return unreachable(details ?? (stderr || String((err as Error).message)).trim(), "tokenctl status");
}

function unreachable(message: string, command = ""): Problem {
  return { reason: "", message: printable(message), command, retryAfter: 0 };
}

/** Text of others', made fit for one line of an editor or a terminal. */
function printable(text: string): string {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "\ufffd");
}

function seconds(time: Time | null): number {
  return time ? time.seconds + time.nanos / 1e9 : 0;
}

/** A daemon of another store says so, instead of giving its tokens. */
function metadata(): grpc.Metadata {
  const all = new grpc.Metadata();
  const dir = setting("TOKEND_DIR");
  if (dir) {
    all.set("tokend-dir", dir);
  }
  return all;
}

function tokenService(protoDir = fileURLToPath(new URL("../../proto", import.meta.url))): TokenServiceConstructor {
  const definition = loadSync("tokend/v1/token_service.proto", {
    includeDirs: [protoDir],
    defaults: true,
    enums: String,
    longs: Number,
    oneofs: true,
  });
  const { tokend } = grpc.loadPackageDefinition(definition) as unknown as {
    tokend: { v1: { TokenService: TokenServiceConstructor } };
  };
  return tokend.v1.TokenService;
}

// What is used of proto/tokend/v1/token.proto, where it is explained.

type TokenServiceConstructor = new (
  address: string,
  credentials: grpc.ChannelCredentials,
  options: grpc.ClientOptions,
) => TokenService;

interface TokenService extends grpc.Client {
  watchToken(
    request: { tokens: { profile: string }[] },
    metadata: grpc.Metadata,
  ): grpc.ClientReadableStream<WatchTokenResponse>;
  reportToken(
    request: { profile: string; fingerprint: string; httpStatus: number; wwwAuthenticate: string[] },
    metadata: grpc.Metadata,
    options: grpc.CallOptions,
    callback: grpc.requestCallback<ReportTokenResponse>,
  ): grpc.ClientUnaryCall;
}

/** google.protobuf.Timestamp and Duration. */
interface Time {
  seconds: number;
  nanos: number;
}

interface GetTokenResponse {
  accessToken: string;
  tokenType: string;
  expiresAt: Time | null;
  expiresIn: Time | null;
  apiOrigins: string[];
  fingerprint: string;
}

interface WireProblem {
  reason: string;
  message: string;
  variable: string;
  retryAfter: Time | null;
  tokenLives: boolean;
}

interface WatchTokenResponse {
  index: number;
  token?: GetTokenResponse | null;
  problem?: WireProblem | null;
}

interface ReportTokenResponse {
  outcome: string;
  message: string;
}
