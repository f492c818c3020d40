// One clock for what a page publishes: microseconds of Unix time.
//
// It is the monotonic clock with the offset it had when the page was loaded,
// so it never steps while a source lives.

/** The present moment. */
export function nowUs() {
  return Math.round((performance.timeOrigin + performance.now()) * 1000);
}

/**
 * Keeps the times of another clock (a camera's, a sound card's) on this one.
 *
 * The offset is that of the first sample. A clock that drifts is followed: by
 * what the earliest of many samples says, since others were only late.
 */
export class ClockFit {
  /** @param {number} [toleranceUs] followed from here on */
  constructor(toleranceUs = 30_000) {
    this._toleranceUs = toleranceUs;
    this._offsetUs = NaN;
    this._earliestUs = Infinity;
    this._samples = 0;
  }

  /**
   * Return the time on our clock of a moment that the other clock calls `theirs`.
   *
   * @param {number} theirsUs
   * @param {number} [arrivedUs] on our clock, when we heard of it
   */
  fit(theirsUs, arrivedUs = nowUs()) {
    const offsetUs = arrivedUs - theirsUs;
    // Far off, it is another clock now: a source was switched, a machine slept.
    if (!(Math.abs(offsetUs - this._offsetUs) < 1_000_000)) this._offsetUs = offsetUs;
    this._earliestUs = Math.min(this._earliestUs, offsetUs);
    this._samples += 1;
    if (this._samples >= 100) {
      const driftUs = this._earliestUs - this._offsetUs;
      if (Math.abs(driftUs) > this._toleranceUs) this._offsetUs += driftUs;
      this._earliestUs = Infinity;
      this._samples = 0;
    }
    return Math.round(theirsUs + this._offsetUs);
  }
}
