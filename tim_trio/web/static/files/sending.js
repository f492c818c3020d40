// Sending a file: the state machine (sender.js) on a client.
//
// Source: protocol.md, Annex B; docs/files.md.

import { ConnectionClosed, LocalProtocolError, RequestTimedOut, RoomError, StreamOver }
  from "../tim/index.js";
import { STREAM_HEADER_BYTES } from "../tim/frames.js";
import { KIND, decode, newId } from "./messages.js";
import { OutgoingFile } from "./outgoing.js";
import { post } from "./post.js";
import * as rules from "./rules.js";
import { Sender, outcome } from "./sender.js";
import { Bell, Transfer } from "./transfer.js";

/**
 * Of one frame's payload. The server forwards what one read brings as one
 * piece, so larger frames save nothing but headers.
 */
const FRAME_BYTES = 128 * 1024;
/** A person who has to find the page first takes a while. */
const ANSWER_WITHIN_MS = 15 * 60_000;
const RESUME_WITHIN_MS = 60 * 60_000;

/** Nobody watches the attempt's room, or not any more. */
class Deserted extends Error {}

/** @type {Partial<Record<import("./sender.js").SenderPhase, import("./transfer.js").Phase>>} */
const PHASES = { starting: "running", sending: "running", confirming: "checking", over: "over" };

export class Sending extends Transfer {
  /**
   * @param {import("../tim/index.js").Client} client
   * @param {File} file
   * @param {object} options
   * @param {string} options.to
   * @param {string} [options.sha256] of the file that was begun with, where it has to be that one
   * @param {() => Promise<() => void>} options.turn waits for our turn; returns how to give it back
   * @param {string} [options.kept] what the browser keeps the file under, for after a reload
   * @param {() => void} options.removed
   */
  constructor(client, file, { to, sha256 = "", kept = "", turn, removed }) {
    // Half a character, as some systems' names have it, is none in UTF-8.
    const name = file.name.replace(/\p{Cs}/gu, "\ufffd");
    super("out", { account: to, name, size: file.size });
    this._client = client;
    this._file = new OutgoingFile(file);
    this._mediaType = file.type;
    this._expected = sha256;
    this.kept = kept;
    this._turn = turn;
    this._removed = removed;
    /** Null before the digest is known. @type {Sender | null} */
    this._machine = null;
    /** @type {import("./messages.js").Message[]} */
    this._outbox = [];
    this._bell = new Bell();
    this._running = false;
    /** Over and resumed: what it may still have to say ends nothing. @type {Sender | null} */
    this._dismissed = null;
    /** Stops listening to a receiver that has cancelled. */
    this._deaf = () => {};
    void this._run();
  }

  /** The digest, empty while it is not known. */
  get sha256() {
    return this._file.sha256;
  }

  get source() {
    return this._file.file;
  }

  /** @param {string} id what the browser keeps the file under, for after a reload */
  keep(id) {
    this.kept = id;
    this.touch();
  }

  /** @param {string} transfer */
  isOwn(transfer) {
    return this._machine?.transfer === transfer;
  }

  // -- for a person -------------------------------------------------------------

  pause() {
    if (this.isOver) return;
    this._wish("stop");
  }

  resume() {
    if (this.phase !== "paused" && !(this.isOver && this.outcome?.ending !== "done")) return;
    this._deaf();
    this._dismissed = this._machine;
    this.outcome = null;
    this.problem = null;
    this.attempts = 0;
    this.peerIsStopping = false;
    this.phase = "queued";
    this.touch();
    if (!this._running) void this._run();
  }

  cancel() {
    this._wish("cancel");
  }

  remove() {
    this._wish("cancel");
    this._deaf();
    this._removed();
  }

  /** @param {"stop" | "cancel"} wish */
  _wish(wish) {
    if (this.outcome !== null && !(wish === "cancel" && this.phase === "paused")) return;
    const machine = this._machine;
    if (machine === null || machine.phase === "over") {
      // Not offered yet, or paused: the receiver may still keep its part.
      if (machine !== null && wish === "cancel") {
        post(this._client, this.account, machine._cancel()).catch(() => {});
      }
      this._file.close();
      this._finish(outcome(wish === "stop" ? "stopped" : "cancelled"));
    } else {
      this._outbox.push(...machine[wish]());
    }
    this._bell.ring();
    this._show();
  }

  // -- inside ---------------------------------------------------------------------

  async _run() {
    this._running = true;
    // Resumed while the last words were still on their way: once more.
    do {
      const giveBack = await this._turn();
      try {
        if (this.outcome === null) await this._once();
      } catch (error) {
        this.problem = error;
        this._finish(outcome("failed"));
      } finally {
        giveBack();
      }
    } while (this.outcome === null);
    this._running = false;
  }

  /** @param {import("./sender.js").Outcome} ended */
  _finish(ended) {
    this.outcome = ended;
    this.phase = ended.ending === "stopped" ? "paused" : "over";
    if (ended.ending === "cancelled" && ended.by === "receiver") this._hopeFor();
    this.touch();
  }

  /** A receiver that has cancelled may want it after all, and says so. */
  _hopeFor() {
    this._deaf();
    this._deaf = this._client.on("accountStream", ({ account, payload, kind }) => {
      const word = kind === KIND && account === this.account ? decode(payload) : null;
      if (word?.type === "pause" && word.by === "receiver" && this.isOwn(word.transfer)) this.resume();
    });
  }

  async _once() {
    this._machine = null;
    this.phase = "reading";
    this.position = 0;
    this.touch();
    let sha256;
    try {
      sha256 = await this._file.digest((position) => {
        this.position = position;
        this.touch();
      });
    } catch (error) {
      if (this.outcome !== null) return; // stopped meanwhile
      throw error;
    }
    if (this.outcome !== null) return;
    this.position = 0;
    if (this._expected !== "" && this._expected !== sha256) {
      this._finish(outcome("failed", "other"));
      return;
    }
    const machine = new Sender({
      offer: {
        type: "offer", transfer: newId(), name: this.name, size: this.size, sha256,
        mediaType: this._mediaType,
      },
      answerWithinMs: ANSWER_WITHIN_MS, resumeWithinMs: RESUME_WITHIN_MS,
      mayBeOffline: true, now: performance.now(),
    });
    this._machine = machine;
    const deaf = this._client.on("accountStream", ({ account, payload, kind }) => {
      const message = kind === KIND && account === this.account ? decode(payload) : null;
      if (message === null) return;
      this._outbox.push(...machine.take(message, performance.now()));
      this._bell.ring();
    });
    try {
      await this._serve(machine);
    } finally {
      deaf();
      this._machine = machine;
    }
  }

  /** @param {Sender} machine */
  async _serve(machine) {
    /** @type {import("./messages.js").Accept | null} */
    let served = null;
    /** @type {Attempt | null} */
    let attempt = null;
    let posting = Promise.resolve();
    /** @type {unknown} */
    let failure = null;
    let unsent = 0;
    for (;;) {
      this._outbox.push(...machine.poll(performance.now()));
      // In order, and not waited for: a person may cancel while the connection is away.
      for (const word of this._outbox.splice(0)) {
        unsent += 1;
        posting = posting.then(async () => {
          try {
            const answer = await post(this._client, this.account, word);
            if (word.type === "offer" && answer !== null) {
              this._outbox.push(...machine.heard(answer.heard, answer.devices));
            }
            if (word.type === "offer") this.isAbsent = answer?.heard === "offline";
          } catch (error) {
            failure ??= error;
          }
          unsent -= 1;
          this._bell.ring();
        });
      }
      if (machine.wanted !== served) {
        attempt?.stop();
        served = machine.wanted;
        attempt = served === null ? null : new Attempt(this, machine, served);
      }
      if (failure !== null && machine.outcome === null) {
        attempt?.stop();
        throw failure;
      }
      this._show();
      if (machine.outcome !== null && this._outbox.length === 0) {
        const { outcome: ended } = machine;
        if (this.outcome === null && machine !== this._dismissed) this._finish(ended);
        // The last words; they come to nothing if the connection does.
        while (unsent > 0) await this._bell.wait();
        return;
      }
      // While an offer waits for the connection, another one would only queue behind it.
      const waitMs = unsent > 0 ? Infinity : machine.nextPoll - performance.now();
      await this._bell.wait(waitMs);
    }
  }

  /** Whether the receiver was not online at the last offer. */
  isAbsent = false;

  _show() {
    const machine = this._machine;
    if (machine !== null && machine !== this._dismissed && this.outcome === null) {
      this.attempts = machine.attempts;
      this.peerIsStopping = machine.peerIsStopping;
      if (machine.outcome !== null) this._finish(machine.outcome);
      else this.phase = PHASES[machine.phase] ?? (machine.attempts > 0 ? "away" : "offered");
    }
    this.touch();
  }
}

/** Serves one accept, until it is lost or another has come. */
class Attempt {
  /**
   * @param {Sending} sending
   * @param {Sender} machine
   * @param {import("./messages.js").Accept} accept
   */
  constructor(sending, machine, accept) {
    this._sending = sending;
    this._machine = machine;
    this._accept = accept;
    this._client = sending._client;
    this._stopped = false;
    this._room = "";
    /** @type {import("../tim/index.js").Source | null} */
    this._source = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._patience = undefined;
    void this._run();
  }

  /** End it. May be repeated. */
  stop() {
    if (this._stopped) return;
    this._stopped = true;
    clearTimeout(this._patience);
    this._source?.close();
    if (this._room !== "" && this._client.isConnected) {
      // Gone already, or else it ends by itself, being idle.
      this._client.removeRoom(this._room).catch(() => {});
    }
  }

  async _run() {
    const { _sending: sending, _machine: machine, _accept: accept } = this;
    /** @type {import("./messages.js").Message[]} */
    let words = [];
    try {
      await this._serve();
    } catch (error) {
      if (this._stopped) return;
      if (error instanceof DOMException) {
        sending.problem = error;
        // It is there, and not what it was; or it is not there.
        words = machine.fail(error.name === "NotReadableError" ? "changed" : "unreadable");
      } else if (error instanceof RoomError && this._room === "" && !error.retryable) {
        sending.problem = error;
        words = machine.fail("room");
      } else if (isPassing(error)) {
        words = machine.lost(accept, performance.now());
      } else {
        sending.problem = error;
        words = machine.fail("unreadable");
      }
      this.stop();
    }
    sending._outbox.push(...words);
    sending._bell.ring();
  }

  async _serve() {
    const { _sending: sending, _machine: machine, _accept: accept, _client: client } = this;
    const file = sending._file;
    const knows = accept.offset <= file.size
      && await this._digest(accept.offset) === accept.prefixSha256;
    const offset = knows ? accept.offset : 0;
    if (this._stopped) return;
    const room = await client.registerRoom({ mode: "reliable", idleTimeoutS: rules.ROOM_IDLE_S });
    this._room = room;
    const source = await client.publish(room);
    this._source = source;
    if (this._stopped) {
      // Too late for `stop` to have known of it.
      source.close();
      client.removeRoom(room).catch(() => {});
      return;
    }
    this._watchViewers(source);
    sending._outbox.push(...machine.started(accept, { room, source: source.number, offset }));
    sending.position = offset;
    sending._bell.ring();
    await this._send(source, offset);
    machine.sent(accept, performance.now());
  }

  /** @param {number} length */
  async _digest(length) {
    try {
      return await this._sending._file.prefixDigest(length);
    } catch (error) {
      // From the worker, where it was a DOMException.
      const { name, message } = /** @type {Error} */ (error);
      throw new DOMException(message, name);
    }
  }

  /**
   * Lose the attempt when nobody comes, or nobody is left.
   *
   * @param {import("../tim/index.js").Source} source
   */
  _watchViewers(source) {
    let came = false;
    const desert = () => source._finish(new Deserted());
    this._patience = setTimeout(desert, rules.SUBSCRIBER_WITHIN_MS);
    source.onOver = (error) => {
      // After END nobody sends, and so nobody else would notice.
      if (this._stopped || this._machine.phase !== "confirming") return;
      if (error instanceof LocalProtocolError) return;
      this._sending._outbox.push(...this._machine.lost(this._accept, performance.now()));
      this.stop();
      this._sending._bell.ring();
    };
    source.onViewers = (viewers) => {
      if (viewers > 0) {
        came = true;
        clearTimeout(this._patience);
      } else if (came) desert();
    };
    if (source.viewers !== null) source.onViewers(source.viewers);
  }

  /**
   * @param {import("../tim/index.js").Source} source
   * @param {number} offset
   */
  async _send(source, offset) {
    const sending = this._sending;
    const file = sending._file;
    const server = this._client.server;
    const most = Math.min(FRAME_BYTES, (server?.maxFrameBytes ?? FRAME_BYTES) - STREAM_HEADER_BYTES);
    // One block ahead of the network.
    let next = offset < file.size ? file.read(offset) : null;
    while (next !== null) {
      const block = await next;
      offset += block.length;
      next = offset < file.size ? file.read(offset) : null;
      next?.catch(() => {}); // it is looked at when its turn comes
      for (let at = 0; at < block.length; at += most) {
        const piece = block.subarray(at, at + most);
        await source.send(piece, { timestampUs: 0 });
        if (this._stopped) throw new Deserted();
        sending.position += piece.length;
        sending.moved += piece.length;
      }
      sending.touch();
    }
    await source.send(new Uint8Array(), { end: true, timestampUs: 0 });
  }
}

/** @param {unknown} error */
function isPassing(error) {
  return error instanceof StreamOver || error instanceof ConnectionClosed
    || error instanceof RequestTimedOut || error instanceof Deserted
    || error instanceof LocalProtocolError || error instanceof RoomError;
}
