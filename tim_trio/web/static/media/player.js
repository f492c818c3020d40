// From a source's frames to a canvas and the speakers.
//
// Sound is the master: a picture shows when the sound of its moment is heard.
// Without sound the wall clock and a small adaptive delay take its place.
//
// Source: protocol.md, Annex A.

import { Flag } from "../tim/frames.js";
import { AudioOutput } from "./audio.js";
import { parseInit } from "./init.js";
import { Playout } from "./playout.js";

/** Pictures handed to the decoder at once, and decoded ones that wait. */
const MOST_DECODING = 4;
const MOST_READY = 8;
/** What is later than this is skipped as soon as there is a KEY to go on from. */
const LATE_US = 300_000;
/** Sound this far from the picture is of another time; the wall clock decides then. */
const APART_US = 2_000_000;
/** Sound waits a little longer than pictures need, for packets come in lumps. */
const SOUND_EXTRA_MS = 20;
/** Where the sound ran dry, everything waits so much longer from then on. */
const UNDERRUN_MS = 10;

/** @typedef {import("../tim/frames.js").StreamFrame} StreamFrame */

/**
 * @typedef {object} PlayerStats
 * @property {number} framesDrawn
 * @property {number} framesSkipped
 * @property {number} subscribedAt by performance.now()
 * @property {number} firstPictureAt by performance.now(), NaN before
 * @property {number} lastPictureAt
 * @property {number} lastTimestampUs of the picture that shows
 * @property {number} delayMs that is added against jitter
 * @property {number} width
 * @property {number} height
 */

/** Plays one source. */
export class Player {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {AudioContext | null} context null: pictures alone
   */
  constructor(canvas, context) {
    this.canvas = canvas;
    /** @type {PlayerStats} */
    this.stats = {
      framesDrawn: 0, framesSkipped: 0, subscribedAt: NaN, firstPictureAt: NaN, lastPictureAt: NaN,
      lastTimestampUs: NaN, delayMs: 0, width: 0, height: 0,
    };
    /** What cannot be played, by its codec. @type {Set<string>} */
    this.unplayable = new Set();
    /** Called when the first picture shows. @type {(() => void) | null} */
    this.onPicture = null;
    /** Called with a codec that this browser cannot play. @type {((codec: string) => void) | null} */
    this.onUnplayable = null;
    this._context = context;
    this._drawing = canvas.getContext("2d", { alpha: false });
    this._playout = new Playout();
    /** By track. @type {Map<number, VideoTrack | SoundTrack>} */
    this._tracks = new Map();
    /** @type {Map<number, string>} */
    this._inits = new Map();
    /** @type {VideoFrame[]} */
    this._ready = [];
    this._volume = 1;
    this._underruns = 0;
    this._closed = false;
    this._frameRequest = 0;
    // For tests, and for whoever looks with the browser's tools.
    /** @type {any} */ (canvas).player = this;
  }

  /** How loud what plays is: root mean square, 0 to 1. */
  get level() {
    return this._sound()?.output.level() ?? 0;
  }

  get hasSound() {
    return this._sound() !== undefined;
  }

  /** @param {number} volume 0 to 1 */
  setVolume(volume) {
    this._volume = volume;
    this._sound()?.output.setVolume(volume);
  }

  /**
   * Take a frame of the source. Anything that is not media is left alone.
   *
   * @param {StreamFrame} frame
   */
  take(frame) {
    if (this._closed) return;
    if (frame.flags & Flag.init) this._takeInit(frame);
    else if (frame.payload.length > 0) this._tracks.get(frame.track)?.take(frame);
  }

  /**
   * Frames of a track are missing: what follows up to a KEY is of no use.
   *
   * @param {number} track
   */
  takeGap(track) {
    this._tracks.get(track)?.lose();
  }

  /** The connection was away: the times of before say nothing about those that come. */
  reset() {
    this._playout.reset();
  }

  close() {
    this._closed = true;
    cancelAnimationFrame(this._frameRequest);
    for (const track of this._tracks.values()) track.close();
    this._tracks.clear();
    this._clearReady();
  }

  // -- tracks --------------------------------------------------------------------

  /** @param {StreamFrame} frame */
  _takeInit({ track: number, payload }) {
    let init;
    try {
      init = parseInit(payload);
    } catch {
      return; // another profile's
    }
    const text = new TextDecoder().decode(payload);
    const same = this._inits.get(number) === text;
    if (same && this._tracks.has(number)) return;
    this._inits.set(number, text);
    this._tracks.get(number)?.close();
    this._tracks.delete(number);
    const kindTaken = [...this._tracks.values()].some(({ kind }) => kind === init.kind);
    if (kindTaken) return; // a second camera: one picture is shown
    if (init.kind === "video") this._tracks.set(number, new VideoTrack(this, init));
    else if (this._context !== null) {
      this._tracks.set(number, new SoundTrack(this, init, this._context, this._volume));
    }
  }

  /** @returns {SoundTrack | undefined} */
  _sound() {
    for (const track of this._tracks.values()) if (track instanceof SoundTrack) return track;
    return undefined;
  }

  /** @param {string} codec */
  _cannotPlay(codec) {
    if (this.unplayable.has(codec)) return;
    this.unplayable.add(codec);
    this.onUnplayable?.(codec);
  }

  // -- pictures ------------------------------------------------------------------

  /** Up to which of the publisher's moments pictures are due. */
  _dueUs(nowMs = performance.now()) {
    const heardUs = this._sound()?.output.heardUs() ?? null;
    const wallUs = this._playout.dueUs(nowMs);
    return heardUs !== null && Math.abs(heardUs - wallUs) < APART_US ? heardUs : wallUs;
  }

  get _wantsMore() {
    return this._ready.length < MOST_READY;
  }

  /**
   * A picture has been decoded; takes it over.
   *
   * @param {VideoFrame} frame
   */
  _takePicture(frame) {
    if (this._closed) {
      frame.close();
      return;
    }
    const nowMs = performance.now();
    const sound = this._sound();
    // A picture later than its sound: by so much longer has the sound to wait.
    this._playout.note(frame.timestamp, nowMs, sound?.output.heardUs() ?? undefined);
    if (sound !== undefined) {
      const underruns = sound.output.report?.underruns ?? 0;
      if (underruns > this._underruns) this._playout.delayMs += UNDERRUN_MS;
      this._underruns = underruns;
      sound.output.setTarget(this._playout.delayMs + SOUND_EXTRA_MS);
    }
    this.stats.delayMs = this._playout.delayMs;
    this._ready.push(frame);
    if (this.stats.framesDrawn === 0) {
      this._draw(frame, nowMs);
      this._ready.pop();
      frame.close();
      return;
    }
    const dueUs = this._dueUs(nowMs);
    while (this._ready.length > 1 && (this._ready[1]?.timestamp ?? Infinity) <= dueUs) this._skip();
    while (this._ready.length > 2 * MOST_READY) this._skip();
    if (this._frameRequest === 0) {
      this._frameRequest = requestAnimationFrame(() => this._show());
    }
  }

  _skip() {
    this._ready.shift()?.close();
    this.stats.framesSkipped += 1;
  }

  _clearReady() {
    for (const frame of this._ready) frame.close();
    this._ready = [];
  }

  _show() {
    this._frameRequest = 0;
    const nowMs = performance.now();
    const dueUs = this._dueUs(nowMs);
    while (this._ready.length > 1 && (this._ready[1]?.timestamp ?? Infinity) <= dueUs) this._skip();
    const [frame] = this._ready;
    if (frame !== undefined && frame.timestamp <= dueUs) {
      this._draw(frame, nowMs);
      this._ready.shift();
      frame.close();
    }
    for (const track of this._tracks.values()) track.pump();
    if (this._ready.length) this._frameRequest = requestAnimationFrame(() => this._show());
  }

  /**
   * @param {VideoFrame} frame
   * @param {number} nowMs
   */
  _draw(frame, nowMs) {
    const { canvas, stats } = this;
    const { displayWidth: width, displayHeight: height } = frame;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = stats.width = width;
      canvas.height = stats.height = height;
    }
    this._drawing?.drawImage(frame, 0, 0, width, height);
    stats.framesDrawn += 1;
    stats.lastPictureAt = nowMs;
    stats.lastTimestampUs = frame.timestamp;
    if (stats.framesDrawn === 1) {
      stats.firstPictureAt = nowMs;
      this.onPicture?.();
    }
  }
}

class VideoTrack {
  /**
   * @param {Player} player
   * @param {import("./init.js").VideoInit} init
   */
  constructor(player, init) {
    /** @type {"video"} */
    this.kind = "video";
    this._player = player;
    this._init = init;
    this._needsKey = true;
    this._broken = false;
    /** @type {StreamFrame[]} */
    this._waiting = [];
    this._decoder = this._open();
  }

  _open() {
    const decoder = new VideoDecoder({
      output: (frame) => {
        this._player._takePicture(frame);
        this.pump();
      },
      error: (error) => this._failed(error),
    });
    decoder.ondequeue = () => this.pump();
    const { codec, codedWidth, codedHeight, description } = this._init;
    try {
      decoder.configure({
        codec, codedWidth, codedHeight, optimizeForLatency: true,
        ...(description === undefined ? {} : { description }),
      });
    } catch (error) {
      this._failed(error);
    }
    return decoder;
  }

  /** @param {unknown} error */
  _failed(error) {
    this.lose();
    if (error instanceof DOMException && error.name === "NotSupportedError") {
      this._broken = true;
      this._player._cannotPlay(this._init.codec);
    }
  }

  /** @param {StreamFrame} frame */
  take(frame) {
    if (this._broken) return;
    const key = (frame.flags & Flag.key) !== 0;
    if (this._needsKey && !key) {
      this._player.stats.framesSkipped += 1;
      return;
    }
    if (key) {
      this._needsKey = false;
      const [oldest] = this._waiting;
      if (oldest !== undefined && oldest.timestampUs < this._player._dueUs() - LATE_US) {
        this._player.stats.framesSkipped += this._waiting.length;
        this._waiting = [];
      }
    }
    this._waiting.push(frame);
    this.pump();
  }

  /** Hand the decoder what it has room for. */
  pump() {
    if (this._waiting.length && this._decoder.state === "closed" && !this._broken) {
      // It failed; a KEY is where another one can begin.
      const at = this._waiting.findIndex(({ flags }) => flags & Flag.key);
      this._waiting.splice(0, at < 0 ? this._waiting.length : at);
      if (at < 0) this._needsKey = true;
      else this._decoder = this._open();
    }
    while (this._waiting.length && this._decoder.state === "configured"
      && this._decoder.decodeQueueSize < MOST_DECODING && this._player._wantsMore) {
      const frame = /** @type {StreamFrame} */ (this._waiting.shift());
      this._decoder.decode(new EncodedVideoChunk({
        type: frame.flags & Flag.key ? "key" : "delta", timestamp: frame.timestampUs,
        data: frame.payload,
      }));
    }
  }

  lose() {
    this._needsKey = true;
  }

  close() {
    this._waiting = [];
    if (this._decoder.state !== "closed") this._decoder.close();
  }
}

class SoundTrack {
  /**
   * @param {Player} player
   * @param {import("./init.js").AudioInit} init
   * @param {AudioContext} context
   * @param {number} volume
   */
  constructor(player, init, context, volume) {
    /** @type {"audio"} */
    this.kind = "audio";
    this._player = player;
    this._context = context;
    this._init = init;
    this._broken = false;
    this.output = new AudioOutput(context);
    this.output.setVolume(volume);
    this._decoder = this._open();
  }

  _open() {
    const decoder = new AudioDecoder({
      output: (data) => this.output.push(data),
      error: (error) => this._failed(error),
    });
    const { codec, sampleRate, numberOfChannels, description } = this._init;
    try {
      decoder.configure({
        codec, sampleRate, numberOfChannels,
        ...(description === undefined ? {} : { description }),
      });
    } catch (error) {
      this._failed(error);
    }
    return decoder;
  }

  /** @param {unknown} error */
  _failed(error) {
    if (error instanceof DOMException && error.name === "NotSupportedError") {
      this._broken = true;
      this._player._cannotPlay(this._init.codec);
    }
  }

  /** @param {StreamFrame} frame */
  take(frame) {
    // While nobody hears it, it would only pile up.
    if (this._broken || this._context.state !== "running") return;
    if (this._decoder.state === "closed") this._decoder = this._open();
    if (this._decoder.state !== "configured" || this._decoder.decodeQueueSize > 200) return;
    this._decoder.decode(new EncodedAudioChunk({
      type: "key", timestamp: frame.timestampUs, data: frame.payload,
    }));
  }

  pump() {}

  lose() {}

  close() {
    if (this._decoder.state !== "closed") this._decoder.close();
    this.output.close();
  }
}
