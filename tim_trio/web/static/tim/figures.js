// What operators see of a server: its figures, its rooms' and a room's subscribers'.
//
// Source: protocol.md, section 7.

import {
  NodeFigures, NodeFiguresAnswer, RoomFigures, RoomFiguresAnswer, SubscriberFigures,
  SubscriberFiguresAnswer,
} from "./messages.js";
import { formatRoomId, roomNumber } from "./room_ids.js";

/** @typedef {import("./client.js").Client} Client */

/** Rooms asked for at a time: the server spends a moment on each. */
const PAGE = 500;

/**
 * A node's own figures, by name.
 *
 * `uptimeMs` is the node's clock: divide differences of two answers by that of theirs.
 *
 * @param {Client} client
 * @param {string} [node] another one of the cluster
 */
export async function nodeFigures(client, node = "") {
  const answer = await client.request(NodeFigures, { node }, NodeFiguresAnswer);
  const figures = new Map(answer.figures.map(({ name, value }) => [name, value]));
  return { ...answer, figures };
}

/**
 * Those of the rooms that are present at a node, in order of their ids.
 *
 * @param {Client} client
 * @param {string} [node] another one of the cluster
 * @param {object} [options]
 * @param {number} [options.most] rooms; `more` then says that there are others
 */
export async function roomFigures(client, node = "", { most = Infinity } = {}) {
  const rooms = [];
  for (let after = 0n; ; ) {
    const limit = Math.min(PAGE, most - rooms.length);
    const answer = await client.request(RoomFigures, { node, after, limit }, RoomFiguresAnswer);
    for (const load of answer.rooms) {
      rooms.push({ ...load, room: formatRoomId(load.room) });
      after = load.room;
    }
    const { more, uptimeMs } = answer;
    if (!more || !answer.rooms.length || rooms.length >= most) {
      return { node: answer.node, uptimeMs, more, rooms };
    }
  }
}

/**
 * A room's subscribers at a node, those furthest behind first; for its creator too.
 *
 * @param {Client} client
 * @param {string} room
 * @param {string} [node] another one of the cluster
 * @param {number} [limit] 0: as many as the server likes
 */
export async function subscriberFigures(client, room, node = "", limit = 0) {
  const fields = { node, room: roomNumber(room), limit };
  return client.request(SubscriberFigures, fields, SubscriberFiguresAnswer);
}
