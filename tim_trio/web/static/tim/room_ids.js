// Room ids: a big integer in the protocol, eleven base58 characters for people.
//
// Source: protocol.md, section 1.

import { LocalProtocolError } from "./errors.js";

const ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const BASE = 58n;
const DIGITS = 11;

export const SMALLEST_ROOM = BASE ** 10n;
export const LARGEST_ROOM = 2n ** 64n - 1n;

/**
 * Say whether a number is a room id.
 *
 * @param {bigint} room
 */
export function isRoomId(room) {
  return room >= SMALLEST_ROOM && room <= LARGEST_ROOM;
}

/**
 * Return a room id's number.
 *
 * @param {string} text eleven characters
 * @returns {bigint | null} null where the text is not a room id
 */
export function parseRoomId(text) {
  if (text.length !== DIGITS) return null;
  let room = 0n;
  for (const character of text) {
    const digit = ALPHABET.indexOf(character);
    if (digit < 0) return null;
    room = room * BASE + BigInt(digit);
  }
  return isRoomId(room) ? room : null;
}

/**
 * Return the number of a room id that has to be one.
 *
 * @param {string} room
 * @throws {LocalProtocolError} it is none
 */
export function roomNumber(room) {
  const number = parseRoomId(room);
  if (number === null) throw new LocalProtocolError(`${JSON.stringify(room)} is not a room id`);
  return number;
}

/**
 * Return a room id as people write it.
 *
 * @param {bigint} room
 */
export function formatRoomId(room) {
  if (!isRoomId(room)) throw new RangeError(`${room} is not a room id`);
  let text = "";
  for (let rest = room; rest > 0n; rest /= BASE) text = ALPHABET[Number(rest % BASE)] + text;
  return text;
}
