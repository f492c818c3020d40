// What the page's media does without a browser: the times of playing out.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Playout } from "../../tim_trio/web/static/media/playout.js";
import { ClockFit } from "../../tim_trio/web/static/media/time.js";

/**
 * Feed frames of 30 a second whose way takes `ways` ms, over and over.
 *
 * @param {Playout} playout
 * @param {number[]} ways
 * @param {number} count
 * @param {number} [first]
 */
function feed(playout, ways, count, first = 0) {
  for (let at = first; at < first + count; at++) {
    const sentMs = at * (1000 / 30);
    playout.note(sentMs * 1000, sentMs + /** @type {number} */ (ways[at % ways.length]));
  }
}

test("frames that take the same time are shown a little later than they come", () => {
  const playout = new Playout();
  feed(playout, [1000], 300);
  const nowMs = 10_000 + 1000;
  const latestMs = playout.dueUs(nowMs) / 1000;
  assert.ok(latestMs < 10_000 && latestMs > 10_000 - 40, String(latestMs));
});

test("the delay grows with the jitter, and shrinks after it", () => {
  const playout = new Playout();
  feed(playout, [50, 50, 50, 130], 300);
  assert.ok(playout.delayMs > 60 && playout.delayMs < 130, String(playout.delayMs));
  const jittery = playout.delayMs;
  feed(playout, [50], 1800, 300);
  assert.ok(playout.delayMs < jittery / 2, String(playout.delayMs));
});

test("the running group at the start, and a pause, are no jitter", () => {
  const playout = new Playout();
  for (let at = 0; at < 60; at++) playout.note(at * 33_000, 2000 + at);
  assert.ok(playout.delayMs <= 30);
  playout.note(60 * 33_000, 2000 + 5000);
  assert.ok(playout.delayMs <= 30);
});

test("the quickest way of long ago does not count for ever", () => {
  const playout = new Playout();
  feed(playout, [20], 60);
  feed(playout, [500], 900, 60);
  const nowMs = (960 / 30) * 1000 + 500;
  const behindMs = nowMs - 500 - playout.dueUs(nowMs) / 1000;
  assert.ok(behindMs > 0 && behindMs < 100, String(behindMs));
});

test("another clock keeps its offset, and is followed when it drifts", () => {
  const clock = new ClockFit();
  assert.equal(clock.fit(0, 5_000_000), 5_000_000);
  assert.equal(clock.fit(10_000, 5_018_000), 5_010_000, "late, not another time");
  for (let at = 2; at < 250; at++) clock.fit(at * 10_000, 5_000_000 + at * 10_000 + 60_000);
  assert.equal(clock.fit(3_000_000, 8_060_000), 8_060_000);
  assert.equal(clock.fit(0, 60_000_000), 60_000_000, "far off: begins anew");
});
