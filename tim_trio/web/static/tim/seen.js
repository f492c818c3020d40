// What a subscription has seen of each track, so that a second connection repeats nothing.
//
// Pure. While nothing has been resumed it only takes notes, and all that comes
// is passed on as it came: what the server sends is in order by itself.
//
// Source: protocol.md, section 9, "What a receiver may rely on".

import { Flag } from "./frames.js";
import { TrackState } from "./messages.js";

/** `reason` of what happened while the connection was away. No server can say it: not a byte. */
export const WHILE_AWAY = 256;
/** `reason` of what came and was dropped here, because nobody took it in time. */
export const NOT_TAKEN = 257;
/** Sources that have left and are still recognised in what a second connection repeats. */
const LEFT_KEPT = 64;

/**
 * These frames will not come. `reason`: 1 this subscriber lagged, 2 the
 * publisher skipped them, 3 lost between nodes, WHILE_AWAY, NOT_TAKEN.
 *
 * @typedef {object} GapNotice
 * @property {"gap"} kind
 * @property {number} source
 * @property {number} track
 * @property {number} firstSeq
 * @property {number} lastSeq
 * @property {number} reason
 */
/** @typedef {{ kind: "joined", source: number, account: string }} JoinedNotice */
/** @typedef {{ kind: "left", source: number, reason: number }} LeftNotice */
/** @typedef {GapNotice | JoinedNotice | LeftNotice} Notice */
/** @typedef {import("./frames.js").StreamFrame} StreamFrame */
/** @typedef {import("./messages.js").SourceInfo} SourceInfo */

/**
 * @typedef {object} Track
 * @property {number} source
 * @property {number} track
 * @property {number} nextSeq follows what was delivered or announced as missing
 * @property {number} lastInit the newest INIT delivered, -1 for none
 * @property {number} knownSeq the last one the server had when the subscription was resumed
 */

export class Seen {
  constructor() {
    /** Sources that have not left. @type {Set<number>} */
    this.present = new Set();
    /** @type {Map<number, Track>} */
    this._tracks = new Map();
    /** @type {number[]} */
    this._left = [];
    this._resumed = false;
  }

  /**
   * Note who is there at the start.
   *
   * @param {SourceInfo[]} sources
   */
  begin(sources) {
    for (const { source, left } of sources) if (!left) this.present.add(source);
  }

  /**
   * Compare with what another connection's answer lists; return what to tell.
   *
   * @param {SourceInfo[]} sources
   * @param {Iterable<number>} [knownThen] the sources known when the answer came
   * @returns {Notice[]}
   */
  resume(sources, knownThen = this.present) {
    this._resumed = true;
    const known = new Set(knownThen);
    /** @type {Notice[]} */
    const notices = [];
    for (const info of sources) {
      for (const found of info.tracks) {
        const track = this._tracks.get(keyOf(info.source, found.track));
        if (track === undefined) continue;
        track.knownSeq = found.lastSeq;
        const ended = found.state & TrackState.ended && !(found.state & TrackState.cachedGroup);
        if ((info.left || ended) && track.nextSeq <= found.lastSeq) {
          notices.push(missed(track, found.lastSeq));
        }
      }
      if (info.left) {
        if (this.present.has(info.source)) notices.push(this._leaves(info.source));
      } else if (!this.present.has(info.source) && !this._left.includes(info.source)) {
        this.present.add(info.source);
        notices.push({ kind: "joined", source: info.source, account: info.account });
      }
      known.delete(info.source);
    }
    for (const source of [...known].sort((a, b) => a - b)) {
      if (this.present.has(source)) notices.push(this._leaves(source));
    }
    return notices;
  }

  /**
   * Return what to pass on for a frame that came.
   *
   * @param {StreamFrame} frame
   * @returns {(StreamFrame | Notice)[]}
   */
  takeFrame(frame) {
    const { source, seq } = frame;
    const isInit = (frame.flags & Flag.init) !== 0;
    const key = keyOf(source, frame.track);
    const track = this._tracks.get(key);
    if (track === undefined) {
      this._tracks.set(key, {
        source, track: frame.track, nextSeq: seq + 1, lastInit: isInit ? seq : -1, knownSeq: -1,
      });
      return [frame];
    }
    const isNewInit = isInit && seq > track.lastInit;
    if (isNewInit) track.lastInit = seq;
    if (!this._resumed) {
      track.nextSeq = Math.max(track.nextSeq, seq + 1);
      return [frame];
    }
    // Inside a gap that was announced an INIT may come after it.
    if (seq < track.nextSeq) return isNewInit ? [frame] : [];
    /** @type {(StreamFrame | Notice)[]} */
    const items = seq > track.nextSeq ? [missed(track, seq - 1), frame] : [frame];
    track.nextSeq = seq + 1;
    return items;
  }

  /**
   * @param {Notice} notice
   * @returns {Notice[]}
   */
  takeNotice(notice) {
    if (notice.kind === "gap") return this._takeGap(notice);
    if (notice.kind === "joined") {
      if (this.present.has(notice.source) && this._resumed) return [];
      this.present.add(notice.source);
      return [notice];
    }
    if (!this.present.has(notice.source) && this._resumed) return [];
    const gaps = this.close(notice.source);
    this._leaves(notice.source);
    return [...gaps, notice];
  }

  /**
   * Return what is missing of a source, or of all, from which nothing more will come.
   *
   * @param {number} [source]
   * @returns {Notice[]}
   */
  close(source) {
    const notices = [];
    for (const track of this._tracks.values()) {
      if ((source === undefined || track.source === source) && track.nextSeq <= track.knownSeq) {
        notices.push(missed(track, track.knownSeq));
      }
    }
    return notices;
  }

  /**
   * @param {GapNotice} gap
   * @returns {Notice[]}
   */
  _takeGap(gap) {
    const track = this._tracks.get(keyOf(gap.source, gap.track));
    if (track === undefined) return [gap];
    const { nextSeq } = track;
    track.nextSeq = Math.max(nextSeq, gap.lastSeq + 1);
    if (!this._resumed || gap.firstSeq === nextSeq) return [gap];
    if (gap.lastSeq < nextSeq) return [];
    // One notice for all that is missing, whoever lost the first part.
    const reason = gap.firstSeq < nextSeq ? gap.reason : WHILE_AWAY;
    return [{ ...gap, firstSeq: nextSeq, reason }];
  }

  /**
   * @param {number} source
   * @returns {LeftNotice}
   */
  _leaves(source) {
    this.present.delete(source);
    this._left.push(source);
    if (this._left.length > LEFT_KEPT) {
      const gone = this._left.shift();
      for (const [key, track] of this._tracks) if (track.source === gone) this._tracks.delete(key);
    }
    return { kind: "left", source, reason: WHILE_AWAY };
  }
}

/**
 * @param {number} source
 * @param {number} track
 */
function keyOf(source, track) {
  return source * 256 + track;
}

/**
 * @param {Track} track
 * @param {number} lastSeq
 * @returns {GapNotice}
 */
function missed(track, lastSeq) {
  const firstSeq = track.nextSeq;
  track.nextSeq = lastSeq + 1;
  return {
    kind: "gap", source: track.source, track: track.track, firstSeq, lastSeq, reason: WHILE_AWAY,
  };
}
