// Draws the test picture, 30 times a second.
//
// In a worker, because a page in the background has its timers slowed down.

import { FRAMES_PER_S, HEIGHT, WIDTH, drawPattern } from "./test_pattern.js";
import { nowUs } from "./time.js";

/** Pictures that the page has not taken yet; while it is busy none are drawn. */
const MOST_OUT = 3;
const PIXELS = WIDTH * HEIGHT;
/** What cameras give, and decoders expect where a stream does not say otherwise. */
const COLOUR_SPACE = /** @type {const} */ ({
  fullRange: false, matrix: "bt709", primaries: "bt709", transfer: "bt709",
});

const canvas = new OffscreenCanvas(WIDTH, HEIGHT);
const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
const planes = new Uint8Array((PIXELS * 3) / 2);
let out = 0;
let nextMs = performance.now();

onmessage = () => {
  out -= 1;
};

function draw() {
  if (context !== null && out < MOST_OUT) {
    const timestamp = nowUs();
    drawPattern(context, timestamp / 1000);
    convert(context.getImageData(0, 0, WIDTH, HEIGHT).data);
    const frame = new VideoFrame(planes, {
      format: "I420", codedWidth: WIDTH, codedHeight: HEIGHT, timestamp, colorSpace: COLOUR_SPACE,
    });
    out += 1;
    // The types of a worker are not known here; a window's wants an origin.
    /** @type {any} */ (globalThis).postMessage(frame, [frame]);
  }
  const now = performance.now();
  nextMs = Math.max(nextMs + 1000 / FRAMES_PER_S, now);
  setTimeout(draw, nextMs - now);
}

/**
 * Turn red, green and blue into the planes of a picture as cameras give it.
 *
 * Left to the browser, the full range of a screen's colours is encoded, and
 * VP8 has no way to say so: every decoder would show them too dark and too bright.
 *
 * @param {Uint8ClampedArray} rgba
 */
function convert(rgba) {
  for (let at = 0, from = 0; at < PIXELS; at++, from += 4) {
    const r = /** @type {number} */ (rgba[from]);
    const g = /** @type {number} */ (rgba[from + 1]);
    const b = /** @type {number} */ (rgba[from + 2]);
    planes[at] = 16.5 + 0.1826 * r + 0.6142 * g + 0.062 * b;
  }
  const half = WIDTH / 2;
  for (let y = 0; y < HEIGHT / 2; y++) {
    for (let x = 0; x < half; x++) {
      const from = 8 * (y * WIDTH + x);
      const r = /** @type {number} */ (rgba[from]);
      const g = /** @type {number} */ (rgba[from + 1]);
      const b = /** @type {number} */ (rgba[from + 2]);
      const at = PIXELS + y * half + x;
      planes[at] = 128.5 - 0.1006 * r - 0.3386 * g + 0.4392 * b;
      planes[at + PIXELS / 4] = 128.5 + 0.4392 * r - 0.3989 * g - 0.0403 * b;
    }
  }
}

draw();
