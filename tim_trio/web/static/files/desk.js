// All transfers to us: which message belongs to which, and how many there may be.
//
// Pure, as the transfers themselves (receiver.js).
//
// Source: protocol.md, Annex B, "Accepting" and "What either side must expect".

import { newId } from "./messages.js";
import { Receiver } from "./receiver.js";
import * as rules from "./rules.js";

/** @typedef {import("./messages.js").Message} Message */
/** @typedef {import("./messages.js").Offer} Offer */

/** @param {string} account @param {string} transfer */
const keyOf = (account, transfer) => `${account}|${transfer}`; // no account has a `|`

export class Desk {
  /**
   * @param {object} options
   * @param {number} options.patienceMs how long a sender may stay away in mid-transfer
   * @param {(account: string, offer: Offer) => { receiver: string, agreed: boolean } | null}
   *   options.findPart our name for a part of such a file that we hold, and whether it is
   *   wanted without a question
   * @param {(receiver: Receiver) => void} options.opened called with each new transfer:
   *   "asking", or "waiting" where we go on with a part
   * @param {(transfer: string) => boolean} options.isOwn that this client sends; not offered to itself
   */
  constructor({ patienceMs, findPart, opened, isOwn }) {
    this._patienceMs = patienceMs;
    this._findPart = findPart;
    this._opened = opened;
    this._isOwn = isOwn;
    /** @type {Map<string, Receiver>} */
    this._transfers = new Map();
    /** Over, and answered for a while. @type {Map<string, Receiver>} */
    this._remembered = new Map();
  }

  /**
   * Take a message from an account; return the answers to it.
   *
   * @param {string} account
   * @param {Message} message
   * @param {number} now
   * @returns {Message[]}
   */
  take(account, message, now) {
    this._putAway();
    const key = keyOf(account, message.transfer);
    const found = this._transfers.get(key) ?? this._remembered.get(key);
    if (found !== undefined) return found.take(message, now);
    if (message.type === "unknownOffer") {
      const { transfer } = message;
      const offer = /** @type {const} */ ({
        type: "offer", transfer, name: "", size: 0, sha256: "", mediaType: "",
      });
      return this._refuse(account, offer, "version", now);
    }
    if (message.type === "offer" && !this._isOwn(message.transfer)) {
      return this._open(account, message, now);
    }
    return [];
  }

  /**
   * Answer further offers of a transfer that was stopped as if it were new.
   *
   * @param {Receiver} receiver
   */
  forget({ account, transfer }) {
    this._putAway();
    this._remembered.delete(keyOf(account, transfer));
  }

  /**
   * @param {string} account
   * @param {Offer} offer
   * @param {number} now
   * @returns {Message[]}
   */
  _open(account, offer, now) {
    /** @type {Message[]} */
    const replies = [];
    const part = this._findPart(account, offer);
    for (const old of this._transfers.values()) {
      if (part !== null && old.receiver === part.receiver) replies.push(...old.fail("superseded"));
    }
    this._putAway();
    const asking = [...this._transfers.values()].filter(({ phase }) => phase === "asking");
    const ofAccount = asking.filter((each) => each.account === account);
    if (this._transfers.size >= rules.MAX_TRANSFERS
      || (part?.agreed !== true && (asking.length >= rules.MAX_QUESTIONS
        || ofAccount.length >= rules.MAX_QUESTIONS_PER_ACCOUNT))) {
      return [...replies, ...this._refuse(account, offer, "busy", now)];
    }
    const receiver = this._new(account, offer, part?.receiver ?? newId(), now);
    this._transfers.set(keyOf(account, offer.transfer), receiver);
    if (part?.agreed === true) receiver.agree(now);
    this._opened(receiver);
    return replies;
  }

  /**
   * @param {string} account
   * @param {Offer} offer
   * @param {string} reason
   * @param {number} now
   */
  _refuse(account, offer, reason, now) {
    const receiver = this._new(account, offer, newId(), now);
    const replies = receiver.decline(reason);
    // Under one name, however often it is offered: a sender counts the names.
    this._remember(receiver);
    return replies;
  }

  /**
   * @param {string} account
   * @param {Offer} offer
   * @param {string} receiver
   * @param {number} now
   */
  _new(account, offer, receiver, now) {
    return new Receiver({ account, offer, receiver, patienceMs: this._patienceMs, now });
  }

  _putAway() {
    for (const [key, receiver] of this._transfers) {
      if (receiver.phase !== "over") continue;
      this._transfers.delete(key);
      this._remember(receiver);
    }
  }

  /** @param {Receiver} receiver */
  _remember(receiver) {
    this._remembered.set(keyOf(receiver.account, receiver.transfer), receiver);
    for (const oldest of this._remembered.keys()) {
      if (this._remembered.size <= rules.MAX_REMEMBERED) break;
      this._remembered.delete(oldest);
    }
  }
}
