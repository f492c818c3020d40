// From captured pictures and sound to the frames of a source.
//
// Source: protocol.md, Annex A.

import { AudioInput } from "./audio.js";
import { BitrateControl, bitrateFor, chooseVideo, fitSize, opusConfig } from "./encoding.js";
import { AUDIO_TRACK, VIDEO_TRACK, encodeInit } from "./init.js";
import { nowUs } from "./time.js";

/** A viewer who joins waits for no more than this, and a loss costs no more. */
const GROUP_US = 2_000_000;
/** Chunks wait so long for the INITs of the other tracks, which come first. */
const INIT_WAIT_MS = 600;
const LOOK_MS = 500;
/** How often the dark picture is sent that stands for a camera that is off. */
const BLANK_US = 1_000_000;
/** How often a screen is sent on which nothing moves. */
const STILL_US = 1_000_000;
const MOST_ENCODING = 4;

/**
 * What a publisher can tell of itself.
 *
 * @typedef {object} PublisherStats
 * @property {number | null} viewers
 * @property {number} framesPerS pictures sent
 * @property {number} bitsPerS sent, sound included
 * @property {number} droppedFrames so far
 * @property {number} width
 * @property {number} height
 * @property {string} codec
 * @property {boolean} congested
 */

/** @typedef {import("./capture.js").Capture} Capture */
/** @typedef {import("../tim/source.js").Source} Source */

export class Publisher {
  /**
   * @param {Source} source
   * @param {Capture} capture
   * @param {AudioContext} context
   * @param {{ height?: number, framerate?: number }} [options] the most lines, and pictures a second
   */
  constructor(source, capture, context, { height = 360, framerate = 30 } = {}) {
    this.source = source;
    this.capture = capture;
    /** Called with each picture that is sent, before it is encoded. @type {((frame: VideoFrame) => void) | null} */
    this.onPreview = null;
    /** Called every half second. @type {((stats: PublisherStats) => void) | null} */
    this.onStats = null;
    /** Called when it cannot go on. @type {((error: Error) => void) | null} */
    this.onError = null;
    this._videoOn = true;
    /** A screen's last picture. @type {VideoFrame | null} */
    this._still = null;
    this._height = height;
    this._framerate = framerate;
    this._stopped = false;
    /** @type {VideoEncoder | null} */
    this._video = null;
    /** @type {VideoEncoderConfig | null} */
    this._config = null;
    this._configuring = false;
    this._size = { width: 0, height: 0 };
    this._control = new BitrateControl(1_000_000);
    this._lastFrameUs = -Infinity;
    this._lastKeyUs = -Infinity;
    this._droppedHere = 0;
    this._droppedBefore = 0;
    this._pictures = 0;
    this._sentBefore = { pictures: 0, bytes: 0 };
    this._lookedAt = performance.now();
    /** Kinds whose INIT is still to come, before which no chunk is sent. @type {Set<number>} */
    this._awaited = new Set();
    /** @type {(() => void)[]} */
    this._held = [];
    /** @type {Map<number, string>} */
    this._inits = new Map();
    if (capture.hasVideo) this._awaited.add(VIDEO_TRACK);
    capture.onFrame = (frame) => this._takeFrame(frame);
    /** @type {AudioEncoder | null} */
    this._audio = null;
    /** @type {AudioInput | null} */
    this._input = null;
    this._gain = context.createGain();
    if (capture.sound !== null) {
      capture.sound.connect(this._gain);
      this._openAudio(context);
    }
    setTimeout(() => this._release(), INIT_WAIT_MS);
    this._timer = setInterval(() => this._look(), LOOK_MS);
  }

  get soundOn() {
    return this._gain.gain.value > 0;
  }

  /** Silence is sent in its place: to those who listen, the sound's clock goes on. */
  set soundOn(on) {
    this._gain.gain.value = on ? 1 : 0;
  }

  get videoOn() {
    return this._videoOn;
  }

  /** Off: a dark picture is sent in its place, at once and then now and then. */
  set videoOn(on) {
    this._videoOn = on;
    if (!on) this._lastKeyUs = -Infinity;
  }

  /** End the tracks and the source, and give the camera back. */
  async stop() {
    if (this._stopped) return;
    this._stopped = true;
    this._close();
    if (this.source.error !== null) return;
    try {
      for (const track of this._inits.keys()) {
        this.source.sendNow(new Uint8Array(), { track, end: true, timestampUs: nowUs() });
      }
      await this.source.unpublish();
    } catch {
      this.source.close(); // Gone meanwhile, which is what was wanted.
    }
  }

  /** Give everything back, and leave the source as it is. */
  _close() {
    clearInterval(this._timer);
    this.capture.onFrame = null;
    this.capture.stop();
    this._input?.close();
    this._gain.disconnect();
    this._still?.close();
    this._still = null;
    for (const encoder of [this._video, this._audio]) {
      if (encoder !== null && encoder.state !== "closed") encoder.close();
    }
  }

  /** @param {Error} error */
  _fail(error) {
    if (this._stopped) return;
    this._stopped = true;
    this._close();
    this.onError?.(error);
  }

  // -- pictures ----------------------------------------------------------------

  /** @param {VideoFrame} frame */
  _takeFrame(frame) {
    const timestampUs = frame.timestamp;
    // A screen may give 60 or 144 a second.
    if (this._stopped || timestampUs - this._lastFrameUs < 0.8e6 / this._framerate) {
      frame.close();
      return;
    }
    this._lastFrameUs = timestampUs;
    if (this.capture.kind === "screen") {
      this._still?.close();
      this._still = frame.clone();
    }
    try {
      if (this.videoOn) {
        this.onPreview?.(frame);
        this._encode(frame, timestampUs);
      } else if (timestampUs - this._lastKeyUs >= BLANK_US) {
        const blank = blankLike(frame);
        this._lastKeyUs = -Infinity;
        this.onPreview?.(blank);
        this._encode(blank, timestampUs);
        blank.close();
      }
    } finally {
      frame.close();
    }
  }

  /**
   * Send a screen's last picture again. Where nothing moves the browser gives none, and a
   * room without data ends, as does the patience of whoever joins it.
   */
  _repeatStill() {
    const timestamp = nowUs();
    if (this._still === null || timestamp - this._lastFrameUs < STILL_US) return;
    this._takeFrame(new VideoFrame(this._still, { timestamp }));
  }

  /**
   * @param {VideoFrame} frame
   * @param {number} timestampUs
   */
  _encode(frame, timestampUs) {
    const { displayWidth, displayHeight } = frame;
    if (displayWidth !== this._size.width || displayHeight !== this._size.height) {
      if (!this._configuring) {
        void this._configure(displayWidth, displayHeight, frame.colorSpace.fullRange === true);
      }
      return;
    }
    const encoder = this._video;
    if (this._configuring || encoder === null || encoder.state !== "configured") return;
    // Before it is encoded, a picture can be left out without harm to the next ones.
    if (encoder.encodeQueueSize >= MOST_ENCODING || this.source.congested) {
      this._droppedHere += 1;
      return;
    }
    const keyFrame = this.source.needsKey(VIDEO_TRACK)
      || timestampUs - this._lastKeyUs >= GROUP_US - 0.5e6 / this._framerate;
    if (keyFrame) this._lastKeyUs = timestampUs;
    encoder.encode(frame, { keyFrame });
  }

  /**
   * @param {number} width
   * @param {number} height
   * @param {boolean} fullRange
   */
  async _configure(width, height, fullRange) {
    this._configuring = true;
    const size = fitSize(width, height, this._height);
    const most = bitrateFor(size.width, size.height, this._framerate);
    const config = await chooseVideo(
      { ...size, bitrate: most, framerate: this._framerate }, fullRange,
    );
    this._configuring = false;
    if (this._stopped) return;
    if (config === null) {
      this._fail(new DOMException("this browser encodes no video", "NotSupportedError"));
      return;
    }
    this._control = new BitrateControl(most);
    this._size = { width, height };
    this._config = config;
    this._lastKeyUs = -Infinity;
    if (this._video !== null && this._video.state !== "closed") this._video.close();
    this._video = new VideoEncoder({
      output: (chunk, metadata) => this._takeVideo(chunk, metadata),
      error: (error) => this._fail(error),
    });
    this._video.configure(config);
  }

  /**
   * @param {EncodedVideoChunk} chunk
   * @param {EncodedVideoChunkMetadata} [metadata]
   */
  _takeVideo(chunk, metadata) {
    const decoder = metadata?.decoderConfig;
    if (decoder !== undefined) {
      const { width = 0, height = 0 } = this._config ?? {};
      this._sendInit(VIDEO_TRACK, {
        kind: "video", codec: decoder.codec, framerate: this._framerate,
        codedWidth: decoder.codedWidth ?? width, codedHeight: decoder.codedHeight ?? height,
        ...described(decoder.description),
      });
    }
    this._sendChunk(VIDEO_TRACK, chunk);
  }

  // -- sound -------------------------------------------------------------------

  /** @param {AudioContext} context */
  _openAudio(context) {
    const encoder = new AudioEncoder({
      output: (chunk, metadata) => this._takeAudio(chunk, metadata),
      // Pictures without sound are better than nothing.
      error: () => this._input?.close(),
    });
    encoder.configure(opusConfig(context.sampleRate));
    this._audio = encoder;
    if (context.state === "running") this._awaited.add(AUDIO_TRACK);
    this._input = new AudioInput(context, this._gain, (data) => {
      if (!this._stopped && encoder.state === "configured" && encoder.encodeQueueSize < 50) {
        encoder.encode(data);
      }
      data.close();
    });
  }

  /**
   * @param {EncodedAudioChunk} chunk
   * @param {EncodedAudioChunkMetadata} [metadata]
   */
  _takeAudio(chunk, metadata) {
    const decoder = metadata?.decoderConfig;
    if (decoder !== undefined) {
      this._sendInit(AUDIO_TRACK, {
        kind: "audio", codec: decoder.codec, sampleRate: decoder.sampleRate,
        numberOfChannels: decoder.numberOfChannels, ...described(decoder.description),
      });
    }
    this._sendChunk(AUDIO_TRACK, chunk);
  }

  // -- sending -----------------------------------------------------------------

  /**
   * @param {number} track
   * @param {import("./init.js").MediaInit} init
   */
  _sendInit(track, init) {
    const payload = encodeInit(init);
    const text = new TextDecoder().decode(payload);
    if (this._inits.get(track) === text) return;
    this._inits.set(track, text);
    this._send(() => this.source.sendNow(payload, { track, init: true, timestampUs: nowUs() }), true);
    this._awaited.delete(track);
    if (this._awaited.size === 0) this._release();
  }

  /**
   * @param {number} track
   * @param {EncodedVideoChunk | EncodedAudioChunk} chunk
   */
  _sendChunk(track, chunk) {
    const payload = new Uint8Array(chunk.byteLength);
    chunk.copyTo(payload);
    const key = chunk.type === "key";
    this._send(() => {
      const seq = this.source.sendNow(payload, { track, key, timestampUs: chunk.timestamp });
      if (seq >= 0 && track === VIDEO_TRACK) this._pictures += 1;
    });
  }

  /**
   * @param {() => void} send
   * @param {boolean} [now] not behind what is held
   */
  _send(send, now = false) {
    if (this._stopped) return;
    if (this._awaited.size > 0 && !now) {
      this._held.push(send);
      return;
    }
    try {
      send();
    } catch (error) {
      // Too large a picture is lost alone; the source's end is another matter.
      if (this.source.error !== null) this._fail(this.source.error);
      else this._droppedHere += 1;
      void error;
    }
  }

  _release() {
    this._awaited.clear();
    const held = this._held;
    this._held = [];
    for (const send of held) this._send(send);
  }

  // -- looking -----------------------------------------------------------------

  _look() {
    if (this.source.error !== null) {
      this._fail(this.source.error);
      return;
    }
    this._repeatStill();
    const now = performance.now();
    const passedMs = now - this._lookedAt;
    this._lookedAt = now;
    const dropped = this._droppedHere + this.source.droppedFrames;
    const config = this._config;
    const waiting = this._video?.encodeQueueSize ?? 0;
    if (this._control.look(
      this.source.bufferedBytes, waiting, dropped - this._droppedBefore, passedMs,
    ) && config !== null && this._video?.state === "configured") {
      this._config = { ...config, bitrate: this._control.bitrate };
      this._video.configure(this._config);
    }
    this._droppedBefore = dropped;
    const pictures = this._pictures;
    const bytes = this.source.sentBytes;
    const perS = 1000 / passedMs;
    this.onStats?.({
      viewers: this.source.viewers,
      framesPerS: (pictures - this._sentBefore.pictures) * perS,
      bitsPerS: 8 * (bytes - this._sentBefore.bytes) * perS,
      droppedFrames: dropped,
      width: config?.width ?? 0,
      height: config?.height ?? 0,
      codec: config?.codec ?? "",
      congested: this.source.congested,
    });
    this._sentBefore = { pictures, bytes };
  }
}

/**
 * A dark picture of the same size and time.
 *
 * @param {VideoFrame} frame
 */
function blankLike({ displayWidth, displayHeight, timestamp }) {
  const width = 2 * Math.ceil(displayWidth / 2);
  const height = 2 * Math.ceil(displayHeight / 2);
  const planes = new Uint8Array((width * height * 3) / 2).fill(128);
  planes.fill(22, 0, width * height);
  return new VideoFrame(planes, {
    format: "I420", codedWidth: width, codedHeight: height, timestamp,
    displayWidth, displayHeight,
  });
}

/** @param {AllowSharedBufferSource | undefined} description */
function described(description) {
  if (description === undefined) return {};
  const bytes = ArrayBuffer.isView(description)
    ? new Uint8Array(description.buffer, description.byteOffset, description.byteLength)
    : new Uint8Array(description);
  return bytes.length ? { description: bytes.slice() } : {};
}
