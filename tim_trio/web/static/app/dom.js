// Making elements. Texts that are phrases change with the language.

import { Phrase, text } from "./i18n.js";

/** What was set as a phrase, so that it can be set again in another language. */
const PHRASES = "data-phrases";
/** @type {WeakMap<Element, Map<string, Phrase>>} */
const phrases = new WeakMap();

/** @typedef {Node | Phrase | string | number | null | undefined | false} Child */
/** @typedef {Record<string, unknown>} Properties */

/**
 * Make an element. Properties that are functions are listeners (`onclick`),
 * `class` and those with a dash are attributes, the rest are properties.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  setAll(element, properties);
  append(element, children);
  return element;
}

/**
 * @param {HTMLElement} element
 * @param {Properties} properties
 */
export function setAll(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value instanceof Phrase) setPhrase(element, name, value);
    else if (value === undefined || value === null || value === false) continue;
    else if (name === "class") element.className = String(value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "list") {
      element.setAttribute(name, value === true ? "true" : String(value));
    } else /** @type {any} */ (element)[name] = value;
  }
}

/**
 * @param {HTMLElement} element
 * @param {Child[]} children
 */
function append(element, children) {
  const only = children.length === 1 ? children[0] : undefined;
  if (only instanceof Phrase) {
    setPhrase(element, "", only);
    return;
  }
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (child instanceof Phrase) element.append(h("span", {}, child));
    else element.append(child instanceof Node ? child : String(child));
  }
}

/**
 * Put a text or a phrase into an element, in place of what is there.
 *
 * @param {HTMLElement} element
 * @param {Phrase | string} content
 */
export function say(element, content) {
  if (content instanceof Phrase) {
    setPhrase(element, "", content);
  } else {
    phrases.get(element)?.delete("");
    if (element.textContent !== content) element.textContent = content;
  }
}

/**
 * @param {HTMLElement} element
 * @param {string} name of the attribute, empty: the content
 * @param {Phrase} phrase
 */
export function setPhrase(element, name, phrase) {
  let own = phrases.get(element);
  if (own === undefined) phrases.set(element, (own = new Map()));
  own.set(name, phrase);
  element.setAttribute(PHRASES, "");
  show(element, name, phrase);
}

/**
 * @param {Element} element
 * @param {string} name
 * @param {Phrase} phrase
 */
function show(element, name, phrase) {
  const shown = text(phrase);
  if (name === "") {
    if (element.textContent !== shown) element.textContent = shown;
  } else element.setAttribute(name, shown);
}

/** Set every phrase of the document again: the language has changed. */
export function translateAll() {
  for (const element of document.querySelectorAll(`[${PHRASES}]`)) {
    for (const [name, phrase] of phrases.get(element) ?? []) show(element, name, phrase);
  }
}

/**
 * A button with an icon or a text.
 *
 * @param {Phrase} label
 * @param {(event: MouseEvent) => unknown} onclick
 * @param {Properties} [properties]
 */
export function button(label, onclick, properties = {}) {
  return h("button", { type: "button", onclick, ...properties }, label);
}

/**
 * A field with its label.
 *
 * @param {Phrase} label
 * @param {HTMLElement} input
 * @param {Phrase} [hint]
 */
export function field(label, input, hint) {
  return h("label", { class: "field" }, h("span", { class: "label" }, label), input,
    hint && h("span", { class: "hint" }, hint));
}

/**
 * Have a list show these, keeping the elements of those that it shows already:
 * whoever has the focus in one keeps it.
 *
 * @param {HTMLElement} list
 * @param {Iterable<string>} keys each once
 * @param {(key: string) => HTMLElement} make
 */
export function arrange(list, keys, make) {
  const wanted = new Set(keys);
  /** @type {Map<string, HTMLElement>} */
  const kept = new Map();
  for (const each of /** @type {HTMLElement[]} */ ([...list.children])) {
    const { key = "" } = each.dataset;
    if (wanted.has(key)) kept.set(key, each);
    else each.remove();
  }
  let before = list.firstElementChild;
  for (const key of wanted) {
    const element = kept.get(key) ?? make(key);
    element.dataset.key = key;
    if (element === before) before = before.nextElementSibling;
    else list.insertBefore(element, before);
  }
}

/** @type {Set<string>} */
const shownNotices = new Set();

/**
 * Show a notice for a while; errors stay longer.
 *
 * @param {Phrase | string} content
 * @param {"info" | "error"} [kind]
 */
export function notify(content, kind = "info") {
  const key = content instanceof Phrase ? JSON.stringify([content.key, content.values]) : content;
  if (shownNotices.has(key)) return;
  shownNotices.add(key);
  const words = h("span", {}, content);
  const close = button(new Phrase("close"), () => remove(), { class: "plain" });
  // What holds the notices is read out politely; an error does not wait its turn.
  const notice = h("div", { class: `notice ${kind}`, role: kind === "error" && "alert" }, words, close);
  const remove = () => {
    clearTimeout(timer);
    shownNotices.delete(key);
    notice.remove();
  };
  const timer = setTimeout(remove, kind === "error" ? 12_000 : 5000);
  document.getElementById("notices")?.append(notice);
}

/**
 * Put a text where it can be pasted from.
 *
 * @param {string} content
 */
export async function copy(content) {
  try {
    await navigator.clipboard.writeText(content);
    notify(new Phrase("copied"));
  } catch {
    notify(new Phrase("copy_failed"), "error");
  }
}

/**
 * Return bytes as people read them.
 *
 * @param {number} bytes
 */
export function bytesText(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let at = 0;
  let amount = bytes;
  while (amount >= 999.5 && at < units.length - 1) {
    amount /= 1000;
    at += 1;
  }
  return `${amount >= 100 || at === 0 ? Math.round(amount) : amount.toFixed(1)} ${units[at]}`;
}

/** @param {number} bitsPerS */
export function bitrateText(bitsPerS) {
  return bitsPerS >= 1e6 ? `${(bitsPerS / 1e6).toFixed(1)} Mbit/s`
    : `${Math.round(bitsPerS / 1000)} kbit/s`;
}

/**
 * Draw a picture into a small canvas of one's own.
 *
 * @param {HTMLCanvasElement} canvas
 * @returns {(frame: VideoFrame) => void}
 */
export function previewOn(canvas) {
  const context = canvas.getContext("2d", { alpha: false });
  return (frame) => {
    const { displayWidth: width, displayHeight: height } = frame;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    context?.drawImage(frame, 0, 0, width, height);
  };
}
