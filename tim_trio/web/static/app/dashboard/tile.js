// A number with its name and how it went.

import { h, say } from "../dom.js";
import { Sparkline } from "./plot.js";

/** One number that matters. */
export class Tile {
  /**
   * @param {string} name for tests and styles
   * @param {import("../i18n.js").Phrase} label
   * @param {(value: number) => string} format
   * @param {{ colour?: string, alarms?: boolean }} [options] `alarms`: above 0 something is wrong
   */
  constructor(name, label, format, { colour = "--accent", alarms = false } = {}) {
    this._format = format;
    this._alarms = alarms;
    this._value = h("span", { class: "value", "data-figure": name }, "–");
    this._line = new Sparkline(colour, 60);
    this.element = h("div", { class: "tile-figure" }, h("dt", {}, label),
      h("dd", {}, this._value, this._line.element));
  }

  /** @param {number} value */
  push(value) {
    say(this._value, Number.isNaN(value) ? "–" : this._format(value));
    this.element.classList.toggle("alarm", this._alarms && value > 0);
    this._line.push(value);
  }
}

/** @param {Tile[]} tiles */
export function tileRow(...tiles) {
  const six = tiles.length === 6 ? " six" : "";
  return h("dl", { class: `tiles${six}` }, ...tiles.map(({ element }) => element));
}
