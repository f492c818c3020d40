// Watching: one subscription to one room.
//
// Source: protocol.md, sections 9, 10, 13 and 15.

import { Flag } from "./frames.js";
import { RoomClosed } from "./errors.js";
import { Credit, RoomMode, Unsubscribe } from "./messages.js";
import { formatRoomId } from "./room_ids.js";
import { NOT_TAKEN, Seen } from "./seen.js";

/** @typedef {import("./frames.js").StreamFrame} StreamFrame */
/** @typedef {import("./messages.js").SourceInfo} SourceInfo */
/** @typedef {import("./seen.js").Notice} Notice */
/** @typedef {{ kind: "reconnecting", error: import("./errors.js").ConnectionClosed }} Reconnecting */
/** @typedef {{ kind: "reconnected", attempts: number, sources: SourceInfo[] }} Reconnected */
/** @typedef {StreamFrame | Notice | Reconnecting | Reconnected} Item */

/** What a queued item costs beside its payload; keeps many tiny ones bounded. */
const ITEM_COST = 256;

/**
 * How far ahead of the user a reliable source may be: at least what the server
 * takes for it anyhow.
 *
 * @param {import("./connection.js").Connection} connection
 */
export function creditWindow(connection) {
  const { backlogBytes, maxFrameBytes } = connection.welcome;
  return Math.max(connection.bounds.receiveBufferBytes, backlogBytes + maxFrameBytes);
}

/** One connection's share of a subscription, and the credit it gives there. */
export class Feed {
  /**
   * @param {import("./connection.js").Connection} connection
   * @param {Subscription} taker
   * @param {import("./messages.js").FieldsOf<
   *   typeof import("./messages.js").SubscribeAnswer>} answer
   */
  constructor(connection, taker, answer) {
    this.connection = connection;
    this.taker = taker;
    this.room = answer.room;
    this.reliable = answer.mode === RoomMode.reliable;
    this._window = creditWindow(connection);
    /** Frames up to these were there before: no credit is for them. @type {Map<number, number>} */
    this._before = new Map();
    for (const { source, tracks } of answer.sources) {
      for (const { track, lastSeq } of tracks) this._before.set(source * 256 + track, lastSeq);
    }
    /** @type {Map<number, { taken: number, granted: number }>} */
    this._credit = new Map();
  }

  /**
   * The user has taken a frame, or never will: let the source send as much more.
   *
   * In halves of the window, not a CREDIT per frame, but never so late that the
   * largest frame would not fit.
   *
   * @param {StreamFrame} frame
   */
  release(frame) {
    if (!this.reliable) return;
    const { source, track, seq, size } = frame;
    if (seq <= (this._before.get(source * 256 + track) ?? -1)) return;
    let credit = this._credit.get(source);
    if (credit === undefined) {
      credit = { taken: 0, granted: this._window };
      this._credit.set(source, credit);
    }
    credit.taken += size;
    const left = credit.granted - credit.taken;
    if (left <= this._window / 2 || left < this.connection.welcome.maxFrameBytes) {
      credit.granted = credit.taken + this._window;
      this.connection.notify(Credit, { room: this.room, source, limit: credit.granted }, true);
    }
  }
}

/**
 * What was dropped of a track because nobody took it.
 *
 * @typedef {object} Behind
 * @property {number} source
 * @property {number} track
 * @property {number} firstSeq
 * @property {number} lastSeq
 * @property {StreamFrame | null} init the newest one dropped
 */

/**
 * A running subscription. Made by `Client.subscribe`.
 *
 * Iterate it with `for await`, or give `subscribe` an `onItem`. An item is a
 * stream frame (`kind` is "frame") or a notice: "gap", "joined", "left",
 * "reconnecting", "reconnected". The loop ends by itself when the room's
 * creator has removed the room; else with the reason.
 *
 * After a reconnect nothing is repeated, and what did not come meanwhile is
 * one gap per missing range.
 *
 * A browser cannot be told to stop reading. So what is not taken of a live
 * room is bounded here: past the bound a track stops until its next KEY, and
 * a gap says what was dropped. With `onItem` nothing is ever queued.
 */
export class Subscription {
  /**
   * @param {import("./client.js").Client} client
   * @param {bigint} room
   * @param {number} from
   * @param {import("./client.js").SubscribeOptions} options
   */
  constructor(client, room, from, options) {
    this._client = client;
    this._room = room;
    this.room = formatRoomId(room);
    this._from = from;
    this._options = options;
    /** Of the room: see RoomMode. */
    this.mode = /** @type {number} */ (RoomMode.live);
    /** Those known at the start or after the last reconnect. @type {SourceInfo[]} */
    this.sources = [];
    /** How it ended: null without a fault, undefined while it lives. @type {Error | null | undefined} */
    this.ended = undefined;
    /** Null while the connection is away. @type {Feed | null} */
    this._feed = null;
    /** What comes over the next connection while the present one is left. @type {Feed | null} */
    this._nextFeed = null;
    /** @type {(() => void)[]} */
    this._early = [];
    this._seen = new Seen();
    /** @type {{ item: Item, feed: Feed | null }[]} */
    this._queue = [];
    this._head = 0;
    this._queuedBytes = 0;
    /** @type {Map<number, Behind>} */
    this._behind = new Map();
    /** Tracks that have had a KEY. @type {Set<number>} */
    this._keyed = new Set();
    /** @type {(() => void) | null} */
    this._wake = null;
  }

  // -- for the user ----------------------------------------------------------

  /**
   * Take what came next; wait while there is nothing. Null at the end.
   *
   * @returns {Promise<Item | null>}
   */
  async next() {
    for (;;) {
      const item = this.takeNow();
      if (item !== undefined) return item;
      if (this.ended !== undefined) {
        if (this.ended !== null) throw this.ended;
        return null;
      }
      if (this._wake !== null) throw new Error("somebody else waits already");
      await new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
        this._wake = () => resolve();
      });
    }
  }

  /** As `next`, but never wait: undefined when there is nothing now. */
  takeNow() {
    const entry = this._queue[this._head];
    if (entry === undefined) return undefined;
    this._queue[this._head] = /** @type {any} */ (undefined);
    this._head += 1;
    if (this._head > 1024 && 2 * this._head > this._queue.length) {
      this._queue.splice(0, this._head);
      this._head = 0;
    }
    const { item, feed } = entry;
    this._queuedBytes -= costOf(item);
    if (item.kind === "frame") feed?.release(item);
    return item;
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        const item = await this.next();
        if (item === null) return;
        yield item;
      }
    } finally {
      this.unsubscribe();
    }
  }

  /** Leave. Nothing comes any more. May be repeated. */
  unsubscribe() {
    this._client._forgetSubscription(this);
    for (const feed of [this._feed, this._nextFeed]) {
      if (feed !== null) feed.connection.notify(Unsubscribe, { room: this._room });
    }
    this._feed = this._nextFeed = null;
    this._early = [];
    this._queue = [];
    this._head = this._queuedBytes = 0;
    this._finish(null);
  }

  // -- called by the session, in the order of the wire ------------------------

  /**
   * @param {Feed} feed
   * @param {StreamFrame} frame
   */
  deliverFrame(feed, frame) {
    if (feed === this._nextFeed) {
      this._early.push(() => this.deliverFrame(feed, frame));
    } else if (feed === this._feed) {
      const items = this._seen.takeFrame(frame);
      if (!items.includes(frame)) feed.release(frame);
      for (const item of items) this._put(item, feed);
    }
  }

  /**
   * @param {Feed} feed
   * @param {Notice} notice
   */
  deliverNotice(feed, notice) {
    if (feed === this._nextFeed) {
      this._early.push(() => this.deliverNotice(feed, notice));
    } else if (feed === this._feed) {
      for (const item of this._seen.takeNotice(notice)) this._put(item, feed);
    }
  }

  /**
   * @param {Feed} feed
   * @param {number} reason
   * @param {string} text
   */
  deliverClosed(feed, reason, text) {
    if (feed === this._nextFeed) {
      this._early.push(() => this.deliverClosed(feed, reason, text));
    } else if (feed === this._feed) {
      for (const item of this._seen.close()) this._put(item, feed);
      this._feed = null;
      this._client._forgetSubscription(this);
      this._finish(reason === 1 ? null : new RoomClosed(this.room, reason, text));
    }
  }

  /**
   * @param {Feed} feed
   * @param {import("./errors.js").ConnectionClosed} error
   */
  lose(feed, error) {
    if (feed === this._nextFeed) {
      this._nextFeed = null;
      this._early = [];
    } else if (feed === this._feed) {
      this._feed = null;
      this._put({ kind: "reconnecting", error }, null);
    }
  }

  /**
   * @param {Item} item
   * @param {Feed | null} feed
   */
  _put(item, feed) {
    if (this.ended !== undefined) return;
    const { onItem } = this._options;
    if (onItem !== undefined) {
      onItem(item);
      if (item.kind === "frame") feed?.release(item);
      return;
    }
    if (this.mode === RoomMode.live && this._withheld(item, feed)) return;
    this._queue.push({ item, feed });
    this._queuedBytes += costOf(item);
    if (this.mode === RoomMode.live) this._bound();
    this._rouse();
  }

  /**
   * Say whether an item is left out because its track is behind; where it ends
   * that, first say what was left out.
   *
   * @param {Item} item
   * @param {Feed | null} feed
   */
  _withheld(item, feed) {
    if (item.kind === "left") {
      for (const behind of [...this._behind.values()]) {
        if (behind.source === item.source) this._catchUp(behind, feed);
      }
      return false;
    }
    if (item.kind !== "frame" && item.kind !== "gap") return false;
    const key = item.source * 256 + item.track;
    if (item.kind === "frame" && item.flags & Flag.key) this._keyed.add(key);
    const behind = this._behind.get(key);
    if (behind === undefined) return false;
    if (item.kind === "gap") {
      behind.lastSeq = Math.max(behind.lastSeq, item.lastSeq);
      return true;
    }
    const fits = this._queuedBytes + item.size < this._client.bounds.receiveBufferBytes / 2;
    const joins = item.flags & Flag.end || ((item.flags & Flag.key || !this._keyed.has(key)) && fits);
    if (joins) {
      this._catchUp(behind, feed);
      return false;
    }
    behind.lastSeq = Math.max(behind.lastSeq, item.seq);
    if (item.flags & Flag.init) behind.init = item;
    return true;
  }

  /**
   * @param {Behind} behind
   * @param {Feed | null} feed
   */
  _catchUp(behind, feed) {
    const { source, track, firstSeq, lastSeq, init } = behind;
    this._behind.delete(source * 256 + track);
    /** @type {Item[]} */
    const items = [{ kind: "gap", source, track, firstSeq, lastSeq, reason: NOT_TAKEN }];
    if (init !== null) items.push(init);
    for (const item of items) {
      this._queue.push({ item, feed });
      this._queuedBytes += costOf(item);
    }
  }

  /** Drop the frames that nobody took in time; their tracks go on at their next KEY. */
  _bound() {
    if (this._queuedBytes <= this._client.bounds.receiveBufferBytes) return;
    const kept = [];
    this._queuedBytes = 0;
    for (const entry of this._queue.slice(this._head)) {
      const { item } = entry;
      const droppable = item.kind === "gap" || (item.kind === "frame" && !(item.flags & Flag.end));
      if (droppable) {
        this._fallBehind(item);
      } else {
        kept.push(entry);
        this._queuedBytes += costOf(item);
      }
    }
    this._queue = kept;
    this._head = 0;
  }

  /** @param {import("./seen.js").GapNotice | StreamFrame} item */
  _fallBehind(item) {
    const { source, track } = item;
    const key = source * 256 + track;
    const [firstSeq, lastSeq] =
      item.kind === "gap" ? [item.firstSeq, item.lastSeq] : [item.seq, item.seq];
    const init = item.kind === "frame" && item.flags & Flag.init ? item : null;
    const behind = this._behind.get(key);
    if (behind === undefined) {
      this._behind.set(key, { source, track, firstSeq, lastSeq, init });
    } else {
      behind.lastSeq = Math.max(behind.lastSeq, lastSeq);
      behind.init = init ?? behind.init;
    }
  }

  _rouse() {
    const wake = this._wake;
    this._wake = null;
    wake?.();
  }

  /** @param {Error | null} error */
  _finish(error) {
    if (this.ended !== undefined) return;
    this.ended = error;
    this._options.onEnd?.(error);
    this._rouse();
  }

  // -- called by the client and the reconnector --------------------------------

  /**
   * Begin, at the answer to SUBSCRIBE.
   *
   * @param {Feed} feed
   * @param {number} mode
   * @param {SourceInfo[]} sources
   */
  _attach(feed, mode, sources) {
    this._feed = feed;
    this.mode = mode;
    this.sources = sources;
    this._seen.begin(sources);
  }

  /**
   * Go on with another connection, in place of one that was lost.
   *
   * @param {Feed} feed
   * @param {SourceInfo[]} sources
   * @param {number} attempts
   */
  _resume(feed, sources, attempts) {
    this._feed = feed;
    this.sources = sources;
    this._put({ kind: "reconnected", attempts, sources }, null);
    for (const notice of this._seen.resume(sources)) this._put(notice, feed);
  }

  /**
   * Collect what another connection brings, until `_switch`.
   *
   * @param {Feed} feed
   */
  _prepare(feed) {
    this._nextFeed = feed;
    return new Set(this._seen.present);
  }

  /**
   * The old connection has brought its last: go on with the other's.
   *
   * @param {SourceInfo[]} sources
   * @param {Set<number>} knownThen
   */
  _switch(sources, knownThen) {
    const feed = this._nextFeed;
    if (feed === null) return; // lost as well
    const early = this._early;
    this._nextFeed = null;
    this._early = [];
    this.sources = sources;
    if (this._feed === null) this._put({ kind: "reconnected", attempts: 1, sources }, null);
    this._feed = feed;
    for (const notice of this._seen.resume(sources, knownThen)) this._put(notice, feed);
    for (const deliver of early) deliver();
  }

  /**
   * There will be no more: the server does not take it back, or there is none.
   *
   * @param {Error} error
   */
  _refuse(error) {
    this._client._forgetSubscription(this);
    this._finish(error);
  }
}

/** @param {Item} item */
function costOf(item) {
  return ITEM_COST + (item.kind === "frame" ? item.size : 0);
}
