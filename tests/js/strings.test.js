// The texts of the page: each in both languages, none missing, none too many.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import { strings } from "../../tim_trio/web/static/app/strings.js";
import { Code } from "../../tim_trio/web/static/tim/codes.js";

const STATIC = new URL("../../tim_trio/web/static/", import.meta.url);
const APP = new URL("app/", STATIC);
const entries = Object.entries(strings);

/** All of the page's scripts but the table itself. */
const source = readdirSync(APP, { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".js") && name !== "strings.js")
  .map((name) => readFileSync(new URL(name, APP), "utf8")).join("\n");

/** @param {string} text */
const blanks = (text) => (text.match(/\{\w+\}/g) ?? []).sort();

test("every text is there in both languages, with the same blanks", () => {
  for (const [key, both] of entries) {
    assert.equal(both.length, 2, key);
    const [english, chinese] = both;
    assert.match(english, /[A-Za-z]/, key);
    assert.match(chinese, /\p{Script=Han}/u, key);
    assert.doesNotMatch(english, /\p{Script=Han}/u, key);
    assert.deepEqual(blanks(english), blanks(chinese), key);
    for (const text of both) assert.equal(text, text.trim(), key);
  }
});

test("no key stands twice in the table", () => {
  const table = readFileSync(new URL("strings.js", APP), "utf8");
  const keys = [...table.matchAll(/^ {2}"([\w.]+)": \[/gm)].map(([, key]) => key);
  assert.deepEqual(keys, [...new Set(keys)]);
  assert.deepEqual(keys, entries.map(([key]) => key));
});

/** Keys that the scripts name outright; and, of those they compose, how they begin. */
const named = new Set([...source.matchAll(/"([a-z_]+(?:\.[a-z_]+)*)"/g)].map(([, key]) => key));
const composed = [...source.matchAll(/`([a-z_]+\.)\$\{[^}]+\}([a-z_]*)`/g)]
  .map(([, before, after]) => [String(before), String(after)]);

test("every text that is asked for is there", () => {
  const asked = [...source.matchAll(/(?:\bt|new Phrase)\(\s*"([^"]+)"/g)].map(([, key]) => String(key));
  assert.ok(asked.length > 100);
  assert.deepEqual(asked.filter((key) => !Object.hasOwn(strings, key)), []);
});

test("every text that is there is used", () => {
  const unused = entries.map(([key]) => key).filter((key) => !named.has(key)
    && !composed.some(([before, after]) => key.startsWith(String(before)) && key.endsWith(String(after))));
  assert.deepEqual(unused, []);
});

test("every code that a user can meet has words that say what to do", () => {
  // The others are faults of a program, or of what the page does not do.
  const programs = ["bye", "idle_timeout", "internal_error", "handshake_timeout", "protocol_error",
    "unsupported_version", "frame_too_large", "bad_sequence", "foreign_source", "flooding",
    "credit_exceeded", "not_authenticated", "not_subscribed", "no_such_source", "token_in_use",
    "path_lost", "too_many_contacts"];
  const missing = Object.entries(Code).filter(([label]) => !programs.includes(label))
    .map(([label, code]) => `${code < 2000 ? "closed" : "error"}.${label}`)
    .filter((key) => !Object.hasOwn(strings, key));
  assert.deepEqual(missing, []);
});
