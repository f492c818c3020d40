// What people paste for a room or an account.

import assert from "node:assert/strict";
import { test } from "node:test";

import { accountIn, decoded, roomIn } from "../../tim_trio/web/static/app/links.js";

const ROOM = "NGhMpCbk2wQ";

test("a room is found in its id, in its link, and in what a chat makes of them", () => {
  for (const pasted of [
    ROOM, ` ${ROOM}\n`, "NGhM pCbk\n2wQ", `${ROOM}.`, `"${ROOM}"`, `=${ROOM}`,
    `https://stream.example/#watch=${ROOM}`, `http://127.0.0.1:7680/#meet=${ROOM}`,
    `<https://stream.example/#watch=${ROOM}>`, `(see https://stream.example/#watch=${ROOM}).`,
    `https://stream.example/#watch=${ROOM}&t=3`, `https://stream.example/#watch=${ROOM}/`,
    `https://stream.example/#watch%3D${ROOM}`, `https://a.example/?q=1#watch=${ROOM}?x=y`,
    `tim://stream.example:7600/${ROOM}`, `#dashboard=${ROOM}`,
  ]) assert.equal(roomIn(pasted), ROOM, pasted);
});

test("where there is no room's id, there is none", () => {
  for (const pasted of [
    "", "   ", "x", `x${ROOM}`, `${ROOM}x`, `${ROOM}${ROOM}`, "O0IlO0IlO0I", "%E0%A4%A",
    "https://stream.example/", "https://stream.example/#files=quin", "#watch=", "=".repeat(5000),
  ]) assert.equal(roomIn(pasted), null, pasted);
});

test("an account is found in its name and in its link", () => {
  assert.equal(accountIn(" quin "), "quin");
  assert.equal(accountIn("https://stream.example/#files=quin"), "quin");
  assert.equal(accountIn("http://127.0.0.1:7680/#files=%E5%BC%A0"), "张");
  assert.equal(accountIn("a b"), "a b");
  assert.equal(accountIn("https://stream.example/#watch=quin"), "https://stream.example/#watch=quin");
});

test("what is no percent-encoding stays as it is", () => {
  assert.equal(decoded("100%"), "100%");
});
