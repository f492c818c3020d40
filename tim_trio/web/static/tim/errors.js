// What can go wrong, as one tree:
//
//   TimError
//   ├── LocalProtocolError   our caller asked for what the protocol forbids; nothing was sent
//   ├── RemoteProtocolError  the server broke the protocol
//   ├── RoomError            a request was refused; the connection goes on
//   ├── RequestTimedOut      no answer in time; it may still be carried out
//   ├── ConnectFailed        nobody answered, or someone who does not speak this protocol
//   ├── ConnectionClosed     the connection is over, and there will be no other
//   └── StreamOver           a source or a subscription has ended
//       ├── RoomClosed, SourceRevoked, SourceReplaced, SourceLost

import { Code, codeLabel, isRetryable } from "./codes.js";

export class TimError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

export class LocalProtocolError extends TimError {}

export class RemoteProtocolError extends TimError {
  /**
   * @param {string} message
   * @param {number} [code] the CLOSE code that says so
   */
  constructor(message, code = Code.protocol_error) {
    super(message);
    this.code = code;
  }
}

export class RoomError extends TimError {
  /**
   * @param {number} code
   * @param {string} [text]
   * @param {number} [retryAfterMs] the server's advice, 0 for none
   */
  constructor(code, text = "", retryAfterMs = 0) {
    super(text || codeLabel(code).replaceAll("_", " "));
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }

  get retryable() {
    return isRetryable(this.code);
  }
}

export class RequestTimedOut extends TimError {}

export class ConnectFailed extends TimError {}

export class ConnectionClosed extends TimError {
  /**
   * @param {number | null} [code] what CLOSE said; null: lost without one
   * @param {string} [text]
   * @param {number} [retryAfterMs]
   */
  constructor(code = null, text = "", retryAfterMs = 0) {
    const label = code === null ? "connection lost" : `closed: ${codeLabel(code)}`;
    super(text ? `${label} (${text})` : label);
    this.code = code;
    this.text = text;
    this.retryAfterMs = retryAfterMs;
  }

  get retryable() {
    return this.code === null || isRetryable(this.code);
  }
}

export class StreamOver extends TimError {
  /**
   * @param {string} room
   * @param {string} message
   */
  constructor(room, message) {
    super(message);
    this.room = room;
  }
}

const WHY_CLOSED = ["", "its creator removed it", "no data came for too long",
  "an operator banned it", "the way to its node was lost"];
const WHY_REVOKED = ["", "its creator took the right to push away",
  "an operator banned the account", "the account's time is over"];

/** The room is gone. `reason`: 1 removed, 2 idle, 3 banned, 4 path lost, or one we do not know. */
export class RoomClosed extends StreamOver {
  /**
   * @param {string} room
   * @param {number} reason
   * @param {string} [text]
   */
  constructor(room, reason, text = "") {
    const why = WHY_CLOSED[reason] || text;
    super(room, `room ${room} has ended${why ? `: ${why}` : ""}`);
    this.reason = reason;
  }
}

/** The room no longer takes this source. `reason`: 1 revoked, 2 banned, 3 expired. */
export class SourceRevoked extends StreamOver {
  /**
   * @param {string} room
   * @param {number} reason
   */
  constructor(room, reason) {
    super(room, `pushing to room ${room} was ended: ${WHY_REVOKED[reason] || `reason ${reason}`}`);
    this.reason = reason;
  }
}

/** Another connection published with the same token and goes on with the source. */
export class SourceReplaced extends StreamOver {
  /** @param {string} room */
  constructor(room) {
    super(room, `another connection took over this source of room ${room}`);
  }
}

/** The server had ended this source of a reliable room before the connection was back. */
export class SourceLost extends StreamOver {
  /** @param {string} room */
  constructor(room) {
    super(room, `the connection came back too late for this source of room ${room}`);
  }
}
