// The file that is sent, and its digest, which is known up to any offset.

import { Helper } from "./calls.js";

const WORKER = new URL("./outgoing_worker.js", import.meta.url);
const READ_BYTES = 1024 * 1024;

export class OutgoingFile {
  /** @param {File} file */
  constructor(file) {
    this.file = file;
    this.size = file.size;
    /** In hex, once `digest` has run. */
    this.sha256 = "";
    /** @type {Helper | null} */
    this._helper = null;
  }

  /**
   * Read all of it once.
   *
   * @param {(position: number) => void} show
   */
  async digest(show) {
    if (this.sha256 === "") {
      this._helper ??= new Helper(WORKER);
      this.sha256 = await this._helper.call("digest", [this.file], { onProgress: show });
    }
    return this.sha256;
  }

  /**
   * The digest of the first so many bytes, in hex.
   *
   * @param {number} length at most `size`
   * @returns {Promise<string>}
   */
  async prefixDigest(length) {
    if (length === this.size && this.sha256 !== "") return this.sha256;
    this._helper ??= new Helper(WORKER);
    return this._helper.call("prefixDigest", [this.file, length]);
  }

  /**
   * Return the next bytes from `offset` on.
   *
   * @param {number} offset
   */
  async read(offset) {
    const end = Math.min(offset + READ_BYTES, this.size);
    const piece = new Uint8Array(await this.file.slice(offset, end).arrayBuffer());
    if (piece.length < end - offset) throw new DOMException("it is shorter", "NotReadableError");
    return piece;
  }

  /** Stop whatever is being read. It can be read again. */
  close() {
    this._helper?.end();
    this._helper = null;
  }
}
