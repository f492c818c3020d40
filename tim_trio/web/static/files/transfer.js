// What a person sees of a transfer, and may do to it. The same on both sides.

/** @typedef {import("./sender.js").Outcome} Outcome */

/**
 * - queued: others go first
 * - reading: the sender reads its file, the receiver an older part
 * - offered: nobody has said yes yet
 * - away: interrupted; it goes on when the other side is back
 * - checking: all of it is there, or on its way
 * - paused: by a person here
 *
 * @typedef {"queued" | "reading" | "offered" | "running" | "away" | "checking" | "paused" | "over"}
 *   Phase
 */

/** One transfer, as it stands now. Whoever runs it calls `touch` after changes. */
export class Transfer {
  /**
   * @param {"out" | "in"} direction
   * @param {{ account: string, name: string, size: number }} what
   */
  constructor(direction, { account, name, size }) {
    this.direction = direction;
    /** The other side. */
    this.account = account;
    this.name = name;
    this.size = size;
    /** @type {Phase} */
    this.phase = "queued";
    /** How far it is, in bytes from the start. */
    this.position = 0;
    /** Sent or received here in all, repeats included. */
    this.moved = 0;
    /** How often it was begun or gone on with. */
    this.attempts = 0;
    this.peerIsStopping = false;
    /** How it ended; null while it goes on. @type {Outcome | null} */
    this.outcome = null;
    /** What our own side had against it. @type {unknown} */
    this.problem = null;
    /** What the browser keeps the file under that is sent, empty where it does not. */
    this.kept = "";
    /** What has arrived. @type {Blob | null} */
    this.file = null;
    /** Called after every change. */
    this.changed = () => {};
  }

  touch() {
    this.changed();
  }

  get isOver() {
    return this.phase === "over";
  }

  // What a person may do; what does not apply does nothing.

  accept() {}
  decline() {}
  pause() {}
  resume() {}
  cancel() {}
  /** Take it off the list, with what is left of it. */
  remove() {}
}

/**
 * Two that wait for one another: `wait` until `wake`, or until a time.
 */
export class Bell {
  constructor() {
    /** @type {Set<() => void>} */
    this._waiters = new Set();
  }

  ring() {
    const waiters = [...this._waiters];
    this._waiters.clear();
    for (const wake of waiters) wake();
  }

  /**
   * @param {number} [ms] at most so long
   * @returns {Promise<void>}
   */
  wait(ms = Infinity) {
    return new Promise((resolve) => {
      /** @type {ReturnType<typeof setTimeout> | undefined} */
      let timer;
      const wake = () => {
        clearTimeout(timer);
        this._waiters.delete(wake);
        resolve();
      };
      // Longer than that, a timer would ring at once.
      if (ms < 2 ** 31) timer = setTimeout(wake, Math.max(ms, 0));
      this._waiters.add(wake);
    });
  }
}
