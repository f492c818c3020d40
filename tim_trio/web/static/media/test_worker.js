// Draws the test picture, 30 times a second.
//
// In a worker, because a page in the background has its timers slowed down.

import { FRAMES_PER_S, HEIGHT, WIDTH, drawPattern } from "./test_pattern.js";
import { nowUs } from "./time.js";

/** Pictures that the page has not taken yet; while it is busy none are drawn. */
const MOST_OUT = 3;

const canvas = new OffscreenCanvas(WIDTH, HEIGHT);
const context = canvas.getContext("2d", { alpha: false });
let out = 0;
let nextMs = performance.now();

onmessage = () => {
  out -= 1;
};

function draw() {
  if (context !== null && out < MOST_OUT) {
    const timestamp = nowUs();
    drawPattern(context, timestamp / 1000);
    const frame = new VideoFrame(canvas, { timestamp });
    out += 1;
    // The types of a worker are not known here; a window's wants an origin.
    /** @type {any} */ (globalThis).postMessage(frame, [frame]);
  }
  const now = performance.now();
  nextMs = Math.max(nextMs + 1000 / FRAMES_PER_S, now);
  setTimeout(draw, nextMs - now);
}

draw();
