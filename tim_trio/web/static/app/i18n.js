// The page's languages, and how a phrase is put into words.

import { strings } from "./strings.js";
import { recall, remember } from "./settings.js";

/** @type {readonly ["en", "zh"]} */
export const LANGUAGES = ["en", "zh"];

/** @type {"en" | "zh"} */
let language = recall("language") === "zh" ? "zh"
  : recall("language") === "en" || !navigator.language.startsWith("zh") ? "en" : "zh";

/** A text of the table, with what is to be put into it. */
export class Phrase {
  /**
   * @param {string} key
   * @param {Record<string, string | number | Phrase>} [values]
   */
  constructor(key, values = {}) {
    this.key = key;
    this.values = values;
  }
}

/**
 * @param {string} key
 * @param {Record<string, string | number | Phrase>} [values]
 */
export function t(key, values) {
  return new Phrase(key, values);
}

/** @param {string} key */
export function hasPhrase(key) {
  return key in strings;
}

/**
 * Put a phrase into words.
 *
 * @param {Phrase} phrase
 * @returns {string}
 */
export function text({ key, values }) {
  const both = strings[key];
  if (both === undefined) throw new Error(`no phrase ${key}`);
  const words = both[language === "en" ? 0 : 1];
  return words.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return value instanceof Phrase ? text(value) : String(value ?? "");
  });
}

export function currentLanguage() {
  return language;
}

/** @param {"en" | "zh"} chosen */
export function setLanguage(chosen) {
  language = chosen;
  remember("language", chosen);
  document.documentElement.lang = chosen === "zh" ? "zh-Hans" : "en";
}

document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
