// The animated test picture: a function of the time alone, so that whoever sees
// it can say when it was drawn and whether it is right. Pure but for the canvas.

export const WIDTH = 640;
export const HEIGHT = 360;
export const FRAMES_PER_S = 30;

/** The stamp: a row of cells along the lower edge, white for 1. */
export const STAMP_BITS = 32;
const CELL = WIDTH / STAMP_BITS;
/** Of the stamp, the time in ms; then a checksum. */
const TIME_BITS = 26;
const SUM_MODULUS = 61;

/** Each second begins with a flash, and with a note in the sound. */
export const FLASH_MS = 120;
const FLASH = { x: 584, y: 24, size: 32 };

const COLOURS = ["#e5484d", "#f5a623", "#46a758", "#0090ff", "#8e4ec6"];
/** The patches whose colours move by one each half second. */
const PATCH = { x: 40, y: 96, width: 112, height: 80 };

/**
 * Return the stamp's cells for a time.
 *
 * @param {number} timeMs
 */
export function stampBits(timeMs) {
  const time = Math.floor(timeMs) % 2 ** TIME_BITS;
  const sum = time % SUM_MODULUS;
  const bits = [];
  for (let bit = TIME_BITS - 1; bit >= 0; bit--) bits.push(Math.floor(time / 2 ** bit) % 2);
  for (let bit = STAMP_BITS - TIME_BITS - 1; bit >= 0; bit--) bits.push((sum >> bit) & 1);
  return bits;
}

/**
 * Read the stamp of a picture; return the newest time before `nowMs` that it
 * can mean, null where there is no stamp.
 *
 * @param {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} context
 * @param {number} width of the picture
 * @param {number} height
 * @param {number} nowMs
 */
export function readStamp(context, width, height, nowMs) {
  const scale = width / WIDTH;
  const row = context.getImageData(0, Math.round(height - (CELL * scale) / 2), width, 1).data;
  let time = 0;
  let sum = 0;
  for (let bit = 0; bit < STAMP_BITS; bit++) {
    const at = 4 * Math.floor((bit + 0.5) * CELL * scale);
    const one = (row[at + 1] ?? 0) > 127 ? 1 : 0;
    if (bit < TIME_BITS) time = 2 * time + one;
    else sum = 2 * sum + one;
  }
  if (sum !== time % SUM_MODULUS) return null;
  const turn = 2 ** TIME_BITS;
  return Math.floor((nowMs - time) / turn) * turn + time;
}

/**
 * What stands where, for checking: each patch's middle and its colour.
 *
 * @param {number} timeMs
 */
export function patchesAt(timeMs) {
  const step = Math.floor(timeMs / 500);
  return COLOURS.map((_, at) => ({
    x: PATCH.x + at * PATCH.width + PATCH.width / 2,
    y: PATCH.y + PATCH.height / 2,
    colour: /** @type {string} */ (COLOURS[(at + step) % COLOURS.length]),
  }));
}

/** @param {number} timeMs */
export function isFlash(timeMs) {
  return timeMs % 1000 < FLASH_MS;
}

/** The middle of the square that flashes. */
export const FLASH_AT = { x: FLASH.x + FLASH.size / 2, y: FLASH.y + FLASH.size / 2 };

/**
 * Draw the picture of a time.
 *
 * @param {OffscreenCanvasRenderingContext2D | CanvasRenderingContext2D} context
 * @param {number} timeMs
 */
export function drawPattern(context, timeMs) {
  context.fillStyle = "#11151c";
  context.fillRect(0, 0, WIDTH, HEIGHT);
  context.fillStyle = "#e8edf4";
  context.font = "600 26px system-ui, sans-serif";
  context.textBaseline = "top";
  context.fillText("tim_trio", 40, 28);
  context.font = "18px ui-monospace, monospace";
  context.fillText(new Date(timeMs).toISOString().slice(11, 23), 172, 33);
  context.fillStyle = isFlash(timeMs) ? "#ffffff" : "#2a313c";
  context.fillRect(FLASH.x, FLASH.y, FLASH.size, FLASH.size);
  for (const { x, y, colour } of patchesAt(timeMs)) {
    context.fillStyle = colour;
    context.fillRect(x - PATCH.width / 2, y - PATCH.height / 2, PATCH.width, PATCH.height);
  }
  // A hand that turns once a second, and a ball that runs to and fro.
  const turn = (timeMs % 1000) / 1000;
  context.strokeStyle = "#8fa3bf";
  context.lineWidth = 4;
  context.beginPath();
  context.arc(80, 252, 44, 0, 2 * Math.PI);
  context.moveTo(80, 252);
  context.lineTo(80 + 40 * Math.sin(2 * Math.PI * turn), 252 - 40 * Math.cos(2 * Math.PI * turn));
  context.stroke();
  const swing = Math.abs(((timeMs % 4000) / 2000) - 1);
  context.fillStyle = "#f5a623";
  context.beginPath();
  context.arc(180 + 390 * swing, 252 + 30 * Math.cos(turn * 2 * Math.PI), 22, 0, 2 * Math.PI);
  context.fill();
  for (const [at, bit] of stampBits(timeMs).entries()) {
    context.fillStyle = bit ? "#ffffff" : "#000000";
    context.fillRect(at * CELL, HEIGHT - CELL, CELL, CELL);
  }
}
