// One file on its way to us: the question, the part, and each attempt.
//
// Source: protocol.md, Annex B.

import { ConnectionClosed, Flag, RequestTimedOut, RoomError, RoomMode, StreamOver }
  from "../tim/index.js";
import { newId } from "./messages.js";
import { safeName } from "./names.js";
import { Part, arrived, freeBytes, note, remove } from "./parts.js";
import { post } from "./post.js";
import * as rules from "./rules.js";
import { outcome } from "./sender.js";
import { Bell, Transfer } from "./transfer.js";

/** @typedef {import("./receiver.js").Receiver} Receiver */
/** @typedef {import("./messages.js").Start} Start */
/** @typedef {import("./part_stores.js").PartInfo} PartInfo */

/** Written at once when so much has already come. */
const WRITE_BYTES = 1024 * 1024;
/** Written blocks that wait for the disk. */
const BLOCKS_AHEAD = 2;
/** The sender may be reconnecting when we are done. Its offers are answered anyway. */
const TELL_DONE_MS = 30_000;
const TELL_AGAIN_MS = 1000;
/** After these nothing of the file is of use. */
const USELESS = ["changed", "digest"];

/** @type {Record<import("./receiver.js").ReceiverPhase, import("./transfer.js").Phase>} */
const PHASES = {
  asking: "offered", waiting: "away", accepted: "running", receiving: "running", over: "over",
};

export class Incoming extends Transfer {
  /**
   * @param {import("../tim/index.js").Client} client
   * @param {PartInfo} info
   * @param {object} options
   * @param {() => void} options.removed
   * @param {(machine: Receiver) => void} options.forget lets a stopped transfer begin again
   */
  constructor(client, info, { removed, forget }) {
    super("in", { account: info.account, name: safeName(info.name), size: info.size });
    this.info = info;
    /** @type {import("./transfer.js").Phase} */
    this.phase = "away";
    /** There are bytes of it here. */
    this.hasPart = false;
    /** Where the user wants it, once it is there. @type {FileSystemFileHandle | null} */
    this.target = null;
    /** It has been saved there. */
    this.isSaved = false;
    this._client = client;
    this._removed = removed;
    this._forget = forget;
    /** Null after a reload, until the sender offers again. @type {Receiver | null} */
    this._machine = null;
    /** @type {Part | null} */
    this._part = null;
    this._bell = new Bell();
    /** Whoever has the part now gives it back before the next takes it. */
    this._previous = Promise.resolve();
    this._posting = Promise.resolve();
    this._wasTold = false;
    this._discarded = false;
    /** A person here does not want what has begun, unless asked again. */
    this._isRefused = false;
  }

  /** Whether there is, or will be, a part that the next offer goes on with. */
  get canGoOn() {
    if (this._discarded || this.phase === "offered" || this.phase === "paused") return false;
    return this.phase !== "over" || (this.hasPart && this.outcome?.ending !== "done");
  }

  /** Whether a person here has said no since it was begun. */
  get isRefused() {
    return this._isRefused;
  }

  /** Whether bytes of it stay here, though it has been cancelled or is asked about again. */
  get keepsPart() {
    const kept = this.phase === "offered" || this.outcome?.ending === "cancelled";
    return kept && this.hasPart && this.position > 0;
  }

  /** Whether a person here may take back that they have cancelled: once that is noted. */
  get canBeTakenUp() {
    const isNoted = (this.info.cancelledAt ?? 0) > 0;
    return this.phase === "over" && this.keepsPart && this._isRefused && isNoted;
  }

  // -- for a person ---------------------------------------------------------------

  accept() {
    this._isRefused = false;
    this._machine?.agree(performance.now());
  }

  decline() {
    const machine = this._machine;
    if (machine?.phase === "asking") void this._say(machine.decline("user"));
  }

  pause() {
    const machine = this._machine;
    if (this.phase === "over" || this.phase === "offered") return;
    if (machine !== null) void this._say(machine.stop());
    this.outcome = outcome("stopped", "", "receiver");
    this.phase = "paused";
    this.touch();
  }

  resume() {
    if (this.phase !== "paused" && !this.canBeTakenUp) return;
    this._isRefused = false;
    this.info = { ...this.info, cancelledAt: 0, refused: false };
    this.outcome = null;
    this.phase = "away";
    this.touch();
    if (this._machine !== null) this._forget(this._machine);
    this.announce();
  }

  cancel() {
    const machine = this._machine;
    if (machine !== null && machine.phase !== "over") {
      this._isRefused = true;
      void this._say(machine.cancel());
    } else if (this.phase !== "over") {
      this._isRefused = true;
      const { transfer, receiver } = this.info;
      void this._say([{ type: "cancel", transfer, by: "receiver", receiver }]);
      this._finish(outcome("cancelled", "", "receiver"));
      this._previous = this._previous.then(() => this._setAside());
    }
  }

  remove() {
    this.cancel();
    this._removed();
    if (this.hasPart) this._previous = this._previous.then(() => this._throwAway());
  }

  /** Tell the sender that we are there again, so that it need not wait to notice. */
  announce() {
    const { transfer, receiver } = this.info;
    void this._say([{ type: "pause", transfer, by: "receiver", receiver, stopping: false }]);
  }

  /** After a reload: what arrived before it. */
  async fetch() {
    this.file = await arrived(this.info);
    this._finish(outcome("done", "", "receiver"));
  }

  /** After a reload: what was cancelled before it. */
  rest() {
    this._isRefused = this.info.refused === true;
    this._finish(outcome("cancelled", "", this._isRefused ? "receiver" : "sender"));
  }

  /** It is where its user wants it: nothing of it has to stay here. */
  async release() {
    await this._throwAway();
    this.touch();
  }

  /** It was cancelled: what has come stays for a while, should it be wanted after all. */
  async _setAside() {
    if (this.position === 0) {
      await this._throwAway();
      return;
    }
    if (this.outcome?.ending !== "cancelled") return; // wanted again already
    const noted = { ...this.info, cancelledAt: Date.now(), refused: this._isRefused };
    await note(noted);
    if (this.outcome?.ending === "cancelled") this.info = noted;
    this.touch();
  }

  async _throwAway() {
    this._discarded = true;
    this.hasPart = false;
    this.file = null;
    await remove(this.info.receiver).catch(() => {});
  }

  // -- inside ---------------------------------------------------------------------

  /**
   * Take part in a transfer: the first one, or another of the same file.
   *
   * @param {Receiver} machine
   */
  begin(machine) {
    this._machine = machine;
    this.info = { ...this.info, transfer: machine.transfer, cancelledAt: 0, refused: false };
    this.outcome = null;
    this.problem = null;
    machine.changed = () => {
      this._bell.ring();
      this._show();
    };
    this._show();
    this._previous = this._previous.then(() => this._run(machine));
  }

  /** @param {import("./messages.js").Message[]} words */
  _say(words) {
    for (const word of words) {
      this._posting = this._posting.then(async () => {
        await post(this._client, this.account, word).catch((error) => {
          if (this._client.isOver) throw error;
        });
      }).catch(() => {}); // without a connection for good the page says so itself
    }
    return this._posting;
  }

  _show() {
    const machine = this._machine;
    if (machine === null) return;
    this.peerIsStopping = machine.peerIsStopping;
    const ended = machine.outcome;
    if (ended === null) this.phase = PHASES[machine.phase];
    // At once, though what is under way may still have to be let go of.
    else if (this.outcome === null && ended.reason !== "superseded" && ended.ending !== "stopped"
      && ended.ending !== "done") this.outcome = ended;
    if (this.outcome !== null && this.outcome === ended) this.phase = "over";
    this.touch();
  }

  /** @param {import("./sender.js").Outcome} ended */
  _finish(ended) {
    this.outcome = ended;
    this.phase = ended.ending === "stopped" ? "paused" : "over";
    this.touch();
  }

  /** @param {Receiver} machine */
  async _run(machine) {
    this._discarded = false;
    try {
      if (machine.phase === "asking") await this._question(machine);
      for (;;) {
        machine.poll(performance.now());
        if (machine.phase === "over") break;
        if (machine.start !== null) await this._attempt(machine, machine.start);
        else if (machine.wantsAnswer) await this._accept(machine);
        else await this._bell.wait(machine.nextPoll - performance.now());
      }
    } catch (error) {
      this.problem = error;
      const { name } = error instanceof Error ? error : new Error();
      void this._say(machine.fail(name === "QuotaExceededError" ? "space" : "unwritable"));
    }
    await this._putPartAway(machine).catch(() => {});
    const ended = machine.outcome;
    // The same file goes on, as another transfer.
    if (ended === null || ended.reason === "superseded" || this._machine !== machine) return;
    if (ended.ending === "stopped" && this.phase !== "paused") return; // resumed already
    if (ended.ending === "cancelled" && this.outcome === null) return; // likewise
    this._finish(ended);
    if (ended.reason === "busy") this._removed(); // another page goes on with it
    if (ended.ending === "done" && !this._wasTold) void this._tellDoneLater(machine);
  }

  /** @param {Receiver} machine */
  async _question(machine) {
    const had = this.hasPart ? this.position : 0;
    if (await freeBytes().catch(() => Infinity) < this.size - had) {
      void this._say(machine.decline("space"));
    }
    while (machine.phase === "asking") {
      await this._bell.wait(machine.nextPoll - performance.now());
      machine.poll(performance.now());
    }
  }

  /** @param {Receiver} machine */
  async _accept(machine) {
    if (this._part === null) {
      this.phase = "reading";
      this.touch();
      this._part = await Part.open(this.info, (position) => {
        this.position = position;
        this.touch();
      });
      if (this._part === null) {
        void this._say(machine.decline("busy"));
        return;
      }
      this.hasPart = true;
    }
    const { offset, sha256 } = await this._part.claim();
    this.position = offset;
    void this._say(machine.accept({ attempt: newId(), offset, sha256, now: performance.now() }));
  }

  /**
   * @param {Receiver} machine
   * @param {Start} start
   */
  async _attempt(machine, start) {
    const part = /** @type {Part} */ (this._part);
    this.attempts += 1;
    if (start.offset !== this.position) {
      await part.restart();
      this.position = 0;
    }
    let stream;
    let complete = false;
    try {
      stream = await this._client.subscribe(start.room);
      const { source } = start;
      if (stream.mode !== RoomMode.reliable
        || !stream.sources.some((each) => each.source === source && each.account === this.account)) {
        void this._say(machine.fail("protocol"));
      } else complete = await this._take(stream, machine, start, part);
    } catch (error) {
      if (!(error instanceof StreamOver || error instanceof RoomError
        || error instanceof RequestTimedOut || error instanceof ConnectionClosed)) throw error;
    }
    try {
      if (machine.phase === "over") return; // what has come does not matter
      if (!complete) {
        void this._say(machine.lost(start, performance.now()));
        return;
      }
      this.phase = "checking";
      this.touch();
      if ((await part.claim()).sha256 !== this.info.sha256) {
        void this._say(machine.fail("digest"));
        return;
      }
      this.file = await part.finish();
      this._part = null;
      machine.done();
      this._finish(outcome("done", "", "receiver"));
      this._wasTold = await this._tellDone(machine);
    } finally {
      // Not before: a sender that sees nobody watch takes us for gone.
      stream?.unsubscribe();
    }
  }

  /**
   * Write what comes up to END; return whether it came. What has come before the
   * attempt is lost is written all the same.
   *
   * @param {import("../tim/index.js").Subscription} stream
   * @param {Receiver} machine
   * @param {Start} start
   * @param {Part} part
   */
  async _take(stream, machine, start, part) {
    const reader = new Reader(stream, start, this.size);
    /** @type {Promise<void>[]} */
    const writing = [];
    while (!reader.over) {
      const block = await this._nextBlock(reader, machine, start);
      if (block.length === 0) continue;
      if (writing.length === BLOCKS_AHEAD) await writing.shift();
      const { length } = block;
      const written = part.write(block).then((position) => {
        this.position = position;
        this.moved += length;
        this.touch();
      });
      written.catch(() => {}); // it is looked at when its turn comes
      writing.push(written);
    }
    await Promise.all(writing);
    if (reader.broken) void this._say(machine.fail("protocol"));
    return reader.complete;
  }

  /**
   * @param {Reader} reader
   * @param {Receiver} machine
   * @param {Start} start
   * @returns {Promise<Uint8Array<ArrayBuffer>>}
   */
  async _nextBlock(reader, machine, start) {
    /** @type {Uint8Array[]} */
    const pieces = [];
    let size = 0;
    const until = performance.now() + rules.SILENCE_MS;
    while (size < WRITE_BYTES && !reader.over) {
      const piece = reader.takeNow();
      if (piece !== null) {
        pieces.push(piece);
        size += piece.length;
      } else if (machine.start !== start) {
        reader.over = true; // what was there is all there is
      } else if (size > 0) {
        break;
      } else if (performance.now() >= until) {
        reader.over = true;
      } else {
        reader.wait(() => this._bell.ring());
        await this._bell.wait(until - performance.now());
      }
    }
    const block = new Uint8Array(size);
    let at = 0;
    for (const piece of pieces) {
      block.set(piece, at);
      at += piece.length;
    }
    return block;
  }

  /** @param {Receiver} machine */
  async _putPartAway({ outcome: ended }) {
    const part = this._part;
    this._part = null;
    if (!this.hasPart || ended === null || ended.ending === "done") return;
    const useless = ended.ending === "declined" || USELESS.includes(ended.reason)
      || (ended.ending === "failed" && this.position === 0);
    await part?.close();
    if (useless) await this._throwAway();
    else if (ended.ending === "cancelled") await this._setAside();
  }

  /** @param {Receiver} machine */
  async _tellDone({ transfer, receiver }) {
    const answer = await post(this._client, this.account, { type: "done", transfer, receiver })
      .catch(() => null);
    return answer?.heard === "delivered";
  }

  /**
   * The sender is away just now: say it until it is back.
   *
   * @param {Receiver} machine
   */
  async _tellDoneLater(machine) {
    const until = performance.now() + TELL_DONE_MS;
    while (performance.now() < until && !this._client.isOver) {
      await new Promise((resolve) => setTimeout(resolve, TELL_AGAIN_MS));
      if (await this._tellDone(machine)) return;
    }
  }
}

const NOTHING = new Uint8Array();

/** Takes a source's payloads in order, and notices what must not be. */
class Reader {
  /**
   * @param {import("../tim/index.js").Subscription} stream
   * @param {Start} start
   * @param {number} size
   */
  constructor(stream, start, size) {
    /** Nothing more is to be taken. */
    this.over = false;
    /** END came where it should. */
    this.complete = false;
    /** The sender has broken the rules. */
    this.broken = false;
    this._stream = stream;
    this._start = start;
    this._size = size;
    this._position = start.offset;
    this._nextSeq = 0;
    /** What `wait` has taken. @type {import("../tim/subscription.js").Item | null | undefined} */
    this._item = undefined;
    this._isWaiting = false;
  }

  /**
   * Have a function called once `takeNow` has something. May be called again meanwhile.
   *
   * @param {() => void} ring
   */
  wait(ring) {
    if (this._isWaiting) return;
    this._isWaiting = true;
    const take = (/** @type {import("../tim/subscription.js").Item | null} */ item) => {
      this._item = item;
      this._isWaiting = false;
      ring();
    };
    this._stream.next().then(take, () => take(null));
  }

  /** Return the next payload, empty for none; null where it would have to wait. */
  takeNow() {
    let item = this._item;
    this._item = undefined;
    if (item === undefined && !this._isWaiting) {
      item = this._stream.takeNow();
      if (item === undefined && this._stream.ended !== undefined) item = null;
    }
    return item === undefined ? null : this._lookAt(item);
  }

  /** @param {import("../tim/subscription.js").Item | null} item */
  _lookAt(item) {
    if (item?.kind === "frame") return this._lookAtFrame(item);
    const left = item?.kind === "left" && item.source === this._start.source;
    if (item === null || left || item.kind === "gap" || item.kind === "reconnecting") {
      this.over = true;
    }
    return NOTHING;
  }

  /** @param {import("../tim/frames.js").StreamFrame} frame */
  _lookAtFrame({ source, track, flags, seq, payload }) {
    const position = this._position + payload.length;
    const isEnd = (flags & Flag.end) !== 0;
    if (source !== this._start.source || track !== 0 || (flags & (Flag.init | Flag.key)) !== 0
      || position > this._size || (isEnd && position < this._size)) {
      this.over = this.broken = true;
      return NOTHING;
    }
    if (seq !== this._nextSeq) {
      this.over = true; // not from the beginning: the subscription is not the room's first
      return NOTHING;
    }
    this._nextSeq += 1;
    this._position = position;
    this.over = this.complete = isEnd;
    return payload;
  }
}
