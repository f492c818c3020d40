// Where the bytes of a file are while it comes: a file of the browser's own, on the disk.
// For workers.
//
// The origin private file system keeps them as files. A page that is no secure context
// has none; there the database keeps them, in blocks, which are on the disk as well.

/**
 * What a part is of, and whose.
 *
 * @typedef {object} PartInfo
 * @property {string} receiver our name for our part in the transfer
 * @property {string} owner our account
 * @property {string} account the sender's
 * @property {string} name as it was offered
 * @property {number} size
 * @property {string} sha256
 * @property {string} mediaType
 * @property {string} transfer the newest
 * @property {number} doneAt Unix time in ms, 0 until all of it is there
 * @property {number} [cancelledAt] Unix time in ms, 0 while it is wanted
 * @property {boolean} [refused] cancelled here: to be asked about before it goes on
 */

/**
 * One part, opened: nobody else has it meanwhile.
 *
 * @typedef {object} OpenPart
 * @property {() => AsyncIterable<Uint8Array>} blocks what is there
 * @property {(bytes: Uint8Array<ArrayBuffer>) => unknown} append
 * @property {() => unknown} flush what was appended is on the disk after it
 * @property {() => unknown} empty
 * @property {() => unknown} close
 */

/**
 * @typedef {object} Store
 * @property {() => Promise<{ info: PartInfo, bytes: number, busy: boolean }[]>} list
 * @property {(info: PartInfo) => Promise<void>} note
 * @property {(info: PartInfo) => Promise<OpenPart | null>} open null: somebody else has it
 * @property {(info: PartInfo) => Promise<Blob>} file
 * @property {(receiver: string) => Promise<void>} remove
 */

const READ_BYTES = 1024 * 1024;
const NAME = "tim_files";

// -- files ------------------------------------------------------------------------

/** @returns {Promise<FileSystemDirectoryHandle>} */
async function directory() {
  const root = await navigator.storage.getDirectory();
  return root.getDirectoryHandle(NAME, { create: true });
}

/**
 * @param {string} name
 * @param {boolean} create
 * @returns {Promise<FileSystemSyncAccessHandle | null>} null: somebody else has it open
 */
async function openFile(name, create) {
  const handle = await (await directory()).getFileHandle(name, { create });
  try {
    return await handle.createSyncAccessHandle();
  } catch (error) {
    const { name: why } = /** @type {DOMException} */ (error);
    if (why === "NoModificationAllowedError" || why === "InvalidStateError") return null;
    throw error;
  }
}

/** @param {FileSystemSyncAccessHandle} handle @returns {OpenPart} */
function partOf(handle) {
  let at = handle.getSize();
  return {
    async *blocks() {
      const block = new Uint8Array(READ_BYTES);
      for (let from = 0; from < at; ) {
        const count = handle.read(block, { at: from });
        if (count === 0) return;
        from += count;
        yield block.subarray(0, count);
      }
    },
    append(bytes) {
      for (let from = 0; from < bytes.length; ) {
        const count = handle.write(bytes.subarray(from), { at });
        if (count === 0) throw new DOMException("nothing was written", "QuotaExceededError");
        from += count;
        at += count;
      }
    },
    flush: () => handle.flush(),
    empty() {
      handle.truncate(0);
      at = 0;
    },
    close: () => handle.close(),
  };
}

/** @type {Store} */
const files = {
  async list() {
    const folder = await directory();
    const found = [];
    /** @type {string[]} */
    const names = [];
    for await (const name of folder.keys()) names.push(name);
    for (const name of names.filter((each) => each.endsWith(".json"))) {
      const receiver = name.slice(0, -".json".length);
      try {
        const noted = await (await folder.getFileHandle(name)).getFile();
        const info = /** @type {PartInfo} */ (JSON.parse(await noted.text()));
        const handle = await openFile(`${receiver}.part`, true);
        found.push({ info, bytes: handle?.getSize() ?? 0, busy: handle === null });
        handle?.close();
      } catch (error) {
        // Cut off while it was being written: nothing can be made of it.
        if (error instanceof SyntaxError) await files.remove(receiver);
        else if (/** @type {Error} */ (error).name !== "NotFoundError") throw error;
      }
    }
    return found;
  },
  async note(info) {
    const handle = await openFile(`${info.receiver}.json`, true);
    if (handle === null) return; // who has it writes the same
    const text = new TextEncoder().encode(JSON.stringify(info));
    handle.truncate(0);
    handle.write(text, { at: 0 });
    handle.flush();
    handle.close();
  },
  async open(info) {
    const handle = await openFile(`${info.receiver}.part`, true);
    if (handle === null) return null;
    await files.note(info);
    return partOf(handle);
  },
  async file(info) {
    return (await (await directory()).getFileHandle(`${info.receiver}.part`)).getFile();
  },
  async remove(receiver) {
    const folder = await directory();
    // First what says that there is something.
    for (const ending of ["json", "part"]) {
      try {
        await folder.removeEntry(`${receiver}.${ending}`);
      } catch (error) {
        if (/** @type {Error} */ (error).name !== "NotFoundError") throw error;
      }
    }
  },
};

// -- blocks in the database ---------------------------------------------------------

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @type {Promise<IDBDatabase> | undefined} */
let opened;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("parts", { keyPath: "receiver" });
      request.result.createObjectStore("blocks");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * Run one transaction; what it did is there when this returns.
 *
 * @template T
 * @param {IDBTransactionMode} mode
 * @param {(parts: IDBObjectStore, blocks: IDBObjectStore) => IDBRequest<T>} body
 * @returns {Promise<T>}
 */
async function transact(mode, body) {
  const transaction = (await database()).transaction(["parts", "blocks"], mode);
  const over = new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
  const [result] = await Promise.all([
    settled(body(transaction.objectStore("parts"), transaction.objectStore("blocks"))), over,
  ]);
  return result;
}

/** @param {string} receiver */
const keysOf = (receiver) => IDBKeyRange.bound([receiver], [receiver, Infinity]);

/** @type {Store} */
const blocksInDatabase = {
  async list() {
    /** @type {PartInfo[]} */
    const infos = await transact("readonly", (parts) => parts.getAll());
    return Promise.all(infos.map(async (info) => ({
      info, busy: false, bytes: (await blocksInDatabase.file(info)).size,
    })));
  },
  async note(info) {
    await transact("readwrite", (parts) => parts.put(info));
  },
  async open(info) {
    const { receiver } = info;
    await blocksInDatabase.note(info);
    let next = await transact("readonly", (_, blocks) => blocks.count(keysOf(receiver)));
    return {
      async *blocks() {
        for (let at = 0; at < next; at++) {
          /** @type {Blob} */
          const block = await transact("readonly", (_, blocks) => blocks.get([receiver, at]));
          yield new Uint8Array(await block.arrayBuffer());
        }
      },
      async append(bytes) {
        // Added, not put: where two have the same part open, the second fails.
        const block = new Blob([bytes]);
        await transact("readwrite", (_, blocks) => blocks.add(block, [receiver, next]));
        next += 1;
      },
      flush() {},
      async empty() {
        await transact("readwrite", (_, blocks) => blocks.delete(keysOf(receiver)));
        next = 0;
      },
      close() {},
    };
  },
  async file({ receiver }) {
    // Blobs that come out of the database are on the disk, and so is what consists of them.
    const blocks = await transact("readonly", (_, blocks) => blocks.getAll(keysOf(receiver)));
    return new Blob(blocks);
  },
  async remove(receiver) {
    await transact("readwrite", (parts, blocks) => {
      parts.delete(receiver);
      return blocks.delete(keysOf(receiver));
    });
  },
};

/** @type {Record<string, Store>} */
export const stores = { files, database: blocksInDatabase };
