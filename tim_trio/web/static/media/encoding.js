// Which codec to publish with, and in what size. Pure but for asking the browser.

/** Bits per pixel and frame that look decent in real time. */
const BITS_PER_PIXEL = 0.11;
const SMALLEST_BITRATE = 100_000;

/**
 * Return the size to encode a picture in: at most `height` high, and even.
 *
 * @param {number} width
 * @param {number} height
 * @param {number} most
 */
export function fitSize(width, height, most) {
  const scale = Math.min(1, most / height);
  const even = (/** @type {number} */ side) => Math.max(2, 2 * Math.round((side * scale) / 2));
  return { width: even(width), height: even(height) };
}

/**
 * Return the bitrate that a picture of a size begins with, and its largest.
 *
 * @param {number} width
 * @param {number} height
 * @param {number} framerate
 */
export function bitrateFor(width, height, framerate) {
  return Math.max(SMALLEST_BITRATE, Math.round(width * height * framerate * BITS_PER_PIXEL));
}

/**
 * The H.264 level that holds a picture, as the last byte of its codec string.
 *
 * @param {number} width
 * @param {number} height
 */
function h264(width, height) {
  const blocks = Math.ceil(width / 16) * Math.ceil(height / 16);
  // Blocks per frame of levels 3.0, 3.1, 4.0 and 5.1, all at 30 frames a second.
  const level = blocks <= 1350 ? "1e" : blocks <= 3600 ? "1f" : blocks <= 8192 ? "28" : "33";
  return `avc1.42e0${level}`;
}

/**
 * Return the first configuration that the browser can encode: H.264 where a
 * chip does it; else VP8, which every browser reads and which costs little.
 *
 * @param {{ width: number, height: number, bitrate: number, framerate: number }} picture
 * @param {boolean} fullRange the colours are a screen's, which VP8 cannot say
 * @returns {Promise<VideoEncoderConfig | null>}
 */
export async function chooseVideo(picture, fullRange) {
  /** @type {VideoEncoderConfig} */
  const common = { ...picture, codec: "", latencyMode: "realtime" };
  const avc = h264(picture.width, picture.height);
  /** @type {VideoEncoderConfig[]} */
  const wishes = [
    { ...common, codec: avc, hardwareAcceleration: "prefer-hardware", avc: { format: "avc" } },
    { ...common, codec: "vp8" },
    { ...common, codec: avc, avc: { format: "avc" } },
    { ...common, codec: "vp09.00.31.08" },
  ];
  if (fullRange) wishes.splice(1, 2, ...wishes.slice(1, 3).reverse());
  for (const wish of wishes) {
    try {
      if ((await VideoEncoder.isConfigSupported(wish)).supported) return wish;
    } catch {
      // A configuration it has never heard of.
    }
  }
  return null;
}

/**
 * @param {number} sampleRate
 * @returns {AudioEncoderConfig}
 */
export function opusConfig(sampleRate) {
  return { codec: "opus", sampleRate, numberOfChannels: 2, bitrate: 96_000 };
}

/** How a publisher follows what the network takes. Pure. */
export class BitrateControl {
  /** @param {number} most bits a second */
  constructor(most) {
    this.most = most;
    this.bitrate = most;
    this._calmMs = 0;
  }

  /**
   * Look again; return whether the bitrate has changed.
   *
   * @param {number} bufferedBytes held by the browser for the server
   * @param {number} waitingFrames held by the encoder
   * @param {number} dropped frames since the last look
   * @param {number} passedMs since then
   */
  look(bufferedBytes, waitingFrames, dropped, passedMs) {
    const before = this.bitrate;
    const heldS = (8 * bufferedBytes) / this.bitrate;
    if (heldS > 0.25 || waitingFrames > 3 || dropped > 2) {
      this.bitrate = Math.max(SMALLEST_BITRATE, Math.round(this.bitrate * 0.7));
      this._calmMs = 0;
    } else if (heldS < 0.05) {
      this._calmMs += passedMs;
      if (this._calmMs >= 4000) {
        this.bitrate = Math.min(this.most, Math.round(this.bitrate * 1.15));
        this._calmMs = 2000;
      }
    }
    return this.bitrate !== before;
  }
}
