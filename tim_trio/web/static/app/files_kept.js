// Files that are being sent, as the browser keeps them over a reload: not their bytes, but
// the right to open them again. Where it lends none (Firefox, Safari), nothing is kept.

const NAME = "tim_sending";
/** What nobody has come back to is forgotten. */
const KEEP_MS = 7 * 24 * 3600_000;

/** @typedef {{ id: string, handle: FileSystemFileHandle, at: number }} Kept */

export const canKeep = () => isSecureContext && typeof showOpenFilePicker === "function";

/** @type {Promise<IDBDatabase> | undefined} */
let opened;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("files", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * @template T
 * @param {IDBTransactionMode} mode
 * @param {(files: IDBObjectStore) => IDBRequest<T>} body
 * @returns {Promise<T>}
 */
async function transact(mode, body) {
  const transaction = (await database()).transaction("files", mode);
  return new Promise((resolve, reject) => {
    const request = body(transaction.objectStore("files"));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

/**
 * Keep a file; what was kept for too long goes.
 *
 * @param {FileSystemFileHandle} handle
 * @returns {Promise<string>} what it is kept under
 */
export async function keepFile(handle) {
  const now = Date.now();
  for (const { id, at } of /** @type {Kept[]} */ (await transact("readonly", (files) => files.getAll()))) {
    if (now - at > KEEP_MS) await forgetFile(id);
  }
  const id = crypto.randomUUID();
  await transact("readwrite", (files) => files.put({ id, handle, at: now }));
  return id;
}

/** @param {string} id */
export async function forgetFile(id) {
  await transact("readwrite", (files) => files.delete(id));
}

/**
 * @param {string} id
 * @returns {Promise<FileSystemFileHandle | null>}
 */
export async function keptFile(id) {
  /** @type {Kept | undefined} */
  const found = await transact("readonly", (files) => files.get(id));
  return found?.handle ?? null;
}

/**
 * Ask for files to send, in a dialog; none where the user has thought better of it.
 *
 * @returns {Promise<{ file: File, handle: FileSystemFileHandle }[]>}
 */
export async function pickFiles() {
  try {
    const handles = await showOpenFilePicker({ multiple: true });
    return await Promise.all(handles.map(async (handle) => ({ file: await handle.getFile(), handle })));
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") return [];
    throw error;
  }
}
