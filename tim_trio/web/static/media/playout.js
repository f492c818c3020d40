// When to show what has been decoded: a small, adaptive delay. Pure.

const FIRST_DELAY_MS = 30;
const SMALLEST_DELAY_MS = 15;
const LARGEST_DELAY_MS = 500;
/** Lateness beyond this is no jitter, but a loss or a pause: not worth a delay. */
const LARGEST_JITTER_MS = 400;
/** The delay shrinks by this share a second while nothing is late. */
const SHRINK_PER_S = 0.03;
/** Over so long the quickest way here is looked for. */
const WINDOW_MS = 8000;

/**
 * Follows how long frames take from the publisher's clock to this one.
 *
 * The clocks differ by an unknown amount; the smallest difference seen lately
 * stands for the quickest way. A frame is due `delayMs` after that.
 */
export class Playout {
  constructor() {
    this.delayMs = FIRST_DELAY_MS;
    this._smallestMs = Infinity;
    this._nextSmallestMs = Infinity;
    this._windowEndMs = -Infinity;
    this._lastMs = NaN;
    this._settlesAtMs = Infinity;
  }

  /** Forget the delays of before: a new programme, or a connection that was away. */
  reset() {
    this._smallestMs = this._nextSmallestMs = Infinity;
    this._windowEndMs = -Infinity;
    this._settlesAtMs = Infinity;
  }

  /**
   * A frame is there to be shown.
   *
   * @param {number} timestampUs
   * @param {number} nowMs
   */
  note(timestampUs, nowMs) {
    const wayMs = nowMs - timestampUs / 1000;
    if (nowMs > this._windowEndMs) {
      this._smallestMs = Math.min(this._nextSmallestMs, wayMs);
      this._nextSmallestMs = Infinity;
      this._windowEndMs = nowMs + WINDOW_MS / 2;
      if (this._settlesAtMs === Infinity) this._settlesAtMs = nowMs + 300;
    }
    this._smallestMs = Math.min(this._smallestMs, wayMs);
    this._nextSmallestMs = Math.min(this._nextSmallestMs, wayMs);
    // At first the running group comes, all of it late.
    if (nowMs < this._settlesAtMs) return;
    this.noteLate(wayMs - this._smallestMs - this.delayMs, nowMs);
  }

  /**
   * @param {number} lateMs by how much a frame came too late, negative: early
   * @param {number} nowMs
   */
  noteLate(lateMs, nowMs) {
    const passedS = Math.min(1, Math.max(0, (nowMs - this._lastMs) / 1000 || 0));
    this._lastMs = nowMs;
    if (lateMs > LARGEST_JITTER_MS) return;
    if (lateMs > 0) {
      this.delayMs = Math.min(LARGEST_DELAY_MS, this.delayMs + lateMs / 2);
    } else {
      this.delayMs = Math.max(SMALLEST_DELAY_MS, this.delayMs * (1 - SHRINK_PER_S * passedS));
    }
  }

  /**
   * Up to which of the publisher's moments frames are due; -Infinity before the first.
   *
   * @param {number} nowMs
   */
  dueUs(nowMs) {
    return (nowMs - this._smallestMs - this.delayMs) * 1000;
  }
}
