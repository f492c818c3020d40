// The page's sound: one AudioContext, out to the speakers and in from sources.

import { ClockFit, nowUs } from "./time.js";

const SAMPLE_RATE = 48_000;

/** @type {Promise<AudioContext> | null} */
let opening = null;

/**
 * Return the page's AudioContext, with the worklets in it. It may be suspended
 * until somebody clicks; see `wakeAudio`.
 */
export function audioContext() {
  opening ??= (async () => {
    const context = new AudioContext({ sampleRate: SAMPLE_RATE, latencyHint: "interactive" });
    await context.audioWorklet.addModule(new URL("./audio_worklets.js", import.meta.url));
    return context;
  })();
  return opening;
}

/** Let sound play; browsers want this to happen at a click. */
export async function wakeAudio() {
  const context = await audioContext();
  // Without a click it would wait for one; nobody should wait with it.
  void context.resume();
  return context;
}

/**
 * Plays one source's decoded sound, and knows which moment of it is heard.
 */
export class AudioOutput {
  /** @param {AudioContext} context */
  constructor(context) {
    this._context = context;
    this._node = new AudioWorkletNode(context, "tim-player", {
      numberOfInputs: 0, outputChannelCount: [2],
    });
    this._gain = context.createGain();
    this.analyser = context.createAnalyser();
    this.analyser.fftSize = 1024;
    this._node.connect(this._gain).connect(this.analyser).connect(context.destination);
    /** @type {{ playing: boolean, playheadUs: number, bufferedUs: number, underruns: number,
     *   contextTime: number } | null} */
    this.report = null;
    this._node.port.onmessage = ({ data }) => {
      this.report = data;
    };
    this._samples = new Float32Array(this.analyser.fftSize);
  }

  /**
   * Queue decoded sound; takes it over.
   *
   * @param {AudioData} data
   */
  push(data) {
    const channels = [];
    for (let channel = 0; channel < Math.min(2, data.numberOfChannels); channel++) {
      const samples = new Float32Array(data.numberOfFrames);
      data.copyTo(samples, { planeIndex: channel, format: "f32-planar" });
      channels.push(samples);
    }
    const message = { channels, timestampUs: data.timestamp, rate: data.sampleRate };
    data.close();
    this._node.port.postMessage(message, channels.map(({ buffer }) => buffer));
  }

  /** @param {number} ms of sound to keep waiting */
  setTarget(ms) {
    this._node.port.postMessage({ target: ms * 1000 });
  }

  /** Forget what is queued. */
  clear() {
    this._node.port.postMessage({ clear: true });
  }

  /** @param {number} volume 0 to 1 */
  setVolume(volume) {
    this._gain.gain.value = volume;
  }

  /** Loudness of what plays just now: root mean square, 0 to 1. */
  level() {
    this.analyser.getFloatTimeDomainData(this._samples);
    let sum = 0;
    for (const sample of this._samples) sum += sample * sample;
    return Math.sqrt(sum / this._samples.length);
  }

  /**
   * The moment on the publisher's clock that is heard now; null while nothing plays.
   */
  heardUs() {
    const { report } = this;
    const context = this._context;
    if (report === null || !report.playing || context.state !== "running") return null;
    const sinceS = context.currentTime - report.contextTime;
    if (sinceS > 0.5) return null;
    return report.playheadUs + (sinceS - (context.outputLatency || 0)) * 1e6;
  }

  close() {
    this._node.port.postMessage({ close: true });
    this._node.disconnect();
    this._gain.disconnect();
    this.analyser.disconnect();
  }
}

/**
 * Takes the sound of a node in pieces of 20 ms, with times on the page's clock.
 */
export class AudioInput {
  /**
   * @param {AudioContext} context
   * @param {AudioNode} from
   * @param {(data: AudioData) => void} onData given what to close
   */
  constructor(context, from, onData) {
    this._from = from;
    this._node = new AudioWorkletNode(context, "tim-recorder", { numberOfOutputs: 0 });
    const clock = new ClockFit();
    this._node.port.onmessage = ({ data: { channels, startUs } }) => {
      const frames = channels[0].length;
      const lengthUs = (frames / context.sampleRate) * 1e6;
      const both = new Float32Array(2 * frames);
      both.set(channels[0]);
      both.set(channels[1], frames);
      onData(new AudioData({
        format: "f32-planar", sampleRate: context.sampleRate, numberOfFrames: frames,
        numberOfChannels: 2, timestamp: clock.fit(startUs, nowUs() - lengthUs), data: both,
      }));
    };
    from.connect(this._node);
  }

  close() {
    this._node.port.onmessage = null;
    this._node.port.postMessage("close");
    this._from.disconnect(this._node);
  }
}
