// What runs on the audio thread: a player of decoded sound, and a recorder.
//
// @ts-nocheck: the globals of an AudioWorklet are in no library of TypeScript's.

const REPORT_QUANTA = 16;
/** So much more waiting than wanted is skipped at once; less is played a little faster. */
const SKIP_US = 120_000;
const KEPT_US = 20_000;
/** A hole between two pieces up to this long is silence; a longer one is skipped. */
const LONGEST_SILENCE_US = 500_000;
const MOST_QUEUED_US = 5_000_000;

/**
 * Plays pieces of sound with the publisher's times, and says where it is.
 *
 * It begins once `targetUs` are waiting. It plays up to 4 % faster or 2 %
 * slower to keep that much waiting, which also follows a clock that differs.
 */
class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this._queue = [];
    this._at = 0; // in samples, within the first piece
    this._targetUs = 60_000;
    this._playing = false;
    this._silentUs = 0; // still to be silent before the first piece
    this._quanta = 0;
    this._underruns = 0;
    this._closed = false;
    this.port.onmessage = ({ data }) => this._receive(data);
  }

  _receive(data) {
    if (data.target !== undefined) this._targetUs = data.target;
    if (data.clear) {
      this._queue = [];
      this._at = 0;
      this._playing = false;
    }
    if (data.close) this._closed = true;
    if (data.channels) {
      this._queue.push(data);
      while (this._bufferedUs() > MOST_QUEUED_US) this._drop();
    }
  }

  _drop() {
    this._queue.shift();
    this._at = 0;
    this._silentUs = 0;
  }

  _playheadUs() {
    const piece = this._queue[0];
    return piece ? piece.timestampUs + (this._at / piece.rate) * 1e6 - this._silentUs : 0;
  }

  _bufferedUs() {
    let samplesUs = this._silentUs;
    for (const { channels, rate } of this._queue) samplesUs += (channels[0].length / rate) * 1e6;
    return this._queue.length ? samplesUs - (this._at / this._queue[0].rate) * 1e6 : 0;
  }

  process(_inputs, [output]) {
    if (this._closed) return false;
    let bufferedUs = this._bufferedUs();
    if (!this._playing && bufferedUs >= this._targetUs) this._playing = true;
    if (this._playing) {
      if (bufferedUs > this._targetUs + SKIP_US) {
        while (bufferedUs > this._targetUs + KEPT_US && this._queue.length > 1) {
          this._drop();
          bufferedUs = this._bufferedUs();
        }
      }
      this._fill(output, 1 + Math.max(-0.02, Math.min(0.04, (bufferedUs - this._targetUs) / 2e6)));
    }
    this._quanta += 1;
    if (this._quanta >= REPORT_QUANTA) {
      this._quanta = 0;
      this.port.postMessage({
        playing: this._playing, playheadUs: this._playheadUs(), bufferedUs: this._bufferedUs(),
        underruns: this._underruns, contextTime: currentTime,
      });
    }
    return true;
  }

  _fill(output, speed) {
    const wanted = output[0].length;
    for (let at = 0; at < wanted; at++) {
      if (this._silentUs > 0) {
        this._silentUs -= (1e6 / sampleRate) * speed;
        continue;
      }
      const piece = this._queue[0];
      if (piece === undefined) {
        this._playing = false;
        this._underruns += 1;
        return;
      }
      const whole = Math.floor(this._at);
      const part = this._at - whole;
      for (let channel = 0; channel < output.length; channel++) {
        const samples = piece.channels[Math.min(channel, piece.channels.length - 1)];
        const first = samples[whole];
        // The piece's last sample has its neighbour in the next one; repeated, nobody hears it.
        const second = whole + 1 < samples.length ? samples[whole + 1] : first;
        output[channel][at] = first + (second - first) * part;
      }
      this._at += (piece.rate / sampleRate) * speed;
      if (this._at >= piece.channels[0].length) this._next(piece);
    }
  }

  _next(piece) {
    const length = piece.channels[0].length;
    const endUs = piece.timestampUs + (length / piece.rate) * 1e6;
    const over = this._at - length;
    this._queue.shift();
    const next = this._queue[0];
    this._at = next ? over : 0;
    if (next) {
      const holeUs = next.timestampUs - endUs;
      if (holeUs > 5000 && holeUs < LONGEST_SILENCE_US) this._silentUs = holeUs;
    }
  }
}

/** Hands the sound it is given to the page, in pieces of 20 ms, as the encoder takes them. */
class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this._channels = [[], []].map(() => new Float32Array(sampleRate / 50));
    this._filled = 0;
    this._closed = false;
    this.port.onmessage = () => {
      this._closed = true;
    };
  }

  process([input]) {
    if (this._closed) return false;
    const length = input[0]?.length ?? 128;
    for (let at = 0; at < length; at++) {
      for (const [channel, samples] of this._channels.entries()) {
        // Nothing connected is silence; one channel goes to both.
        const from = input[channel] ?? input[0];
        samples[this._filled] = from ? from[at] : 0;
      }
      this._filled += 1;
      if (this._filled === this._channels[0].length) this._send((currentFrame + at + 1) / sampleRate);
    }
    return true;
  }

  _send(endS) {
    const channels = this._channels.map((samples) => samples.slice());
    const startUs = Math.round((endS - this._filled / sampleRate) * 1e6);
    this._filled = 0;
    this.port.postMessage({ channels, startUs }, channels.map(({ buffer }) => buffer));
  }
}

registerProcessor("tim-player", Player);
registerProcessor("tim-recorder", Recorder);
