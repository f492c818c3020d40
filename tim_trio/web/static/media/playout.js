// When to show what has been decoded: a small, adaptive delay. Pure.

const FIRST_DELAY_MS = 30;
const SMALLEST_DELAY_MS = 15;
const LARGEST_DELAY_MS = 500;
/** Lateness beyond this is no jitter, but a loss or a pause: not worth a delay. */
const LARGEST_JITTER_MS = 250;
/** The delay shrinks by this share a second while nothing is late. */
const SHRINK_PER_S = 0.05;
/** At first, and after a pause, much comes at once, all of it late. */
const SETTLE_MS = 400;
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
   * @param {number} [dueUs] what is due by another clock, such as that of the sound
   */
  note(timestampUs, nowMs, dueUs) {
    const wayMs = nowMs - timestampUs / 1000;
    if (nowMs > this._windowEndMs) {
      this._smallestMs = Math.min(this._nextSmallestMs, wayMs);
      this._nextSmallestMs = Infinity;
      this._windowEndMs = nowMs + WINDOW_MS / 2;
      if (this._settlesAtMs === Infinity) this._settlesAtMs = nowMs + SETTLE_MS;
    }
    this._smallestMs = Math.min(this._smallestMs, wayMs);
    this._nextSmallestMs = Math.min(this._nextSmallestMs, wayMs);
    const lateMs = ((dueUs ?? this.dueUs(nowMs)) - timestampUs) / 1000;
    const passedS = Math.min(1, Math.max(0, (nowMs - this._lastMs) / 1000 || 0));
    this._lastMs = nowMs;
    if (nowMs < this._settlesAtMs) return;
    if (lateMs > LARGEST_JITTER_MS) {
      // A pause, and what piled up in it: that it is late says nothing.
      this._settlesAtMs = nowMs + SETTLE_MS;
    } else if (lateMs > 0) {
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
