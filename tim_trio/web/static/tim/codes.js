// The codes of CLOSE and ERROR. A code's range says whether coming back may help.
//
// Source: protocol.md, section 14.

export const Code = Object.freeze({
  bye: 1000,
  shutting_down: 1001,
  idle_timeout: 1002,
  overloaded: 1003,
  internal_error: 1004,
  slow_consumer: 1005,
  handshake_timeout: 1006,
  too_many_connections: 1007,

  protocol_error: 1100,
  unsupported_version: 1101,
  frame_too_large: 1102,
  bad_sequence: 1103,
  foreign_source: 1104,
  flooding: 1105,
  expired: 1106,
  disabled: 1107,
  banned: 1108,
  signed_out: 1109,
  authentication_failed: 1110,
  credit_exceeded: 1111,

  unavailable: 2000,
  rate_limited: 2001,
  directory_unavailable: 2002,
  path_lost: 2003,
  creator_absent: 2004,

  bad_request: 2100,
  not_supported: 2101,
  not_authenticated: 2102,
  bad_credentials: 2103,
  no_such_room: 2104,
  permission_denied: 2105,
  too_many_rooms: 2106,
  too_many_subscriptions: 2107,
  too_many_sources: 2108,
  too_many_grants: 2109,
  already_subscribed: 2110,
  not_subscribed: 2111,
  no_such_source: 2112,
  token_in_use: 2113,
  already_granted: 2114,
  account_exists: 2115,
  weak_password: 2116,
  registration_closed: 2117,
  no_such_account: 2118,
  too_many_contacts: 2119,
});

/** @type {Map<number, string>} */
const LABELS = new Map(Object.entries(Code).map(([label, code]) => [code, label]));

/**
 * Say whether trying again may help; works for codes we do not know, by range.
 *
 * @param {number} code
 */
export function isRetryable(code) {
  return (code >= 1000 && code <= 1099) || (code >= 2000 && code <= 2099);
}

/**
 * Return the code's name, or `code 1234` where we do not know it.
 *
 * @param {number} code
 */
export function codeLabel(code) {
  return LABELS.get(code) ?? `code ${code}`;
}
