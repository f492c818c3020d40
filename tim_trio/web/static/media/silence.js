// Whether a source has fallen silent: its last picture would look like a live one.

/** So many looks in a row without a frame. One a second, so that a page that slept says nothing. */
const SILENT_LOOKS = 4;

export class Silence {
  constructor() {
    this._frames = 0;
    this._looks = 0;
  }

  /**
   * Look, once a second.
   *
   * @param {number} frames that have come so far
   * @returns {boolean} nothing has come for a while
   */
  look(frames) {
    this._looks = frames === this._frames ? this._looks + 1 : 0;
    this._frames = frames;
    return this._looks >= SILENT_LOOKS;
  }
}
