// Writes a file that comes, and digests what it writes.

import { CallFailed, serve } from "./calls.js";
import { stores } from "./part_stores.js";
import { Sha256 } from "./sha256.js";

/** @typedef {import("./part_stores.js").PartInfo} PartInfo */

/** @type {import("./part_stores.js").Store} */
let store = /** @type {any} */ (null);
/** @type {{ info: PartInfo, part: import("./part_stores.js").OpenPart, sha: Sha256 } | null} */
let open = null;

function opened() {
  if (open === null) throw new CallFailed("InvalidStateError", "not open");
  return open;
}

serve({
  /** @param {unknown} _ @param {"files" | "database"} kind */
  use(_, kind) {
    const chosen = stores[kind];
    if (chosen !== undefined) store = chosen;
  },

  list: () => store.list(),

  /**
   * Open a part, a new one where there is none, and digest what is there.
   *
   * @param {(amount: number) => void} show
   * @param {PartInfo} info
   */
  async open(show, info) {
    const part = await store.open(info);
    if (part === null) return false;
    const sha = new Sha256();
    for await (const block of part.blocks()) {
      sha.update(block);
      show(sha.length);
    }
    open = { info, part, sha };
    if (sha.length > info.size) { // nothing of ours
      await part.empty();
      open.sha = new Sha256();
    }
    return true;
  },

  /** @param {unknown} _ @param {Uint8Array<ArrayBuffer>} bytes */
  async write(_, bytes) {
    const { part, sha } = opened();
    await part.append(bytes);
    return sha.update(bytes).length;
  },

  /** Say what is on the disk: only that is ours to claim. */
  async claim() {
    const { part, sha } = opened();
    await part.flush();
    return { offset: sha.length, sha256: sha.hex() };
  },

  async restart() {
    const now = opened();
    await now.part.empty();
    now.sha = new Sha256();
  },

  /** All of it is there: return it. */
  async finish() {
    const { info, part } = opened();
    await part.flush();
    await part.close();
    open = null;
    const done = { ...info, doneAt: Date.now() };
    await store.note(done);
    return store.file(done);
  },

  async close() {
    await open?.part.close();
    open = null;
  },

  /** @param {unknown} _ @param {string} receiver */
  remove: (_, receiver) => store.remove(receiver),

  /** @param {unknown} _ @param {PartInfo} info */
  note: (_, info) => store.note(info),

  /** @param {unknown} _ @param {PartInfo} info */
  file: (_, info) => store.file(info),
});
