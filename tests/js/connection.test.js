// One connection and the client above it, against a server that the test plays.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import {
  ConnectFailed, ConnectionClosed, Flag, NOT_TAKEN, RequestTimedOut, RoomClosed, RoomError,
  SourceReplaced, SourceRevoked, WHILE_AWAY, connect, formatRoomId, greet,
} from "../../tim_trio/web/static/tim/index.js";
import { Code } from "../../tim_trio/web/static/tim/codes.js";
import { encodeStreamFrame } from "../../tim_trio/web/static/tim/frames.js";
import * as messages from "../../tim_trio/web/static/tim/messages.js";
import { Backoff } from "../../tim_trio/web/static/tim/reconnect.js";
import { ScriptedSocket } from "./sockets.js";
import { bytesOf, vectors } from "./vectors.js";

const ROOM = 8312248653376802578n;
const NAME = formatRoomId(ROOM);
const UNLIMITED = Number.MAX_SAFE_INTEGER;

/** @param {number} [turns] */
async function settle(turns = 20) {
  for (let turn = 0; turn < turns; turn++) await Promise.resolve();
}

/**
 * @param {import("../../tim_trio/web/static/tim/client.js").ConnectOptions} [options]
 * @param {object} [welcome]
 */
async function connected(options = {}, welcome = {}) {
  /** @type {ScriptedSocket[]} */
  const sockets = [];
  const dial = () => {
    sockets.push(new ScriptedSocket(welcome));
    return /** @type {any} */ (sockets.at(-1));
  };
  const client = await connect("ws://test", { account: "alice", dial, random: () => 0, ...options });
  const socket = () => /** @type {ScriptedSocket} */ (sockets.at(-1));
  return { client, sockets, socket };
}

/**
 * @param {number} seq
 * @param {object} [more]
 */
function frame(seq, more = {}) {
  return encodeStreamFrame({
    room: ROOM, source: 7, track: 0, flags: 0, seq, timestampUs: 0, payload: new Uint8Array([seq]),
    ...more,
  });
}

/**
 * @param {import("../../tim_trio/web/static/tim/client.js").Client} client
 * @param {() => ScriptedSocket} socket
 * @param {object} [answer]
 * @param {object} [options]
 */
async function subscribed(client, socket, answer = {}, options = {}) {
  const asked = client.subscribe(NAME, options);
  await settle();
  answerSubscribe(socket(), answer);
  return asked;
}

/**
 * @param {ScriptedSocket} socket
 * @param {object} [answer]
 */
function answerSubscribe(socket, answer = {}) {
  const fields = { room: ROOM, mode: 0, gatherMs: 0, sources: [], path: ["n"], ...answer };
  socket.say(messages.SubscribeAnswer, fields, socket.last("SUBSCRIBE").id);
}

/**
 * @param {ScriptedSocket} socket
 * @param {object} [answer]
 */
function answerPublish(socket, answer = {}) {
  const fields = {
    room: ROOM, source: 7, mode: 0, received: 0, credit: UNLIMITED, tracks: [], ...answer,
  };
  socket.say(messages.PublishAnswer, fields, socket.last("PUBLISH").id);
}

/**
 * @param {import("../../tim_trio/web/static/tim/client.js").Client} client
 * @param {() => ScriptedSocket} socket
 * @param {object} [answer]
 */
async function published(client, socket, answer = {}) {
  const asked = client.publish(NAME);
  await settle();
  answerPublish(socket(), answer);
  return asked;
}

/** @param {any} item */
function brief(item) {
  if (item.kind === "frame") return item.seq;
  if (item.kind === "gap") return `gap ${item.firstSeq}-${item.lastSeq} ${item.reason}`;
  return item.kind;
}

test("what an invalid frame from the server leads to", async () => {
  for (const vector of vectors("invalid").filter(({ receiver }) => receiver === "client")) {
    const { client, socket } = await connected({ reconnect: false });
    // Something that the vector may be the answer to.
    const bytes = bytesOf(vector);
    const number = bytes.length < 12 ? 1 : new DataView(bytes.buffer).getUint32(8);
    const type = bytes[4] ?? 0;
    const kind = messages.MESSAGES.get(type === 0x80 ? 0x94 : type);
    const connection = /** @type {any} */ (client)._session.connection;
    let asked;
    if (kind && type >= 0x80) {
      connection._lastNumber = number - 1;
      asked = connection.request(messages.GetRoomInfo, { room: ROOM }, kind);
      asked.catch(() => {});
    }
    socket().sayBytes(bytes);
    const { expect } = vector;
    if (expect.ignored) {
      assert.equal(client.error, null, vector.name);
    } else {
      assert.ok(client.error instanceof ConnectionClosed, vector.name);
      if (expect.close) {
        const code = /** @type {any} */ (Code)[expect.close];
        assert.equal(client.error.code, code, vector.name);
        assert.equal(socket().last("CLOSE").fields.code, code);
        assert.equal(socket().closes[0], code + 3000);
      }
    }
    client.close();
  }
});

test("a text message breaks the protocol", async () => {
  const { client, socket } = await connected();
  socket().onmessage({ data: "hello" });
  assert.equal(socket().last("CLOSE").fields.code, Code.protocol_error);
  assert.ok(client.error instanceof ConnectionClosed);
});

test("who does not answer as a server does", async () => {
  const dial = (/** @type {(socket: any) => void} */ play) => () => {
    const socket = new ScriptedSocket();
    socket.greets = false;
    setTimeout(() => play(socket));
    return /** @type {any} */ (socket);
  };
  const bounds = { handshakeTimeoutMs: 30 };
  const to = (/** @type {any} */ play) =>
    connect("ws://test", { account: "alice", dial: dial(play), bounds });
  await assert.rejects(to((/** @type {any} */ s) => s.lose()), ConnectFailed);
  await assert.rejects(to(() => {}), ConnectFailed);
  await assert.rejects(
    to((/** @type {any} */ s) => s.say(messages.Close, {
      code: Code.overloaded, retry: true, retryAfterMs: 5, text: "full",
    })), (error) => error instanceof ConnectionClosed && error.code === Code.overloaded);
});

test("greet says how to sign in", async () => {
  const dial = () => /** @type {any} */ (new ScriptedSocket({ authMode: 1 }));
  assert.equal((await greet("ws://test", { dial })).authMode, 1);
});

test("requests: answers out of order, refusals, timeouts", async () => {
  const { client, socket } = await connected({ bounds: { requestTimeoutMs: 20 } });
  const first = client.registerRoom();
  const second = client.grant(NAME, "bob");
  await settle();
  socket().say(messages.GrantAnswer, {}, socket().last("GRANT").id);
  await second;
  socket().say(messages.ErrorAnswer, {
    requestType: 0x10, code: Code.too_many_rooms, retry: false, retryAfterMs: 0, text: "",
  }, socket().last("REGISTER_ROOM").id);
  await assert.rejects(first, (error) =>
    error instanceof RoomError && error.code === Code.too_many_rooms && !error.retryable
    && error.message === "too many rooms");
  await assert.rejects(client.roomInfo(NAME), RequestTimedOut);
  await assert.rejects(client.roomInfo("nonsense"), /is not a room id/);
  client.close();
});

test("a request's time does not run while the browser still holds it", async () => {
  const { client, socket } = await connected({ bounds: { requestTimeoutMs: 20 } });
  socket().bufferedAmount = 1000;
  const asked = client.roomInfo(NAME);
  let done = false;
  asked.catch(() => {}).finally(() => { done = true; });
  await new Promise((resolve) => setTimeout(resolve, 70));
  assert.equal(done, false);
  socket().bufferedAmount = 0;
  await assert.rejects(asked, RequestTimedOut);
  client.close();
});

test("a subscription that comes too late is taken back", async () => {
  const { client, socket } = await connected({ bounds: { requestTimeoutMs: 10 } });
  await assert.rejects(client.subscribe(NAME), RequestTimedOut);
  answerSubscribe(socket());
  assert.equal(socket().last("UNSUBSCRIBE").fields.room, ROOM);
  await assert.rejects(client.publish(NAME), RequestTimedOut);
  answerPublish(socket());
  assert.equal(socket().last("UNPUBLISH").fields.source, 7);
  client.close();
});

test("a ping is answered, and a silent server given up", async () => {
  const { client, socket } = await connected({ reconnect: false }, { pingIntervalMs: 10 });
  socket().say(messages.Ping, { stamp: 2n ** 63n }, 77);
  assert.deepEqual(socket().last("PONG"), { name: "PONG", id: 77, fields: { stamp: 2n ** 63n } });
  await new Promise((resolve) => setTimeout(resolve, 100));
  socket().last("PING");
  assert.match(String(client.error), /silent/);
});

test("frames in the message of the answer find their subscription", async () => {
  const { client, socket } = await connected();
  const asked = client.subscribe(NAME);
  await settle();
  const answer = messages.encode(messages.SubscribeAnswer, {
    room: ROOM, mode: 0, gatherMs: 0, sources: [], path: [],
  }, socket().last("SUBSCRIBE").id);
  const data = new Uint8Array([...answer, ...frame(0, { flags: Flag.key }), ...frame(1)]);
  socket().sayBytes(data);
  const stream = await asked;
  assert.deepEqual([stream.takeNow(), stream.takeNow()].map(brief), [0, 1]);
  assert.equal(stream.takeNow(), undefined);
  client.close();
});

test("a room's end ends the loop: by its creator quietly, else with the reason", async () => {
  for (const reason of [1, 2]) {
    const { client, socket } = await connected();
    const stream = await subscribed(client, socket);
    socket().sayBytes(frame(0));
    socket().say(messages.RoomClosedEvent, { room: ROOM, reason, text: "" });
    const seen = /** @type {unknown[]} */ ([]);
    const loop = (async () => {
      for await (const item of stream) seen.push(brief(item));
    })();
    if (reason === 1) await loop;
    else await assert.rejects(loop, RoomClosed);
    assert.deepEqual(seen, [0]);
    client.close();
  }
});

test("unsubscribing drops what is queued and what is late", async () => {
  const { client, socket } = await connected();
  const stream = await subscribed(client, socket);
  socket().sayBytes(frame(0));
  stream.unsubscribe();
  socket().sayBytes(frame(1));
  assert.equal(await stream.next(), null);
  assert.equal(socket().last("UNSUBSCRIBE").fields.room, ROOM);
  client.close();
});

test("what nobody takes of a live room is bounded, and a gap says what was dropped", async () => {
  const { client, socket } = await connected({ bounds: { receiveBufferBytes: 4000 } });
  const stream = await subscribed(client, socket);
  const payload = new Uint8Array(400);
  socket().sayBytes(frame(0, { flags: Flag.init, payload: new Uint8Array(8) }));
  socket().sayBytes(frame(1, { flags: Flag.key, payload }));
  for (let seq = 2; seq < 9; seq++) socket().sayBytes(frame(seq, { payload }));
  assert.equal(stream.takeNow(), undefined, "dropped, up to the next KEY");
  socket().sayBytes(frame(9, { payload }));
  socket().sayBytes(frame(10, { flags: Flag.key, payload }));
  socket().sayBytes(frame(11, { payload }));
  const items = /** @type {any[]} */ ([]);
  for (let item = stream.takeNow(); item; item = stream.takeNow()) items.push(brief(item));
  assert.deepEqual(items, [`gap 0-9 ${NOT_TAKEN}`, 0, 10, 11]);
  client.close();
});

test("END and a source's leaving are never dropped", async () => {
  const { client, socket } = await connected({ bounds: { receiveBufferBytes: 3000 } });
  const stream = await subscribed(client, socket);
  const payload = new Uint8Array(1000);
  for (let seq = 0; seq < 4; seq++) {
    socket().sayBytes(frame(seq, { payload, flags: seq ? 0 : Flag.key }));
    socket().sayBytes(frame(seq, { payload, track: 1, flags: seq ? 0 : Flag.key }));
  }
  socket().sayBytes(frame(4, { flags: Flag.end }));
  socket().say(messages.SourceLeft, { room: ROOM, source: 7, reason: 1 });
  const items = /** @type {any[]} */ ([]);
  for (let item = stream.takeNow(); item; item = stream.takeNow()) items.push(item);
  const of = (/** @type {number} */ track) =>
    items.filter((item) => "track" in item && item.track === track).map(brief);
  assert.equal(of(0).at(-1), 4);
  assert.match(String(of(0).at(-2)), /^gap \d-3 257$/);
  assert.match(String(of(1).at(-1)), /^gap \d-3 257$/);
  assert.equal(brief(items.at(-1)), "left");
  client.close();
});

test("after a loss the subscription goes on, and gaps say what was missed", async () => {
  const { client, sockets, socket } = await connected();
  const stream = await subscribed(client, socket, {
    sources: [{ source: 7, account: "bob", left: false, tracks: [] }],
  });
  for (const seq of [0, 1, 2]) socket().sayBytes(frame(seq, { flags: seq ? 0 : Flag.key }));
  sockets[0]?.lose();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(sockets.length, 2);
  const tracks = [{ track: 0, state: 10, lastSeq: 6 }];
  answerSubscribe(socket(), { sources: [
    { source: 7, account: "bob", left: false, tracks },
    { source: 8, account: "eve", left: false, tracks: [] },
  ] });
  await settle();
  socket().sayBytes(frame(1));
  socket().sayBytes(frame(5, { flags: Flag.key }));
  socket().sayBytes(frame(6));
  const items = /** @type {any[]} */ ([]);
  for (let item = stream.takeNow(); item; item = stream.takeNow()) items.push(brief(item));
  assert.deepEqual(
    items, [0, 1, 2, "reconnecting", "reconnected", "joined", `gap 3-4 ${WHILE_AWAY}`, 5, 6]);
  client.close();
});

test("a refusal after a loss ends the subscription", async () => {
  const { client, sockets, socket } = await connected();
  const stream = await subscribed(client, socket);
  sockets[0]?.lose();
  await new Promise((resolve) => setTimeout(resolve, 20));
  socket().say(messages.ErrorAnswer, {
    requestType: 0x14, code: Code.no_such_room, retry: false, retryAfterMs: 0, text: "",
  }, socket().last("SUBSCRIBE").id);
  await stream.next();
  await assert.rejects(stream.next(), RoomError);
  assert.equal(client.isOver, false);
  client.close();
});

test("a live source goes on by its token: INIT again if it was lost, then from a KEY", async () => {
  const { client, sockets, socket } = await connected();
  const source = await published(client, socket);
  const token = socket().last("PUBLISH").fields.token;
  source.sendNow(new Uint8Array([1]), { init: true });
  assert.equal(source.sendNow(new Uint8Array([2]), { key: true }), 1);
  assert.equal(source.sendNow(new Uint8Array([3])), 2);
  sockets[0]?.lose();
  assert.equal(source.sendNow(new Uint8Array([4])), -1, "away: dropped without a number");
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(socket().last("PUBLISH").fields.token, token);
  answerPublish(socket(), { received: 100, tracks: [{ track: 0, state: 6, lastSeq: 1 }] });
  await settle();
  assert.equal(source.sendNow(new Uint8Array([5])), -1, "nothing a decoder could use");
  assert.equal(source.needsKey(), true);
  assert.equal(source.sendNow(new Uint8Array([6]), { key: true }), 3);
  const frames = socket().sent.filter(({ name }) => name === "STREAM").map(({ fields }) => fields.seq);
  assert.deepEqual(frames, [3]);
  // Another source number: the server had forgotten it. Everything begins anew.
  sockets[1]?.lose();
  await new Promise((resolve) => setTimeout(resolve, 20));
  answerPublish(socket(), { source: 9 });
  await settle();
  assert.equal(source.sendNow(new Uint8Array([7]), { key: true }), 1);
  const again = socket().sent.filter(({ name }) => name === "STREAM").map(({ fields }) => fields);
  assert.deepEqual(again.map(({ seq, source: number, flags }) => [seq, number, flags]),
    [[0, 9, Flag.init], [1, 9, Flag.key]]);
  client.close();
});

test("a live source drops up to the next KEY while the network is slow", async () => {
  const { client, socket } = await connected({ bounds: { liveBufferBytes: 1000 } });
  const source = await published(client, socket);
  const send = (/** @type {object} */ options = {}) => source.sendNow(new Uint8Array(10), options);
  assert.equal(send({ key: true }), 0);
  socket().bufferedAmount = 2000;
  assert.equal(source.congested, true);
  assert.equal(send(), -1);
  assert.equal(send({ key: true }), -1, "a KEY does not fit either");
  assert.equal(send({ track: 1, init: true }), 0, "an INIT always goes");
  socket().bufferedAmount = 0;
  assert.equal(send(), -1, "nothing a decoder could use");
  assert.equal(send({ key: true }), 1, "and no number was skipped");
  assert.equal(send(), 2);
  assert.equal(source.droppedFrames, 3);
  client.close();
});

test("a reliable source waits for credit, and sends again what was lost", async () => {
  const { client, sockets, socket } = await connected();
  const source = await published(client, socket, { mode: 1, credit: 200 });
  const seqs = () => socket().sent.filter(({ name }) => name === "STREAM").map((s) => s.fields.seq);
  for (let seq = 0; seq < 5; seq++) assert.equal(await source.send(new Uint8Array(4)), seq);
  let sixth = false;
  const waiting = source.send(new Uint8Array(4)).then(() => { sixth = true; });
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.equal(sixth, false);
  socket().say(messages.Credit, { room: ROOM, source: 7, limit: 240 });
  await waiting;
  assert.deepEqual(seqs(), [0, 1, 2, 3, 4, 5]);
  sockets[0]?.lose();
  const away = source.send(new Uint8Array(4));
  await new Promise((resolve) => setTimeout(resolve, 20));
  answerPublish(socket(), {
    mode: 1, received: 120, credit: 400, tracks: [{ track: 0, state: 0, lastSeq: 2 }],
  });
  assert.equal(await away, 6);
  assert.deepEqual(seqs(), [3, 4, 5, 6]);
  client.close();
});

test("a reliable source that came back too late is lost", async () => {
  const { client, sockets, socket } = await connected();
  const source = await published(client, socket, { mode: 1 });
  sockets[0]?.lose();
  await new Promise((resolve) => setTimeout(resolve, 20));
  answerPublish(socket(), { mode: 1, source: 8 });
  await settle();
  assert.equal(source.error?.name, "SourceLost");
  assert.equal(socket().last("UNPUBLISH").fields.source, 8);
  client.close();
});

test("credit is granted as frames are taken", async () => {
  const { client, socket } = await connected({ bounds: { receiveBufferBytes: 10_000 } }, {
    backlogBytes: 4000, maxFrameBytes: 3000,
  });
  const stream = await subscribed(client, socket, { mode: 1 });
  assert.equal(socket().last("SUBSCRIBE").fields.credit, 10_000);
  for (let seq = 0; seq < 6; seq++) {
    socket().sayBytes(frame(seq, { payload: new Uint8Array(964) }));
  }
  for (let seq = 0; seq < 4; seq++) stream.takeNow();
  assert.throws(() => socket().last("CREDIT"));
  stream.takeNow();
  assert.equal(socket().last("CREDIT").fields.limit, 15_000);
  client.close();
});

test("revoked, replaced, room closed: the next send says it", async () => {
  for (const [kind, fields, error] of /** @type {any[]} */ ([
    [messages.PushRevoked, { room: ROOM, source: 7, reason: 1 }, SourceRevoked],
    [messages.Replaced, { room: ROOM, source: 7 }, SourceReplaced],
    [messages.RoomClosedEvent, { room: ROOM, reason: 2, text: "" }, RoomClosed],
  ])) {
    const { client, socket } = await connected();
    const source = await published(client, socket);
    let told = /** @type {unknown} */ (undefined);
    source.onOver = (why) => { told = why; };
    socket().say(messages.Viewers, { room: ROOM, viewers: 3 });
    assert.equal(source.viewers, 3);
    socket().say(kind, fields);
    assert.throws(() => source.sendNow(new Uint8Array()), error);
    assert.ok(told instanceof error);
    client.close();
  }
});

test("unpublish waits for its answer, also through a loss", async () => {
  const { client, sockets, socket } = await connected();
  const source = await published(client, socket);
  source.sendNow(new Uint8Array(1), { key: true });
  const done = source.unpublish();
  await settle();
  socket().last("UNPUBLISH");
  sockets[0]?.lose();
  await new Promise((resolve) => setTimeout(resolve, 20));
  answerPublish(socket(), { tracks: [{ track: 0, state: 2, lastSeq: 0 }] });
  await new Promise((resolve) => setTimeout(resolve, 20));
  socket().say(
    messages.UnpublishAnswer, { forwarded: 1, discarded: 0 }, socket().last("UNPUBLISH").id);
  assert.deepEqual(await done, { forwarded: 1, discarded: 0 });
  assert.throws(() => source.sendNow(new Uint8Array()), /unpublished/);
  client.close();
});

test("what says not to come back is final; else the client is told of both", async () => {
  const { client, socket, sockets } = await connected();
  /** @type {string[]} */
  const told = [];
  client.on("reconnecting", () => told.push("reconnecting"));
  client.on("reconnected", () => told.push("reconnected"));
  client.on("over", () => told.push("over"));
  socket().say(messages.Close, {
    code: Code.shutting_down, retry: true, retryAfterMs: 0, text: "",
  });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(told, ["reconnecting", "reconnected"]);
  const waiting = client.subscribe(NAME);
  await settle();
  socket().say(messages.Close, { code: Code.banned, retry: false, retryAfterMs: 0, text: "" });
  await assert.rejects(waiting, (error) =>
    error instanceof ConnectionClosed && error.code === Code.banned);
  assert.equal(sockets.length, 2);
  assert.deepEqual(told, ["reconnecting", "reconnected", "over"]);
  await assert.rejects(client.registerRoom(), ConnectionClosed);
});

test("it does not wait where somebody knows better", async () => {
  const { client, sockets, socket } = await connected({
    random: () => 0.999, bounds: { reconnectForMs: Infinity },
  });
  client.reconnectNow(); // nothing to be done
  socket().lose();
  await settle();
  assert.equal(sockets.length, 1);
  client.reconnectNow();
  await settle();
  assert.equal(sockets.length, 2);
  assert.ok(client.isConnected);
  client.close();
});

test("it gives up in the end", async () => {
  let dials = 0;
  const dial = () => {
    const socket = new ScriptedSocket();
    if (dials++ > 0) {
      socket.greets = false;
      queueMicrotask(() => socket.lose());
    }
    return /** @type {any} */ (socket);
  };
  const client = await connect("ws://test", {
    account: "alice", dial, random: () => 0.05, bounds: { reconnectForMs: 60 },
  });
  const over = new Promise((resolve) => { client.on("over", resolve); });
  /** @type {any} */ (client)._session.connection._socket.lose();
  await over;
  assert.match(String(client.error), /no way back/);
  assert.ok(dials > 1);
});

test("the waits grow at random, and mind the server's advice", () => {
  const backoff = new Backoff(() => 1);
  assert.deepEqual([1, 2, 3].map(() => backoff.next()), [250, 500, 1000]);
  for (let attempt = 0; attempt < 40; attempt++) assert.ok(backoff.next() <= 30_000);
  assert.equal(new Backoff(() => 0).next(700), 700);
});

test("a password is used once; then the session's token", async () => {
  const asked = /** @type {any[]} */ ([]);
  const dial = () => {
    const socket = new ScriptedSocket();
    socket.greets = false;
    const send = socket.send.bind(socket);
    socket.send = (data) => {
      send(data);
      const { name, id, fields } = /** @type {any} */ (socket.sent.at(-1));
      if (name === "HELLO") {
        queueMicrotask(() => socket.say(messages.Welcome, socket._welcome, id));
      }
      if (name !== "AUTHENTICATE") return;
      asked.push([fields.method, new TextDecoder().decode(fields.secret)]);
      queueMicrotask(() => socket.say(messages.AuthenticateAnswer, {
        account: "alice", rights: 2, sessionToken: new TextEncoder().encode("token"), expiresMs: 0,
      }, id));
    };
    return /** @type {any} */ (socket);
  };
  const client = await connect("ws://test", {
    account: "alice", password: "secret words", dial, random: () => 0,
  });
  /** @type {any} */ (client)._session.connection._socket.lose();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(asked, [[1, "secret words"], [2, "token"]]);
  client.close();
});

test("at GO_AWAY everything moves to another connection first", async () => {
  const { client, sockets, socket } = await connected();
  const stream = await subscribed(client, socket, {
    sources: [{ source: 7, account: "alice", left: false, tracks: [] }],
  });
  const source = await published(client, socket);
  source.sendNow(new Uint8Array([0]), { key: true });
  const old = socket();
  old.sayBytes(frame(0, { flags: Flag.key }));
  old.say(messages.GoAway, { reason: 1, address: "", spreadMs: 0 });
  await new Promise((resolve) => setTimeout(resolve, 10));
  const fresh = socket();
  assert.equal(sockets.length, 2);
  const info = {
    room: ROOM, mode: 0, gatherMs: 0, idleTimeoutS: 300, creator: "alice", ageMs: 1, viewers: 1,
    frames: 1, bytes: 1, sources: [], granted: [],
  };
  fresh.say(messages.RoomInfoAnswer, { roomInfo: info }, fresh.last("ROOM_INFO").id);
  await settle();
  const tracks = [{ track: 0, state: 10, lastSeq: 1 }];
  const sources = [{ source: 7, account: "alice", left: false, tracks }];
  answerSubscribe(fresh, { sources });
  fresh.sayBytes(frame(0, { flags: Flag.key }));
  fresh.sayBytes(frame(1));
  await settle();
  old.sayBytes(frame(1));
  old.say(messages.UnsubscribeAnswer, {}, old.last("UNSUBSCRIBE").id);
  await settle();
  fresh.sayBytes(frame(2));
  const items = /** @type {any[]} */ ([]);
  for (let item = stream.takeNow(); item; item = stream.takeNow()) items.push(brief(item));
  assert.deepEqual(items, [0, 1, 2], "no gap, no repeat, and nobody noticed");
  const payload = new Uint8Array([1]);
  assert.equal(source.sendNow(payload), 1, "what comes on the way waits");
  payload[0] = 99;
  old.say(messages.Pong, { stamp: 0n }, old.last("PING").id);
  await settle();
  assert.equal(source.sendNow(new Uint8Array([2])), 2);
  answerPublish(fresh, { tracks: [{ track: 0, state: 2, lastSeq: 0 }] });
  await settle();
  assert.equal(source.sendNow(new Uint8Array([3])), 3);
  assert.equal(source.droppedFrames, 0);
  const streamed = (/** @type {ScriptedSocket} */ at) => at.sent.filter(
    ({ name }) => name === "STREAM").map(({ fields }) => [fields.seq, fields.payload[0]]);
  assert.deepEqual(streamed(old), [[0, 0]]);
  assert.deepEqual(streamed(fresh), [[1, 1], [2, 2], [3, 3]]);
  assert.equal(old.last("CLOSE").fields.code, Code.bye);
  client.close();
});

test("a source that does not arrive drops what has waited, but keeps what is pinned", async () => {
  const { client, sockets, socket } = await connected();
  const source = await published(client, socket);
  source.sendNow(new Uint8Array([0]), { key: true });
  source._pause();
  const most = client.bounds.liveBufferBytes;
  source.sendNow(new Uint8Array(most), {});
  assert.ok(source.congested);
  assert.equal(source.sendNow(new Uint8Array([2])), -1, "as much as a live buffer, no more");
  assert.equal(source.sendNow(new Uint8Array([3]), { init: true }), 2);
  source._lose();
  source._goOn();
  assert.equal(source.droppedFrames, 2);
  assert.equal(source.nextSeq(), 2);
  assert.ok(source.needsKey());
  assert.equal(sockets.length, 1);
  client.close();
});

/** @param {import("../../tim_trio/web/static/tim/client.js").ConnectOptions} [options] */
async function connectedAmongNodes(options = {}) {
  const dialled = /** @type {string[]} */ ([]);
  const sockets = /** @type {ScriptedSocket[]} */ ([]);
  const dead = new Set();
  const dial = (/** @type {string} */ url) => {
    dialled.push(url);
    const socket = new ScriptedSocket();
    if (dead.has(url)) {
      socket.onopen = null;
      Object.defineProperty(socket, "onopen", { set: () => queueMicrotask(() => socket.lose()) });
    } else sockets.push(socket);
    return /** @type {any} */ (socket);
  };
  const client = await connect("wss://home/there", {
    account: "alice", dial, random: () => 0, ...options,
  });
  const addresses = ["wss://n2:1", "ws://n2:2", "tims://n2:3", "wss://n3:1/x", "what", "wss://n4:1"];
  sockets[0]?.say(messages.OtherNodes, { addresses });
  return { client, dialled, sockets, dead };
}

test("a client whose node is gone goes to the others", async () => {
  const { client, dialled, sockets, dead } = await connectedAmongNodes();
  dead.add("wss://home/there").add("wss://n2:1/ws");
  sockets[0]?.lose();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.ok(client.isConnected);
  assert.deepEqual(dialled.slice(1), ["wss://home/there", "wss://n2:1/ws", "wss://n4:1/ws"]);
  // It comes back to where it was last, and knows the way home.
  dead.clear();
  dead.add("wss://n4:1/ws");
  sockets[1]?.lose();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(dialled.slice(4), ["wss://n4:1/ws", "wss://home/there"]);
  client.close();
});

test("a client that is to go away goes where somebody is", async () => {
  const { client, dialled, sockets, dead } = await connectedAmongNodes();
  dead.add("wss://n9:1/ws").add("wss://n2:1/ws");
  sockets[0]?.say(messages.GoAway, { reason: 1, address: "n9:1", spreadMs: 0 });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(dialled.slice(1), ["wss://n9:1/ws", "wss://n2:1/ws", "wss://n4:1/ws"]);
  assert.equal(sockets[0]?.last("CLOSE").fields.code, Code.bye);
  client.close();
});

test("who shuts down is tried last", async () => {
  const { client, dialled, sockets } = await connectedAmongNodes();
  sockets[0]?.say(messages.Close, {
    code: Code.shutting_down, retry: true, retryAfterMs: 0, text: "" });
  await settle(5);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(dialled.slice(1), ["wss://n2:1/ws"]);
  client.close();
});

test("account streams and contacts reach their listeners", async () => {
  const { client, socket } = await connected();
  const told = /** @type {any[]} */ ([]);
  for (const kind of /** @type {const} */ (["accountStream", "contactChanged", "pushAsked",
    "pushGranted"])) {
    client.on(kind, (event) => told.push([kind, event]));
  }
  const quiet = mock.fn();
  client.on("pushGranted", quiet)();
  const payload = new Uint8Array([9]);
  socket().say(messages.AccountStream, { account: "bob", kind: 300, payload });
  socket().say(messages.ContactChanged, { account: "bob", state: 2 });
  socket().say(messages.PushAsked, { room: ROOM, account: "bob", message: "may I" });
  socket().say(messages.PushGranted, { room: ROOM });
  assert.deepEqual(told, [
    ["accountStream", { account: "bob", kind: 300, payload }],
    ["contactChanged", { account: "bob", state: 2 }],
    ["pushAsked", { room: NAME, account: "bob", message: "may I" }],
    ["pushGranted", { room: NAME }],
  ]);
  assert.equal(quiet.mock.callCount(), 0);
  client.close();
});
