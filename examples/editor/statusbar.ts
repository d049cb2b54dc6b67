// What an editor shows of a profile and of tokend; $(…) is an icon's name there.

import type { Problem, State } from "./tokens.ts";

export function profileText(profile: string, { token, problem }: State): string {
  if (!problem) {
    return token ? `$(key) ${profile}: ok until ${clock(token.expiresAt)}` : `$(sync) ${profile}: waiting`;
  }
  if (token) {
    return `$(warning) ${profile}: ok until ${clock(token.expiresAt)}, not renewed: ${advice(problem)}`;
  }
  return `$(error) ${profile}: ${advice(problem)}`;
}

export function connectionText(problem: Problem | undefined): string {
  return problem ? `$(debug-disconnect) ${advice(problem)}` : "$(plug) tokend is there";
}

function advice({ reason, message, command, retryAfter }: Problem): string {
  if (reason === "LOGIN_REQUIRED") {
    return `login needed: ${command}`;
  }
  if (command) {
    return `${message}; run: ${command}`;
  }
  return retryAfter ? `${message}; next try in ${Math.ceil(retryAfter)} s` : message;
}

function clock(time: Date): string {
  return time.toTimeString().slice(0, 5);
}
