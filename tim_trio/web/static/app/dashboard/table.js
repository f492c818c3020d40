// A table that is sorted by a click on a column's head.

import { h, setPhrase } from "../dom.js";
import { t } from "../i18n.js";

/**
 * One column.
 *
 * @template R a row's value
 * @typedef {object} Column
 * @property {string} name
 * @property {import("../i18n.js").Phrase} label
 * @property {(row: R) => string | number} [by] what to sort by
 * @property {boolean} [rising] sorts upwards at first
 * @property {string} [class]
 */

/** The cells of one row, which live as long as the row does. */
/**
 * @template R
 * @typedef {object} Row
 * @property {HTMLTableRowElement} element
 * @property {(value: R) => void} update
 */

/** @template R */
export class Table {
  /**
   * @param {import("../i18n.js").Phrase} caption
   * @param {Column<R>[]} columns
   * @param {(row: R) => string} keyOf
   * @param {(row: R) => Row<R>} makeRow
   * @param {string} sortedBy name of a column
   */
  constructor(caption, columns, keyOf, makeRow, sortedBy) {
    this._columns = columns;
    this._keyOf = keyOf;
    this._makeRow = makeRow;
    this._sortedBy = sortedBy;
    this._rising = columns.find(({ name }) => name === sortedBy)?.rising ?? false;
    /** @type {Map<string, Row<R>>} */
    this._rows = new Map();
    /** @type {R[]} */
    this._values = [];
    this._heads = columns.map((column) => h("th", { class: column.class ?? "", scope: "col" },
      column.by === undefined ? column.label
        : h("button", { type: "button", class: "sort", onclick: () => this._sortBy(column) }, column.label)));
    this._body = h("tbody");
    this.element = h("div", { class: "table-frame", tabIndex: 0, role: "region" },
      h("table", { class: "figures" }, h("caption", { class: "unseen" }, caption),
        h("thead", {}, h("tr", {}, ...this._heads)), this._body));
    setPhrase(this.element, "aria-label", caption);
    this._showOrder();
  }

  /** @param {Column<R>} column */
  _sortBy(column) {
    this._rising = this._sortedBy === column.name ? !this._rising : column.rising ?? false;
    this._sortedBy = column.name;
    this._showOrder();
    this.show(this._values);
  }

  _showOrder() {
    for (const [at, head] of this._heads.entries()) {
      const sorted = this._columns[at]?.name === this._sortedBy;
      head.setAttribute("aria-sort", !sorted ? "none" : this._rising ? "ascending" : "descending");
    }
  }

  /** @param {R[]} values */
  show(values) {
    this._values = values;
    const by = this._columns.find(({ name }) => name === this._sortedBy)?.by ?? (() => 0);
    const sign = this._rising ? 1 : -1;
    const sorted = [...values].sort((a, b) => {
      const [x, y] = [by(a), by(b)];
      if (x < y) return -sign;
      if (x > y) return sign;
      return this._keyOf(a) < this._keyOf(b) ? -1 : 1;
    });
    const left = new Set(this._rows.keys());
    /** @type {HTMLTableRowElement | null} */
    let before = null;
    for (const value of sorted) {
      const key = this._keyOf(value);
      left.delete(key);
      let row = this._rows.get(key);
      if (row === undefined) this._rows.set(key, (row = this._makeRow(value)));
      // Moved only where it must be: what has the focus keeps it.
      /** @type {Element | null} */
      const next = before === null ? this._body.firstElementChild : before.nextElementSibling;
      if (next !== row.element) {
        if (before === null) this._body.prepend(row.element);
        else before.after(row.element);
      }
      row.update(value);
      before = row.element;
    }
    for (const key of left) {
      this._rows.get(key)?.element.remove();
      this._rows.delete(key);
    }
  }
}

/**
 * Change a cell's text, where it has changed.
 *
 * @param {HTMLElement} cell
 * @param {string} content
 */
export function put(cell, content) {
  if (cell.textContent !== content) cell.textContent = content;
}

/** A cell for what there is none of. */
export const NONE = "–";

/** Said where a table has no rows. @param {string} key */
export function emptyNote(key) {
  return h("p", { class: "hint empty-note", hidden: true }, t(key));
}
