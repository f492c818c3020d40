// What went wrong, in words that say what to do.

import {
  Code, ConnectFailed, ConnectionClosed, RequestTimedOut, RoomClosed, RoomError, SourceReplaced,
  SourceRevoked, codeLabel,
} from "../tim/index.js";
import { Phrase, hasPhrase } from "./i18n.js";

/** Errors of the browser's own, by name. */
const BROWSER = new Map([
  ["NotAllowedError", "error.not_allowed"],
  ["NotFoundError", "error.no_device"],
  ["NotReadableError", "error.device_busy"],
  ["AbortError", "error.device_busy"],
  ["OverconstrainedError", "error.no_device"],
  ["NotSupportedError", "error.not_supported_here"],
]);

/**
 * What went wrong with signing in: there the same refusal means something else.
 *
 * @param {unknown} error
 */
export function describeSignIn(error) {
  const denied = error instanceof RoomError && error.code === Code.permission_denied;
  return denied ? new Phrase("sign_in.denied") : describe(error);
}

/**
 * What went wrong with a token, where there is neither account nor password to be wrong.
 *
 * @param {unknown} error
 */
export function describeToken(error) {
  const refused = error instanceof RoomError && error.code === Code.bad_credentials;
  return refused ? new Phrase("sign_in.bad_token") : describeSignIn(error);
}

/**
 * @param {unknown} error
 * @returns {Phrase}
 */
export function describe(error) {
  if (error instanceof RoomError) {
    const key = `error.${codeLabel(error.code)}`;
    return hasPhrase(key) ? new Phrase(key) : new Phrase("error.refused", { text: error.message });
  }
  if (error instanceof ConnectionClosed) {
    const key = `closed.${error.code === null ? "lost" : codeLabel(error.code)}`;
    return hasPhrase(key) ? new Phrase(key) : new Phrase("closed.other", { text: error.message });
  }
  if (error instanceof RoomClosed) {
    const key = ["", "ended.removed", "ended.idle", "ended.banned", "ended.path_lost"][error.reason];
    return new Phrase(key || "ended.other");
  }
  if (error instanceof SourceRevoked) return new Phrase("error.revoked");
  if (error instanceof SourceReplaced) return new Phrase("error.replaced");
  if (error instanceof ConnectFailed) return new Phrase("error.no_server");
  if (error instanceof RequestTimedOut) return new Phrase("error.timeout");
  if (error instanceof DOMException) {
    const key = BROWSER.get(error.name);
    if (key !== undefined) return new Phrase(key);
  }
  return new Phrase("error.other", { text: error instanceof Error ? error.message : String(error) });
}
