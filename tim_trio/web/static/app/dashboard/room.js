// One room: what comes into it, and how far behind each of its subscribers is.

import { Code, RoomError, SubscriberState, subscriberFigures } from "../../tim/index.js";
import { button, copy, h, say, setPhrase } from "../dom.js";
import { t } from "../i18n.js";
import { describe } from "../problems.js";
import { watchLink } from "../watch.js";
import { rate } from "./feed.js";
import { bytesText, countText, durationText, rateText, waitText } from "./format.js";
import { Plot, Sparkline } from "./plot.js";
import { NONE, Table, emptyNote, put } from "./table.js";
import { Tile, tileRow } from "./tile.js";

/** Those furthest behind; a browser has no use for ten thousand rows. */
const MOST_ROWS = 100;
const TREND = 60;
/** In a cluster, where the room is: looked up so often. */
const LOOK_EVERY = 5;

/** @typedef {import("../../tim/messages.js").SubscriberLoad} SubscriberLoad */
/** @typedef {SubscriberLoad & { bytesPerS: number }} SubscriberView */

/**
 * In which state a subscriber is, in one word; in the order in which they matter.
 *
 * @param {SubscriberLoad} load
 */
function stateOf({ state, pendingMs, pendingBytes }) {
  if (state & SubscriberState.lagging) return "lags";
  if (state & SubscriberState.holdsUp) return "holds_up";
  if (state & SubscriberState.waitsForKey) return "starting";
  if (pendingMs > 100 || pendingBytes > 65_536) return "catching_up";
  return "keeps_up";
}

const ORDER = ["keeps_up", "starting", "catching_up", "holds_up", "lags"];

export class RoomDetails {
  /**
   * @param {import("../../tim/index.js").Client} client
   * @param {string} room
   * @param {import("./feed.js").Feed | null} feed null: this is its creator, and no operator
   */
  constructor(client, room, feed) {
    this._client = client;
    this._room = room;
    this._feed = feed;
    this._looks = 0;
    this.isOver = false;
    /** @type {{ clock: number, frames: number, bytes: number } | null} */
    this._before = null;
    /** @type {{ node: string, uptimeMs: number, bytes: Map<number, number> } | null} */
    this._sentBefore = null;
    /** @type {Map<number, Sparkline>} */
    this._trends = new Map();
    this._viewers = new Tile("viewers", t("dash.viewers"), countText);
    this._sources = new Tile("sources", t("dash.publishers"), countText);
    this._rate = new Tile("rate", t("dash.rate"), rateText, { colour: "--plot-in" });
    this._frames = new Tile("frames", t("dash.frames"), countText, { colour: "--plot-in" });
    this._behind = new Tile("behind", t("dash.lagging"), countText, { colour: "--warn", alarms: true });
    this._waiting = new Tile("waiting", t("dash.waiting"), bytesText);
    this._into = new Plot(t("dash.into_room"), [{ label: t("dash.rate"), colour: "--plot-in" }], rateText, 12_500);
    this._queue = new Plot(t("dash.queue"), [{ label: t("dash.queued"), colour: "--warn" }], bytesText, 1000);
    this._about = h("p", { class: "lead summary" });
    this._ranking = h("p", { class: "roles", hidden: true });
    this._node = h("select", { onchange: () => this._choose(this._node.value) });
    this._nodePart = h("label", { class: "row", hidden: true }, h("span", {}, t("dash.at_node")), this._node);
    this._total = h("span", { class: "hint" });
    this._nobody = emptyNote("dash.nobody");
    this._more = h("p", { class: "hint", hidden: true });
    this._problem = h("p", { class: "problem", role: "alert" });
    this._table = new Table(t("dash.subscribers"), [
      { name: "account", label: t("dash.subscriber"), by: (/** @type {SubscriberView} */ row) => row.account, rising: true },
      { name: "state", label: t("dash.state"), by: (row) => ORDER.indexOf(stateOf(row)) * 1e15 + row.pendingBytes },
      { name: "queued", label: t("dash.queued"), by: ({ pendingBytes }) => pendingBytes, class: "number" },
      { name: "trend", label: t("dash.trend"), class: "trend wide" },
      { name: "behind", label: t("dash.behind"), by: ({ pendingMs }) => pendingMs, class: "number" },
      { name: "sent", label: t("dash.sent"), by: ({ bytesPerS }) => bytesPerS, class: "number wide" },
      { name: "lost", label: t("dash.lost_in_all"), by: ({ lost }) => lost, class: "number" },
      { name: "gaps", label: t("dash.gaps"), by: ({ gaps }) => gaps, class: "number wide" },
      { name: "since", label: t("dash.since"), by: ({ ageMs }) => ageMs, class: "number wide" },
    ], ({ number }) => String(number), (row) => this._makeRow(row), "state");
    this.element = h("div", { class: "dashboard" },
      h("div", { class: "row between" },
        h("div", { class: "stack tight" },
          h("a", { href: "#dashboard", class: "back" }, h("span", { "aria-hidden": true }, "← "), h("span", {}, t("dash.back"))),
          h("h1", { class: "room-id" }, room), this._about, this._ranking),
        h("div", { class: "row" },
          button(t("copy_link"), () => copy(watchLink(room))),
          h("a", { class: "button", href: `#watch=${room}` }, t("dash.watch")))),
      this._problem,
      tileRow(this._viewers, this._sources, this._rate, this._frames, this._behind, this._waiting),
      h("div", { class: "plots" }, this._into.element, this._queue.element),
      h("section", { class: "card" },
        h("div", { class: "row between" }, h("h2", {}, t("dash.subscribers")),
          h("div", { class: "row" }, this._nodePart, this._total)),
        this._table.element, this._nobody, this._more));
  }

  /** @param {string} node */
  _choose(node) {
    this._node.value = node;
    this._sentBefore = null;
    this._trends.clear();
    this._table.show([]);
  }

  /** Look once and show it. Throws nothing. */
  async tick() {
    try {
      if (this._feed !== null && this._looks++ % LOOK_EVERY === 0) {
        await this._feed.look();
        this._showNodes(this._feed);
      }
      const [info, answer] = await Promise.all([
        this._client.roomInfo(this._room),
        subscriberFigures(this._client, this._room, this._node.value, MOST_ROWS),
      ]);
      say(this._problem, "");
      this._showRoom(info);
      this._showSubscribers(answer);
    } catch (error) {
      const gone = error instanceof RoomError && error.code === Code.no_such_room;
      this.isOver = gone;
      say(this._problem, gone ? t("dash.room_gone") : describe(error));
    }
  }

  /** @param {import("./feed.js").Feed} feed */
  _showNodes(feed) {
    const view = feed.rooms.get(this._room);
    const nodes = view?.presentAt ?? [];
    this._nodePart.hidden = this._ranking.hidden = !feed.isCluster;
    if (!feed.isCluster || view === undefined) return;
    const listed = [...this._node.options].map(({ value }) => value);
    if (listed.join() !== nodes.join()) {
      const chosen = this._node.value;
      this._node.replaceChildren(...nodes.map((name) => h("option", { value: name }, name)));
      this._node.value = nodes.includes(chosen) ? chosen
        : view.ranking.find((name) => nodes.includes(name)) ?? nodes[0] ?? "";
    }
    this._ranking.replaceChildren(...view.ranking.map((name, at) => h("span", { class: "role" },
      h("span", { class: "hint" }, t(`dash.role_${at}`)), h("b", {}, name))));
  }

  /** @param {Awaited<ReturnType<import("../../tim/index.js").Client["roomInfo"]>>} info */
  _showRoom(info) {
    const { ageMs: clock, frames, bytes } = info;
    const before = this._before;
    const seconds = before === null ? 0 : (clock - before.clock) / 1000;
    const bytesPerS = rate(bytes, before?.bytes, seconds);
    this._before = { clock, frames, bytes };
    this._viewers.push(info.viewers);
    this._sources.push(info.sources.filter(({ left }) => !left).length);
    this._rate.push(bytesPerS);
    this._frames.push(rate(frames, before?.frames, seconds));
    this._into.push(bytesPerS);
    say(this._about, `${info.creator} · ${durationText(clock)} · ${bytesText(bytes)}`);
  }

  /** @param {Awaited<ReturnType<typeof subscriberFigures>>} answer */
  _showSubscribers({ node, uptimeMs, total, behind, subscribers }) {
    const before = this._sentBefore?.node === node ? this._sentBefore : null;
    const seconds = before === null ? 0 : (uptimeMs - before.uptimeMs) / 1000;
    const rows = subscribers.map((load) => ({
      ...load, bytesPerS: rate(load.bytes, before?.bytes.get(load.number), seconds),
    }));
    const bytes = new Map(subscribers.map((load) => [load.number, load.bytes]));
    this._sentBefore = { node, uptimeMs, bytes };
    const here = new Set(bytes.keys());
    for (const number of this._trends.keys()) if (!here.has(number)) this._trends.delete(number);
    for (const { number, pendingBytes } of rows) this._trendOf(number).push(pendingBytes);
    this._most = Math.max(1, ...rows.map(({ pendingBytes }) => pendingBytes));
    this._table.show(rows);
    const waiting = rows.reduce((sum, { pendingBytes }) => sum + pendingBytes, 0);
    this._behind.push(rows.filter((row) => stateOf(row) === "lags").length);
    this._waiting.push(waiting);
    this._queue.push(waiting);
    setPhrase(this._total, "", t("dash.of_total", { behind, total }));
    this._nobody.hidden = total > 0;
    this._table.element.hidden = rows.length === 0;
    this._more.hidden = total <= rows.length;
    setPhrase(this._more, "", t("dash.and_more", { count: total - rows.length }));
  }

  /** @param {number} number */
  _trendOf(number) {
    let trend = this._trends.get(number);
    if (trend === undefined) this._trends.set(number, (trend = new Sparkline("--warn", TREND)));
    return trend;
  }

  /** @param {SubscriberView} row */
  _makeRow(row) {
    const isNode = (row.state & SubscriberState.node) !== 0;
    const state = h("span", { class: "badge" });
    const cells = {
      queued: h("td", { class: "number" }), behind: h("td", { class: "number" }),
      sent: h("td", { class: "number wide" }), lost: h("td", { class: "number" }),
      gaps: h("td", { class: "number wide" }), since: h("td", { class: "number wide" }),
    };
    const name = isNode
      ? h("span", {}, h("span", { class: "hint" }, t("dash.node_link")), " ",
        h("button", { type: "button", class: "plain link-node", onclick: () => this._choose(row.account) }, row.account))
      : h("span", { class: "name" }, row.account);
    const element = h("tr", { "data-subscriber": row.account },
      h("th", { scope: "row" }, name), h("td", {}, state), cells.queued,
      h("td", { class: "trend wide" }, this._trendOf(row.number).element),
      cells.behind, cells.sent, cells.lost, cells.gaps, cells.since);
    return {
      element,
      update: (/** @type {SubscriberView} */ now) => {
        const kind = stateOf(now);
        setPhrase(state, "", t(`dash.${kind}`));
        state.dataset.state = kind;
        put(cells.queued, now.pendingBytes ? bytesText(now.pendingBytes) : NONE);
        put(cells.behind, now.pendingMs ? waitText(now.pendingMs) : NONE);
        put(cells.sent, rateText(now.bytesPerS));
        put(cells.lost, now.lost ? countText(now.lost) : NONE);
        put(cells.gaps, now.gaps ? countText(now.gaps) : NONE);
        put(cells.since, durationText(now.ageMs));
      },
    };
  }
}
