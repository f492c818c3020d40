// The payload of an INIT frame of profile tim.media.1. Pure.
//
// Source: protocol.md, Annex A.

export const PROFILE = "tim.media.1";
/** By custom; what a track is, its INIT says. */
export const VIDEO_TRACK = 0;
export const AUDIO_TRACK = 1;

const MAX_DEPTH = 16;
const CODEC = /^[A-Za-z0-9._-]{1,64}$/;
const BASE64 =
  /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$/;
const STRING = /"(?:[^"\\]|\\[^])*"?/g;

/** A payload is no INIT of this profile. */
export class InvalidInit extends Error {}

/**
 * @typedef {object} VideoInit
 * @property {"video"} kind
 * @property {string} codec as WebCodecs writes it
 * @property {number} codedWidth
 * @property {number} codedHeight
 * @property {number} [framerate]
 * @property {Uint8Array} [description] without it the chunks say it themselves
 */
/**
 * @typedef {object} AudioInit
 * @property {"audio"} kind
 * @property {string} codec
 * @property {number} sampleRate
 * @property {number} numberOfChannels
 * @property {Uint8Array} [description]
 */
/** @typedef {VideoInit | AudioInit} MediaInit */

/**
 * Return the payload of an INIT frame.
 *
 * @param {MediaInit} init
 * @throws {InvalidInit} a value that the profile does not allow
 */
export function encodeInit(init) {
  const { kind, codec, description } = init;
  /** @type {Record<string, unknown>} */
  const members = { profile: PROFILE, kind, codec };
  if (init.kind === "video") {
    members.codedWidth = init.codedWidth;
    members.codedHeight = init.codedHeight;
    if (init.framerate !== undefined) members.framerate = init.framerate;
  } else {
    members.sampleRate = init.sampleRate;
    members.numberOfChannels = init.numberOfChannels;
  }
  if (description !== undefined) members.description = toBase64(description);
  const payload = new TextEncoder().encode(JSON.stringify(members));
  parseInit(payload);
  return payload;
}

/**
 * Read the payload of an INIT frame: any bytes give an INIT or the error.
 *
 * @param {Uint8Array} payload
 * @returns {MediaInit}
 * @throws {InvalidInit} not this profile, or a member that it does not allow
 */
export function parseInit(payload) {
  const members = parseObject(payload);
  if (members.profile !== PROFILE) throw new InvalidInit(`profile is not ${PROFILE}`);
  const codec = textOf(members, "codec", CODEC);
  const description = "description" in members
    ? { description: fromBase64(textOf(members, "description", BASE64)) } : {};
  if (members.kind === "video") {
    return {
      kind: "video", codec,
      codedWidth: wholeOf(members, "codedWidth", 16_384),
      codedHeight: wholeOf(members, "codedHeight", 16_384),
      ...("framerate" in members ? { framerate: numberOf(members, "framerate", 1000) } : {}),
      ...description,
    };
  }
  if (members.kind === "audio") {
    return {
      kind: "audio", codec,
      sampleRate: wholeOf(members, "sampleRate", 768_000),
      numberOfChannels: wholeOf(members, "numberOfChannels", 255),
      ...description,
    };
  }
  throw new InvalidInit("kind is neither video nor audio");
}

/**
 * @param {Uint8Array} payload
 * @returns {Record<string, unknown>}
 */
function parseObject(payload) {
  let parsed;
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(payload);
    if (depthOf(text) > MAX_DEPTH) throw new InvalidInit(`nested more than ${MAX_DEPTH} deep`);
    parsed = JSON.parse(text);
  } catch (error) {
    throw error instanceof InvalidInit ? error : new InvalidInit("not JSON in UTF-8");
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new InvalidInit("not a JSON object");
  }
  // Without what objects inherit: "constructor" is no member unless it was sent.
  return Object.assign(Object.create(null), parsed);
}

/**
 * How deep brackets are nested, before a parser recurses into them.
 *
 * @param {string} text
 */
function depthOf(text) {
  let depth = 0;
  let deepest = 0;
  for (const character of text.replace(STRING, "")) {
    if (character === "[" || character === "{") deepest = Math.max(deepest, ++depth);
    else if (character === "]" || character === "}") depth -= 1;
  }
  return deepest;
}

/**
 * @param {Record<string, unknown>} members
 * @param {string} name
 * @param {RegExp} pattern
 */
function textOf(members, name, pattern) {
  const value = members[name];
  if (typeof value !== "string" || !pattern.test(value)) throw new InvalidInit(`${name} is wrong`);
  return value;
}

/**
 * @param {Record<string, unknown>} members
 * @param {string} name
 * @param {number} largest
 */
function numberOf(members, name, largest) {
  const value = members[name];
  if (typeof value !== "number" || !(value > 0 && value <= largest)) {
    throw new InvalidInit(`${name} is not a number above 0, at most ${largest}`);
  }
  return value;
}

/**
 * @param {Record<string, unknown>} members
 * @param {string} name
 * @param {number} largest
 */
function wholeOf(members, name, largest) {
  const value = numberOf(members, name, largest);
  if (!Number.isInteger(value)) throw new InvalidInit(`${name} is not whole`);
  return value;
}

/** @param {Uint8Array} bytes */
function toBase64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}

/** @param {string} text */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
