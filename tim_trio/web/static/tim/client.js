// The client: rooms, publishing, subscribing, and what concerns the account.
//
//   const client = await connect("ws://127.0.0.1:7680/ws", { account: "alice" });
//   const room = await client.registerRoom();
//   const source = await client.publish(room);
//   source.sendNow(new Uint8Array([1, 2, 3]), { key: true });
//
// Source: protocol.md, sections 6 to 11 and 13.

import { Connection, DEFAULT_BOUNDS } from "./connection.js";
import { ConnectionClosed } from "./errors.js";
import {
  AccountSend, AccountSendAnswer, AskToPush, AskToPushAnswer, AuthMethod, Ban, BanAnswer, BanKind,
  ChangePassword, ChangePasswordAnswer, Contact, ContactAction, ContactAnswer, GetRoomInfo, Grant,
  GrantAnswer, ListContacts, ListContactsAnswer, ListRooms, ListRoomsAnswer, ListScope, Policy,
  Publish, PublishAnswer, RegisterAccount, RegisterAccountAnswer, RegisterRoom, RegisterRoomAnswer,
  RemoveRoom, RemoveRoomAnswer, Revoke, RevokeAnswer, Right, RoomInfoAnswer, RoomMode, SetPolicy,
  SetPolicyAnswer, GetPolicy, GetPolicyAnswer, StartFrom, Subscribe, SubscribeAnswer, Unpublish, Unsubscribe,
  UNKNOWN_SOURCES, UNKNOWN_VIEWERS,
} from "./messages.js";
import { Reconnector, sleep } from "./reconnect.js";
import { formatRoomId, roomNumber } from "./room_ids.js";
import { Session } from "./session.js";
import { Source } from "./source.js";
import { Feed, Subscription, creditWindow } from "./subscription.js";
import { TOKEN_BYTES } from "./wire.js";
import { Whereabouts } from "./whereabouts.js";

/** @typedef {import("./connection.js").Bounds} Bounds */

/**
 * With an account alone, the name has to suffice; else one of the proofs.
 *
 * @typedef {object} ConnectOptions
 * @property {string} [account] may be left out beside a session or a token
 * @property {string} [password]
 * @property {Uint8Array} [session] a session token from `Client.sessionToken`
 * @property {string} [token] a signed token (JWT)
 * @property {string} [device] a name for this device in the account's own list
 * @property {boolean} [reconnect] true unless told otherwise
 * @property {Partial<Bounds>} [bounds]
 * @property {import("./connection.js").Dial} [dial] where there is no WebSocket of the platform's
 * @property {() => number} [random] for the waits between attempts
 */

/**
 * @typedef {object} SubscribeOptions
 * @property {"group" | "live"} [from] "group": with the running group, so that a picture shows
 *   at once; "live": with the next frame
 * @property {(stream: Subscription) => void} [onStart] called before the first item
 * @property {(item: import("./subscription.js").Item) => void} [onItem] called for each item as it
 *   comes; without it, iterate
 * @property {(error: Error | null) => void} [onEnd]
 */

/**
 * What happens to a client, and what its listeners get.
 *
 * @typedef {object} ClientEvents
 * @property {{ error: ConnectionClosed }} reconnecting
 * @property {{ attempts: number }} reconnected
 * @property {{ error: Error }} over there will be no other connection
 * @property {{ room: string, account: string, message: string }} pushAsked
 * @property {{ room: string }} pushGranted
 * @property {{ account: string, kind: number, payload: Uint8Array }} accountStream
 * @property {{ account: string, state: number }} contactChanged
 * @property {{ reason: number, address: string, spreadMs: number }} goAway
 */

/** @type {import("./connection.js").Dial} */
const dialByPlatform = (url, protocol) => new WebSocket(url, protocol);

/** @param {ConnectOptions} options */
function credentialsOf(options) {
  const { account = "", password, session, token, device = "" } = options;
  const utf8 = (/** @type {string} */ text) => new TextEncoder().encode(text);
  if (session !== undefined) return { method: AuthMethod.session, account, secret: session, device };
  if (token !== undefined) {
    return { method: AuthMethod.signedToken, account, secret: utf8(token), device };
  }
  if (password !== undefined) {
    return { method: AuthMethod.password, account, secret: utf8(password), device };
  }
  return { method: AuthMethod.name, account, secret: new Uint8Array(), device };
}

export class Client {
  /**
   * @param {string} url
   * @param {ConnectOptions} options
   */
  constructor(url, options) {
    this.url = url;
    /** @type {Readonly<Bounds>} */
    this.bounds = Object.freeze({ ...DEFAULT_BOUNDS, ...options.bounds });
    /** Who we are, as the server wrote it. */
    this.account = "";
    /** Bits of Right. */
    this.rights = 0;
    /** For the next connection, empty where the server gives none. @type {Uint8Array} */
    this.sessionToken = new Uint8Array();
    /** Why it is over; null while it lives. @type {Error | null} */
    this.error = null;
    this._whereabouts = new Whereabouts(url, options.random);
    this._dial = options.dial ?? dialByPlatform;
    /** @type {import("./connection.js").Credentials} */
    this._credentials = credentialsOf(options);
    this._reconnects = options.reconnect ?? true;
    /** @type {Session | null} */
    this._session = null;
    /** @type {Map<bigint, Subscription>} */
    this._subscriptions = new Map();
    /** @type {Set<Source>} */
    this._sources = new Set();
    /** @type {Map<string, Set<(event: any) => void>>} */
    this._listeners = new Map();
    /** Who waits for another connection. @type {Set<() => void>} */
    this._waiters = new Set();
    this._reconnector = new Reconnector(this, options.random);
  }

  // -- the connection ----------------------------------------------------------

  /**
   * Look at once whether a lost connection can be replaced, instead of waiting as long as
   * it was to be. For when the network has come back, or a person looks.
   */
  reconnectNow() {
    this._reconnector.hurry();
  }

  get isConnected() {
    return this._session !== null;
  }

  get isOver() {
    return this.error !== null;
  }

  get isOperator() {
    return (this.rights & Right.operator) !== 0;
  }

  /** What the server says of itself, null while there is no connection. */
  get server() {
    return this._session?.connection.welcome ?? null;
  }

  /**
   * Have a function called at each event of a kind; returns how to end that.
   *
   * @template {keyof ClientEvents} K
   * @param {K} kind
   * @param {(event: ClientEvents[K]) => void} listener
   * @returns {() => void}
   */
  on(kind, listener) {
    let listeners = this._listeners.get(kind);
    if (listeners === undefined) this._listeners.set(kind, (listeners = new Set()));
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** Say goodbye. Sources and subscriptions end. */
  close() {
    this._finish(new ConnectionClosed(1000, "closed here"));
  }

  /**
   * Send a request over the connection there is, or the next one.
   *
   * A request under way when the connection is lost throws ConnectionClosed:
   * the server may have carried it out.
   *
   * @template T
   * @template A
   * @param {import("./messages.js").Message<T>} kind
   * @param {T} fields
   * @param {import("./messages.js").Message<A>} answerKind
   * @param {import("./connection.js").RequestOptions} [options]
   * @returns {Promise<A>}
   */
  async request(kind, fields, answerKind, options) {
    const session = await this._up();
    return session.connection.request(kind, fields, answerKind, options);
  }

  // -- rooms ---------------------------------------------------------------------

  /**
   * Register a room and return its id.
   *
   * @param {object} [options]
   * @param {"live" | "reliable"} [options.mode] "live" never waits for the slow,
   *   "reliable" never drops
   * @param {number} [options.gatherMs] how long the server may hold small frames
   * @param {number} [options.idleTimeoutS] the room ends after so long without a frame;
   *   0 for the server's default
   */
  async registerRoom({ mode = "live", gatherMs = 0, idleTimeoutS = 0 } = {}) {
    const fields = { mode: RoomMode[mode], gatherMs, idleTimeoutS };
    const answer = await this.request(RegisterRoom, fields, RegisterRoomAnswer);
    return formatRoomId(answer.room);
  }

  /**
   * End a room of ours.
   *
   * @param {string} room
   */
  async removeRoom(room) {
    await this.request(RemoveRoom, { room: roomNumber(room) }, RemoveRoomAnswer);
  }

  /**
   * Let an account push to a room of ours.
   *
   * @param {string} room
   * @param {string} account
   */
  async grant(room, account) {
    await this.request(Grant, { room: roomNumber(room), account }, GrantAnswer);
  }

  /**
   * Take that right away; the account's sources in the room end at once.
   *
   * @param {string} room
   * @param {string} account
   */
  async revoke(room, account) {
    await this.request(Revoke, { room: roomNumber(room), account }, RevokeAnswer);
  }

  /** @param {string} room */
  async roomInfo(room) {
    const { roomInfo } = await this.request(
      GetRoomInfo, { room: roomNumber(room) }, RoomInfoAnswer,
    );
    return { ...roomInfo, room: formatRoomId(roomInfo.room) };
  }

  /**
   * Return the rooms created by or granted to us; all of them is for operators. Viewers and
   * sources are null where that is not known now.
   *
   * @param {object} [options]
   * @param {boolean} [options.all]
   */
  async listRooms({ all = false } = {}) {
    const scope = all ? ListScope.all : ListScope.mine;
    const rooms = [];
    for (let after = 0n; ; ) {
      const answer = await this.request(ListRooms, { scope, after, limit: 0 }, ListRoomsAnswer);
      for (const entry of answer.rooms) {
        rooms.push({
          ...entry, room: formatRoomId(entry.room),
          viewers: entry.viewers === UNKNOWN_VIEWERS ? null : entry.viewers,
          sources: entry.sources === UNKNOWN_SOURCES ? null : entry.sources,
        });
        after = entry.room;
      }
      if (!answer.more || !answer.rooms.length) return rooms;
    }
  }

  /**
   * Ask a room's creator for the right to push; return how many devices heard it.
   * A yes comes as the event "pushGranted".
   *
   * @param {string} room
   * @param {string} [message]
   */
  async askToPush(room, message = "") {
    const fields = { room: roomNumber(room), message };
    return (await this.request(AskToPush, fields, AskToPushAnswer)).told;
  }

  /**
   * For operators: end a room, or an account's connections, for good.
   *
   * @param {{ room: string } | { account: string }} what
   * @param {string} [reason]
   */
  async ban(what, reason = "") {
    const fields = "room" in what
      ? { kind: BanKind.room, room: roomNumber(what.room), account: "", reason }
      : { kind: BanKind.account, room: 0n, account: what.account, reason };
    await this.request(Ban, fields, BanAnswer);
  }

  // -- publishing and subscribing ---------------------------------------------------

  /**
   * Open a source in a room.
   *
   * @param {string} room
   * @param {object} [options]
   * @param {Uint8Array} [options.token] 16 secret bytes; those of a source that still runs
   *   take it over
   * @returns {Promise<Source>}
   */
  async publish(room, { token = randomToken() } = {}) {
    const number = roomNumber(room);
    /** @type {Source | undefined} */
    let source;
    await this._throughLosses(async (session) => {
      const { connection } = session;
      await connection.request(Publish, { room: number, token }, PublishAnswer, {
        onAnswer: (answer) => {
          source = new Source(this, connection, number, token, answer);
          session.sources.add(source);
          this._sources.add(source);
        },
        undo: (answer) => connection.notify(Unpublish, { room: number, source: answer.source }),
      });
    });
    return /** @type {Source} */ (source);
  }

  /**
   * Subscribe to a room. One subscription per room and client.
   *
   * @param {string} room
   * @param {SubscribeOptions} [options]
   * @returns {Promise<Subscription>}
   */
  async subscribe(room, options = {}) {
    const number = roomNumber(room);
    const from = StartFrom[options.from ?? "group"];
    const stream = new Subscription(this, number, from, options);
    await this._throughLosses(async (session) => {
      const { connection } = session;
      const fields = { room: number, from, credit: creditWindow(connection) };
      await connection.request(Subscribe, fields, SubscribeAnswer, {
        // Before what follows the answer is looked at: it has to find the feed.
        onAnswer: (answer) => {
          const feed = new Feed(connection, stream, answer);
          session.feeds.set(number, feed);
          this._subscriptions.set(number, stream);
          stream._attach(feed, answer.mode, answer.sources);
          options.onStart?.(stream);
        },
        undo: () => connection.notify(Unsubscribe, { room: number }),
      });
    });
    return stream;
  }

  // -- the account --------------------------------------------------------------------

  /**
   * Send something to accounts, now or never; return what became of it for each.
   *
   * @param {string[]} receivers
   * @param {number} kind
   * @param {Uint8Array} payload
   */
  async sendToAccounts(receivers, kind, payload) {
    const fields = { receivers, kind, payload };
    return (await this.request(AccountSend, fields, AccountSendAnswer)).deliveries;
  }

  /**
   * Change what an account is to us; return the new state, of ContactState.
   *
   * @param {keyof typeof ContactAction} action
   * @param {string} account
   */
  async contact(action, account) {
    const fields = { action: ContactAction[action], account };
    return (await this.request(Contact, fields, ContactAnswer)).state;
  }

  async listContacts() {
    /** @type {import("./messages.js").ContactEntry[]} */
    const contacts = [];
    for (let after = ""; ; ) {
      const answer = await this.request(ListContacts, { after, limit: 0 }, ListContactsAnswer);
      contacts.push(...answer.contacts);
      after = contacts.at(-1)?.account ?? "";
      if (!answer.more || !answer.contacts.length) return contacts;
    }
  }

  /**
   * Say who may send to us.
   *
   * @param {keyof typeof Policy} policy
   */
  async setPolicy(policy) {
    await this.request(SetPolicy, { policy: Policy[policy] }, SetPolicyAnswer);
  }

  /** Return who may send to us: a name of Policy, or the number of one that we do not know. */
  async getPolicy() {
    const { policy } = await this.request(GetPolicy, {}, GetPolicyAnswer);
    return Object.entries(Policy).find(([, number]) => number === policy)?.[0] ?? policy;
  }

  /**
   * @param {string} old
   * @param {string} fresh
   */
  async changePassword(old, fresh) {
    const utf8 = new TextEncoder();
    const fields = { old: utf8.encode(old), new: utf8.encode(fresh) };
    await this.request(ChangePassword, fields, ChangePasswordAnswer);
  }

  // -- called by the parts --------------------------------------------------------------

  /**
   * @param {string} kind
   * @param {any} event
   */
  _emit(kind, event) {
    for (const listener of [...(this._listeners.get(kind) ?? [])]) listener(event);
  }

  /** Open a signed-in session. */
  /**
   * @param {string} [url]
   * @param {number} [patienceMs] for a WebSocket to open
   */
  async _openSession(url = this.url, patienceMs = Infinity) {
    const session = new Session(this);
    const connection = await Connection.open(url, session, this.bounds, this._dial, patienceMs);
    session.connection = connection;
    try {
      const identity = await connection.authenticate(this._credentials);
      this.account = identity.account;
      this.rights = identity.rights;
      if (identity.sessionToken.length) {
        this.sessionToken = identity.sessionToken;
        // A password is proof once: each further use would be another session.
        this._credentials = {
          ...this._credentials, method: AuthMethod.session, account: identity.account,
          secret: identity.sessionToken,
        };
      }
    } catch (error) {
      connection.close();
      throw error;
    }
    return session;
  }

  /**
   * @param {Session} session
   * @param {number} attempts
   */
  _use(session, attempts) {
    this._session = session;
    this._wakeAway();
    if (attempts > 0) this._emit("reconnected", { attempts });
    // Lost before anyone knew of it: nothing else would say so.
    if (session.connection.error !== null) this._sessionOver(session, session.connection.error);
  }

  /** Wait for a connection. */
  async _up() {
    while (this._session === null) {
      if (this.error !== null) throw this.error;
      await this._nextWake();
    }
    return this._session;
  }

  /** @returns {Promise<void>} */
  _nextWake() {
    return new Promise((resolve) => {
      this._waiters.add(resolve);
    });
  }

  _wakeAway() {
    const waiters = [...this._waiters];
    this._waiters.clear();
    for (const wake of waiters) wake();
  }

  /**
   * @param {Connection | null} connection
   * @param {() => boolean} condition
   */
  async _waitFor(connection, condition) {
    if (connection !== null && !connection.isOver) await connection.waitUntil(condition);
    else if (!condition()) await this._nextWake();
  }

  /**
   * Ask again on the next connection what was lost with one: for what may be asked twice.
   *
   * @param {(session: Session) => Promise<void>} ask
   */
  async _throughLosses(ask) {
    for (;;) {
      const session = await this._up();
      try {
        await ask(session);
        return;
      } catch (error) {
        if (!(error instanceof ConnectionClosed) || this.isOver || !this._reconnects) throw error;
        await sleep(0); // so that the session's end is known here
      }
    }
  }

  /**
   * A connection has ended: everything on it waits for the next, or is over.
   *
   * @param {Session} session
   * @param {ConnectionClosed} error
   */
  _sessionOver(session, error) {
    const isNewest = this._session === session;
    if (this.isOver || !session.connection) return;
    if (isNewest && (!this._reconnects || !error.retryable)) {
      this._finish(error);
      return;
    }
    for (const source of session.sources) source._lose();
    for (const feed of session.feeds.values()) feed.taker.lose(feed, error);
    session.sources.clear();
    session.feeds.clear();
    if (isNewest) {
      this._session = null;
      this._emit("reconnecting", { error });
      void this._reconnector.comeBack(error);
    }
  }

  /**
   * There will be no other connection.
   *
   * @param {ConnectionClosed} reason
   * @param {unknown} last why the last attempt failed
   */
  _giveUp(reason, last) {
    const why = last instanceof Error && last !== reason ? `no way back: ${last.message}` : "";
    const text = [reason.text, why].filter(Boolean).join("; ");
    this._finish(new ConnectionClosed(reason.code, text));
  }

  /** @param {Error} error */
  _finish(error) {
    if (this.error !== null) return;
    this.error = error;
    const session = this._session;
    this._session = null;
    session?.connection.close();
    for (const stream of [...this._subscriptions.values()]) stream._refuse(error);
    for (const source of [...this._sources]) source._finish(error);
    this._wakeAway();
    this._emit("over", { error });
  }

  _roomsInUse() {
    return new Set([...this._subscriptions.keys(), ...[...this._sources].map(({ _room }) => _room)]);
  }

  /** @param {Source} source */
  _forgetSource(source) {
    this._sources.delete(source);
    this._session?.sources.delete(source);
  }

  /** @param {Subscription} stream */
  _forgetSubscription(stream) {
    if (this._subscriptions.get(stream._room) === stream) this._subscriptions.delete(stream._room);
    for (const feed of [stream._feed, stream._nextFeed]) {
      const session = feed === null ? null : /** @type {Session} */ (feed.connection.receiver);
      if (session?.feeds.get(stream._room) === feed) session?.feeds.delete(stream._room);
    }
  }
}

/** A source's token: random, secret, and good for taking it over. */
export function randomToken() {
  return crypto.getRandomValues(new Uint8Array(TOKEN_BYTES));
}

/**
 * Connect to a server and sign in.
 *
 * The first connection is tried once; later ones again and again, for
 * `bounds.reconnectForMs`.
 *
 * @param {string} url `ws://HOST:PORT/ws`, or wss
 * @param {ConnectOptions} options
 * @returns {Promise<Client>}
 */
export async function connect(url, options) {
  const client = new Client(url, options);
  client._use(await client._openSession(), 0);
  return client;
}

/**
 * Say HELLO and return what the server says of itself, to know how to sign in.
 *
 * @param {string} url
 * @param {Pick<ConnectOptions, "bounds" | "dial">} [options]
 */
export async function greet(url, options = {}) {
  return onItsOwn(url, options, async (connection) => connection.welcome);
}

/**
 * Make an account. It does not sign in.
 *
 * @param {string} url
 * @param {{ account: string, password: string, invitation?: string }} who
 * @param {Pick<ConnectOptions, "bounds" | "dial">} [options]
 * @returns {Promise<string>} the account as the server wrote it
 */
export async function registerAccount(url, { account, password, invitation = "" }, options = {}) {
  const utf8 = new TextEncoder();
  const fields = {
    account, password: utf8.encode(password), invitation: utf8.encode(invitation),
  };
  const answer = await onItsOwn(url, options, (connection) =>
    connection.request(RegisterAccount, fields, RegisterAccountAnswer));
  return answer.account;
}

/**
 * @template T
 * @param {string} url
 * @param {Pick<ConnectOptions, "bounds" | "dial">} options
 * @param {(connection: Connection) => Promise<T>} body
 */
async function onItsOwn(url, { bounds, dial }, body) {
  const nobody = { onFrame() {}, onEvent() {}, onClosed() {} };
  const connection = await Connection.open(
    url, nobody, { ...DEFAULT_BOUNDS, ...bounds }, dial ?? dialByPlatform,
  );
  try {
    return await body(connection);
  } finally {
    connection.close();
  }
}
