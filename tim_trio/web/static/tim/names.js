// Which texts may name an account.
//
// Source: protocol.md, section 5.

const MAX_CODE_POINTS = 64;
const MAX_BYTES = 255;
// Control, format and surrogate characters, white space of every kind, and four signs.
const FORBIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Z}/\\|:]/u;

/**
 * Say whether a text may name an account.
 *
 * @param {string} name
 */
export function isAccountName(name) {
  const points = [...name].length;
  if (points < 1 || points > MAX_CODE_POINTS || FORBIDDEN.test(name)) return false;
  return new TextEncoder().encode(name).length <= MAX_BYTES;
}
