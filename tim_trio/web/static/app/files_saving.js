// Getting a file that has arrived to where its user wants it, without holding it in memory.

/** @typedef {import("../files/incoming.js").Incoming} Incoming */

export const canPick = () => typeof showSaveFilePicker === "function";

/**
 * Ask where a file is to go; null where the user has thought better of it.
 *
 * @param {string} name
 * @returns {Promise<FileSystemFileHandle | null>}
 */
export async function pickTarget(name) {
  try {
    return await showSaveFilePicker({ suggestedName: name });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") return null;
    throw error;
  }
}

/**
 * Write what has arrived to the file that the user has chosen. Its name is there at
 * once, its content when all of it is.
 *
 * @param {Blob} file
 * @param {FileSystemFileHandle} target
 */
export async function writeTo(file, target) {
  await file.stream().pipeTo(await target.createWritable());
}

/**
 * Have the browser put what has arrived among its downloads: from its disk to its disk.
 *
 * @param {Blob} file
 * @param {string} name
 */
export function download(file, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  // The download has begun long before that, and has its own hold of the file.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
