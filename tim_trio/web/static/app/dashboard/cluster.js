// The nodes of a cluster, the links between them, and how often rooms have moved.

import { h, setPhrase } from "../dom.js";
import { t } from "../i18n.js";
import { coreText, countText, rateText } from "./format.js";
import { NONE, Table, put } from "./table.js";

const SVG = "http://www.w3.org/2000/svg";
const SIZE = 320;
const CENTRE = SIZE / 2;
const RADIUS = 104;

/** @typedef {import("./feed.js").NodeView} NodeView */

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 */
function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}

export class ClusterCard {
  constructor() {
    this._map = svg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, class: "link-map", role: "img" });
    this._failovers = h("b", { "data-figure": "failovers" });
    this._here = "";
    this._table = new Table(t("dash.cluster"), [
      { name: "node", label: t("dash.node"), by: (/** @type {NodeView} */ node) => node.name, rising: true },
      { name: "state", label: t("dash.state") },
      { name: "rooms", label: t("dash.rooms"), by: ({ figures }) => figures.get("rooms") ?? 0, class: "number" },
      { name: "connections", label: t("dash.connections"), by: ({ figures }) => figures.get("connections") ?? 0, class: "number" },
      { name: "in", label: t("dash.in"), by: ({ rates }) => rates.bytesIn, class: "number wide" },
      { name: "out", label: t("dash.out"), by: ({ rates }) => rates.bytesOut, class: "number" },
      { name: "cpu", label: t("dash.cpu"), by: ({ rates }) => rates.cpu, class: "number wide" },
      { name: "failovers", label: t("dash.failovers"), by: ({ figures }) => figures.get("failovers") ?? 0, class: "number wide" },
    ], ({ name }) => name, (node) => this._makeRow(node), "node");
    this.element = h("section", { class: "card cluster", hidden: true },
      h("div", { class: "row between" }, h("h2", {}, t("dash.cluster")),
        h("span", { class: "legend-entry" }, h("span", {}, t("dash.failovers")), this._failovers)),
      h("div", { class: "cluster-parts" }, h("div", { class: "map-frame" }), this._table.element));
    this.element.querySelector(".map-frame")?.append(this._map);
  }

  /** @param {import("./feed.js").Feed} feed */
  show(feed) {
    this.element.hidden = !feed.isCluster;
    if (!feed.isCluster) return;
    this._here = feed.here;
    put(this._failovers, countText(feed.sum("failovers")));
    const nodes = [...feed.nodes.values()];
    this._draw(nodes);
    this._table.show(nodes);
  }

  /** @param {NodeView[]} nodes */
  _draw(nodes) {
    const at = new Map(nodes.map(({ name }, index) => {
      const angle = (2 * Math.PI * index) / nodes.length - Math.PI / 2;
      return [name, { x: CENTRE + RADIUS * Math.cos(angle), y: CENTRE + RADIUS * Math.sin(angle) }];
    }));
    const links = new Set();
    const parts = [];
    for (const { name, links: peers } of nodes) {
      for (const peer of peers) {
        const [a, b] = name < peer ? [name, peer] : [peer, name];
        const [from, to] = [at.get(a), at.get(b)];
        if (from === undefined || to === undefined || links.has(`${a} – ${b}`)) continue;
        links.add(`${a} – ${b}`);
        parts.push(svg("line", { x1: from.x, y1: from.y, x2: to.x, y2: to.y, class: "link-line" }));
      }
    }
    const busiest = Math.max(1, ...nodes.map(({ rates }) => rates.bytesOut || 0));
    for (const node of nodes) {
      const { x, y } = at.get(node.name) ?? { x: 0, y: 0 };
      const state = !node.answers ? "silent" : node.draining ? "draining" : "live";
      const circle = svg("circle", {
        cx: x, cy: y, r: 15 + 9 * Math.sqrt((node.rates.bytesOut || 0) / busiest), class: `node ${state}`,
      });
      const label = svg("text", { x, y: y + (y < CENTRE ? -32 : 42), class: "node-name" });
      label.textContent = node.name.length > 16 ? `${node.name.slice(0, 15)}…` : node.name;
      parts.push(circle, label);
    }
    this._map.replaceChildren(...parts);
    setPhrase(/** @type {any} */ (this._map), "aria-label", t("dash.link_map", { links: [...links].join(", ") || "–" }));
  }

  /** @param {NodeView} node */
  _makeRow(node) {
    const number = () => h("td", { class: "number" });
    const wide = () => h("td", { class: "number wide" });
    const cells = {
      rooms: number(), connections: number(), in: wide(), out: number(), cpu: wide(),
      failovers: wide(),
    };
    const state = h("span", { class: "badge" });
    const element = h("tr", { "data-node": node.name },
      h("th", { scope: "row" }, h("b", {}, node.name), h("span", { class: "hint address" }, node.address)),
      h("td", {}, state), ...Object.values(cells));
    return {
      element,
      update: (/** @type {NodeView} */ now) => {
        const figure = (/** @type {string} */ name) =>
          (now.answers ? countText(now.figures.get(name) ?? 0) : NONE);
        const kind = !now.answers ? "silent" : now.draining ? "draining"
          : now.name === this._here ? "here" : "live";
        setPhrase(state, "", t(`dash.node_${kind}`));
        state.dataset.state = kind;
        put(cells.rooms, figure("rooms"));
        put(cells.connections, figure("connections"));
        put(cells.in, now.answers ? rateText(now.rates.bytesIn) : NONE);
        put(cells.out, now.answers ? rateText(now.rates.bytesOut) : NONE);
        put(cells.cpu, now.answers ? coreText(now.rates.cpu) : NONE);
        put(cells.failovers, figure("failovers"));
      },
    };
  }
}
