// All files that an account sends and receives in this page.

import { Capability } from "../tim/index.js";
import { sleep } from "../tim/reconnect.js";
import { Desk } from "./desk.js";
import { Incoming } from "./incoming.js";
import { KIND, decode } from "./messages.js";
import { leftBehind } from "./parts.js";
import { post } from "./post.js";
import { Sending } from "./sending.js";

/** @typedef {import("./transfer.js").Transfer} Transfer */

/** A sender that is reloading its page, or looks for the file, takes a while. */
const PATIENCE_MS = 24 * 3600_000;
const LET_GO_TRIES = 10;
const LET_GO_MS = 200;
/** So many go at once; a receiver takes no more questions from one account. */
const AT_ONCE = 8;
/** Transfers that are over stay on the list, but not without end. */
const MOST_LISTED = 200;

export class FileService {
  /** @param {import("../tim/index.js").Client} client */
  constructor(client) {
    this.client = client;
    /** The newest first. @type {Transfer[]} */
    this.transfers = [];
    /** Called when a transfer comes, goes or changes. @type {Set<(which: Transfer | null) => void>} */
    this.listeners = new Set();
    this._free = AT_ONCE;
    /** @type {(() => void)[]} */
    this._queue = [];
    this._desk = new Desk({
      patienceMs: PATIENCE_MS,
      findPart: (account, offer) => {
        const part = this._partOf(account, offer);
        return part === undefined ? null
          : { receiver: part.info.receiver, agreed: !part.isRefused };
      },
      opened: (machine) => this._opened(machine),
      isOwn: (transfer) => this.transfers.some(
        (each) => each instanceof Sending && each.isOwn(transfer)),
    });
    this._timer = setInterval(() => this._touchAll(), 1000);
    /** @type {Promise<unknown>} */
    this.ready = this.isAvailable ? this._begin() : Promise.resolve();
  }

  get isAvailable() {
    return ((this.client.server?.capabilities ?? 0) & Capability.accountStreams) !== 0;
  }

  /** Questions that wait for an answer. */
  get questions() {
    return this.transfers.filter((each) => each.direction === "in" && each.phase === "offered");
  }

  /** Sending that a reload of the page would interrupt. */
  get sending() {
    /** @type {Sending[]} */
    const found = [];
    for (const each of this.transfers) if (each instanceof Sending && !each.isOver) found.push(each);
    return found;
  }

  /**
   * @param {File} file
   * @param {string} to
   * @param {object} [options]
   * @param {string} [options.sha256] of the file that was begun with, where it has to be that one
   * @param {string} [options.kept] what the browser keeps the file under, for after a reload
   * @returns {Sending}
   */
  send(file, to, { sha256, kept } = {}) {
    /** @type {Sending} */
    const sending = new Sending(this.client, file, {
      to, sha256, kept,
      turn: () => this._turn(),
      removed: () => this._removed(sending),
    });
    this._list(sending);
    return sending;
  }

  /** The page goes away: say so, as far as that is still possible. */
  leave() {
    for (const each of this.transfers) each.pause();
  }

  close() {
    clearInterval(this._timer);
  }

  // -- inside ---------------------------------------------------------------------

  async _begin() {
    const { client } = this;
    // Heard from the start, and answered once it is known what is there.
    /** @type {{ account: string, payload: Uint8Array }[] | null} */
    let early = [];
    client.on("accountStream", (event) => {
      if (event.kind !== KIND) return;
      if (early !== null) early.push(event);
      else this._take(event);
    });
    try {
      let found = await leftBehind(client.account);
      // A page that was reloaded just now may still hold what it had.
      for (let tries = 0; tries < LET_GO_TRIES && found.some(({ busy }) => busy); tries++) {
        await sleep(LET_GO_MS);
        found = await leftBehind(client.account);
      }
      for (const { info, bytes, busy } of found) {
        if (busy) continue; // another page goes on with it
        const incoming = this._incoming(info);
        incoming.position = bytes;
        incoming.hasPart = true;
        this._list(incoming);
        if (info.doneAt > 0) await incoming.fetch();
        else if ((info.cancelledAt ?? 0) > 0) incoming.rest();
        else incoming.announce();
      }
    } catch (error) {
      // Nothing of before is found; what comes fails by itself, and says why.
      console.warn(error);
    }
    const heard = early;
    early = null;
    for (const event of heard) this._take(event);
  }

  /** @param {{ account: string, payload: Uint8Array }} event */
  _take({ account, payload }) {
    const message = decode(payload);
    if (message === null) return;
    for (const word of this._desk.take(account, message, performance.now())) {
      post(this.client, account, word).catch(() => {});
    }
  }

  /**
   * @param {string} account
   * @param {{ name: string, size: number, sha256: string }} offer
   * @returns {Incoming | undefined}
   */
  _partOf(account, { name, size, sha256 }) {
    for (const each of this.transfers) {
      if (!(each instanceof Incoming) || !each.canGoOn) continue;
      const { info } = each;
      if (info.account === account && info.name === name && info.size === size
        && info.sha256 === sha256) return each;
    }
    return undefined;
  }

  /** @param {import("./receiver.js").Receiver} machine */
  _opened(machine) {
    const { account, offer, receiver } = machine;
    const { name, size, sha256, mediaType, transfer } = offer;
    let incoming = /** @type {Incoming | undefined} */ (this.transfers.find((each) =>
      each instanceof Incoming && each.canGoOn && each.info.receiver === receiver));
    if (incoming === undefined) {
      incoming = this._incoming({
        receiver, owner: this.client.account, account, name, size, sha256, mediaType, transfer,
        doneAt: 0,
      });
      this._list(incoming);
    }
    incoming.begin(machine);
  }

  /** @param {import("./part_stores.js").PartInfo} info */
  _incoming(info) {
    /** @type {Incoming} */
    const incoming = new Incoming(this.client, info, {
      removed: () => this._removed(incoming),
      forget: (machine) => this._desk.forget(machine),
    });
    return incoming;
  }

  /** @param {Transfer} transfer */
  _list(transfer) {
    transfer.changed = () => this._tell(transfer);
    this.transfers.unshift(transfer);
    while (this.transfers.length > MOST_LISTED) {
      // What has arrived and was not saved stays.
      const at = this.transfers.findLastIndex((each) => each.isOver && each.file === null);
      if (at < 0) break;
      this.transfers.splice(at, 1);
    }
    this._tell(transfer);
  }

  /** @param {Transfer} transfer */
  _removed(transfer) {
    this.transfers = this.transfers.filter((each) => each !== transfer);
    this._tell(null);
  }

  /** @param {Transfer | null} which */
  _tell(which) {
    for (const listener of [...this.listeners]) listener(which);
  }

  /** Speeds fall to nothing without anything that happens. */
  _touchAll() {
    for (const each of this.transfers) if (each.phase === "running") this._tell(each);
  }

  /** Wait for a turn; return how to give it back. */
  async _turn() {
    while (this._free === 0) {
      await new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
        this._queue.push(() => resolve());
      });
    }
    this._free -= 1;
    return () => {
      this._free += 1;
      this._queue.shift()?.();
    };
  }
}

