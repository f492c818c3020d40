// What the page's files do without a browser: digests, messages, names, and who says what when.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";

import { Desk } from "../../tim_trio/web/static/files/desk.js";
import { decode, encode, newId } from "../../tim_trio/web/static/files/messages.js";
import { safeName } from "../../tim_trio/web/static/files/names.js";
import { Receiver } from "../../tim_trio/web/static/files/receiver.js";
import { Sender } from "../../tim_trio/web/static/files/sender.js";
import { Sha256 } from "../../tim_trio/web/static/files/sha256.js";
import { fromHex, load, valueOf } from "./vectors.js";

const utf8 = (/** @type {string} */ text) => new TextEncoder().encode(text);

// -- SHA-256 ----------------------------------------------------------------------

test("SHA-256 of what FIPS 180-4 gives as examples", () => {
  const known = /** @type {const} */ ([
    ["", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    ["abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
    ["abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"],
    ["abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
      "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"],
    ["a".repeat(1_000_000), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"],
  ]);
  for (const [text, digest] of known) assert.equal(new Sha256().update(utf8(text)).hex(), digest);
});

test("SHA-256 in pieces of any length is that of the whole, at every length", () => {
  const bytes = new Uint8Array(randomBytes(70_000));
  for (let length = 0; length < 300; length++) {
    const digest = createHash("sha256").update(bytes.subarray(0, length)).digest("hex");
    assert.equal(new Sha256().update(bytes.subarray(0, length)).hex(), digest, `${length} bytes`);
  }
  for (const step of [1, 7, 63, 64, 65, 127, 128, 1000, 65_536]) {
    const sha = new Sha256();
    const known = createHash("sha256");
    for (let at = 0; at < bytes.length; at += step) {
      sha.update(bytes.subarray(at, at + step));
      known.update(bytes.subarray(at, at + step));
      if (at === 5 * step) assert.equal(sha.hex(), known.copy().digest("hex"), "in between");
    }
    assert.equal(sha.length, bytes.length);
    assert.equal(sha.hex(), known.digest("hex"), `pieces of ${step}`);
  }
});

test("a copy of a digest goes on by itself", () => {
  const sha = new Sha256().update(utf8("ab"));
  const copy = sha.clone();
  copy.update(utf8("X"));
  assert.equal(sha.update(utf8("c")).hex(), new Sha256().update(utf8("abc")).hex());
  assert.equal(copy.hex(), new Sha256().update(utf8("abX")).hex());
});

// -- golden vectors -----------------------------------------------------------------

test("messages", () => {
  const { valid, ignored } = load("file_messages");
  assert.ok(valid.length > 20 && ignored.length > 30);
  for (const { name, text, message } of valid) {
    const wanted = valueOf(message);
    if (wanted.version === 2) {
      wanted.type = "unknownOffer";
      delete wanted.version;
    }
    const got = decode(utf8(text));
    assert.deepEqual(got, wanted, name);
    if (got !== null && got.type !== "unknownOffer") {
      assert.deepEqual(decode(encode(got)), got, name);
      assert.deepEqual(JSON.parse(new TextDecoder().decode(encode(got))).version,
        got.type === "offer" ? 1 : undefined, name);
    }
  }
  for (const { text, hex, why } of ignored) {
    assert.equal(decode(hex === undefined ? utf8(text) : fromHex(hex)), null, why);
  }
});

test("names", () => {
  for (const { offered, name, why } of load("file_names").names) {
    assert.equal(safeName(offered), name, why);
    assert.equal(safeName(name), name, `${why}, again`);
  }
  assert.match(newId(), /^[0-9a-f]{32}$/);
});

// -- the two sides, in one conversation -----------------------------------------------

const DIGEST = "0".repeat(64);
const OTHER = "f".repeat(64);
const ROOM = "LJ6TN2wdrZF";
const OFFER = /** @type {const} */ ({
  type: "offer", transfer: "1".repeat(32), name: "a.txt", size: 100, sha256: DIGEST, mediaType: "",
});

function sender(options = {}) {
  return new Sender({
    offer: OFFER, answerWithinMs: 60_000, resumeWithinMs: 300_000, now: 0, ...options,
  });
}

function receiver(name = "a") {
  return new Receiver({
    account: "alice", offer: OFFER, receiver: name.repeat(32), patienceMs: 1e6, now: 0,
  });
}

/** @param {import("../../tim_trio/web/static/files/messages.js").Message[]} words */
const types = (words) => words.map(({ type }) => type);

/**
 * @param {Receiver} machine
 * @param {number} now
 * @param {string} attempt
 * @returns {any}
 */
function accepted(machine, now, attempt, offset = 0) {
  const [accept] = machine.accept({ attempt: attempt.repeat(32), offset, sha256: DIGEST, now });
  return accept;
}

test("a file is offered, accepted, lost, gone on with, and done", () => {
  const s = sender();
  const r = receiver();
  assert.deepEqual(s.poll(0), [OFFER]);
  assert.deepEqual(s.poll(999), [], "not yet again");
  assert.deepEqual(types(s.heard("delivered", 1)), []);
  r.take(OFFER, 1);
  assert.equal(r.phase, "asking");
  assert.deepEqual(r.accept({ attempt: "1".repeat(32), offset: 0, sha256: DIGEST, now: 1 }), []);
  r.agree(2);
  const accept = accepted(r, 3, "1");
  const [taken] = s.take(accept, 4);
  assert.deepEqual(taken, { type: "taken", transfer: OFFER.transfer, receiver: "a".repeat(32) });
  assert.equal(s.wanted, accept);
  assert.deepEqual(s.take(accept, 5), [], "the same again, before there is a room");
  const [start] = s.started(accept, { room: ROOM, source: 7, offset: 0 });
  assert.deepEqual(s.take(accept, 6), [start], "the same again is answered by the same start");
  assert.ok(start?.type === "start");
  r.take(start, 7);
  assert.equal(r.start, start);

  const [pause] = r.lost(start, 8);
  assert.deepEqual(types([/** @type {any} */ (pause)]), ["pause"]);
  assert.equal(r.phase, "waiting");
  s.take(/** @type {any} */ (pause), 9);
  assert.deepEqual([s.phase, s.wanted, s.nextPoll], ["offering", null, 1004], "not faster than 1 s");
  assert.deepEqual(s.poll(1004), [OFFER]);
  r.take(OFFER, 1005);
  assert.ok(r.wantsAnswer, "without asking again");
  const again = accepted(r, 1006, "2", 50);
  assert.deepEqual(s.take(again, 1007), []);
  const [restart] = s.started(again, { room: ROOM, source: 8, offset: 50 });
  r.take(/** @type {any} */ (restart), 1008);
  assert.equal(r.phase, "receiving");
  s.sent(again, 1009);
  assert.equal(s.phase, "confirming");
  const [done] = r.done();
  assert.deepEqual(s.take(/** @type {any} */ (done), 1010), []);
  assert.deepEqual([s.phase, s.outcome?.ending, s.attempts], ["over", "done", 2]);
  assert.deepEqual(r.take(OFFER, 2000), [done], "said again whenever it is offered again");
});

test("a start that does not fit is refused, one for an older attempt ignored", () => {
  const r = receiver();
  r.agree(0);
  accepted(r, 1, "1", 50);
  const start = {
    .../** @type {const} */ ({ type: "start", transfer: OFFER.transfer, room: ROOM, source: 7 }),
    receiver: "a".repeat(32), attempt: "9".repeat(32), offset: 50,
  };
  assert.deepEqual(r.take(start, 2), []);
  assert.equal(r.phase, "accepted");
  const [failed] = r.take({ ...start, attempt: "1".repeat(32), offset: 49 }, 3);
  assert.ok(failed?.type === "failed" && failed.reason === "protocol");
  // From 0 is always right.
  const other = receiver();
  other.agree(0);
  accepted(other, 1, "1", 50);
  other.take({ ...start, attempt: "1".repeat(32), offset: 0 }, 2);
  assert.equal(other.phase, "receiving");
});

test("the first device to accept has it", () => {
  const s = sender();
  s.poll(0);
  s.heard("delivered", 2);
  const phone = receiver("a");
  const laptop = receiver("b");
  phone.agree(1);
  laptop.agree(1);
  const [taken] = s.take(accepted(phone, 2, "1"), 3);
  assert.deepEqual(s.take(accepted(laptop, 2, "2"), 4), [taken]);
  laptop.take(/** @type {any} */ (taken), 5);
  assert.deepEqual([laptop.phase, laptop.outcome?.ending], ["over", "declined"]);
  phone.take(/** @type {any} */ (taken), 5);
  assert.equal(phone.phase, "accepted");
  // What another device says does not count any more.
  s.take({ type: "cancel", transfer: OFFER.transfer, by: "receiver", receiver: "b".repeat(32) }, 6);
  assert.equal(s.outcome, null);
});

test("a person's no ends it, a device's no when all devices have said it", () => {
  const decline = (/** @type {string} */ name, /** @type {string} */ reason) =>
    /** @type {const} */ ({ type: "decline", transfer: OFFER.transfer, receiver: name.repeat(32), reason });
  const s = sender();
  s.poll(0);
  s.heard("delivered", 2);
  s.take(decline("a", "policy"), 1);
  s.take(decline("a", "policy"), 2);
  assert.equal(s.outcome, null);
  s.take(decline("b", "space"), 3);
  assert.deepEqual(s.outcome, { ending: "declined", reason: "space", by: "receiver" });
  const other = sender();
  other.heard("delivered", 2);
  assert.deepEqual(types(other.take(decline("a", "user"), 1)), ["cancel"]);
  assert.equal(other.outcome?.ending, "declined");
});

test("whom nobody hears", () => {
  for (const heard of /** @type {const} */ (["offline", "refused", "unknown"])) {
    const s = sender();
    s.heard(heard);
    assert.equal(s.outcome?.ending, heard);
  }
  const patient = sender({ mayBeOffline: true });
  patient.heard("offline");
  assert.equal(patient.phase, "offering");
  let offers = 0;
  for (let now = 0; now < 60_000; now += 100) offers += patient.poll(now).length;
  assert.ok(offers > 15 && offers < 30, `${offers}: soon at first, then seldom`);
  assert.deepEqual(patient.poll(60_000), [], "nobody heard, so nobody is told");
  assert.equal(patient.outcome?.ending, "timedOut");
});

test("stopping and cancelling, from either side", () => {
  const s = sender();
  const r = receiver();
  s.heard("delivered", 1);
  const [pause] = s.stop();
  assert.ok(pause?.type === "pause" && pause.stopping);
  r.agree(0);
  r.take(pause, 1);
  assert.deepEqual([r.phase, r.peerIsStopping], ["waiting", true]);
  const [stop] = r.stop();
  assert.ok(stop?.type === "pause" && stop.stopping && stop.by === "receiver");
  assert.deepEqual(r.take(OFFER, 2), [], "a stopped one does not answer");
  const other = sender();
  other.heard("delivered", 1);
  other.take(stop, 3);
  assert.deepEqual([other.phase, other.peerIsStopping], ["offering", true]);
  const [cancel] = other.cancel();
  const third = receiver();
  third.take(/** @type {any} */ (cancel), 4);
  assert.equal(third.outcome?.ending, "cancelled");
  const asked = receiver();
  asked.poll(19_999);
  assert.equal(asked.phase, "asking");
  asked.poll(20_000);
  assert.equal(asked.phase, "over", "a question lapses");
});

test("a desk bounds the questions, and goes on with a part without asking", () => {
  /** @type {Receiver[]} */
  const opened = [];
  let part = /** @type {{ receiver: string, agreed: boolean } | null} */ (null);
  const desk = new Desk({
    patienceMs: 1e6, findPart: () => part, opened: (machine) => opened.push(machine),
    isOwn: (transfer) => transfer === "e".repeat(32),
  });
  const offer = (/** @type {number} */ n) =>
    ({ ...OFFER, transfer: n.toString(16).padStart(32, "0"), sha256: OTHER });
  assert.deepEqual(desk.take("alice", { ...OFFER, transfer: "e".repeat(32) }, 0), [], "our own");
  for (let n = 0; n < 8; n++) assert.deepEqual(desk.take("alice", offer(n), 0), []);
  const [busy] = desk.take("alice", offer(8), 0);
  assert.ok(busy?.type === "decline" && busy.reason === "busy");
  assert.deepEqual(desk.take("alice", offer(8), 1), [busy], "under one name, however often");
  for (let n = 0; n < 56; n++) assert.deepEqual(desk.take(`b${n}`, offer(n), 0), []);
  assert.deepEqual(types(desk.take("carol", offer(1), 0)), ["decline"]);
  assert.equal(opened.length, 64);
  const [version] = desk.take("dave", { type: "unknownOffer", transfer: "d".repeat(32) }, 0);
  assert.ok(version?.type === "decline" && version.reason === "version");

  part = { receiver: "c".repeat(32), agreed: true };
  assert.deepEqual(desk.take("erin", OFFER, 2), []);
  const [first] = opened.slice(-1);
  assert.ok(first?.wantsAnswer && first.receiver === part.receiver);
  // The sender was restarted: the same file, as another transfer.
  assert.deepEqual(types(desk.take("erin", offer(99), 3)), ["failed"]);
  assert.equal(first.outcome?.reason, "superseded");
  // Paused by a person, it does not go on by itself, and does once it is let.
  const second = /** @type {Receiver} */ (opened.at(-1));
  second.stop();
  assert.deepEqual(desk.take("erin", offer(99), 4), []);
  assert.equal(opened.at(-1), second);
  desk.forget(second);
  desk.take("erin", offer(99), 5);
  const third = /** @type {Receiver} */ (opened.at(-1));
  assert.notEqual(third, second);
  // Cancelled here: the part is gone on with, once a person has said yes again.
  third.cancel();
  part.agreed = false;
  assert.deepEqual(types(desk.take("erin", offer(100), 6)), ["decline"], "a question as any other");
  desk.take("b0", { ...offer(0), type: "cancel", by: "sender", receiver: "" }, 6);
  assert.deepEqual(desk.take("erin", offer(101), 7), []);
  const asked = opened.at(-1);
  assert.deepEqual([asked?.phase, asked?.receiver], ["asking", part.receiver]);
});
