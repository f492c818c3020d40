// The golden vectors, as JavaScript names things.

import { readFileSync, readdirSync } from "node:fs";

const FOLDER = new URL("../vectors/", import.meta.url);

/**
 * @typedef {object} Vector
 * @property {string} name
 * @property {[string, string][]} hex
 * @property {Record<string, any>} frame
 * @property {string} [decode_only]
 * @property {boolean} [wide]
 * @property {boolean} [prefix]
 * @property {"framing" | "fields" | "state"} level
 * @property {"server" | "client"} receiver
 * @property {"new" | "welcomed" | "open"} phase
 * @property {Record<string, any>} expect
 */

export const STEMS = readdirSync(FOLDER)
  .filter((name) => name.endsWith(".json"))
  .map((name) => name.replace(".json", ""));

/** Files of valid frames. */
export const VALID = ["stream", "connection", "rooms", "accounts", "links", "events"];

/** @param {string} stem */
export function load(stem) {
  return JSON.parse(readFileSync(new URL(`${stem}.json`, FOLDER), "utf-8"));
}

/**
 * @param {string[]} stems
 * @returns {Vector[]}
 */
export function vectors(...stems) {
  return stems.flatMap((stem) => load(stem).vectors);
}

/** @param {string} hex */
export function fromHex(hex) {
  return new Uint8Array(hex.match(/../g)?.map((pair) => parseInt(pair, 16)) ?? []);
}

/** @param {Uint8Array} bytes */
export function toHex(bytes) {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Vector} vector */
export function bytesOf(vector) {
  return fromHex(vector.hex.map(([digits]) => digits).join(""));
}

/** @param {string} name */
function camel(name) {
  return name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
}

/** Fields that the vectors write as text because they may be large. */
const BIG = new Set(["room", "after", "stamp", "incarnation"]);
const BYTES = new Set(["payload", "secret", "sessionToken", "token", "password", "old", "new",
  "invitation", "frame"]);

/**
 * Return a vector's value as tim.js holds it.
 *
 * @param {any} value
 * @param {string} [name]
 * @returns {any}
 */
export function valueOf(value, name = "") {
  if (Array.isArray(value)) return value.map((entry) => valueOf(entry));
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(
      Object.entries(value).map(([key, entry]) => [camel(key), valueOf(entry, camel(key))]));
  }
  // LIST_CONTACTS goes on after a name, LIST_ROOMS after a number.
  if (BIG.has(name) && /^-?[0-9]+$/.test(value)) return BigInt(value);
  if (BYTES.has(name)) return fromHex(value);
  return value;
}
