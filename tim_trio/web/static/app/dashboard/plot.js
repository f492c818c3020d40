// Plots over time, drawn on a canvas: lines with an axis, and small ones without.

import { h, say, setPhrase } from "../dom.js";
import { t } from "../i18n.js";

/** Moments that are kept and drawn, one a second. */
export const LENGTH = 120;

const LEFT = 8;
const RIGHT = 84;
const TOP = 10;
const BOTTOM = 22;

/**
 * One line of a plot.
 *
 * @typedef {object} Line
 * @property {import("../i18n.js").Phrase} label
 * @property {string} colour name of a CSS variable
 */

/** Numbers of the last moments, oldest first; NaN where there was none. */
export class Series {
  /** @param {number} [length] */
  constructor(length = LENGTH) {
    this.length = length;
    /** @type {number[]} */
    this.values = [];
  }

  /** @param {number} value */
  push(value) {
    this.values.push(value);
    if (this.values.length > this.length) this.values.shift();
  }

  get last() {
    return this.values.at(-1) ?? NaN;
  }

  get largest() {
    let largest = 0;
    for (const value of this.values) if (value > largest) largest = value;
    return largest;
  }
}

/**
 * How many moments are shown: so few at first that there is something to see.
 *
 * @param {number} count that there are
 * @param {number} most
 */
function windowOf(count, most) {
  return [30, 60, LENGTH].find((each) => each >= count && each <= most) ?? most;
}

/** @param {string} name */
function colourOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/**
 * Make the canvas as sharp as the screen is; return what to draw with, in CSS pixels.
 *
 * @param {HTMLCanvasElement} canvas
 */
function prepare(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/**
 * A round number at or above the largest value, which halves stay round.
 *
 * @param {number} largest
 */
export function niceTop(largest) {
  if (!(largest > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(largest));
  for (const factor of [1, 2, 4, 6, 8, 10]) {
    if (factor * power >= largest) return factor * power;
  }
  return 10 * power;
}

/**
 * Draw one line, newest value at the right edge. Colours are #rrggbb.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {readonly number[]} values
 * @param {{ left: number, top: number, width: number, height: number }} area
 * @param {number} top value at the area's upper edge
 * @param {{ colour: string, length: number, wide?: number }} how
 */
function drawLine(context, values, area, top, { colour, length, wide = 2 }) {
  const step = area.width / (length - 1);
  const first = length - values.length;
  const bottom = area.top + area.height;
  const yOf = (/** @type {number} */ value) => bottom - (Math.min(value, top) / top) * area.height;
  let begun = NaN;
  let x = 0;
  context.beginPath();
  for (const [at, value] of values.entries()) {
    if (Number.isNaN(value)) continue;
    x = area.left + (first + at) * step;
    if (Number.isNaN(begun)) context.moveTo((begun = x), yOf(value));
    else context.lineTo(x, yOf(value));
  }
  if (Number.isNaN(begun)) return;
  context.strokeStyle = colour;
  context.lineWidth = wide;
  context.lineJoin = context.lineCap = "round";
  context.stroke();
  context.lineTo(x, bottom);
  context.lineTo(begun, bottom);
  context.closePath();
  const fill = context.createLinearGradient(0, area.top, 0, bottom);
  fill.addColorStop(0, `${colour}40`);
  fill.addColorStop(1, `${colour}06`);
  context.fillStyle = fill;
  context.fill();
}

/** A plot with its title, its legend of newest values, and an axis. */
export class Plot {
  /**
   * @param {import("../i18n.js").Phrase} title
   * @param {Line[]} lines
   * @param {(value: number) => string} format
   * @param {number} least that the axis reaches up to
   */
  constructor(title, lines, format, least) {
    this._least = least;
    this._lines = lines.map((line) => ({ ...line, series: new Series(), value: h("b", {}, "–") }));
    this._format = format;
    this._canvas = h("canvas", { class: "plot-canvas", role: "img" });
    this._title = title;
    this.element = h("section", { class: "card plot" },
      h("div", { class: "row between plot-head" }, h("h2", {}, title),
        h("div", { class: "legend" }, ...this._lines.map(({ label, colour, value }) =>
          h("span", { class: "legend-entry" }, swatch(colour), h("span", {}, label), value)))),
      this._canvas);
    /** @type {number | null} */
    this._pointedAt = null;
    this._canvas.onpointermove = (event) => this._point(event.offsetX);
    this._canvas.onpointerleave = () => this._point(null);
    new ResizeObserver(() => this.draw()).observe(this._canvas);
  }

  /** @param {number[]} values one per line, of now */
  push(...values) {
    for (const [at, line] of this._lines.entries()) line.series.push(values[at] ?? NaN);
    this.draw();
  }

  /** @param {number | null} x */
  _point(x) {
    this._pointedAt = x;
    this.draw();
  }

  draw() {
    if (this._canvas.clientWidth === 0) return;
    const { context, width, height } = prepare(this._canvas);
    const area = {
      left: LEFT, top: TOP, width: width - LEFT - RIGHT, height: height - TOP - BOTTOM,
    };
    const top = niceTop(Math.max(this._least, ...this._lines.map(({ series }) => series.largest)));
    const length = windowOf(this._lines[0]?.series.values.length ?? 0, LENGTH);
    this._drawAxes(context, area, top, length);
    for (const { series, colour } of this._lines) {
      drawLine(context, series.values, area, top, { colour: colourOf(colour), length });
    }
    this._showValues(context, area, top, length);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {{ left: number, top: number, width: number, height: number }} area
   * @param {number} top
   * @param {number} length
   */
  _drawAxes(context, area, top, length) {
    const soft = colourOf("--soft");
    const right = area.left + area.width;
    const bottom = area.top + area.height;
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = soft;
    context.strokeStyle = colourOf("--line");
    context.lineWidth = 1;
    context.textBaseline = "middle";
    for (const part of [0, 0.5, 1]) {
      const y = Math.round(bottom - part * area.height) + 0.5;
      context.beginPath();
      context.moveTo(area.left, y);
      context.lineTo(right, y);
      context.stroke();
      context.fillText(this._format(part * top), right + 8, y);
    }
    context.textBaseline = "alphabetic";
    for (const part of [0, 1 / 3, 2 / 3, 1]) {
      context.textAlign = part === 0 ? "left" : part === 1 ? "right" : "center";
      context.fillText(agoText((1 - part) * length), area.left + part * area.width, bottom + 17);
    }
    context.textAlign = "left";
  }

  /**
   * Put the newest values into the legend, or those under the pointer.
   *
   * @param {CanvasRenderingContext2D} context
   * @param {{ left: number, top: number, width: number, height: number }} area
   * @param {number} top
   * @param {number} length
   */
  _showValues(context, area, top, length) {
    const pointed = this._pointedAt;
    const step = area.width / (length - 1);
    const slot = pointed === null ? length - 1
      : Math.max(0, Math.min(length - 1, Math.round((pointed - area.left) / step)));
    if (pointed !== null) {
      context.strokeStyle = colourOf("--soft");
      context.setLineDash([3, 3]);
      context.beginPath();
      context.moveTo(area.left + slot * step, area.top);
      context.lineTo(area.left + slot * step, area.top + area.height);
      context.stroke();
      context.setLineDash([]);
    }
    for (const { series, colour, value } of this._lines) {
      const at = series.values[slot - (length - series.values.length)] ?? NaN;
      say(value, Number.isNaN(at) ? "–" : this._format(at));
      if (Number.isNaN(at)) continue;
      context.fillStyle = colourOf(colour);
      context.beginPath();
      const y = area.top + area.height - (Math.min(at, top) / top) * area.height;
      context.arc(area.left + slot * step, y, 3.5, 0, 2 * Math.PI);
      context.fill();
    }
    const now = this._lines.map(({ series }) => this._format(series.last || 0)).join(", ");
    setPhrase(this._canvas, "aria-label", t("dash.plot", { now }));
  }
}

/** @param {number} seconds */
function agoText(seconds) {
  const whole = Math.round(seconds);
  const clock = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  return whole === 0 ? "0" : `−${clock}`;
}

/** @param {string} colour name of a CSS variable */
function swatch(colour) {
  const mark = h("i", { class: "swatch", "aria-hidden": true });
  mark.style.background = `var(${colour})`;
  return mark;
}

/** A line without axes, for a tile or a row of a table. It says nothing that is not beside it. */
export class Sparkline {
  /**
   * @param {string} colour name of a CSS variable
   * @param {number} [length]
   */
  constructor(colour, length = LENGTH) {
    this.series = new Series(length);
    this._colour = colour;
    this.element = h("canvas", { class: "sparkline", "aria-hidden": true });
  }

  /** @param {number} value */
  push(value) {
    this.series.push(value);
    this.draw();
  }

  draw() {
    if (this.element.clientWidth === 0) return;
    const { context, width, height } = prepare(this.element);
    const area = { left: 1, top: 2, width: width - 2, height: height - 3 };
    drawLine(context, this.series.values, area, Math.max(this.series.largest, 1e-9), {
      colour: colourOf(this._colour), wide: 1.5,
      length: windowOf(this.series.values.length, this.series.length),
    });
  }
}
