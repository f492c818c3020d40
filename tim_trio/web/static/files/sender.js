// The sender's side of one transfer, as a state machine.
//
// Pure: messages and the time in, messages out. Whoever owns it sends those,
// runs the attempt that `wanted` asks for, and looks again by `nextPoll`. Times
// are milliseconds of one clock.
//
// Source: protocol.md, Annex B.

import * as rules from "./rules.js";

/** @typedef {import("./messages.js").Message} Message */
/** @typedef {import("./messages.js").Accept} Accept */
/** @typedef {import("./messages.js").By} By */

/**
 * - offering: no attempt is under way
 * - starting: an accept has come; its room is being made
 * - confirming: END is sent
 *
 * @typedef {"offering" | "starting" | "sending" | "confirming" | "over"} SenderPhase
 */
/**
 * @typedef {"done" | "declined" | "cancelled" | "failed" | "timedOut" | "offline" | "refused"
 *   | "unknown" | "stopped"} Ending
 */
/**
 * How a transfer ended, why, and by whose word.
 *
 * @typedef {{ ending: Ending, reason: string, by: By }} Outcome
 */
/** What the server says of an offer. @typedef {"delivered" | "offline" | "refused" | "unknown"} Heard */

export class Sender {
  /**
   * @param {object} options
   * @param {import("./messages.js").Offer} options.offer
   * @param {number} options.answerWithinMs how long to offer until a first accept
   * @param {number} options.resumeWithinMs how long to offer after an attempt was lost
   * @param {boolean} [options.mayBeOffline] go on offering to who is not there at first
   * @param {number} options.now
   */
  constructor({ offer, answerWithinMs, resumeWithinMs, mayBeOffline = false, now }) {
    this.offer = offer;
    /** @type {SenderPhase} */
    this.phase = "offering";
    /** The accept to be served now. When it changes, an attempt that serves another is over. @type {Accept | null} */
    this.wanted = null;
    /** Accepts taken. */
    this.attempts = 0;
    /** The receiver has said that it goes away for now. */
    this.peerIsStopping = false;
    /** Null while the transfer goes on. @type {Outcome | null} */
    this.outcome = null;
    this._resumeWithinMs = resumeWithinMs;
    this._mayBeOffline = mayBeOffline;
    this._receiver = "";
    /** @type {import("./messages.js").Start | null} */
    this._start = null;
    /** Reasons by device. @type {Map<string, string>} */
    this._declined = new Map();
    this._devices = 0;
    this._offers = 0;
    this._heard = false;
    this._nextOffer = now;
    this._deadline = now + answerWithinMs;
    this._startedAt = -Infinity;
  }

  get transfer() {
    return this.offer.transfer;
  }

  /** When to call `poll` again at the latest. */
  get nextPoll() {
    if (this.phase === "offering") return Math.min(this._nextOffer, this._deadline);
    return this.phase === "confirming" ? this._deadline : Infinity;
  }

  /**
   * Return what the time brings: an offer, or the end of patience.
   *
   * @param {number} now
   * @returns {Message[]}
   */
  poll(now) {
    if (now < this.nextPoll) return [];
    if (this.phase === "confirming") return this._lose(now);
    if (now >= this._deadline) {
      return this._end(outcome("timedOut"), this._heard ? this._failed("timeout") : undefined);
    }
    this._offers += 1;
    const soon = this._offers <= rules.OFFERS_SOON;
    this._nextOffer = now + (soon ? rules.OFFER_SOON_MS : rules.OFFER_INTERVAL_MS);
    return [this.offer];
  }

  /**
   * Take what the server says of the delivery of an offer.
   *
   * @param {Heard} heard
   * @param {number} [devices]
   * @returns {Message[]}
   */
  heard(heard, devices = 0) {
    if (this.phase === "over") return [];
    switch (heard) {
      case "delivered":
        this._heard = true;
        this._devices = devices;
        return this._lookForDeclines();
      case "offline": {
        const first = !this._heard && this.attempts === 0;
        return first && !this._mayBeOffline ? this._end(outcome("offline")) : [];
      }
      default:
        return this._end(outcome(heard));
    }
  }

  /**
   * Take a message about this transfer from the receiver's account.
   *
   * @param {Message} message
   * @param {number} now
   * @returns {Message[]}
   */
  take(message, now) {
    if (message.transfer !== this.transfer || this.phase === "over") return [];
    switch (message.type) {
      case "accept":
        return this._accept(message, now);
      case "decline":
        return this._decline(message);
      case "done":
        return this._receiver !== "" && this._receiver === message.receiver
          ? this._end(outcome("done", "", "receiver")) : [];
      case "cancel":
      case "failed":
      case "pause":
        break;
      default:
        return []; // of a sender
    }
    // Ours come back to us where we send to our own account.
    if (message.by !== "receiver" || !["", message.receiver].includes(this._receiver)) return [];
    if (message.type === "cancel") return this._end(outcome("cancelled", "", "receiver"));
    if (message.type === "failed") return this._end(outcome("failed", message.reason, "receiver"));
    this.peerIsStopping = message.stopping;
    if (this.phase !== "offering") this._backToOffering(now);
    else if (!message.stopping) this._nextOffer = now; // it is back
    return [];
  }

  /**
   * @param {Accept} accept
   * @param {number} now
   * @returns {Message[]}
   */
  _accept(accept, now) {
    const { transfer } = this;
    if (this.wanted !== null) {
      if (accept.receiver !== this._receiver) {
        return [{ type: "taken", transfer, receiver: this._receiver }];
      }
      if (accept.attempt === this.wanted.attempt) return this._start === null ? [] : [this._start];
      if (now - this._startedAt < rules.ATTEMPT_INTERVAL_MS) return [];
    }
    this._receiver = accept.receiver;
    this.phase = "starting";
    this.wanted = accept;
    this._start = null;
    this._startedAt = now;
    this.attempts += 1;
    this.peerIsStopping = false;
    return this.attempts > 1 ? [] : [{ type: "taken", transfer, receiver: accept.receiver }];
  }

  /**
   * @param {import("./messages.js").Decline} decline
   * @returns {Message[]}
   */
  _decline({ receiver, reason }) {
    if (this._receiver !== "") return [];
    this._declined.set(receiver, reason);
    // A person speaks for the whole account: its other devices are told to ask no more.
    if (reason === "user") return this._end(outcome("declined", reason, "receiver"), this._cancel());
    return this._lookForDeclines();
  }

  /** @returns {Message[]} */
  _lookForDeclines() {
    const count = this._declined.size;
    if (this._receiver !== "" || count === 0 || count < this._devices) return [];
    return this._end(outcome("declined", [...this._declined.values()].at(-1), "receiver"));
  }

  // -- told by whoever runs the attempt -----------------------------------------

  /**
   * The attempt for `accept` has its room.
   *
   * @param {Accept} accept
   * @param {{ room: string, source: number, offset: number }} where
   * @returns {Message[]}
   */
  started(accept, { room, source, offset }) {
    if (accept !== this.wanted) return [];
    const { transfer } = this;
    const { receiver, attempt } = accept;
    this.phase = "sending";
    this._start = { type: "start", transfer, receiver, attempt, room, source, offset };
    return [this._start];
  }

  /**
   * The attempt for `accept` has sent END.
   *
   * @param {Accept} accept
   * @param {number} now
   */
  sent(accept, now) {
    if (accept !== this.wanted) return;
    this.phase = "confirming";
    this._deadline = now + rules.DONE_WITHIN_MS;
  }

  /**
   * The attempt for `accept` came to nothing; the transfer goes on.
   *
   * @param {Accept} accept
   * @param {number} now
   * @returns {Message[]}
   */
  lost(accept, now) {
    return accept === this.wanted ? this._lose(now) : [];
  }

  /**
   * @param {number} now
   * @returns {Message[]}
   */
  _lose(now) {
    this._backToOffering(now);
    return [this._pause(false)];
  }

  /** @param {number} now */
  _backToOffering(now) {
    this.phase = "offering";
    this.wanted = null;
    this._start = null;
    this._offers = 0;
    this._deadline = now + this._resumeWithinMs;
    this._nextOffer = Math.max(now, this._startedAt + rules.ATTEMPT_INTERVAL_MS);
  }

  // -- our own end ----------------------------------------------------------------

  /**
   * Nothing will come of it: "changed", "unreadable", "room" or "protocol".
   *
   * @param {string} reason
   */
  fail(reason) {
    return this._end(outcome("failed", reason), this._failed(reason));
  }

  /** A person does not want it any more. */
  cancel() {
    return this._end(outcome("cancelled"), this._cancel());
  }

  /** We go away for now; a new transfer of the same file goes on. */
  stop() {
    return this._end(outcome("stopped"), this._pause(true));
  }

  /**
   * @param {string} reason
   * @returns {Message}
   */
  _failed(reason) {
    return { type: "failed", transfer: this.transfer, by: "sender", receiver: "", reason };
  }

  /** @returns {Message} */
  _cancel() {
    return { type: "cancel", transfer: this.transfer, by: "sender", receiver: "" };
  }

  /**
   * @param {boolean} stopping
   * @returns {Message}
   */
  _pause(stopping) {
    return { type: "pause", transfer: this.transfer, by: "sender", receiver: "", stopping };
  }

  /**
   * @param {Outcome} ended
   * @param {Message} [lastWords]
   * @returns {Message[]}
   */
  _end(ended, lastWords) {
    if (this.phase === "over") return [];
    this.phase = "over";
    this.wanted = null;
    this.outcome = ended;
    return lastWords === undefined ? [] : [lastWords];
  }
}

/**
 * @param {Ending} ending
 * @param {string} [reason]
 * @param {By} [by]
 * @returns {Outcome}
 */
export function outcome(ending, reason = "", by = "sender") {
  return { ending, reason, by };
}
