// Where pictures and sound come from: a camera, the screen, a file, a test.
//
// Frames carry the page's clock (time.js). Who takes them closes them.

import { ClockFit, nowUs } from "./time.js";

/** @typedef {"camera" | "screen" | "file" | "test"} CaptureKind */

/**
 * Something that gives pictures and sound once it is opened.
 *
 * @typedef {object} Capture
 * @property {CaptureKind} kind
 * @property {boolean} hasVideo
 * @property {AudioNode | null} sound
 * @property {((frame: VideoFrame) => void) | null} onFrame
 * @property {(() => void) | null} onEnd it ended by itself: sharing was stopped, the camera unplugged
 * @property {(() => void) | null} [onSoundEnd] its sound did, as where a headset was unplugged
 * @property {() => void} stop
 */

/**
 * @param {{ height?: number, framerate?: number }} options
 * @param {AudioContext} context
 */
export async function openCamera({ height = 360, framerate = 30 }, context) {
  const video = {
    width: { ideal: Math.round((height * 16) / 9) }, height: { ideal: height },
    frameRate: { ideal: framerate, max: framerate },
  };
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  /** @type {unknown} */
  let missing;
  // Many a machine has only one of them.
  for (const wanted of [{ video, audio }, { video }, { audio }]) {
    try {
      const stream = await navigator.mediaDevices.getUserMedia(wanted);
      return new StreamCapture("camera", stream, context);
    } catch (error) {
      if (!(error instanceof DOMException && error.name === "NotFoundError")) throw error;
      missing = error;
    }
  }
  throw missing;
}

/** @param {AudioContext} context */
export async function openScreen(context) {
  const stream = await navigator.mediaDevices.getDisplayMedia({
    video: { frameRate: { ideal: 30, max: 30 } }, audio: true,
  });
  return new StreamCapture("screen", stream, context);
}

/**
 * Play a media file over and over.
 *
 * @param {File} file
 * @param {AudioContext} context
 */
export async function openFile(file, context) {
  const video = document.createElement("video");
  const url = URL.createObjectURL(file);
  video.src = url;
  video.loop = true;
  video.playsInline = true;
  try {
    await new Promise((resolve, reject) => {
      video.onloadeddata = resolve;
      video.onerror = () => reject(new DOMException("not a media file", "NotSupportedError"));
    });
  } catch (error) {
    URL.revokeObjectURL(url);
    throw error;
  }
  return new FileCapture(video, url, context);
}

/** @param {AudioContext} context */
export function openTest(context) {
  return new TestCapture(context);
}

/** @implements {Capture} */
class StreamCapture {
  /**
   * @param {CaptureKind} kind
   * @param {MediaStream} stream
   * @param {AudioContext} context
   */
  constructor(kind, stream, context) {
    this.kind = kind;
    this._stream = stream;
    const [track] = stream.getVideoTracks();
    this.hasVideo = track !== undefined;
    /** @type {AudioNode | null} */
    this.sound = stream.getAudioTracks().length ? context.createMediaStreamSource(stream) : null;
    /** @type {((frame: VideoFrame) => void) | null} */
    this.onFrame = null;
    /** @type {(() => void) | null} */
    this.onEnd = null;
    /** @type {(() => void) | null} */
    this.onSoundEnd = null;
    for (const each of stream.getTracks()) {
      each.onended = () => (each.kind === "audio" && this.hasVideo ? this._endSound() : this.onEnd?.());
    }
    this._stopFrames = track === undefined ? () => {} : readTrack(track, this);
  }

  /** Silence stands for a microphone that is gone: the picture is worth going on with. */
  _endSound() {
    this.sound?.disconnect();
    this.sound = null;
    this.onSoundEnd?.();
  }

  stop() {
    this._stopFrames();
    for (const track of this._stream.getTracks()) track.stop();
    this.sound?.disconnect();
  }
}

/** @implements {Capture} */
class FileCapture {
  /**
   * @param {HTMLVideoElement} video
   * @param {string} url
   * @param {AudioContext} context
   */
  constructor(video, url, context) {
    /** @type {CaptureKind} */
    this.kind = "file";
    this.hasVideo = video.videoWidth > 0;
    this._video = video;
    this._url = url;
    /** @type {((frame: VideoFrame) => void) | null} */
    this.onFrame = null;
    /** @type {(() => void) | null} */
    this.onEnd = null;
    /** @type {AudioNode | null} */
    this.sound = context.createMediaElementSource(video);
    this._stopFrames = this.hasVideo ? readElement(video, this) : () => {};
    void video.play();
  }

  stop() {
    this._stopFrames();
    this._video.pause();
    this._video.removeAttribute("src");
    this._video.load();
    URL.revokeObjectURL(this._url);
    this.sound?.disconnect();
  }
}

/** @implements {Capture} */
class TestCapture {
  /** @param {AudioContext} context */
  constructor(context) {
    /** @type {CaptureKind} */
    this.kind = "test";
    this.hasVideo = true;
    /** @type {((frame: VideoFrame) => void) | null} */
    this.onFrame = null;
    /** @type {(() => void) | null} */
    this.onEnd = null;
    this._worker = new Worker(new URL("./test_worker.js", import.meta.url), { type: "module" });
    this._worker.onmessage = ({ data }) => {
      this._worker.postMessage("taken");
      give(this, data);
    };
    this._context = context;
    const sum = context.createGain();
    /** @type {AudioNode | null} */
    this.sound = sum;
    this._sum = sum;
    this._nextS = 0;
    this._timer = setInterval(() => this._schedule(), 500);
    this._schedule();
  }

  /** Have a soft note at each full second, as the picture has its flash. */
  _schedule() {
    const { currentTime, state } = this._context;
    if (state !== "running") return;
    const wallS = nowUs() / 1e6;
    const first = Math.max(Math.ceil(wallS), this._nextS);
    // Ahead by more than a slowed-down timer sleeps.
    for (let second = first; second < wallS + 3; second++) {
      this._note(currentTime + second - wallS, second);
      this._nextS = second + 1;
    }
  }

  /**
   * @param {number} atS
   * @param {number} second
   */
  _note(atS, second) {
    const steps = [0, 3, 7, 10, 12];
    const oscillator = this._context.createOscillator();
    const envelope = this._context.createGain();
    oscillator.frequency.value = 330 * 2 ** ((steps[second % steps.length] ?? 0) / 12);
    envelope.gain.setValueAtTime(0, atS);
    envelope.gain.linearRampToValueAtTime(0.3, atS + 0.01);
    envelope.gain.exponentialRampToValueAtTime(0.001, atS + 0.35);
    oscillator.connect(envelope).connect(this._sum);
    oscillator.start(atS);
    oscillator.stop(atS + 0.4);
  }

  stop() {
    clearInterval(this._timer);
    this._worker.terminate();
    this._sum.disconnect();
  }
}

/**
 * @param {{ onFrame: ((frame: VideoFrame) => void) | null }} capture
 * @param {VideoFrame} frame
 */
function give(capture, frame) {
  if (capture.onFrame === null) frame.close();
  else capture.onFrame(frame);
}

/**
 * Hand on a track's pictures; returns how to stop.
 *
 * @param {MediaStreamTrack} track
 * @param {{ onFrame: ((frame: VideoFrame) => void) | null }} capture
 * @returns {() => void}
 */
function readTrack(track, capture) {
  if (typeof MediaStreamTrackProcessor === "undefined") {
    // Not everywhere, and it goes on in a page in the background.
    const video = document.createElement("video");
    video.muted = true;
    video.playsInline = true;
    video.srcObject = new MediaStream([track]);
    void video.play();
    return readElement(video, capture);
  }
  const reader = new MediaStreamTrackProcessor({ track, maxBufferSize: 2 }).readable.getReader();
  const clock = new ClockFit();
  void (async () => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const frame = new VideoFrame(value, { timestamp: clock.fit(value.timestamp) });
      value.close();
      give(capture, frame);
    }
  })().catch(() => {}); // cancelled
  return () => void reader.cancel().catch(() => {});
}

/**
 * @param {HTMLVideoElement} video
 * @param {{ onFrame: ((frame: VideoFrame) => void) | null }} capture
 * @returns {() => void}
 */
function readElement(video, capture) {
  const capturing = /** @type {{ captureStream?: () => MediaStream }} */ (video).captureStream;
  if (capturing !== undefined && video.srcObject === null
    && typeof MediaStreamTrackProcessor !== "undefined") {
    const [track] = capturing.call(video).getVideoTracks();
    if (track !== undefined) return readTrack(track, capture);
  }
  let number = 0;
  const next = () => {
    if (video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) {
      give(capture, new VideoFrame(video, { timestamp: nowUs() }));
    }
    number = video.requestVideoFrameCallback(next);
  };
  number = video.requestVideoFrameCallback(next);
  return () => video.cancelVideoFrameCallback(number);
}
