// One connection to a server, from HELLO to CLOSE, over a WebSocket.
//
// It knows frames, requests and their answers, and signs of life; it does not
// know rooms. What must survive a reconnect is kept by the Client.
//
// Source: protocol.md, sections 2, 3, 5 and 6.

import { Code, isRetryable } from "./codes.js";
import {
  ConnectFailed, ConnectionClosed, RemoteProtocolError, RequestTimedOut, RoomError,
} from "./errors.js";
import { readFrames } from "./frames.js";
import {
  ANSWER_BIT, Authenticate, AuthenticateAnswer, Close, ErrorAnswer, Hello, MAGIC, MESSAGES, Ping,
  Pong, UnreadableFields, VERSION, Welcome, decode, encode,
} from "./messages.js";

export const SUBPROTOCOL = "tim.1";
const AGENT = "tim.js";
/** What a CLOSE code is raised by to be a code of WebSocket's. */
const CLOSE_OFFSET = 3000;
/** WELCOME and the answer to AUTHENTICATE fit many times. */
const GREETING_BYTES = 64 * 1024;
/** Silence of so many ping intervals means that the server is gone. */
const SILENT_INTERVALS = 3;
const MAX_REQUEST_ID = 0xffff_ffff;
/** After CLOSE `bye`, for the server to close. */
const GOODBYE_MS = 1000;
/** How often somebody who waits looks whether the browser has sent what it holds. */
const POLL_MS = 10;

/**
 * The part of a WebSocket that is used; `ws` for Node has it as well.
 *
 * @typedef {object} Socket
 * @property {string} binaryType
 * @property {number} bufferedAmount
 * @property {(data: Uint8Array<ArrayBuffer>) => void} send
 * @property {(code?: number, reason?: string) => void} close
 * @property {any} onopen
 * @property {any} onmessage
 * @property {any} onclose
 * @property {any} onerror
 */

/** @typedef {(url: string, protocol: string) => Socket} Dial */

/**
 * Every wait and every buffer of a client.
 *
 * @typedef {object} Bounds
 * @property {number} handshakeTimeoutMs for connecting, greeting and signing in together
 * @property {number} requestTimeoutMs from when a request has left to its answer
 * @property {number} drainTimeoutMs the same for UNPUBLISH, which waits until all was handed on
 * @property {number} liveBufferBytes held by the browser above which a live source drops frames
 * @property {number} sendBufferBytes the same, above which a reliable source waits
 * @property {number} receiveBufferBytes read and not yet taken, per subscription
 * @property {number} reconnectForMs how long a lost connection is tried to be replaced
 */

/** @type {Readonly<Bounds>} */
export const DEFAULT_BOUNDS = Object.freeze({
  handshakeTimeoutMs: 10_000,
  requestTimeoutMs: 10_000,
  drainTimeoutMs: 120_000,
  liveBufferBytes: 256 * 1024,
  sendBufferBytes: 1024 * 1024,
  receiveBufferBytes: 8 * 1024 * 1024,
  // As long as a room lives without data, by default.
  reconnectForMs: 300_000,
});

/**
 * Who a client is: a name alone, or with a proof.
 *
 * @typedef {object} Credentials
 * @property {number} method of AuthMethod
 * @property {string} account
 * @property {Uint8Array} secret
 * @property {string} device
 */

/**
 * Who gets what a connection reads: synchronously, in the order of the wire.
 *
 * @typedef {object} Receiver
 * @property {(frame: import("./frames.js").StreamFrame) => void} onFrame
 * @property {(kind: import("./messages.js").Message<any>, fields: any) => void} onEvent
 * @property {(error: ConnectionClosed) => void} onClosed
 */

/**
 * @typedef {object} Request
 * @property {import("./messages.js").Message<any>} kind
 * @property {import("./messages.js").Message<any>} answerKind
 * @property {(answer: any) => void} settle
 * @property {(error: Error) => void} fail
 * @property {((answer: any) => void) | undefined} undo
 * @property {boolean} abandoned
 * @property {ReturnType<typeof setTimeout> | undefined} timer
 */

/**
 * @typedef {object} RequestOptions
 * @property {number} [timeoutMs]
 * @property {(answer: any) => void} [onAnswer] called before anything behind the answer is looked at
 * @property {(answer: any) => void} [undo] called with an answer that comes after the timeout
 */

export class Connection {
  /**
   * @param {Socket} socket
   * @param {Receiver} receiver
   * @param {Readonly<Bounds>} bounds
   */
  constructor(socket, receiver, bounds) {
    this.receiver = receiver;
    this.bounds = bounds;
    /** Why it is over; null while it lives. @type {ConnectionClosed | null} */
    this.error = null;
    /** Bytes ever handed to the browser. */
    this.sentTotal = 0;
    /** @type {import("./messages.js").FieldsOf<typeof Welcome> | null} */
    this._welcome = null;
    this._socket = socket;
    /** @type {Map<number, Request>} */
    this._requests = new Map();
    this._lastNumber = 0;
    /** @type {Set<() => void>} */
    this._waiters = new Set();
    this._lastReceived = this._lastSent = performance.now();
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this._keepAlive = undefined;
    this._limits = { maxFrameBytes: GREETING_BYTES, maxInitBytes: GREETING_BYTES };
    socket.binaryType = "arraybuffer";
    socket.onmessage = (/** @type {{ data: unknown }} */ event) => this._receive(event.data);
    socket.onclose = (/** @type {{ code: number }} */ event) => this._lost(event.code);
    socket.onerror = () => {}; // onclose follows, and says all there is
  }

  /**
   * Connect and say HELLO.
   *
   * @param {string} url `ws://HOST:PORT/ws`, or wss
   * @param {Receiver} receiver
   * @param {Readonly<Bounds>} bounds
   * @param {Dial} dial
   * @param {number} [patienceMs] for the WebSocket to open
   * @returns {Promise<Connection>} once the server has welcomed us
   * @throws {ConnectFailed} nobody answers, or not as a tim_trio server does
   * @throws {ConnectionClosed} the server closed and said why
   */
  static async open(url, receiver, bounds, dial, patienceMs = Infinity) {
    const socket = dial(url, SUBPROTOCOL);
    const connection = new Connection(socket, receiver, bounds);
    try {
      await connection._opened(Math.min(patienceMs, bounds.handshakeTimeoutMs));
      const hello = {
        magic: MAGIC, minVersion: VERSION, maxVersion: VERSION, capabilities: 0, agent: AGENT,
      };
      const welcome = await connection.request(Hello, hello, Welcome, {
        timeoutMs: bounds.handshakeTimeoutMs,
        onAnswer: (answer) => connection._begin(answer),
      });
      if (welcome.version !== VERSION) throw new ConnectFailed("the server speaks another version");
      return connection;
    } catch (error) {
      const { error: reason } = connection;
      connection.close(Code.bye);
      if (error instanceof ConnectionClosed && error.code === null) {
        throw new ConnectFailed(reason?.text || "nobody answers as a tim_trio server does");
      }
      if (error instanceof RequestTimedOut) throw new ConnectFailed("the server does not answer");
      throw error;
    }
  }

  /**
   * @param {number} timeoutMs
   * @returns {Promise<void>}
   */
  _opened(timeoutMs) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new ConnectFailed("no connection in time")), timeoutMs,
      );
      const lost = this._socket.onclose;
      this._socket.onopen = () => {
        clearTimeout(timer);
        this._socket.onclose = lost;
        resolve();
      };
      this._socket.onclose = (/** @type {{ code: number }} */ event) => {
        clearTimeout(timer);
        lost(event);
        reject(this.error);
      };
    });
  }

  /** @param {import("./messages.js").FieldsOf<typeof Welcome>} welcome */
  _begin(welcome) {
    this._welcome = welcome;
    this._limits = welcome;
    let expected = performance.now() + welcome.pingIntervalMs / 2;
    this._keepAlive = setInterval(() => {
      const now = performance.now();
      // A page that was frozen knows nothing of what came meanwhile.
      if (now - expected > welcome.pingIntervalMs) this._lastReceived = now;
      expected = now + welcome.pingIntervalMs / 2;
      this._lookAlive(now, welcome.pingIntervalMs);
    }, welcome.pingIntervalMs / 2);
    // In Node a client that is forgotten must not keep the process.
    /** @type {any} */ (this._keepAlive).unref?.();
  }

  /**
   * Ping when one side is silent; give up on a server that stays so.
   *
   * @param {number} now
   * @param {number} intervalMs
   */
  _lookAlive(now, intervalMs) {
    if (now - this._lastReceived > SILENT_INTERVALS * intervalMs) {
      this.fail(null, "the server has gone silent");
      return;
    }
    const idle = now - Math.min(this._lastSent, this._lastReceived) >= intervalMs / 2;
    if (idle && this._socket.bufferedAmount === 0) {
      this._send(encode(Ping, { stamp: 1n }, this._nextNumber()));
    }
  }

  /** The server's limits, from its WELCOME. */
  get welcome() {
    if (this._welcome === null) throw new Error("not welcomed yet");
    return this._welcome;
  }

  get isOver() {
    return this.error !== null;
  }

  /** Bytes the browser still holds for the server. */
  get bufferedBytes() {
    return this._socket.bufferedAmount;
  }

  /**
   * Sign in.
   *
   * @param {Credentials} credentials
   */
  authenticate(credentials) {
    return this.request(Authenticate, credentials, AuthenticateAnswer, {
      timeoutMs: this.bounds.handshakeTimeoutMs,
    });
  }

  // -- sending ---------------------------------------------------------------

  /** @param {Uint8Array<ArrayBuffer>} bytes */
  _send(bytes) {
    if (this.isOver) return;
    this._socket.send(bytes);
    this.sentTotal += bytes.length;
    this._lastSent = performance.now();
  }

  /**
   * Send one whole stream frame. The caller looks at `bufferedBytes` first.
   *
   * @param {Uint8Array<ArrayBuffer>} bytes
   */
  sendFrame(bytes) {
    this._send(bytes);
  }

  /**
   * Send a message that has no answer, or whose answer nobody waits for.
   *
   * @template T
   * @param {import("./messages.js").Message<T>} kind
   * @param {T} fields
   * @param {boolean} [oneWay]
   */
  notify(kind, fields, oneWay = false) {
    this._send(encode(kind, fields, oneWay ? 0 : this._nextNumber()));
  }

  /**
   * Send a request and return its answer.
   *
   * @template T
   * @template A
   * @param {import("./messages.js").Message<T>} kind
   * @param {T} fields
   * @param {import("./messages.js").Message<A>} answerKind
   * @param {RequestOptions} [options]
   * @returns {Promise<A>}
   * @throws {RoomError} the server refused
   * @throws {RequestTimedOut} no answer in time
   * @throws {ConnectionClosed} the connection ended first
   */
  async request(kind, fields, answerKind, options = {}) {
    if (this.error !== null) throw this.error;
    const number = this._nextNumber();
    this._send(encode(kind, fields, number));
    return new Promise((resolve, reject) => {
      /** @type {Request} */
      const request = {
        kind, answerKind, fail: reject, undo: options.undo, abandoned: false, timer: undefined,
        settle(answer) {
          options.onAnswer?.(answer);
          resolve(answer);
        },
      };
      this._requests.set(number, request);
      this._arm(request, options.timeoutMs ?? this.bounds.requestTimeoutMs, this.sentTotal);
    });
  }

  /**
   * Start a request's time. It stands behind what the browser holds, so the
   * time counts anew while it has not left.
   *
   * @param {Request} request
   * @param {number} timeoutMs
   * @param {number} mark
   */
  _arm(request, timeoutMs, mark) {
    request.timer = setTimeout(() => {
      if (this.sentTotal - this._socket.bufferedAmount < mark) {
        this._arm(request, timeoutMs, mark);
        return;
      }
      request.abandoned = true;
      request.fail(new RequestTimedOut(`no answer to ${request.kind.name} in ${timeoutMs} ms`));
    }, timeoutMs);
  }

  _nextNumber() {
    do {
      this._lastNumber = (this._lastNumber % MAX_REQUEST_ID) + 1;
    } while (this._requests.has(this._lastNumber));
    return this._lastNumber;
  }

  /**
   * Wait until a condition holds that may change when something comes in, when
   * the browser sends what it holds, or when `wake` is called.
   *
   * @param {() => boolean} condition
   */
  async waitUntil(condition) {
    while (!this.isOver && !condition()) {
      await new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
        const wake = () => {
          clearTimeout(timer);
          this._waiters.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, POLL_MS);
        this._waiters.add(wake);
      });
    }
  }

  wake() {
    for (const wake of [...this._waiters]) wake();
  }

  // -- what comes in ---------------------------------------------------------

  /** @param {unknown} data */
  _receive(data) {
    if (this.isOver) return;
    this._lastReceived = performance.now();
    try {
      if (!(data instanceof ArrayBuffer)) throw new RemoteProtocolError("a text message");
      // The limits may change within a message: WELCOME need not come alone.
      for (const item of readFrames(data, this._currentLimits())) {
        if (this.isOver) return;
        if (item.kind === "frame") this.receiver.onFrame(item);
        else this._receiveControl(item);
      }
    } catch (error) {
      if (!(error instanceof RemoteProtocolError || error instanceof UnreadableFields)) throw error;
      const code = error instanceof RemoteProtocolError ? error.code : Code.protocol_error;
      this._end(code, `the server broke the protocol: ${error.message}`, true);
    }
    if (this._waiters.size) this.wake();
  }

  _currentLimits() {
    const connection = this;
    return {
      get maxFrameBytes() { return connection._limits.maxFrameBytes; },
      get maxInitBytes() { return connection._limits.maxInitBytes; },
    };
  }

  /** @param {import("./frames.js").ControlFrame} frame */
  _receiveControl(frame) {
    if (frame.type >= ANSWER_BIT) {
      this._settle(frame);
      return;
    }
    const kind = MESSAGES.get(frame.type);
    if (kind === undefined) return;
    if (kind === Close) {
      this._closedByServer(frame.fields);
      return;
    }
    if (kind === Ping) {
      this._send(encode(Pong, decode(Ping, frame.fields), frame.requestId));
      return;
    }
    // Requests are for servers; only events are for us, and CREDIT.
    if (kind.type >= 0x60 || kind.name === "CREDIT") {
      this.receiver.onEvent(kind, decode(kind, frame.fields));
    }
  }

  /** @param {Uint8Array} fields */
  _closedByServer(fields) {
    try {
      const { code, text, retryAfterMs } = decode(Close, fields);
      this._end(code, text, false, retryAfterMs);
    } catch (error) {
      if (!(error instanceof UnreadableFields)) throw error;
      this.fail(null, "the server closed");
    }
  }

  /** @param {import("./frames.js").ControlFrame} frame */
  _settle(frame) {
    const request = this._requests.get(frame.requestId);
    if (request === undefined) return;
    const refused = frame.type === ErrorAnswer.type;
    if (!refused && frame.type !== request.answerKind.type) {
      throw new RemoteProtocolError(`type ${frame.type} is no answer to ${request.kind.name}`);
    }
    // Decoded first: were it unreadable, the connection's end would reject it.
    const answer = decode(refused ? ErrorAnswer : request.answerKind, frame.fields);
    this._requests.delete(frame.requestId);
    clearTimeout(request.timer);
    if (refused) {
      request.fail(new RoomError(answer.code, answer.text, answer.retryAfterMs));
    } else if (request.abandoned) {
      request.undo?.(answer);
    } else {
      request.settle(answer);
    }
  }

  // -- the end ---------------------------------------------------------------

  /** @param {number} code of the WebSocket's close */
  _lost(code) {
    const said = code - CLOSE_OFFSET;
    this.fail(said >= 1000 && said < 1200 ? said : null);
  }

  /**
   * End the connection for everyone. The first reason stays.
   *
   * @param {number | null} code
   * @param {string} [text]
   * @param {number} [retryAfterMs]
   */
  fail(code, text = "", retryAfterMs = 0) {
    if (this.error !== null) return;
    this.error = new ConnectionClosed(code, text, retryAfterMs);
    clearInterval(this._keepAlive);
    this._closeSocket(code === Code.bye ? GOODBYE_MS : 0);
    for (const request of this._requests.values()) {
      clearTimeout(request.timer);
      request.fail(this.error);
    }
    this._requests.clear();
    this.receiver.onClosed(this.error);
    this.wake();
  }

  /**
   * @param {number} code
   * @param {string} text
   * @param {boolean} sayIt
   * @param {number} [retryAfterMs]
   */
  _end(code, text, sayIt, retryAfterMs = 0) {
    if (this.error !== null) return;
    try {
      if (sayIt) {
        this._send(encode(Close, { code, retry: isRetryable(code), retryAfterMs: 0, text: "" }));
      }
    } catch {
      // Not open yet, or not any more: there is nobody to tell.
    }
    this.fail(code, text, retryAfterMs);
  }

  /**
   * Close the WebSocket. After a goodbye the server does, which lets it have the
   * last word; we do when it takes too long.
   *
   * @param {number} withinMs
   */
  _closeSocket(withinMs) {
    const code = this.error?.code ?? null;
    const close = () => {
      try {
        if (code !== null && code >= 1000 && code < 1200) this._socket.close(code + CLOSE_OFFSET);
        else this._socket.close();
      } catch {
        // Closed before it was open.
      }
    };
    if (withinMs === 0) {
      close();
      return;
    }
    const timer = setTimeout(close, withinMs);
    this._socket.onclose = () => clearTimeout(timer);
  }

  /**
   * Say CLOSE and close; what was sent before still leaves.
   *
   * @param {number} [code]
   */
  close(code = Code.bye) {
    this._end(code, "", true);
  }
}
