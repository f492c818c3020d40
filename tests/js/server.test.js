// tim.js against a real server, whose address is in TIM_URL.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { WebSocket } from "ws";

import {
  Code, ContactState, DeliveryStatus, Flag, RoomError, TrackState, connect, greet, nodeFigures,
  roomFigures, subscriberFigures,
} from "../../tim_trio/web/static/tim/index.js";

const URL_OF_SERVER = process.env.TIM_URL ?? "";
assert.ok(URL_OF_SERVER, "TIM_URL says where the server is");

/** @type {any[]} */
const sockets = [];
/** @type {import("../../tim_trio/web/static/tim/connection.js").Dial} */
const dial = (url, protocol) => {
  const socket = new WebSocket(url, protocol);
  sockets.push(socket);
  return /** @type {any} */ (socket);
};

/** @type {import("../../tim_trio/web/static/tim/client.js").Client[]} */
const clients = [];
after(() => {
  for (const client of clients) client.close();
});

/**
 * @param {string} account
 * @param {object} [options]
 */
async function client(account, options = {}) {
  const made = await connect(URL_OF_SERVER, { account, dial, ...options });
  clients.push(made);
  return made;
}

/** The newest connection, cut as a network does it. */
function cut(socket = sockets.at(-1)) {
  socket._socket.destroy();
}

/**
 * @param {import("../../tim_trio/web/static/tim/subscription.js").Subscription} stream
 * @param {number} count of frames
 */
async function take(stream, count) {
  const items = [];
  for (let frames = 0; frames < count; ) {
    const item = await stream.next();
    if (item === null) break;
    items.push(item);
    if (item.kind === "frame") frames += 1;
  }
  return items;
}

/** @param {any} item */
const brief = (item) => (item.kind === "frame" ? item.seq : item.kind);
/** @param {number} code */
const refused = (code) => (/** @type {unknown} */ error) =>
  error instanceof RoomError && error.code === code;
const bytes = (/** @type {string} */ text) => new TextEncoder().encode(text);

test("greeting", async () => {
  const welcome = await greet(URL_OF_SERVER, { dial });
  assert.equal(welcome.authMode, 0);
  assert.match(welcome.agent, /^tim_trio\//);
});

test("a room's life", async () => {
  const alice = await client("alice");
  const room = await alice.registerRoom({ idleTimeoutS: 60 });
  const info = await alice.roomInfo(room);
  assert.deepEqual([info.room, info.creator, info.idleTimeoutS, info.mode],
    [room, "alice", 60, 0]);
  assert.ok((await alice.listRooms()).some((entry) => entry.room === room && entry.role === 0));
  const bob = await client("bob");
  await assert.rejects(bob.removeRoom(room), refused(Code.permission_denied));
  await assert.rejects(bob.publish(room), refused(Code.permission_denied));
  const stream = await bob.subscribe(room);
  await alice.removeRoom(room);
  assert.equal(await stream.next(), null);
  await assert.rejects(alice.roomInfo(room), refused(Code.no_such_room));
});

test("an operator's figures", async () => {
  const alice = await client("alice");
  const bob = await client("bob");
  const room = await alice.registerRoom();
  const stream = await bob.subscribe(room);
  const before = await nodeFigures(alice);
  const source = await alice.publish(room);
  source.sendNow(bytes("abcd"), { key: true });
  await take(stream, 1);
  const after = await nodeFigures(alice);
  const risen = (/** @type {string} */ name) =>
    (after.figures.get(name) ?? 0) - (before.figures.get(name) ?? 0);
  assert.deepEqual([risen("frames_in"), risen("bytes_in"), risen("deliveries")], [1, 40, 1]);
  assert.ok(after.uptimeMs >= before.uptimeMs);
  const { rooms } = await roomFigures(alice);
  const load = rooms.find((each) => each.room === room);
  assert.deepEqual([load?.viewers, load?.sources, load?.frames, load?.bytes], [1, 1, 1, 40]);
  assert.equal((await roomFigures(alice, "", { most: 1 })).rooms.length, 1);
  const { total, behind, subscribers } = await subscriberFigures(alice, room);
  assert.deepEqual([total, behind], [1, 0]);
  assert.deepEqual([subscribers[0]?.account, subscribers[0]?.bytes], ["bob", 40]);
  await assert.rejects(nodeFigures(alice, "elsewhere"), refused(Code.bad_request));
});

test("frames arrive as they were sent, and a late comer has the running group", async () => {
  const alice = await client("alice");
  const bob = await client("bob");
  const room = await alice.registerRoom();
  const early = await bob.subscribe(room);
  const source = await alice.publish(room);
  const sent = ["config", "a", "b", "c", "d"].map(bytes);
  sent.forEach((payload, at) => {
    const options = { track: 3, init: at === 0, key: at === 1 || at === 3, timestampUs: at * 1000 - 500 };
    assert.equal(source.sendNow(payload, options), at);
  });
  const [joined, ...frames] = /** @type {any[]} */ (await take(early, 5));
  assert.deepEqual(joined, { kind: "joined", source: source.number, account: "alice" });
  assert.deepEqual(frames.map(({ payload }) => payload), sent);
  assert.deepEqual(frames.map(({ timestampUs }) => timestampUs), [-500, 500, 1500, 2500, 3500]);
  assert.deepEqual(frames.map(({ flags }) => flags), [Flag.init, Flag.key, 0, Flag.key, 0]);

  const carol = await client("carol");
  const late = await carol.subscribe(room);
  assert.deepEqual((await take(late, 3)).map(brief), [0, 3, 4]);
  const [info] = late.sources;
  assert.deepEqual(info?.tracks, [{
    track: 3, state: TrackState.keyed | TrackState.init | TrackState.cachedGroup, lastSeq: 4,
  }]);
  const dave = await client("dave");
  const live = await dave.subscribe(room, { from: "live" });
  source.sendNow(bytes("e"), { track: 3 });
  assert.deepEqual((await take(live, 2)).map(brief), [0, 5]);

  assert.deepEqual(await source.unpublish(), { forwarded: 6, discarded: 0 });
  assert.equal(brief((await take(early, 1)).at(-1)), 5);
  assert.deepEqual(await early.next(), { kind: "left", source: source.number, reason: 1 });
});

test("onItem is called as things come, and viewers are told to the publisher", async () => {
  const alice = await client("alice");
  const bob = await client("bob");
  const room = await alice.registerRoom();
  const source = await alice.publish(room);
  const seen = /** @type {any[]} */ ([]);
  const got = new Promise((resolve) => {
    void bob.subscribe(room, {
      onItem: (item) => {
        seen.push(brief(item));
        if (item.kind === "frame") resolve(null);
      },
    });
  });
  await new Promise((resolve) => {
    source.onViewers = (viewers) => viewers === 1 && resolve(null);
  });
  source.sendNow(bytes("x"), { key: true });
  await got;
  assert.deepEqual(seen, [0]);
});

test("ask to push, grant, revoke", async () => {
  const alice = await client("alice");
  const bob = await client("bob");
  const room = await alice.registerRoom();
  const asked = new Promise((resolve) => { alice.on("pushAsked", resolve); });
  const granted = new Promise((resolve) => { bob.on("pushGranted", resolve); });
  assert.ok((await bob.askToPush(room, "may I?")) >= 1);
  assert.deepEqual(await asked, { room, account: "bob", message: "may I?" });
  await alice.grant(room, "bob");
  assert.deepEqual(await granted, { room });
  const source = await bob.publish(room);
  source.sendNow(bytes("hello"), { key: true });
  assert.deepEqual((await alice.roomInfo(room)).granted, ["bob"]);
  const over = new Promise((resolve) => { source.onOver = resolve; });
  await alice.revoke(room, "bob");
  assert.equal(/** @type {any} */ (await over).name, "SourceRevoked");
  await assert.rejects(bob.publish(room), refused(Code.permission_denied));
});

test("a cut connection comes back: the source under its number, the watcher with no repeat", async () => {
  const alice = await client("alice", { random: () => 0 });
  const hers = sockets.at(-1);
  const bob = await client("bob", { random: () => 0 });
  const his = sockets.at(-1);
  const room = await alice.registerRoom();
  const source = await alice.publish(room);
  const stream = await bob.subscribe(room);
  const { number } = source;
  source.sendNow(bytes("i"), { init: true });
  source.sendNow(bytes("k"), { key: true });
  await take(stream, 2);
  cut(hers);
  const back = new Promise((resolve) => { alice.on("reconnected", resolve); });
  await back;
  while (source.sendNow(bytes("after"), { key: true }) < 0) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.equal(source.number, number);
  assert.deepEqual((await take(stream, 1)).map(brief), [2]);
  cut(his);
  const items = [];
  source.sendNow(bytes("between"));
  for (let item = await stream.next(); item?.kind !== "reconnected"; item = await stream.next()) {
    items.push(brief(item));
  }
  source.sendNow(bytes("next"));
  assert.deepEqual((await take(stream, 2)).map(brief), [3, 4]);
  assert.ok(items.includes("reconnecting"));
});

test("a reliable room loses nothing, at the pace of the slowest", async () => {
  const alice = await client("alice");
  const bob = await client("bob");
  const room = await alice.registerRoom({ mode: "reliable" });
  const source = await alice.publish(room);
  const stream = await bob.subscribe(room);
  const payload = new Uint8Array(64 * 1024);
  const COUNT = 400;
  const sending = (async () => {
    for (let at = 0; at < COUNT; at++) {
      new DataView(payload.buffer).setUint32(0, at);
      await source.send(payload);
    }
    await source.send(new Uint8Array(), { end: true });
    return source.unpublish();
  })();
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.ok(source.nextSeq() < COUNT, "it waits: nobody has taken anything");
  let next = 0;
  for (;;) {
    const item = await stream.next();
    assert.ok(item !== null && item.kind !== "gap");
    if (item.kind !== "frame") continue;
    if (item.flags & Flag.end) break;
    assert.equal(new DataView(item.payload.buffer, item.payload.byteOffset).getUint32(0), next++);
  }
  assert.equal(next, COUNT);
  assert.equal((await sending).forwarded, COUNT + 1);
});

test("account streams and contacts", async () => {
  const alice = await client("stream-alice");
  const bob = await client("stream-bob");
  const heard = new Promise((resolve) => { bob.on("accountStream", resolve); });
  const deliveries = await alice.sendToAccounts(
    ["stream-bob", "stream-nobody"], 300, bytes("ring"));
  assert.deepEqual(deliveries.map(({ status, devices }) => [status, devices]),
    [[DeliveryStatus.delivered, 1], [DeliveryStatus.offline, 0]]);
  assert.deepEqual(await heard, { account: "stream-alice", kind: 300, payload: bytes("ring") });
  const changed = new Promise((resolve) => { bob.on("contactChanged", resolve); });
  assert.equal(await alice.contact("ask", "stream-bob"), ContactState.askedByMe);
  assert.deepEqual(await changed, { account: "stream-alice", state: ContactState.askedByThem });
  assert.equal(await bob.contact("accept", "stream-alice"), ContactState.contact);
  assert.deepEqual(await bob.listContacts(), [
    { account: "stream-alice", state: ContactState.contact },
  ]);
  assert.equal(await bob.getPolicy(), "anyone");
  await bob.setPolicy("contacts");
  assert.equal(await bob.getPolicy(), "contacts");
  const carol = await client("stream-carol");
  const [refusal] = await carol.sendToAccounts(["stream-bob"], 300, bytes("spam"));
  assert.equal(refusal?.status, DeliveryStatus.refused);
  await bob.setPolicy("anyone");
});

test("an id that is none is refused here, a room that is none there", async () => {
  const alice = await client("alice");
  await assert.rejects(alice.subscribe("LJ6TN2wdrZF"), refused(Code.no_such_room));
  await assert.rejects(connect(URL_OF_SERVER, { account: "a/b", dial }), refused(Code.bad_request));
});
