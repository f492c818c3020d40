// What the page shares, with cameras and pictures that are made up.

import assert from "node:assert/strict";
import { test } from "node:test";

import { openCamera } from "../../tim_trio/web/static/media/capture.js";
import { Publisher } from "../../tim_trio/web/static/media/publisher.js";
import { Silence } from "../../tim_trio/web/static/media/silence.js";
import { nowUs } from "../../tim_trio/web/static/media/time.js";

/** A picture, as far as it is looked at before it is encoded. */
class Picture {
  static open = 0;

  /** @param {unknown} from @param {{ timestamp: number }} options */
  constructor(from, { timestamp }) {
    this.from = from;
    this.timestamp = timestamp;
    this.displayWidth = 640;
    this.displayHeight = 360;
    this.colorSpace = {};
    Picture.open += 1;
  }

  clone() {
    return new Picture(this, this);
  }

  close() {
    Picture.open -= 1;
  }
}
Object.assign(globalThis, { VideoFrame: Picture });

/**
 * A publisher that encodes nothing: what would be sent is what `sent` gets.
 *
 * @param {string} kind
 * @returns {any}
 */
function sharing(kind) {
  const node = { connect() {}, disconnect() {}, gain: { value: 1 } };
  /** @type {any} */
  const source = { error: null, bufferedBytes: 0, droppedFrames: 0, sentBytes: 0, close() {},
    unpublish: async () => {} };
  /** @type {any} */
  const capture = { kind, hasVideo: true, sound: null, onFrame: null, onEnd: null, stop() {} };
  const publisher = /** @type {any} */ (new Publisher(source, capture, /** @type {any} */ ({
    createGain: () => node,
  })));
  publisher.sent = [];
  publisher.previewed = [];
  publisher._encode = (/** @type {Picture} */ frame, /** @type {number} */ timestampUs) => {
    publisher.sent.push(frame.from);
    publisher._lastKeyUs = timestampUs;
  };
  publisher.onPreview = (/** @type {Picture} */ frame) => publisher.previewed.push(frame.from);
  publisher.give = (/** @type {number} */ timestamp) =>
    capture.onFrame(new Picture("camera", { timestamp }));
  return publisher;
}

test("a camera that is off is dark at once, to oneself as to others", async () => {
  const publisher = sharing("camera");
  for (const at of [0, 40_000]) publisher.give(at);
  publisher.videoOn = false;
  for (let at = 80_000; at < 2_000_000; at += 40_000) publisher.give(at);
  assert.deepEqual(publisher.sent.slice(0, 2), ["camera", "camera"]);
  assert.equal(publisher.sent.length, 4); // one dark picture at once, and one a second later
  assert.ok(publisher.sent.slice(2).every((/** @type {unknown} */ from) => from instanceof Uint8Array));
  assert.deepEqual(publisher.previewed, publisher.sent);
  publisher.videoOn = true;
  publisher.give(2_040_000);
  assert.equal(publisher.sent.at(-1), "camera");
  await publisher.stop();
  assert.equal(Picture.open, 0);
});

test("a screen on which nothing moves is sent all the same", async () => {
  const publisher = sharing("screen");
  publisher._repeatStill();
  assert.equal(publisher.sent.length, 0); // there was no picture yet
  publisher.give(nowUs() - 5_000_000);
  publisher._look();
  publisher._look();
  assert.equal(publisher.sent.length, 2); // again, and not twice within a second
  await publisher.stop();
  assert.equal(Picture.open, 0);
  const camera = sharing("camera");
  camera.give(nowUs() - 5_000_000);
  camera._look();
  assert.equal(camera.sent.length, 1); // of a camera the last picture would be a lie
  await camera.stop();
});

/** @param {string[]} kinds of tracks */
async function openWith(...kinds) {
  const tracks = kinds.map((kind) => ({ kind, onended: () => {}, stop() {} }));
  const of = (/** @type {string} */ kind) => tracks.filter((each) => each.kind === kind);
  const stream = {
    getTracks: () => tracks, getVideoTracks: () => of("video"), getAudioTracks: () => of("audio"),
  };
  Object.defineProperty(globalThis, "navigator", {
    configurable: true, value: { mediaDevices: { getUserMedia: async () => stream } },
  });
  Object.assign(globalThis, { MediaStreamTrackProcessor: class {
    readable = new ReadableStream();
  } });
  const node = { disconnect() {} };
  const capture = await openCamera({}, /** @type {any} */ ({ createMediaStreamSource: () => node }));
  /** @type {string[]} */
  const told = [];
  capture.onEnd = () => told.push("over");
  capture.onSoundEnd = () => told.push("silent");
  return { told, unplug: (/** @type {string} */ kind) => of(kind)[0]?.onended() };
}

test("a microphone that is unplugged takes the picture along only where there is none", async () => {
  const both = await openWith("video", "audio");
  both.unplug("audio");
  assert.deepEqual(both.told, ["silent"]);
  both.unplug("video");
  assert.deepEqual(both.told, ["silent", "over"]);
  const microphone = await openWith("audio");
  microphone.unplug("audio");
  assert.deepEqual(microphone.told, ["over"]);
});

test("a source is silent when nothing has come for some looks in a row", () => {
  const silence = new Silence();
  const looks = [1, 2, 2, 2, 2, 2, 2, 3, 3].map((frames) => silence.look(frames));
  assert.deepEqual(looks, [false, false, false, false, false, true, true, false, false]);
});
