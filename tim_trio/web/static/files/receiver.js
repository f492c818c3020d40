// The receiver's side of one transfer, as a state machine.
//
// Pure: messages and the time in, messages out. Whoever owns it asks the user
// while it is "asking", answers an offer while `wantsAnswer`, and runs the attempt
// that `start` describes while it is "receiving".
//
// Source: protocol.md, Annex B.

import * as rules from "./rules.js";
import { outcome } from "./sender.js";

/** @typedef {import("./messages.js").Message} Message */
/** @typedef {import("./messages.js").Start} Start */
/** @typedef {import("./sender.js").Outcome} Outcome */

/**
 * - asking: nobody has said yes or no
 * - waiting: wanted, and no attempt is under way
 * - accepted: an accept is sent
 *
 * @typedef {"asking" | "waiting" | "accepted" | "receiving" | "over"} ReceiverPhase
 */

export class Receiver {
  /**
   * @param {object} options
   * @param {string} options.account who sends it
   * @param {import("./messages.js").Offer} options.offer
   * @param {string} options.receiver our name for our part in it
   * @param {number} options.patienceMs how long the sender may stay away
   * @param {number} options.now
   */
  constructor({ account, offer, receiver, patienceMs, now }) {
    this.account = account;
    this.offer = offer;
    this.receiver = receiver;
    /** @type {ReceiverPhase} */
    this.phase = "asking";
    /** An offer waits for `accept`. */
    this.wantsAnswer = false;
    /** What to subscribe to, while receiving. @type {Start | null} */
    this.start = null;
    /** The sender has said that it goes away for now. */
    this.peerIsStopping = false;
    /**
     * Null while the transfer goes on. "declined" by the sender's side means that
     * another device has taken it.
     *
     * @type {Outcome | null}
     */
    this.outcome = null;
    /** Called after every change. */
    this.changed = () => {};
    this._patienceMs = patienceMs;
    this._attempt = "";
    this._offset = 0;
    this._offeredAt = now;
    this._acceptedAt = 0;
    this._waitsSince = 0;
    /** @type {Message | undefined} */
    this._lastWords = undefined;
  }

  get transfer() {
    return this.offer.transfer;
  }

  /** When to call `poll` again at the latest. */
  get nextPoll() {
    switch (this.phase) {
      case "asking":
        return this._offeredAt + rules.OFFER_LAPSES_MS;
      case "waiting":
        return this._waitsSince + this._patienceMs;
      case "accepted":
        // An offer may have come since that was not answered.
        return this._acceptedAt + this._patienceMs;
      default:
        return Infinity;
    }
  }

  /**
   * End what the sender has forgotten.
   *
   * @param {number} now
   */
  poll(now) {
    if (now >= this.nextPoll) {
      this._end(outcome(this.phase === "asking" ? "cancelled" : "timedOut"));
    }
  }

  /**
   * Take a message about this transfer from the sender's account.
   *
   * @param {Message} message
   * @param {number} now
   * @returns {Message[]}
   */
  take(message, now) {
    if (this.phase === "over") {
      const again = message.type === "offer" || message.type === "start";
      return again && this._lastWords !== undefined ? [this._lastWords] : [];
    }
    switch (message.type) {
      case "offer":
        this._takeOffer(now);
        break;
      case "start":
        return this._takeStart(message);
      case "taken":
        this._endIfTaken(message.receiver);
        break;
      case "pause":
        if (message.by === "sender") this._takePause(message.stopping, now);
        break;
      case "cancel":
        if (message.by === "sender") this._end(outcome("cancelled"));
        break;
      case "failed":
        if (message.by === "sender") this._end(outcome("failed", message.reason));
        break;
      default:
        break; // of a receiver: another device of our own account, if it is ours
    }
    return [];
  }

  /** @param {number} now */
  _takeOffer(now) {
    this._offeredAt = now;
    this.peerIsStopping = false;
    if (this.phase === "asking") return;
    if (this.phase === "accepted" && now - this._acceptedAt < rules.START_WITHIN_MS) return;
    // The sender offers only when no attempt is under way.
    if (this.phase === "accepted" || this.phase === "receiving") this._wait(now);
    else this._waitsSince = now;
    this.wantsAnswer = true;
    this.changed();
  }

  /**
   * @param {Start} start
   * @returns {Message[]}
   */
  _takeStart(start) {
    if (this._endIfTaken(start.receiver) || this.phase !== "accepted") return [];
    if (start.attempt !== this._attempt) return [];
    if (start.offset !== 0 && start.offset !== this._offset) return this.fail("protocol");
    this.phase = "receiving";
    this.start = start;
    this.changed();
    return [];
  }

  /**
   * @param {boolean} stopping
   * @param {number} now
   */
  _takePause(stopping, now) {
    this.peerIsStopping = stopping;
    if (this.phase === "asking" && stopping) {
      this._end(outcome("cancelled"));
      return;
    }
    if (this.phase === "accepted" || this.phase === "receiving") this._wait(now);
    this.changed();
  }

  /** @param {string} receiver */
  _endIfTaken(receiver) {
    if (receiver === this.receiver) return false;
    this._end(outcome("declined"));
    return true;
  }

  // -- told by whoever asks the user and runs the attempt ---------------------------

  /**
   * It is wanted.
   *
   * @param {number} now
   */
  agree(now) {
    if (this.phase !== "asking") return;
    this._wait(now);
    this.wantsAnswer = true;
    this.changed();
  }

  /**
   * It is not: "user", "policy", "busy", "space".
   *
   * @param {string} reason
   */
  decline(reason) {
    const { transfer, receiver } = this;
    return this._end(outcome("declined", reason, "receiver"),
      { type: "decline", transfer, receiver, reason });
  }

  /**
   * Answer the offer: we hold `offset` bytes with that digest, safely.
   *
   * @param {{ attempt: string, offset: number, sha256: string, now: number }} what
   * @returns {Message[]}
   */
  accept({ attempt, offset, sha256, now }) {
    if (this.phase !== "waiting" || !this.wantsAnswer) return [];
    const { transfer, receiver } = this;
    this.phase = "accepted";
    this.wantsAnswer = false;
    this._attempt = attempt;
    this._offset = offset;
    this._acceptedAt = now;
    this.changed();
    return [{ type: "accept", transfer, receiver, attempt, offset, prefixSha256: sha256 }];
  }

  /**
   * The attempt came to nothing; the next offer is answered.
   *
   * @param {Start} start
   * @param {number} now
   * @returns {Message[]}
   */
  lost(start, now) {
    if (this.start !== start) return [];
    this._wait(now);
    this.changed();
    return [this._pause(false)];
  }

  /** @param {number} now */
  _wait(now) {
    this.phase = "waiting";
    this.start = null;
    this._attempt = "";
    this._waitsSince = now;
  }

  /** All of it is here, and its digest is right. */
  done() {
    const { transfer, receiver } = this;
    return this._end(outcome("done", "", "receiver"), { type: "done", transfer, receiver });
  }

  /**
   * It cannot be: "digest", "space", "unwritable", "superseded", "protocol".
   *
   * @param {string} reason
   */
  fail(reason) {
    const { transfer, receiver } = this;
    return this._end(outcome("failed", reason, "receiver"),
      { type: "failed", transfer, by: "receiver", receiver, reason });
  }

  /** A person does not want it any more. */
  cancel() {
    const { transfer, receiver } = this;
    return this._end(outcome("cancelled", "", "receiver"),
      { type: "cancel", transfer, by: "receiver", receiver });
  }

  /** We go away for now; the next offer of the same file goes on. */
  stop() {
    const wasAsking = this.phase === "asking";
    const words = this._end(outcome("stopped", "", "receiver"), this._pause(true));
    this._lastWords = undefined;
    return wasAsking ? [] : words;
  }

  /**
   * @param {boolean} stopping
   * @returns {Message}
   */
  _pause(stopping) {
    const { transfer, receiver } = this;
    return { type: "pause", transfer, by: "receiver", receiver, stopping };
  }

  /**
   * @param {Outcome} ended
   * @param {Message} [lastWords]
   * @returns {Message[]}
   */
  _end(ended, lastWords) {
    if (this.phase === "over") return [];
    this.phase = "over";
    this.start = null;
    this.wantsAnswer = false;
    this.outcome = ended;
    this._lastWords = lastWords;
    this.changed();
    return lastWords === undefined ? [] : [lastWords];
  }
}
