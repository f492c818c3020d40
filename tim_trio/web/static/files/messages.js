// The messages of a file transfer: JSON objects in account streams of kind 1.
//
// Bytes in, values out. What is malformed is null, for nobody answers it.
//
// Source: protocol.md, Annex B.

import { parseRoomId } from "../tim/room_ids.js";

/** The `kind` of the account streams that carry these messages. */
export const KIND = 1;
const VERSION = 1;
const MAX_MESSAGE_BYTES = 4096;
const MAX_NAME_BYTES = 1024;
const MAX_MEDIA_TYPE_BYTES = 255;
const MAX_DEPTH = 16;
const MAX_SOURCE = 2 ** 32 - 1;
const ID_DIGITS = 32;
const DIGEST_DIGITS = 64;
const HEX = /^[0-9a-f]+$/;
const UNPAIRED = /\p{Cs}/u;

/** @typedef {"sender" | "receiver"} By */
/**
 * The sender has a file. `sha256` is of the whole of it, in hex.
 *
 * @typedef {{ type: "offer", transfer: string, name: string, size: number, sha256: string,
 *   mediaType: string }} Offer
 */
/** An offer of another version. @typedef {{ type: "unknownOffer", transfer: string }} UnknownOffer */
/**
 * The receiver holds `offset` bytes with that digest, and wants the rest.
 *
 * @typedef {{ type: "accept", transfer: string, receiver: string, attempt: string,
 *   offset: number, prefixSha256: string }} Accept
 */
/** @typedef {{ type: "decline", transfer: string, receiver: string, reason: string }} Decline */
/**
 * The bytes from `offset` on come as this source of this room.
 *
 * @typedef {{ type: "start", transfer: string, receiver: string, attempt: string, room: string,
 *   source: number, offset: number }} Start
 */
/** That device has the transfer. @typedef {{ type: "taken", transfer: string, receiver: string }} Taken */
/**
 * The attempt is over, the transfer is not. `stopping`: the program goes away.
 *
 * @typedef {{ type: "pause", transfer: string, by: By, receiver: string, stopping: boolean }} Pause
 */
/** @typedef {{ type: "cancel", transfer: string, by: By, receiver: string }} Cancel */
/** @typedef {{ type: "failed", transfer: string, by: By, receiver: string, reason: string }} Failed */
/** All of it is there. @typedef {{ type: "done", transfer: string, receiver: string }} Done */
/**
 * @typedef {Offer | UnknownOffer | Accept | Decline | Start | Taken | Pause | Cancel | Failed | Done}
 *   Message
 */

/** A fresh `transfer`, `receiver` or `attempt`: 16 random bytes in hex. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(ID_DIGITS / 2));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {Message} message
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function encode(message) {
  /** @type {Record<string, unknown>} */
  const members = {};
  for (const [name, value] of Object.entries(message)) {
    // What is empty and may be left out is left out.
    if (value === "" && (name === "receiver" || name === "mediaType")) continue;
    members[name === "mediaType" ? "media_type" : name === "prefixSha256" ? "prefix_sha256" : name] =
      value;
    if (value === "offer" && name === "type") members["version"] = VERSION;
  }
  return new TextEncoder().encode(JSON.stringify(members));
}

/**
 * Return the message in an account stream's payload, null for what is to be ignored.
 *
 * @param {Uint8Array} payload
 * @returns {Message | null}
 */
export function decode(payload) {
  if (payload.length > MAX_MESSAGE_BYTES) return null;
  let members;
  try {
    members = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(payload));
  } catch {
    return null;
  }
  if (typeof members !== "object" || members === null || Array.isArray(members)) return null;
  if (depthOf(members) > MAX_DEPTH) return null;
  try {
    return read(new Map(Object.entries(members)));
  } catch (error) {
    if (error instanceof Malformed) return null;
    throw error;
  }
}

/** A member is missing or of another form. */
class Malformed extends Error {}

/**
 * @param {unknown} value
 * @returns {number}
 */
function depthOf(value) {
  if (typeof value !== "object" || value === null) return 0;
  return 1 + Math.max(0, ...Object.values(value).map(depthOf));
}

/** @typedef {Map<string, unknown>} Members */

/**
 * @param {Members} members
 * @returns {Message | null}
 */
function read(members) {
  const transfer = () => hex(members, "transfer", ID_DIGITS);
  const receiver = () => hex(members, "receiver", ID_DIGITS);
  const reason = () => textOf(members, "reason", MAX_NAME_BYTES);
  const type = members.get("type");
  switch (type) {
    case "offer": {
      if (integer(members, "version") !== VERSION) {
        return { type: "unknownOffer", transfer: transfer() };
      }
      return {
        type, transfer: transfer(),
        name: textOf(members, "name", MAX_NAME_BYTES),
        size: integer(members, "size"),
        sha256: hex(members, "sha256", DIGEST_DIGITS),
        mediaType: members.has("media_type")
          ? textOf(members, "media_type", MAX_MEDIA_TYPE_BYTES, 0) : "",
      };
    }
    case "accept":
      return {
        type, transfer: transfer(), receiver: receiver(),
        attempt: hex(members, "attempt", ID_DIGITS),
        offset: integer(members, "offset"),
        prefixSha256: hex(members, "prefix_sha256", DIGEST_DIGITS),
      };
    case "decline":
      return { type, transfer: transfer(), receiver: receiver(), reason: reason() };
    case "start": {
      const room = textOf(members, "room", 11);
      if (parseRoomId(room) === null) throw new Malformed("room");
      return {
        type, transfer: transfer(), receiver: receiver(),
        attempt: hex(members, "attempt", ID_DIGITS), room,
        source: integer(members, "source", MAX_SOURCE),
        offset: integer(members, "offset"),
      };
    }
    case "taken":
    case "done":
      return { type, transfer: transfer(), receiver: receiver() };
    case "pause": {
      const stopping = members.get("stopping");
      if (typeof stopping !== "boolean") throw new Malformed("stopping");
      return { type, transfer: transfer(), ...sideOf(members), stopping };
    }
    case "cancel":
      return { type, transfer: transfer(), ...sideOf(members) };
    case "failed":
      return { type, transfer: transfer(), ...sideOf(members), reason: reason() };
    default:
      return null;
  }
}

/**
 * @param {Members} members
 * @param {string} name
 * @param {number} most
 * @param {number} [least]
 */
function textOf(members, name, most, least = 1) {
  const value = members.get(name);
  if (typeof value !== "string" || UNPAIRED.test(value)) throw new Malformed(name);
  const bytes = new TextEncoder().encode(value).length;
  if (bytes < least || bytes > most) throw new Malformed(name);
  return value;
}

/**
 * @param {Members} members
 * @param {string} name
 * @param {number} digits
 */
function hex(members, name, digits) {
  const value = members.get(name);
  if (typeof value !== "string" || value.length !== digits || !HEX.test(value)) {
    throw new Malformed(name);
  }
  return value;
}

/**
 * @param {Members} members
 * @param {string} name
 * @param {number} [most]
 */
function integer(members, name, most = Number.MAX_SAFE_INTEGER) {
  const value = members.get(name);
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > most) {
    throw new Malformed(name);
  }
  return value + 0; // never -0
}

/**
 * @param {Members} members
 * @returns {{ by: By, receiver: string }}
 */
function sideOf(members) {
  const by = members.get("by");
  if (by === "sender") return { by, receiver: "" };
  if (by === "receiver") return { by, receiver: hex(members, "receiver", ID_DIGITS) };
  throw new Malformed("by");
}
