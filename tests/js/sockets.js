// A socket for tests, whose server is the test.

import { readFrames } from "../../tim_trio/web/static/tim/frames.js";
import { AuthenticateAnswer, MESSAGES, Welcome, decode, encode }
  from "../../tim_trio/web/static/tim/messages.js";

/** @typedef {import("../../tim_trio/web/static/tim/connection.js").Socket} Socket */

const LIMITS = { maxFrameBytes: 2 ** 32, maxInitBytes: 2 ** 32 };

export const WELCOME = {
  version: 1, capabilities: 0x1f, agent: "test", node: "n", authMode: 0, maxFrameBytes: 1_048_576,
  maxInitBytes: 65_536, backlogBytes: 1_048_576, backlogAgeMs: 1000, stallTimeoutMs: 10_000,
  pingIntervalMs: 20_000, maxSubscriptions: 100,
};

/**
 * A socket whose other end is the test. It answers HELLO and AUTHENTICATE by
 * itself, and has the rest in `sent`.
 *
 * @implements {Socket}
 */
export class ScriptedSocket {
  /** @param {Partial<typeof WELCOME>} [welcome] */
  constructor(welcome = {}) {
    this.binaryType = "blob";
    this.bufferedAmount = 0;
    this.onopen = this.onmessage = this.onclose = this.onerror = /** @type {any} */ (null);
    /** What came since HELLO and AUTHENTICATE. @type {{ name: string, id: number, fields: any }[]} */
    this.sent = [];
    /** @type {(number | undefined)[]} */
    this.closes = [];
    this.greets = true;
    this._welcome = { ...WELCOME, ...welcome };
    queueMicrotask(() => this.onopen?.({}));
  }

  /** @param {Uint8Array<ArrayBuffer>} data */
  send(data) {
    for (const item of readFrames(data.slice().buffer, LIMITS)) {
      if (item.kind === "frame") {
        this.sent.push({ name: "STREAM", id: 0, fields: item });
        continue;
      }
      const kind = /** @type {any} */ (MESSAGES.get(item.type));
      const fields = decode(kind, item.fields);
      if (this.greets && kind.name === "HELLO") {
        queueMicrotask(() => this.say(Welcome, this._welcome, item.requestId));
      } else if (this.greets && kind.name === "AUTHENTICATE") {
        const answer = {
          account: fields.account, rights: 3, sessionToken: new Uint8Array(), expiresMs: 0,
        };
        queueMicrotask(() => this.say(AuthenticateAnswer, answer, item.requestId));
      } else this.sent.push({ name: kind.name, id: item.requestId, fields });
    }
  }

  /** @param {number} [code] */
  close(code) {
    this.closes.push(code);
  }

  /**
   * As the server: send one message in a WebSocket message of its own.
   *
   * @template T
   * @param {import("../../tim_trio/web/static/tim/messages.js").Message<T>} kind
   * @param {T} fields
   * @param {number} [requestId]
   */
  say(kind, fields, requestId = 0) {
    this.sayBytes(encode(kind, fields, requestId));
  }

  /** @param {Uint8Array} bytes */
  sayBytes(bytes) {
    this.onmessage({ data: bytes.slice().buffer });
  }

  /** As the network: the connection is gone. */
  lose(code = 1006) {
    this.onclose({ code });
  }

  /**
   * Return the newest request of a name.
   *
   * @param {string} name
   */
  last(name) {
    const found = this.sent.findLast((each) => each.name === name);
    if (found === undefined) throw new Error(`no ${name} was sent`);
    return found;
  }
}
