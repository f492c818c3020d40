// The files that come, and have come, as this browser keeps them. The page's side.

import { Helper } from "./calls.js";

/** @typedef {import("./part_stores.js").PartInfo} PartInfo */

const WORKER = new URL("./part_worker.js", import.meta.url);
/** What has arrived, or was cancelled, is kept so long for whoever may want it yet. */
const KEEP_MS = 24 * 3600_000;

const hasFiles = () => isSecureContext && typeof navigator.storage?.getDirectory === "function";

async function start() {
  const helper = new Helper(WORKER);
  await helper.call("use", [hasFiles() ? "files" : "database"]);
  return helper;
}

/**
 * How much more fits here, as far as the browser says.
 *
 * @returns {Promise<number>}
 */
export async function freeBytes() {
  const { quota, usage } = await navigator.storage?.estimate?.() ?? {};
  return quota === undefined ? Infinity : quota - (usage ?? 0);
}

/**
 * What was left behind of an account's files. What has been there too long is thrown away.
 *
 * @param {string} owner
 * @returns {Promise<{ info: PartInfo, bytes: number, busy: boolean }[]>}
 */
export async function leftBehind(owner) {
  const helper = await start();
  try {
    /** @type {{ info: PartInfo, bytes: number, busy: boolean }[]} */
    const found = await helper.call("list", []);
    const kept = [];
    for (const each of found.filter(({ info }) => info.owner === owner)) {
      const { doneAt, cancelledAt = 0, receiver } = each.info;
      const over = Math.max(doneAt, cancelledAt);
      if (over > 0 && Date.now() - over > KEEP_MS) await helper.call("remove", [receiver]);
      else kept.push(each);
    }
    return kept;
  } finally {
    helper.end();
  }
}

/**
 * A file that has arrived.
 *
 * @param {PartInfo} info
 * @returns {Promise<Blob>}
 */
export async function arrived(info) {
  const helper = await start();
  try {
    return await helper.call("file", [info]);
  } finally {
    helper.end();
  }
}

/** @param {string} receiver */
export async function remove(receiver) {
  const helper = await start();
  try {
    await helper.call("remove", [receiver]);
  } finally {
    helper.end();
  }
}

/**
 * Note what has become of a part that nobody has open.
 *
 * @param {PartInfo} info
 */
export async function note(info) {
  const helper = await start();
  try {
    await helper.call("note", [info]);
  } finally {
    helper.end();
  }
}

/** A file that is being received, in a worker of its own. */
export class Part {
  /**
   * @param {Helper} helper
   * @param {PartInfo} info
   */
  constructor(helper, info) {
    this._helper = helper;
    this.info = info;
  }

  /**
   * Open a part, a new one where there is none; null where another page has it.
   *
   * @param {PartInfo} info
   * @param {(position: number) => void} show how much of what is there has been read
   */
  static async open(info, show) {
    const helper = await start();
    try {
      if (await helper.call("open", [info], { onProgress: show })) return new Part(helper, info);
    } catch (error) {
      helper.end();
      throw error;
    }
    helper.end();
    return null;
  }

  /**
   * Say what is safely on the disk.
   *
   * @returns {Promise<{ offset: number, sha256: string }>}
   */
  claim() {
    return this._helper.call("claim", []);
  }

  /**
   * Write what comes next; the bytes are the worker's from then on.
   *
   * @param {Uint8Array<ArrayBuffer>} bytes the whole of their buffer
   * @returns {Promise<number>} the bytes there are then
   */
  write(bytes) {
    return this._helper.call("write", [bytes], { transfer: [bytes.buffer] });
  }

  /** @returns {Promise<void>} */
  restart() {
    return this._helper.call("restart", []);
  }

  /**
   * All of it is there.
   *
   * @returns {Promise<Blob>}
   */
  async finish() {
    const file = await this._helper.call("finish", []);
    this._helper.end();
    return file;
  }

  async close() {
    await this._helper.call("close", []);
    this._helper.end();
  }
}
