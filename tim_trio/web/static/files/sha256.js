// SHA-256, a piece at a time. WebCrypto's digest takes only the whole of what it digests.
//
// Source: FIPS 180-4, sections 4.1.2, 5.1.1, 5.3.3 and 6.2.

const BLOCK_BYTES = 64;

/** The fractional parts of the cube roots of the first 64 primes. */
const K = new Int32Array(64);
/** The fractional parts of the square roots of the first 8 primes. */
const START = new Int32Array(8);
{
  let found = 0;
  for (let candidate = 2; found < 64; candidate++) {
    let isPrime = true;
    for (let by = 2; by * by <= candidate; by++) if (candidate % by === 0) isPrime = false;
    if (!isPrime) continue;
    // A double's 52 bits are enough: the roots are below 8, and 32 bits are taken.
    if (found < 8) START[found] = (Math.sqrt(candidate) % 1) * 2 ** 32;
    K[found++] = (Math.cbrt(candidate) % 1) * 2 ** 32;
  }
}

export class Sha256 {
  constructor() {
    this._state = START.slice();
    this._words = new Int32Array(64);
    /** The bytes of a block that is not complete. */
    this._rest = new Uint8Array(BLOCK_BYTES);
    this._restBytes = 0;
    /** Bytes digested so far. */
    this.length = 0;
  }

  /** One that goes on from here on its own. */
  clone() {
    const other = new Sha256();
    other._state.set(this._state);
    other._rest.set(this._rest);
    other._restBytes = this._restBytes;
    other.length = this.length;
    return other;
  }

  /**
   * @param {Uint8Array} bytes
   * @returns {this}
   */
  update(bytes) {
    let at = 0;
    this.length += bytes.length;
    if (this._restBytes > 0) {
      at = Math.min(BLOCK_BYTES - this._restBytes, bytes.length);
      this._rest.set(bytes.subarray(0, at), this._restBytes);
      this._restBytes += at;
      if (this._restBytes < BLOCK_BYTES) return this;
      this._digest(this._rest, 0, BLOCK_BYTES);
      this._restBytes = 0;
    }
    const whole = bytes.length - ((bytes.length - at) % BLOCK_BYTES);
    this._digest(bytes, at, whole);
    this._rest.set(bytes.subarray(whole));
    this._restBytes = bytes.length - whole;
    return this;
  }

  /** The digest of what has come so far, in hex. More may follow. */
  hex() {
    const end = this.clone();
    const bits = this.length * 8;
    const padding = new Uint8Array(BLOCK_BYTES - ((this.length + 8) % BLOCK_BYTES) + 8);
    padding[0] = 0x80;
    const view = new DataView(padding.buffer);
    view.setUint32(padding.length - 8, Math.floor(bits / 2 ** 32));
    view.setUint32(padding.length - 4, bits % 2 ** 32);
    end.update(padding);
    return [...end._state].map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  }

  /**
   * @param {Uint8Array} bytes
   * @param {number} from
   * @param {number} to whole blocks from there
   */
  _digest(bytes, from, to) {
    // As "any": the compiler cannot know that no index is out of bounds. Everything is
    // brought back to 32 bits at once, which is what makes it quick.
    const [k, w, state, input] = /** @type {any[]} */ ([K, this._words, this._state, bytes]);
    let [h0, h1, h2, h3, h4, h5, h6, h7] = state;
    for (let block = from; block < to; block += BLOCK_BYTES) {
      for (let i = 0, j = block; i < 16; i++, j += 4) {
        w[i] = (input[j] << 24) | (input[j + 1] << 16) | (input[j + 2] << 8) | input[j + 3];
      }
      for (let i = 16; i < 64; i++) {
        const x = w[i - 15] | 0;
        const y = w[i - 2] | 0;
        const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
        const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
        w[i] = (((w[i - 16] + s0) | 0) + ((w[i - 7] + s1) | 0)) | 0;
      }
      let a = h0 | 0, b = h1 | 0, c = h2 | 0, d = h3 | 0;
      let e = h4 | 0, f = h5 | 0, g = h6 | 0, h = h7 | 0;
      for (let i = 0; i < 64; i++) {
        const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
        const choice = g ^ (e & (f ^ g));
        const t1 = (((((h + s1) | 0) + choice) | 0) + ((k[i] + w[i]) | 0)) | 0;
        const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
        const majority = (a & b) | (c & (a | b));
        h = g;
        g = f;
        f = e;
        e = (d + t1) | 0;
        d = c;
        c = b;
        b = a;
        a = (t1 + ((s0 + majority) | 0)) | 0;
      }
      h0 = (h0 + a) | 0;
      h1 = (h1 + b) | 0;
      h2 = (h2 + c) | 0;
      h3 = (h3 + d) | 0;
      h4 = (h4 + e) | 0;
      h5 = (h5 + f) | 0;
      h6 = (h6 + g) | 0;
      h7 = (h7 + h) | 0;
    }
    this._state.set([h0, h1, h2, h3, h4, h5, h6, h7]);
  }
}
