// Who the page is to the server, and the connection it has.

import {
  AuthMode, Code, ConnectionClosed, RoomError, connect, greet, isAccountName, registerAccount,
} from "../tim/index.js";
import { FileService } from "../files/service.js";
import { recall, recallHere, remember, rememberHere } from "./settings.js";

export const SERVER_URL = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;

/** @typedef {import("../tim/index.js").Client} Client */

/** What the server needs to let somebody in; from AuthMode. */
export const Needs = Object.freeze({ name: 0, password: 1, token: 2 });

export class SessionState {
  constructor() {
    /** @type {Client | null} */
    this.client = null;
    /** What the account sends and receives, from when it has signed in. @type {FileService | null} */
    this.files = null;
    /** Of Needs; null before the server was asked. @type {number | null} */
    this.needs = null;
    /** Called when somebody signs in or out, and when the connection changes. @type {Set<() => void>} */
    this.listeners = new Set();
    this.connected = false;
    /** Why the last connection ended. @type {unknown} */
    this.lastError = null;
  }

  /** Whether signing in again takes nobody's help. */
  get isRemembered() {
    return recallHere("session") !== null;
  }

  _changed() {
    for (const listener of [...this.listeners]) listener();
  }

  /**
   * Look what the server wants, and sign in with what is remembered.
   *
   * @returns {Promise<boolean>} false: somebody has to sign in
   */
  async begin() {
    const { authMode } = await greet(SERVER_URL);
    this.needs = authMode === AuthMode.open ? Needs.name
      : authMode === AuthMode.accounts ? Needs.password : Needs.token;
    if (this.needs === Needs.name) {
      const name = recall("name");
      const known = typeof name === "string" && isAccountName(name);
      await this.signIn({ account: known ? name : guestName() });
      return true;
    }
    const session = recallHere("session");
    if (session === null) return false;
    try {
      await this.signIn(this.needs === Needs.token ? { token: String(session.token) }
        : { account: String(session.account), session: fromHex(String(session.token)) });
      return true;
    } catch (error) {
      // Out of date, or of an account that is disabled: signing in says which.
      const isRefused = error instanceof RoomError
        && (error.code === Code.bad_credentials || error.code === Code.permission_denied);
      if (!isRefused) throw error;
      rememberHere("session", null);
      return false;
    }
  }

  /** @param {import("../tim/client.js").ConnectOptions} who */
  async signIn(who) {
    const client = await connect(SERVER_URL, { ...who, device: "browser" });
    this.client?.close();
    this.client = client;
    this.connected = true;
    this._takeFiles(client);
    if (this.needs === Needs.name) remember("name", client.account);
    if (this.needs === Needs.password) {
      const token = [...client.sessionToken].map((byte) => byte.toString(16).padStart(2, "0"));
      rememberHere("session", { account: client.account, token: token.join("") });
    }
    if (this.needs === Needs.token) rememberHere("session", { token: who.token });
    client.on("reconnecting", () => {
      this.connected = false;
      this._changed();
    });
    client.on("reconnected", () => {
      this.connected = true;
      this._changed();
    });
    client.on("over", ({ error }) => {
      if (this.client !== client) return;
      this.client = null;
      this.connected = false;
      this.lastError = error;
      const ended = error instanceof ConnectionClosed && error.code !== null && error.code >= 1106;
      if (ended) rememberHere("session", null);
      this._changed();
    });
    this._changed();
    return client;
  }

  /** @param {Client} client */
  _takeFiles(client) {
    const before = this.files;
    this.files = new FileService(client);
    before?.close();
    if (before?.client.account !== client.account) return;
    // What the lost connection interrupted.
    for (const each of before.sending) this.files.send(each.source, each.account, { kept: each.kept });
  }

  /** @param {{ account: string, password: string, invitation: string }} who */
  register(who) {
    return registerAccount(SERVER_URL, who);
  }

  signOut() {
    rememberHere("session", null);
    const { client } = this;
    this.client = null;
    this.connected = false;
    client?.close();
    this._changed();
  }
}

/** A name that nobody else is likely to have. */
function guestName() {
  const letters = "abcdefghjkmnpqrstuvwxyz23456789";
  const some = crypto.getRandomValues(new Uint8Array(4));
  return `guest-${[...some].map((byte) => letters[byte % letters.length]).join("")}`;
}

/** @param {string} hex */
function fromHex(hex) {
  return new Uint8Array(hex.match(/../g)?.map((pair) => parseInt(pair, 16)) ?? []);
}
