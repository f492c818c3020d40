// Coming back: another connection in place of one that was lost, or is to be left.
//
// One per client. It alone opens further connections, and it alone moves
// sources and subscriptions to them.
//
// Source: protocol.md, section 6 item 5, section 13 (GO_AWAY, OTHER_NODES).

import { Code } from "./codes.js";
import { ConnectFailed, ConnectionClosed, RequestTimedOut, RoomError, SourceLost } from "./errors.js";
import {
  GetRoomInfo, Ping, Pong, Publish, PublishAnswer, RoomInfoAnswer, RoomMode, Subscribe,
  SubscribeAnswer, Unpublish, Unsubscribe, UnsubscribeAnswer,
} from "./messages.js";
import { Feed, creditWindow } from "./subscription.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./source.js").Source} Source */
/** @typedef {import("./subscription.js").Subscription} Subscription */

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 30_000;
/** A connection that lasted so long begins a new series of attempts. */
const LASTING_MS = 10_000;
/** For a refusal that may pass but does not say when. */
const ASK_AGAIN_MS = 1000;

/** For a node to answer while others may be there, in the first rounds. */
const PATIENCE_MS = 2000;
const HASTY_ROUNDS = 2;
/** Closes after which another node is the better choice. */
const ILL = new Set([Code.shutting_down, Code.overloaded, Code.too_many_connections]);

/** Random waits that grow with each attempt: at one address, or at all that are known. */
export class Backoff {
  /** @param {() => number} [random] in [0, 1) */
  constructor(random = Math.random) {
    this._random = random;
    this.attempt = 0;
  }

  /**
   * @param {number} [retryAfterMs]
   * @param {boolean} [isNew] false within the same attempt
   */
  next(retryAfterMs = 0, isNew = true) {
    if (isNew) this.attempt += 1;
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(this.attempt - 1, 30));
    return Math.max(this._random() * longest, retryAfterMs);
  }

  reset() {
    this.attempt = 0;
  }
}

export class Reconnector {
  /**
   * @param {import("./client.js").Client} client
   * @param {() => number} [random]
   */
  constructor(client, random) {
    this._client = client;
    this._random = random ?? Math.random;
    this._backoff = new Backoff(this._random);
    this._since = performance.now();
    /** Ends the wait before the next attempt. */
    this._wake = () => {};
  }

  /** Try now instead of waiting: what kept us away may be over. */
  hurry() {
    this._wake();
  }

  /** @param {number} ms at most so long */
  async _wait(ms) {
    let timer;
    await new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
      this._wake = () => resolve();
      timer = setTimeout(resolve, ms);
    });
    clearTimeout(timer);
  }

  // -- after a loss ------------------------------------------------------------

  /**
   * Connect again and resume everything, or give up for good.
   *
   * @param {ConnectionClosed} lost
   */
  async comeBack(lost) {
    const client = this._client;
    const began = performance.now();
    if (began - this._since >= LASTING_MS) this._backoff.reset();
    /** @type {unknown} */
    let error = lost;
    const whereabouts = client._whereabouts;
    const isIll = ILL.has(/** @type {any} */ (lost.code));
    const shunned = new Set();
    /** @type {string[]} */
    let ways = [];
    let rounds = 0;
    let patienceMs = Infinity;
    for (let attempts = 1; !client.isOver; attempts++) {
      const isNew = ways.length === 0;
      if (isNew) {
        ways = whereabouts.afterALoss(isIll).filter((way) => !shunned.has(way));
        rounds += 1;
        patienceMs = ways.length > 1 && rounds <= HASTY_ROUNDS ? PATIENCE_MS : Infinity;
      }
      const waitMs = this._backoff.next(isNew ? retryAfter(error) : 0, isNew);
      if (performance.now() + waitMs - began > client.bounds.reconnectForMs) break;
      await this._wait(waitMs);
      if (client.isOver) return;
      const where = /** @type {string} */ (ways.shift());
      let session;
      try {
        session = await client._openSession(where, patienceMs);
      } catch (failed) {
        error = failed;
        if (!isPassing(failed)) {
          if (where === client.url || where === whereabouts.here) break;
          // One node that is set up otherwise does not speak for all.
          shunned.add(where);
        }
        continue;
      }
      whereabouts.arrive(where);
      this._since = performance.now();
      client._use(session, attempts);
      await this._resumeAll(session, attempts);
      return;
    }
    client._giveUp(error instanceof ConnectionClosed && !error.retryable ? error : lost, error);
  }

  /**
   * Take up everything that has no connection.
   *
   * @param {Session} session
   * @param {number} attempts
   */
  async _resumeAll(session, attempts) {
    const client = this._client;
    // First what the server waits for only a moment.
    await Promise.all([...client._sources].filter((source) => source._connection === null)
      .map((source) => this._resumeSource(session, source)));
    await Promise.all([...client._subscriptions.values()].filter((one) => one._feed === null)
      .map((one) => this._resumeSubscription(session, one, attempts)));
  }

  /**
   * Ask until it is granted; return the refusal that says not to ask again.
   *
   * Returns null also when the connection is lost: the next one asks anew.
   *
   * @param {Session} session
   * @param {() => Promise<unknown>} ask
   * @returns {Promise<RoomError | null>}
   */
  async _insist(session, ask) {
    while (!session.connection.isOver) {
      try {
        await ask();
        return null;
      } catch (error) {
        if (error instanceof RoomError) {
          if (!error.retryable) return error;
          await sleep(Math.max(error.retryAfterMs, this._random() * ASK_AGAIN_MS));
        } else if (error instanceof RequestTimedOut) {
          // Asked again, the late answer would be in the way.
          session.connection.close();
        } else if (!(error instanceof ConnectionClosed)) {
          throw error;
        }
      }
    }
    return null;
  }

  /**
   * @param {Session} session
   * @param {Source} source
   */
  async _resumeSource(session, source) {
    const { connection } = session;
    let lost = false;
    const refusal = await this._insist(session, async () => {
      if (source.error !== null) return;
      await connection.request(
        Publish, { room: source._room, token: source._token }, PublishAnswer, {
          onAnswer: (answer) => {
            const same = answer.source === source.number;
            if (source.error !== null || (!same && source.mode === RoomMode.reliable)) {
              // Nobody wants it, or its beginning is gone: a new source is no substitute.
              lost = source.error === null;
              connection.notify(Unpublish, { room: source._room, source: answer.source });
              return;
            }
            session.sources.add(source);
            source._resume(connection, answer);
          },
        },
      );
    });
    if (refusal !== null) {
      source._finish(refusal);
    } else if (lost && !(source._unpublishing && (await this._wasHandedOn(session, source)))) {
      source._finish(new SourceLost(source.room));
    }
  }

  /**
   * Look whether a source left with its last frame: UNPUBLISH was carried out,
   * and only its answer was lost.
   *
   * @param {Session} session
   * @param {Source} source
   */
  async _wasHandedOn(session, source) {
    try {
      const { roomInfo } = await session.connection.request(
        GetRoomInfo, { room: source._room }, RoomInfoAnswer,
      );
      const info = roomInfo.sources.find((each) => each.source === source.number && each.left);
      return info !== undefined && source._leftComplete(info.tracks);
    } catch {
      return false;
    }
  }

  /**
   * @param {Session} session
   * @param {Subscription} stream
   * @param {number} attempts
   */
  async _resumeSubscription(session, stream, attempts) {
    const { connection } = session;
    const refusal = await this._insist(session, async () => {
      if (stream.ended !== undefined || stream._feed !== null) return;
      await connection.request(Subscribe, subscribeFields(connection, stream), SubscribeAnswer, {
        onAnswer: (answer) => {
          if (stream.ended !== undefined) {
            connection.notify(Unsubscribe, { room: stream._room });
            return;
          }
          const feed = new Feed(connection, stream, answer);
          session.feeds.set(stream._room, feed);
          stream._resume(feed, answer.sources, attempts);
        },
      });
    });
    if (refusal !== null) stream._refuse(refusal);
  }

  // -- at the server's wish ------------------------------------------------------

  /**
   * Leave for another connection before this one ends, with nothing lost.
   *
   * @param {Session} old
   */
  async leave(old) {
    const client = this._client;
    if (!client._reconnects) return;
    const whereabouts = client._whereabouts;
    whereabouts.sendTo(old.goAway?.address ?? "");
    await sleep(this._random() * (old.goAway?.spreadMs ?? 0));
    const backoff = new Backoff(this._random);
    /** @type {string[]} */
    let ways = [];
    let where = client.url;
    let patienceMs = Infinity;
    let next;
    while (next === undefined) {
      if (old.connection.isOver || client.isOver) return;
      if (ways.length === 0) {
        ways = whereabouts.onLeaving();
        patienceMs = ways.length > 1 ? PATIENCE_MS : Infinity;
      }
      where = /** @type {string} */ (ways.shift());
      try {
        next = await client._openSession(where, patienceMs);
      } catch {
        await sleep(backoff.next(0, ways.length === 0));
      }
    }
    try {
      for (const room of client._roomsInUse()) {
        await next.connection.request(GetRoomInfo, { room }, RoomInfoAnswer);
      }
    } catch {
      // Not everything is there: stay as long as we may.
      next.connection.close();
      return;
    }
    if (old.connection.isOver || client.isOver) {
      next.connection.close();
      return;
    }
    whereabouts.arrive(where);
    client._use(next, 0);
    this._since = performance.now();
    for (const stream of [...client._subscriptions.values()]) {
      await this._moveSubscription(old, next, stream);
    }
    for (const source of [...old.sources]) await this._moveSource(old, next, source);
    old.connection.close();
    // What the old one lost before its turn came.
    await this._resumeAll(next, 1);
  }

  /**
   * @param {Session} old
   * @param {Session} next
   * @param {Subscription} stream
   */
  async _moveSubscription(old, next, stream) {
    if (stream._feed === null || stream.ended !== undefined) return;
    const { connection } = next;
    /** @type {(() => void) | undefined} */
    let go;
    await this._insist(next, async () => {
      if (go !== undefined) return;
      await connection.request(Subscribe, subscribeFields(connection, stream), SubscribeAnswer, {
        onAnswer: (answer) => {
          const feed = new Feed(connection, stream, answer);
          next.feeds.set(stream._room, feed);
          const known = stream._prepare(feed);
          go = () => stream._switch(answer.sources, known);
        },
      });
    });
    if (go === undefined) return; // it stays with the old connection to its end
    try {
      // What the old one still has in line comes before its answer.
      await old.connection.request(Unsubscribe, { room: stream._room }, UnsubscribeAnswer);
    } catch {
      // Lost meanwhile: then that was its last.
    }
    old.feeds.delete(stream._room);
    go();
  }

  /**
   * @param {Session} old
   * @param {Session} next
   * @param {Source} source
   */
  async _moveSource(old, next, source) {
    source._pause();
    try {
      // Answered behind the frames: they have been accepted.
      await old.connection.request(Ping, { stamp: 0n }, Pong);
    } catch {
      // Lost meanwhile.
    }
    old.sources.delete(source);
    source._lose();
    await this._resumeSource(next, source);
    source._goOn();
  }
}

/**
 * @param {import("./connection.js").Connection} connection
 * @param {Subscription} stream
 */
function subscribeFields(connection, stream) {
  return { room: stream._room, from: stream._from, credit: creditWindow(connection) };
}

/** @param {unknown} error */
function retryAfter(error) {
  return error instanceof ConnectionClosed || error instanceof RoomError ? error.retryAfterMs : 0;
}

/** @param {unknown} error */
function isPassing(error) {
  if (error instanceof ConnectionClosed || error instanceof RoomError) return error.retryable;
  return error instanceof ConnectFailed || error instanceof RequestTimedOut;
}

/**
 * @param {number} ms
 * @returns {Promise<void>}
 */
export function sleep(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
