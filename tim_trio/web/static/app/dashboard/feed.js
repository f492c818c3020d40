// What the dashboard shows: asks the nodes once a second, and makes rates of counters.

import { NodeState, nodeFigures, roomFigures } from "../../tim/index.js";

/** Rooms asked for per node; a node with more shows those, and says so. */
const MOST_ROOMS = 1000;
const INTERVAL_MS = 1000;

/** @typedef {import("../../tim/index.js").Client} Client */

/**
 * A node as it is now.
 *
 * @typedef {object} NodeView
 * @property {string} name
 * @property {string} address
 * @property {boolean} draining
 * @property {boolean} answers
 * @property {string[]} links names of nodes it has links to
 * @property {number} uptimeMs
 * @property {Map<string, number>} figures
 * @property {Rates} rates
 */

/**
 * What goes through, per second.
 *
 * @typedef {{ bytesIn: number, bytesOut: number, lost: number, cpu: number }} Rates
 */

/**
 * A room as it is now, on all nodes together.
 *
 * @typedef {object} RoomView
 * @property {string} room
 * @property {string} creator
 * @property {number} mode
 * @property {number} viewers
 * @property {number} sources
 * @property {number} bytesPerS
 * @property {number} framesPerS
 * @property {number} lagging
 * @property {number} lost
 * @property {number} gaps
 * @property {string[]} ranking the relay and its backups
 * @property {string[]} presentAt
 */

/**
 * How much a counter has risen, per second; NaN where that is not known yet.
 *
 * @param {number} now
 * @param {number | undefined} before
 * @param {number} seconds
 */
export function rate(now, before, seconds) {
  return before === undefined || seconds <= 0 ? NaN : Math.max(0, now - before) / seconds;
}

/** All nodes' figures, and what has become of them since the last look. */
export class Feed {
  /** @param {Client} client */
  constructor(client) {
    this._client = client;
    /** @type {Map<string, NodeView>} */
    this.nodes = new Map();
    /** @type {Map<string, RoomView>} */
    this.rooms = new Map();
    /** The node that we are connected to. */
    this.here = "";
    /** There are more rooms than are shown. */
    this.more = false;
    /** Rooms' counters at the last look, by node and room. @type {Map<string, { uptimeMs: number, frames: number, bytes: number }>} */
    this._counted = new Map();
  }

  get isCluster() {
    return this.nodes.size > 1;
  }

  /** Look once. Throws what the nearest node's answers threw. */
  async look() {
    const first = await nodeFigures(this._client);
    this.here = first.node;
    const names = first.nodes.map(({ node }) => node);
    const others = names.filter((name) => name !== first.node);
    // One that does not answer is shown as that, and keeps nobody waiting for long.
    const [own, ...rest] = await Promise.all([
      roomFigures(this._client, "", { most: MOST_ROOMS }),
      ...others.map((name) => this._lookAt(name).catch(() => null)),
    ]);
    /** @type {Map<string, NodeView>} */
    const nodes = new Map();
    this._note(nodes, first, first.nodes);
    for (const answer of rest) {
      if (answer !== null) this._note(nodes, answer.node, first.nodes);
    }
    for (const entry of first.nodes) {
      if (!nodes.has(entry.node)) nodes.set(entry.node, silent(entry));
    }
    this.nodes = new Map([...nodes].sort(([a], [b]) => (a < b ? -1 : 1)));
    this._merge([own, ...rest.flatMap((answer) => (answer === null ? [] : [answer.rooms]))]);
  }

  /** @param {string} name */
  async _lookAt(name) {
    const [node, rooms] = await Promise.all([
      nodeFigures(this._client, name), roomFigures(this._client, name, { most: MOST_ROOMS }),
    ]);
    return { node, rooms };
  }

  /**
   * @param {Map<string, NodeView>} nodes
   * @param {Awaited<ReturnType<typeof nodeFigures>>} answer
   * @param {import("../../tim/messages.js").NodeEntry[]} members
   */
  _note(nodes, answer, members) {
    const before = this.nodes.get(answer.node);
    const entry = members.find(({ node }) => node === answer.node);
    const { figures, uptimeMs } = answer;
    // One that was started again counts from 0.
    const known = before !== undefined && before.answers && before.uptimeMs < uptimeMs;
    const seconds = known ? (uptimeMs - before.uptimeMs) / 1000 : 0;
    const of = (/** @type {string} */ name) =>
      rate(figures.get(name) ?? 0, before?.figures.get(name), seconds);
    nodes.set(answer.node, {
      name: answer.node,
      address: entry?.address ?? "",
      draining: ((entry?.state ?? 0) & NodeState.draining) !== 0,
      answers: true,
      links: answer.nodes.filter(({ state }) => state & NodeState.linked).map(({ node }) => node),
      uptimeMs,
      figures,
      rates: {
        bytesIn: of("bytes_in"),
        bytesOut: Math.max(0, of("bytes_out") - of("lost_bytes")),
        lost: of("lost"),
        cpu: of("cpu_ms") / 1000,
      },
    });
  }

  /** @param {Awaited<ReturnType<typeof roomFigures>>[]} answers of one node each */
  _merge(answers) {
    /** @type {Map<string, RoomView>} */
    const rooms = new Map();
    /** @type {typeof this._counted} */
    const counted = new Map();
    for (const { node, uptimeMs, rooms: loads } of answers) {
      for (const load of loads) {
        const key = `${node} ${load.room}`;
        const before = this._counted.get(key);
        const seconds = before === undefined ? 0 : (uptimeMs - before.uptimeMs) / 1000;
        counted.set(key, { uptimeMs, frames: load.frames, bytes: load.bytes });
        const one = {
          room: load.room, creator: load.creator, mode: load.mode, viewers: load.viewers,
          sources: load.sources, ranking: load.nodes, presentAt: [node],
          bytesPerS: rate(load.bytes, before?.bytes, seconds),
          framesPerS: rate(load.frames, before?.frames, seconds),
          lagging: load.lagging, lost: load.lost, gaps: load.gaps,
        };
        const all = rooms.get(load.room);
        if (all === undefined) {
          rooms.set(load.room, one);
          continue;
        }
        // The same frames come to each of its nodes; who lags does so at one.
        for (const name of /** @type {const} */ (["viewers", "sources", "bytesPerS", "framesPerS"])) {
          if (!(all[name] >= one[name])) all[name] = Number.isNaN(one[name]) ? all[name] : one[name];
        }
        for (const name of /** @type {const} */ (["lagging", "lost", "gaps"])) all[name] += one[name];
        all.presentAt.push(node);
      }
    }
    this.rooms = rooms;
    this.more = answers.some(({ more }) => more);
    this._counted = counted;
  }

  /**
   * A figure of all nodes that answer, added up.
   *
   * @param {string} name
   */
  sum(name) {
    let sum = 0;
    for (const { figures } of this.nodes.values()) sum += figures.get(name) ?? 0;
    return sum;
  }

  /**
   * Of the nodes whose rates are known; NaN where none is.
   *
   * @param {keyof Rates} name
   */
  sumRate(name) {
    const known = [...this.nodes.values()].map(({ rates }) => rates[name]).filter((each) => each >= 0);
    return known.length === 0 ? NaN : known.reduce((sum, each) => sum + each);
  }

  /** Of all rooms, each counted once. */
  get viewers() {
    let sum = 0;
    for (const { viewers } of this.rooms.values()) sum += viewers;
    return sum;
  }
}

/**
 * @param {import("../../tim/messages.js").NodeEntry} entry
 * @returns {NodeView}
 */
function silent({ node, address, state }) {
  return {
    name: node, address, draining: (state & NodeState.draining) !== 0, answers: false, links: [],
    uptimeMs: 0, figures: new Map(), rates: { bytesIn: 0, bytesOut: 0, lost: 0, cpu: 0 },
  };
}

/** Does something once a second while it is wanted and the page is seen. */
export class Ticker {
  /** @param {() => Promise<void>} tick it throws nothing */
  constructor(tick) {
    this._tick = tick;
    this._generation = 0;
  }

  start() {
    const mine = ++this._generation;
    const run = async () => {
      while (mine === this._generation) {
        const began = performance.now();
        if (!document.hidden) await this._tick();
        const left = INTERVAL_MS - (performance.now() - began);
        await new Promise((resolve) => setTimeout(resolve, Math.max(50, left)));
      }
    };
    void run();
  }

  stop() {
    this._generation += 1;
  }
}
