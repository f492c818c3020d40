// Publishing: one source in one room, which goes on over reconnects by its token.
//
// Source: protocol.md, sections 8 and 10.

import { LocalProtocolError, RoomError } from "./errors.js";
import { Flag, STREAM_HEADER_BYTES, encodeStreamFrame } from "./frames.js";
import { RoomMode, Unpublish, UnpublishAnswer } from "./messages.js";
import { formatRoomId } from "./room_ids.js";

/** @typedef {import("./messages.js").FieldsOf<typeof import("./messages.js").PublishAnswer>} PublishAnswer */
/** @typedef {import("./messages.js").FieldsOf<typeof UnpublishAnswer>} UnpublishCount */

/**
 * @typedef {object} SendOptions
 * @property {number} [track] 0 to 255
 * @property {boolean} [key] a group starts here
 * @property {boolean} [init] what a decoder needs first; pinned for late joiners
 * @property {boolean} [end] the track's last frame
 * @property {number} [timestampUs] the wall clock by default
 */

/**
 * A frame that may have to be sent again.
 *
 * @typedef {object} Kept
 * @property {number} track
 * @property {number} seq
 * @property {number} flags
 * @property {number} timestampUs
 * @property {Uint8Array} payload
 * @property {number} size
 * @property {number} endTotal bytes counted behind it
 */

/**
 * A frame that has no number yet.
 *
 * @typedef {object} Held
 * @property {Uint8Array} payload
 * @property {number} size
 * @property {SendOptions} options
 */

/**
 * A source. Made by `Client.publish`.
 *
 * In a live room nothing ever waits: while the browser holds more than
 * `liveBufferBytes` for the server, frames are dropped here, from there up to
 * the track's next KEY that fits. What is dropped gets no number, so a
 * subscriber sees no gap. In a reliable room `send` waits, and drops nothing.
 */
export class Source {
  /**
   * @param {import("./client.js").Client} client
   * @param {import("./connection.js").Connection} connection
   * @param {bigint} room
   * @param {Uint8Array} token
   * @param {PublishAnswer} answer
   */
  constructor(client, connection, room, token, answer) {
    this._client = client;
    /** Null while the connection is away. @type {import("./connection.js").Connection | null} */
    this._connection = connection;
    this._welcome = connection.welcome;
    this._room = room;
    this._token = token;
    this.room = formatRoomId(room);
    /** Its number in the room. */
    this.number = answer.source;
    this.mode = answer.mode;
    /** Subscriptions in the room, null while unknown. @type {number | null} */
    this.viewers = null;
    this.sentFrames = 0;
    this.sentBytes = 0;
    /** Not sent, and so never numbered. */
    this.droppedFrames = 0;
    /** Why it is over, null while it lives. @type {Error | null} */
    this.error = null;
    /** Called when `viewers` changes. @type {((viewers: number) => void) | null} */
    this.onViewers = null;
    /** Called once, when it is over. @type {((error: Error) => void) | null} */
    this.onOver = null;
    this._counted = answer.received;
    this._credit = answer.credit;
    /** @type {Map<number, number>} */
    this._nextSeqs = new Map();
    /** @type {Set<number>} */
    this._ended = new Set();
    /** Tracks of which a frame was dropped, and no KEY sent since. @type {Set<number>} */
    this._broken = new Set();
    /** Tracks that have had a KEY. @type {Set<number>} */
    this._keyed = new Set();
    /** @type {Map<number, Kept>} */
    this._inits = new Map();
    /** @type {Map<number, Kept>} */
    this._ends = new Map();
    /** Of a reliable room: sent, and perhaps not received. @type {Kept[]} */
    this._sent = [];
    /** Of a reliable room: to be sent again. @type {Kept[]} */
    this._unsent = [];
    this._pausing = false;
    /** Of a live room: what came while it moves to another connection. @type {Held[]} */
    this._held = [];
    this._heldBytes = 0;
    this._unpublishing = false;
    /** @type {UnpublishCount | null} */
    this._result = null;
    for (const { track, lastSeq, state } of answer.tracks) {
      this._nextSeqs.set(track, lastSeq + 1);
      if (state & 1) this._ended.add(track);
    }
  }

  // -- for the user ----------------------------------------------------------

  /**
   * The number a track's next frame will get.
   *
   * @param {number} [track]
   */
  nextSeq(track = 0) {
    return this._nextSeqs.get(track) ?? 0;
  }

  /** Whether the network takes less than is sent, so that frames are being dropped. */
  get congested() {
    if (this._pausing) return this._heldBytes > this._client.bounds.liveBufferBytes;
    return this._connection === null
      || this._connection.bufferedBytes > this._client.bounds.liveBufferBytes;
  }

  /** Bytes that the browser still holds for the server. */
  get bufferedBytes() {
    return this._connection?.bufferedBytes ?? 0;
  }

  /**
   * Whether a track's next frame has to be a KEY: without one it is dropped.
   *
   * @param {number} [track]
   */
  needsKey(track = 0) {
    return this._broken.has(track);
  }

  /**
   * Send one frame to a live room, now or never.
   *
   * @param {Uint8Array} payload
   * @param {SendOptions} [options]
   * @returns {number} its seq, -1 where it was dropped
   * @throws {Error} the source is over, or the frame cannot be sent
   */
  sendNow(payload, options = {}) {
    const { track = 0, init = false, end = false } = options;
    const size = this._check(payload, track, init, end);
    this._raiseIfOver();
    return this._sendOrDrop(payload, size, options);
  }

  /**
   * Send one frame and return its seq, -1 where a live room dropped it. In a
   * reliable room it waits for the server's credit, for the browser to send
   * what it holds, and while the connection is away.
   *
   * @param {Uint8Array} payload
   * @param {SendOptions} [options]
   * @returns {Promise<number>}
   */
  async send(payload, options = {}) {
    if (this.mode !== RoomMode.reliable) return this.sendNow(payload, options);
    const { track = 0, init = false, end = false } = options;
    const size = this._check(payload, track, init, end);
    this._raiseIfOver();
    while (!this._admits(size)) {
      await this._client._waitFor(this._connection, () => this.error !== null || this._admits(size));
      this._raiseIfOver();
    }
    return this._queue(payload, size, options);
  }

  /**
   * End the source; resolves once the server has handed on every frame of it.
   *
   * @returns {Promise<UnpublishCount>}
   */
  async unpublish() {
    if (this._result !== null) return this._result;
    this._raiseIfOver();
    this._unpublishing = true;
    while (this._result === null) {
      this._raiseIfOver();
      const connection = this._connection;
      if (connection === null || this._unsent.length || this._pausing) {
        await this._client._waitFor(connection, () => this.error !== null || this._result !== null
          || (this._connection !== null && !this._unsent.length && !this._pausing));
        continue;
      }
      try {
        this._result = await connection.request(
          Unpublish, { room: this._room, source: this.number }, UnpublishAnswer,
          { timeoutMs: connection.bounds.drainTimeoutMs },
        );
      } catch (error) {
        // An event that has ended it meanwhile says more than "no such source".
        if (this._result !== null) break;
        this._raiseIfOver();
        if (error instanceof RoomError || !connection.isOver) throw error;
      }
    }
    const result = /** @type {UnpublishCount} */ (this._result);
    this._finish(new LocalProtocolError("the source has been unpublished"));
    return result;
  }

  /** End the source without waiting. May be repeated. */
  close() {
    if (this.error === null) {
      this._connection?.notify(Unpublish, { room: this._room, source: this.number });
      this._finish(new LocalProtocolError("the source has been unpublished"));
    }
  }

  // -- inside ----------------------------------------------------------------

  /**
   * @param {Uint8Array} payload
   * @param {number} track
   * @param {boolean} init
   * @param {boolean} end
   */
  _check(payload, track, init, end) {
    const { maxFrameBytes, maxInitBytes } = this._welcome;
    const size = STREAM_HEADER_BYTES + payload.length;
    const most = init || end ? Math.min(maxInitBytes, maxFrameBytes) : maxFrameBytes;
    if (size > most) throw new LocalProtocolError(`a frame of ${size} bytes, ${most} allowed`);
    if (this._ended.has(track)) throw new LocalProtocolError(`track ${track} has ended`);
    return size;
  }

  /**
   * @param {Uint8Array} payload
   * @param {number} size
   * @param {SendOptions} options
   */
  _sendOrDrop(payload, size, options) {
    const { track = 0, key = false, init = false, end = false } = options;
    const pinned = init || end;
    if (!pinned && this.congested) return this._drop(track);
    if (!pinned && this._broken.has(track) && this._keyed.has(track) && !key) {
      return this._drop(track);
    }
    if (key) {
      this._keyed.add(track);
      this._broken.delete(track);
    }
    if (this._pausing) return this._hold(payload, size, options);
    return this._queue(payload, size, options);
  }

  /**
   * Keep a frame until the source has moved; returns the seq that it will have then.
   *
   * @param {Uint8Array} payload
   * @param {number} size
   * @param {SendOptions} options
   */
  _hold(payload, size, options) {
    const { track = 0, end = false } = options;
    const timestampUs = options.timestampUs ?? Date.now() * 1000;
    const before = this._held.filter((each) => (each.options.track ?? 0) === track).length;
    this._held.push({ payload: payload.slice(), size, options: { ...options, timestampUs } });
    this._heldBytes += size;
    if (end) this._ended.add(track);
    return this.nextSeq(track) + before;
  }

  /** @param {number} track */
  _drop(track) {
    this._broken.add(track);
    this.droppedFrames += 1;
    return -1;
  }

  /** @param {number} size */
  _admits(size) {
    const connection = this._connection;
    if (connection === null || connection.isOver || this._pausing || this._unsent.length) return false;
    return connection.bufferedBytes < this._client.bounds.sendBufferBytes
      && this._counted + size <= this._credit;
  }

  /**
   * @param {Uint8Array} payload
   * @param {number} size
   * @param {SendOptions} options
   */
  _queue(payload, size, options) {
    const { track = 0, key = false, init = false, end = false } = options;
    const timestampUs = options.timestampUs ?? Date.now() * 1000;
    const seq = this.nextSeq(track);
    const flags = (init ? Flag.init : 0) | (key ? Flag.key : 0) | (end ? Flag.end : 0);
    const bytes = encodeStreamFrame({
      room: this._room, source: this.number, track, flags, seq, timestampUs, payload,
    });
    this._nextSeqs.set(track, seq + 1);
    if (end) this._ended.add(track);
    if (this._connection !== null) {
      this._connection.sendFrame(bytes);
      this._counted += size;
      this.sentFrames += 1;
      this.sentBytes += size;
    }
    const reliable = this.mode === RoomMode.reliable;
    if (reliable || init || end) {
      // A copy: the caller's bytes may change.
      const kept = {
        track, seq, flags, timestampUs, size, endTotal: this._counted,
        payload: bytes.subarray(STREAM_HEADER_BYTES),
      };
      if (reliable) this._sent.push(kept);
      else if (init) this._inits.set(track, kept);
      if (!reliable && end) this._ends.set(track, kept);
    }
    return seq;
  }

  _raiseIfOver() {
    if (this.error !== null) throw this.error;
  }

  /**
   * The source is over; the next send throws this.
   *
   * @param {Error} error
   */
  _finish(error) {
    if (this.error !== null) return;
    this.error = error;
    this._held = [];
    this._sent = [];
    this._unsent = [];
    this._client._forgetSource(this);
    this._connection?.wake();
    this._client._wakeAway();
    this.onOver?.(error);
  }

  /** @param {number} viewers */
  _setViewers(viewers) {
    this.viewers = viewers;
    this.onViewers?.(viewers);
  }

  /** @param {number} limit */
  _raiseCredit(limit) {
    this._credit = Math.max(this._credit, limit);
    if (this.mode !== RoomMode.reliable) return;
    // What lies more than a window below the credit has been read by the server.
    const { backlogBytes, maxFrameBytes } = this._welcome;
    const received = this._credit - backlogBytes - maxFrameBytes;
    let gone = 0;
    while (gone < this._sent.length && (this._sent[gone]?.endTotal ?? Infinity) <= received) gone++;
    if (gone) this._sent.splice(0, gone);
    this._sendUnsent();
  }

  /** Send again what was lost, as far as the credit goes. */
  _sendUnsent() {
    while (this._connection !== null) {
      const frame = this._unsent[0];
      if (frame === undefined || this._counted + frame.size > this._credit) return;
      this._unsent.shift();
      this._counted += frame.size;
      this._sent.push({ ...frame, endTotal: this._counted });
      this._connection.sendFrame(
        encodeStreamFrame({ ...frame, room: this._room, source: this.number }),
      );
    }
  }

  // -- called by the reconnector ----------------------------------------------

  _lose() {
    this._connection = null;
  }

  /** Wait with new frames: the connection is about to be left for another. */
  _pause() {
    this._pausing = true;
  }

  /** Send what has waited; where there is no connection after all, it is dropped. */
  _goOn() {
    this._pausing = false;
    const held = this._held;
    this._held = [];
    this._heldBytes = 0;
    for (const { payload, size, options } of held) this._sendOrDrop(payload, size, options);
  }

  /**
   * Go on where the server stands. The source must be the same, or its room live.
   *
   * @param {import("./connection.js").Connection} connection
   * @param {PublishAnswer} answer
   */
  _resume(connection, answer) {
    /** @type {Map<number, number>} */
    const lastSeqs = new Map(answer.tracks.map(({ track, lastSeq }) => [track, lastSeq]));
    const same = answer.source === this.number;
    this.number = answer.source;
    this._counted = answer.received;
    this._credit = answer.credit;
    this._connection = connection;
    this._welcome = connection.welcome;
    if (this.mode === RoomMode.reliable) {
      const frames = [...this._sent, ...this._unsent];
      this._sent = [];
      this._unsent = frames.filter(({ track, seq }) => seq > (lastSeqs.get(track) ?? -1));
      this._sendUnsent();
    } else {
      for (const track of new Set([...this._nextSeqs.keys(), ...lastSeqs.keys()])) {
        this._resumeLive(connection, track, lastSeqs.get(track) ?? -1, same);
      }
    }
    for (const [track, lastSeq] of lastSeqs) {
      this._nextSeqs.set(track, Math.max(this.nextSeq(track), lastSeq + 1));
    }
    this._goOn();
    this._client._wakeAway();
  }

  /**
   * Send again what a track cannot do without, if it was lost.
   *
   * @param {import("./connection.js").Connection} connection
   * @param {number} track
   * @param {number} lastSeq
   * @param {boolean} same
   */
  _resumeLive(connection, track, lastSeq, same) {
    let nextSeq = same ? this.nextSeq(track) : 0;
    // Whatever was lost or not, the next frame a decoder can use is a KEY.
    if (nextSeq !== lastSeq + 1 || !same) this._broken.add(track);
    const init = this._inits.get(track);
    const end = this._ends.get(track);
    /** @type {Kept[]} */
    const again = [];
    if (init !== undefined && (init.seq > lastSeq || !same)) again.push(init);
    if (end !== undefined && (end.seq > lastSeq || !same)) {
      if (same) nextSeq = end.seq; // nothing follows it, so its number may move
      if (end !== init) again.push(end);
    }
    for (const kept of again) {
      const renewed = { ...kept, seq: nextSeq++ };
      connection.sendFrame(encodeStreamFrame({ ...renewed, room: this._room, source: this.number }));
      this._counted += kept.size;
      if (kept.flags & Flag.init) this._inits.set(track, renewed);
      if (kept.flags & Flag.end) this._ends.set(track, renewed);
    }
    this._nextSeqs.set(track, nextSeq);
  }

  /**
   * The source has left on the server: settle `unpublish` if nothing was missing.
   *
   * @param {import("./messages.js").TrackInfo[]} tracks
   */
  _leftComplete(tracks) {
    const lastSeqs = new Map(tracks.map(({ track, lastSeq }) => [track, lastSeq]));
    for (const [track, nextSeq] of this._nextSeqs) {
      if ((lastSeqs.get(track) ?? -1) + 1 < nextSeq) return false;
    }
    let forwarded = 0;
    for (const { lastSeq } of tracks) forwarded += lastSeq + 1;
    this._result = { forwarded, discarded: 0 };
    this._finish(new LocalProtocolError("the source has been unpublished"));
    return true;
  }
}
