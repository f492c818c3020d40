// The golden vectors against the codec, in both directions.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Code } from "../../tim_trio/web/static/tim/codes.js";
import { LocalProtocolError, RemoteProtocolError } from "../../tim_trio/web/static/tim/errors.js";
import { STREAM, encodeStreamFrame, readFrames } from "../../tim_trio/web/static/tim/frames.js";
import { MESSAGES, UnreadableFields, decode, encode } from "../../tim_trio/web/static/tim/messages.js";
import { isAccountName } from "../../tim_trio/web/static/tim/names.js";
import { formatRoomId, isRoomId, parseRoomId } from "../../tim_trio/web/static/tim/room_ids.js";
import { InvalidInit, encodeInit, parseInit } from "../../tim_trio/web/static/media/init.js";
import { STEMS, VALID, bytesOf, fromHex, load, toHex, valueOf, vectors } from "./vectors.js";

/** How nodes share rooms among themselves; files, which the page does not send; TIM's packets. */
const NOT_FOR_CLIENTS = ["placement", "tim"];
const BY_NAME = new Map([...MESSAGES.values()].map((kind) => [kind.name, kind]));

/** @param {import("./vectors.js").Vector} vector */
function limitsOf(vector) {
  return { maxFrameBytes: vector.phase === "new" ? 4096 : 1_048_576, maxInitBytes: 65_536 };
}

/**
 * @param {import("./vectors.js").Vector} vector
 * @param {Uint8Array<ArrayBuffer>} [bytes]
 */
function readOne(vector, bytes = bytesOf(vector)) {
  const items = [...readFrames(bytes.buffer, limitsOf(vector))];
  assert.equal(items.length, 1);
  return /** @type {NonNullable<(typeof items)[0]>} */ (items[0]);
}

test("every file is used", () => {
  const used = [...VALID, "invalid", "limits", "room_ids", "account_names", "media",
    "file_messages", "file_names"]; // the last two in files.test.js
  for (const stem of used) assert.ok(STEMS.includes(stem), stem);
  const unused = STEMS.filter((stem) => !used.includes(stem) && !NOT_FOR_CLIENTS.includes(stem));
  assert.deepEqual(unused, []);
});

test("the codes are those of protocol.md", () => {
  const text = readFileSync(new URL("../../protocol.md", import.meta.url), "utf-8");
  const table = [...text.matchAll(/^\| ([12]\d{3}) \| `(\w+)` \|/gm)]
    .map(([, code, label]) => [label, Number(code)]);
  assert.ok(table.length > 40);
  assert.deepEqual(Object.entries(Code), table);
});

test("every message has a vector", () => {
  const seen = new Set(vectors(...VALID).map(({ frame }) => frame.type));
  seen.delete("STREAM");
  assert.deepEqual(seen, new Set(BY_NAME.keys()));
});

for (const vector of vectors(...VALID)) {
  const { type, request_id: requestId, ext, ...rest } = vector.frame;
  if (vector.wide) {
    test(`decode ${vector.name}, whose numbers no sender sends`, () => {
      const item = readOne(vector);
      if (item.kind === "control") decode(/** @type {any} */ (MESSAGES.get(item.type)), item.fields);
    });
    continue;
  }
  const fields = valueOf(rest);

  test(`decode ${vector.name}`, () => {
    const item = readOne(vector);
    if (item.kind === "frame") {
      const { kind, size, ...got } = item;
      assert.equal(type, "STREAM");
      assert.equal(size, bytesOf(vector).length);
      assert.deepEqual(got, fields);
    } else {
      const kind = /** @type {any} */ (MESSAGES.get(item.type));
      assert.equal(kind.name, type);
      assert.equal(item.requestId, requestId);
      assert.deepEqual(decode(kind, item.fields), fields);
      assert.deepEqual(Object.keys(decode(kind, item.fields)), Object.keys(fields), "the order");
    }
  });

  test(`encode ${vector.name}`, () => {
    const bytes = type === "STREAM"
      ? encodeStreamFrame(fields)
      : encode(/** @type {any} */ (BY_NAME.get(type)), fields, requestId);
    if (vector.decode_only || ext) {
      // Not what we would send; but what we would send instead says the same.
      assert.notEqual(toHex(bytes), toHex(bytesOf(vector)));
      const item = readOne(vector, bytes);
      if (item.kind === "control") {
        assert.deepEqual(decode(/** @type {any} */ (BY_NAME.get(type)), item.fields), fields);
      }
    } else {
      assert.equal(toHex(bytes), toHex(bytesOf(vector)));
    }
  });
}

for (const vector of vectors("limits")) {
  test(`limit ${vector.name}`, () => {
    const start = bytesOf(vector);
    assert.deepEqual(vector.expect, { more: true });
    // In a WebSocket message a frame is whole, so half of one is an error; with its rest it is one.
    assert.throws(() => readOne(vector), RemoteProtocolError);
    const whole = new Uint8Array(4 + new DataView(start.buffer).getUint32(0));
    whole.set(start);
    readOne(vector, whole);
  });
}

for (const vector of vectors("invalid")) {
  const { level, expect } = vector;
  const type = bytesOf(vector)[4];
  test(`invalid ${vector.name}`, () => {
    let item;
    try {
      item = readOne(vector);
    } catch (error) {
      assert.ok(error instanceof RemoteProtocolError);
      if (level === "framing") {
        assert.equal(/** @type {any} */ (Code)[expect.close], error.code);
      } else {
        assert.ok(vector.prefix, "well framed but for what is missing");
      }
      return;
    }
    const kind = MESSAGES.get(item.kind === "frame" ? STREAM : item.type);
    if (level === "fields") {
      assert.ok(item.kind === "control" && kind);
      const { fields } = item;
      assert.throws(() => decode(kind, fields), UnreadableFields);
    } else if (level === "framing") {
      // Well framed; the fault lies in its type or its request_id.
      assert.ok(item.kind === "control" && item.type === type);
      assert.ok(!kind || item.requestId === 0 || item.type >= 0x60);
    } else if (item.kind === "control" && kind) {
      decode(kind, item.fields); // only the state of a connection tells
    }
  });
}

test("room ids", () => {
  const { valid, invalid_text: texts, invalid_value: values } = load("room_ids");
  for (const { text, room } of valid) {
    assert.equal(parseRoomId(text), BigInt(room));
    assert.equal(formatRoomId(BigInt(room)), text);
  }
  for (const { text, why } of texts) assert.equal(parseRoomId(text), null, why);
  for (const { room, why } of values) {
    assert.equal(isRoomId(BigInt(room)), false, why);
    assert.throws(() => formatRoomId(BigInt(room)), RangeError);
  }
});

test("account names", () => {
  const { valid, invalid } = load("account_names");
  for (const { text, why } of valid) assert.equal(isAccountName(text), true, why);
  for (const { text, why } of invalid) assert.equal(isAccountName(text), false, why);
});

test("media INITs", () => {
  const { valid, invalid } = load("media");
  const bytesOfInit = (/** @type {{ hex?: string, text?: string }} */ { hex, text }) =>
    hex === undefined ? new TextEncoder().encode(text) : fromHex(hex);
  for (const vector of valid) {
    const init = { ...vector.init };
    if (init.description !== undefined) init.description = fromHex(init.description);
    assert.deepEqual(parseInit(bytesOfInit(vector)), init, vector.name);
    if (vector.canonical) {
      assert.deepEqual(encodeInit(init), bytesOfInit(vector), vector.name);
    }
  }
  for (const vector of invalid) {
    assert.throws(() => parseInit(bytesOfInit(vector)), InvalidInit, vector.name);
  }
});

test("what does not fit is refused before anything is sent", () => {
  const hello = BY_NAME.get("HELLO");
  const send = /** @type {any} */ (BY_NAME.get("ACCOUNT_SEND"));
  const list = BY_NAME.get("LIST_ROOMS");
  const publish = BY_NAME.get("PUBLISH");
  const greeting = { magic: 1, minVersion: 1, maxVersion: 1, capabilities: 0, agent: "" };
  const refused = [
    [hello, { ...greeting, minVersion: 256 }],
    [hello, { ...greeting, capabilities: -1 }],
    [hello, { ...greeting, agent: "x".repeat(1025) }],
    [hello, { ...greeting, agent: "\ud800" }],
    [list, { scope: 2, after: 0n, limit: 0 }],
    [list, { scope: 0, after: -1n, limit: 0 }],
    [publish, { room: 5n, token: new Uint8Array(16) }],
    [publish, { room: 2n ** 63n, token: new Uint8Array(15) }],
    [BY_NAME.get("AUTHENTICATE"), { method: 0, account: "", secret: new Uint8Array(4097), device: "" }],
    [BY_NAME.get("SUBSCRIBE"), { room: 2n ** 63n, from: 0, credit: 2 ** 53 }],
    [send, { receivers: new Array(65_536).fill(""), kind: 0, payload: new Uint8Array() }],
  ];
  for (const [kind, fields] of refused) {
    assert.throws(() => encode(/** @type {any} */ (kind), fields), LocalProtocolError);
  }
  const frame = {
    room: 2n ** 63n, source: 1, track: 0, flags: 0, seq: 0, timestampUs: 0, payload: fromHex(""),
  };
  for (const wrong of [{ room: 1n }, { source: -1 }, { track: 256 }, { seq: 2 ** 53 }, { seq: -1 },
    { timestampUs: 0.5 }]) {
    assert.throws(() => encodeStreamFrame({ ...frame, ...wrong }), LocalProtocolError);
  }
});
