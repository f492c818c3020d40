// All rooms: what goes through, who is slow, and which room is the busiest.

import { RoomMode } from "../../tim/index.js";
import { h, setPhrase } from "../dom.js";
import { t } from "../i18n.js";
import { ClusterCard } from "./cluster.js";
import { bytesText, coreText, countText, durationText, rateText } from "./format.js";
import { Plot, Sparkline } from "./plot.js";
import { NONE, Table, emptyNote, put } from "./table.js";
import { Tile, tileRow } from "./tile.js";

/** Rows that are drawn: a browser's patience, not the server's. */
const MOST_ROWS = 200;
const TREND = 60;

/** @typedef {import("./feed.js").RoomView} RoomView */
/** @typedef {import("./feed.js").Feed} Feed */

export class Overview {
  constructor() {
    this._rooms = new Tile("rooms", t("dash.rooms"), countText);
    this._viewers = new Tile("viewers", t("dash.viewers"), countText);
    this._in = new Tile("in", t("dash.in"), rateText, { colour: "--plot-in" });
    this._out = new Tile("out", t("dash.out"), rateText, { colour: "--plot-out" });
    this._lagging = new Tile("lagging", t("dash.lagging"), countText, { colour: "--warn", alarms: true });
    this._lost = new Tile("lost", t("dash.lost"), countText, { colour: "--danger", alarms: true });
    this._cpu = new Tile("cpu", t("dash.cpu"), coreText);
    this._waiting = new Tile("waiting", t("dash.waiting"), bytesText);
    this._traffic = new Plot(t("dash.traffic"), [
      { label: t("dash.out"), colour: "--plot-out" }, { label: t("dash.in"), colour: "--plot-in" },
    ], rateText, 12_500);
    this._trouble = new Plot(t("dash.trouble"), [
      { label: t("dash.lost"), colour: "--danger" }, { label: t("dash.lagging"), colour: "--warn" },
    ], countText, 4);
    this._cluster = new ClusterCard();
    this._summary = h("p", { class: "lead summary" });
    this._find = h("input", {
      type: "search", class: "find", "aria-label": t("dash.find"), placeholder: "", autocomplete: "off",
      spellcheck: false, oninput: () => this._showRooms(),
    });
    setPhrase(this._find, "placeholder", t("dash.find"));
    this._none = emptyNote("dash.no_rooms");
    this._unmatched = emptyNote("dash.none_found");
    this._more = h("p", { class: "hint", hidden: true }, t("dash.more_rooms", { count: MOST_ROWS }));
    /** @type {Map<string, Sparkline>} */
    this._trends = new Map();
    /** @type {Feed | null} */
    this._feed = null;
    this._table = new Table(t("dash.rooms"), [
      { name: "room", label: t("dash.room"), by: (/** @type {RoomView} */ row) => row.room, rising: true },
      { name: "creator", label: t("dash.creator"), by: ({ creator }) => creator, rising: true, class: "wide" },
      { name: "mode", label: t("dash.mode"), by: ({ mode }) => mode, class: "wider" },
      { name: "ranking", label: t("dash.ranking"), class: "ranking" },
      { name: "sources", label: t("dash.publishers"), by: ({ sources }) => sources, class: "number wide" },
      { name: "viewers", label: t("dash.viewers"), by: ({ viewers }) => viewers, class: "number" },
      { name: "rate", label: t("dash.rate"), by: ({ bytesPerS }) => Math.round(bytesPerS / 2000), class: "number" },
      { name: "trend", label: t("dash.trend"), class: "trend wider" },
      { name: "lagging", label: t("dash.lagging"), by: ({ lagging }) => lagging, class: "number" },
      { name: "lost", label: t("dash.lost_in_all"), by: ({ lost }) => lost, class: "number wide" },
    ], ({ room }) => room, (row) => this._makeRow(row), "rate");
    this.element = h("div", { class: "dashboard" },
      h("div", { class: "row between" }, h("h1", {}, t("dash.title")), this._summary),
      tileRow(this._rooms, this._viewers, this._in, this._out, this._lagging, this._lost,
        this._waiting, this._cpu),
      h("div", { class: "plots" }, this._traffic.element, this._trouble.element),
      this._cluster.element,
      h("section", { class: "card" },
        h("div", { class: "row between" }, h("h2", {}, t("dash.rooms")), this._find),
        this._table.element, this._none, this._unmatched, this._more));
  }

  /** @param {Feed} feed that has just looked */
  show(feed) {
    this._feed = feed;
    this._rooms.push(feed.rooms.size);
    this._viewers.push(feed.viewers);
    const [bytesIn, bytesOut, lost] = [feed.sumRate("bytesIn"), feed.sumRate("bytesOut"), feed.sumRate("lost")];
    const lagging = feed.sum("lagging");
    this._in.push(bytesIn);
    this._out.push(bytesOut);
    this._lagging.push(lagging);
    this._lost.push(lost);
    this._cpu.push(feed.sumRate("cpu"));
    this._waiting.push(feed.sum("backlog_bytes"));
    this._traffic.push(bytesOut, bytesIn);
    this._trouble.push(lost, lagging);
    const here = feed.nodes.get(feed.here);
    const uptime = durationText(here?.uptimeMs ?? 0);
    setPhrase(this._summary, "", feed.isCluster
      ? t("dash.of_cluster", { count: feed.nodes.size, node: feed.here })
      : t("dash.of_node", { node: feed.here, uptime }));
    this._cluster.show(feed);
    this.element.classList.toggle("many-nodes", feed.isCluster);
    for (const room of this._trends.keys()) if (!feed.rooms.has(room)) this._trends.delete(room);
    for (const { room, bytesPerS } of feed.rooms.values()) this._trendOf(room).push(bytesPerS);
    this._showRooms();
  }

  /** @param {string} room */
  _trendOf(room) {
    let trend = this._trends.get(room);
    if (trend === undefined) this._trends.set(room, (trend = new Sparkline("--plot-in", TREND)));
    return trend;
  }

  _showRooms() {
    const all = [...(this._feed?.rooms.values() ?? [])];
    const sought = this._find.value.trim().toLowerCase();
    const found = all.filter(({ room, creator }) =>
      room.toLowerCase().includes(sought) || creator.toLowerCase().includes(sought));
    // The busiest are drawn, whatever they are sorted by.
    const shown = found.length <= MOST_ROWS ? found
      : found.sort((a, b) => b.lagging - a.lagging || b.bytesPerS - a.bytesPerS).slice(0, MOST_ROWS);
    this._table.show(shown);
    this._none.hidden = all.length > 0;
    this._unmatched.hidden = all.length === 0 || found.length > 0;
    this._more.hidden = shown.length === found.length && !(this._feed?.more ?? false);
    this._table.element.hidden = shown.length === 0;
  }

  /** @param {RoomView} row */
  _makeRow(row) {
    const cells = {
      mode: h("td", { class: "wider" }), ranking: h("td", { class: "ranking" }),
      sources: h("td", { class: "number wide" }), viewers: h("td", { class: "number" }),
      rate: h("td", { class: "number" }), lagging: h("td", { class: "number" }),
      lost: h("td", { class: "number wide" }),
    };
    const element = h("tr", { "data-room": row.room },
      h("th", { scope: "row" }, h("a", { href: `#dashboard=${row.room}`, class: "room-id" }, row.room)),
      h("td", { class: "wide name", title: row.creator }, row.creator), cells.mode, cells.ranking, cells.sources,
      cells.viewers, cells.rate, h("td", { class: "trend wider" }, this._trendOf(row.room).element),
      cells.lagging, cells.lost);
    setPhrase(cells.mode, "", t(row.mode === RoomMode.live ? "dash.mode_live" : "dash.mode_reliable"));
    return {
      element,
      update: (/** @type {RoomView} */ now) => {
        put(cells.sources, countText(now.sources));
        put(cells.viewers, countText(now.viewers));
        put(cells.rate, rateText(now.bytesPerS));
        put(cells.lagging, now.lagging ? countText(now.lagging) : NONE);
        put(cells.lost, now.lost ? countText(now.lost) : NONE);
        put(cells.ranking, now.ranking.join(" → "));
        cells.lagging.classList.toggle("alarm", now.lagging > 0);
      },
    };
  }
}
