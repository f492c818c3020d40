// Digests a file that is to be sent.

import { serve } from "./calls.js";
import { Sha256 } from "./sha256.js";

const READ_BYTES = 1024 * 1024;
/**
 * The digest is kept at so many places at most, so that what a receiver says of
 * its part is checked by reading a little, not all.
 */
const MARKS = 1024;

/** @type {Sha256[]} */
let marks = [];

/**
 * @param {Blob} file
 * @param {Sha256} sha goes on from where it stands
 * @param {number} length
 * @param {(sha: Sha256) => void} each called after each piece
 */
async function read(file, sha, length, each) {
  while (sha.length < length) {
    const end = Math.min(sha.length + READ_BYTES, length);
    const piece = new Uint8Array(await file.slice(sha.length, end).arrayBuffer());
    if (piece.length < end - sha.length) throw new DOMException("it is shorter", "NotReadableError");
    sha.update(piece);
    each(sha);
  }
  return sha.hex();
}

serve({
  /** @param {(amount: number) => void} show @param {Blob} file */
  digest(show, file) {
    const step = Math.max(file.size / MARKS, 4 * READ_BYTES);
    marks = [];
    return read(file, new Sha256(), file.size, (sha) => {
      show(sha.length);
      if (sha.length >= (marks.at(-1)?.length ?? 0) + step) marks.push(sha.clone());
    });
  },

  /** @param {unknown} _ @param {Blob} file @param {number} length at most its size */
  prefixDigest(_, file, length) {
    const mark = marks.findLast((each) => each.length <= length);
    return read(file, mark?.clone() ?? new Sha256(), length, () => {});
  },
});
