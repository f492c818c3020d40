// What people paste where a room or an account is asked for: often a whole link.

import { parseRoomId } from "../tim/index.js";

/**
 * Return what was percent-encoded as it was meant, where that can be told.
 *
 * @param {string} address that anybody may have written
 */
export function decoded(address) {
  try {
    return decodeURIComponent(address);
  } catch {
    return address;
  }
}

/**
 * Return the room that a text names: a link to watch or to meet, or an id, with whatever
 * a chat or a line break has put around it; null where there is none.
 *
 * @param {string} pasted
 */
export function roomIn(pasted) {
  const plain = decoded(pasted).replace(/\s+/g, "");
  const linked = /#[a-z]+=([0-9A-Za-z]+)/.exec(plain)?.[1];
  const bare = plain.split(/[=/]/).at(-1)?.replace(/^[^0-9A-Za-z]+|[^0-9A-Za-z]+$/g, "");
  return [linked, bare].find((each) => each !== undefined && parseRoomId(each) !== null) ?? null;
}

/**
 * Return the account that a text names: a link by which somebody gets files, or a name.
 *
 * @param {string} pasted
 */
export function accountIn(pasted) {
  const plain = pasted.trim();
  const linked = /^https?:\/\/\S+#files=(\S+)$/.exec(plain)?.[1];
  return linked === undefined ? plain : decoded(linked);
}
