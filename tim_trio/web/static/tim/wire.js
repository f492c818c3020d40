// Field types of control frames: how each is written and read.
//
// A message is an object of these (messages.js); so the object is the layout,
// and nothing is said twice.
//
// Source: protocol.md, section 1.

import { LocalProtocolError, TimError } from "./errors.js";
import { isRoomId } from "./room_ids.js";

const MAX_TEXT_BYTES = 1024;
const MAX_SECRET_BYTES = 4096;
const MAX_LIST = 0xffff;
export const TOKEN_BYTES = 16;

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** A control frame's fields do not have their layout. */
export class UnreadableFields extends TimError {}

/** Takes fields off the front of some bytes. */
export class Reader {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  /**
   * Step over `count` bytes and return where they begin.
   *
   * @param {number} count
   */
  take(count) {
    const at = this.at;
    if (at + count > this.bytes.length) {
      throw new UnreadableFields("the frame ends within a field");
    }
    this.at = at + count;
    return at;
  }
}

/** Puts fields behind one another. */
export class Writer {
  constructor() {
    this.bytes = new Uint8Array(64);
    this.view = new DataView(this.bytes.buffer);
    this.size = 0;
  }

  /**
   * Make room for `count` bytes and return where they begin.
   *
   * @param {number} count
   */
  reserve(count) {
    const at = this.size;
    this.size = at + count;
    if (this.size > this.bytes.length) {
      const larger = new Uint8Array(Math.max(this.size, 2 * this.bytes.length));
      larger.set(this.bytes);
      this.bytes = larger;
      this.view = new DataView(larger.buffer);
    }
    return at;
  }

  /** @param {Uint8Array} data */
  put(data) {
    const at = this.reserve(data.length);
    this.bytes.set(data, at);
  }
}

/**
 * How one field is read and written.
 *
 * @template T
 * @typedef {{ read: (reader: Reader) => T, write: (writer: Writer, value: T) => void }} Field
 */

/**
 * @template F
 * @typedef {F extends Field<infer T> ? T : never} ValueOf
 */

/**
 * The values of a record, by the names of its fields.
 *
 * @template {Record<string, Field<any>>} F
 * @typedef {{ [name in keyof F]: ValueOf<F[name]> }} ValuesOf
 */

/**
 * @param {number} value
 * @param {number} largest
 * @param {string} name
 */
function checkInteger(value, largest, name) {
  if (!Number.isInteger(value) || value < 0 || value > largest) {
    throw new LocalProtocolError(`${value} does not fit ${name}`);
  }
}

/** @type {Field<number>} */
export const u8 = {
  read: (reader) => reader.view.getUint8(reader.take(1)),
  write(writer, value) {
    checkInteger(value, 0xff, "u8");
    const at = writer.reserve(1);
    writer.view.setUint8(at, value);
  },
};

/** @type {Field<number>} */
export const u16 = {
  read: (reader) => reader.view.getUint16(reader.take(2)),
  write(writer, value) {
    checkInteger(value, 0xffff, "u16");
    const at = writer.reserve(2);
    writer.view.setUint16(at, value);
  },
};

/** @type {Field<number>} */
export const u32 = {
  read: (reader) => reader.view.getUint32(reader.take(4)),
  write(writer, value) {
    checkInteger(value, 0xffff_ffff, "u32");
    const at = writer.reserve(4);
    writer.view.setUint32(at, value);
  },
};

/**
 * A u64 as a number. Senders keep them below 2^53; one above is read as the
 * nearest double.
 *
 * @type {Field<number>}
 */
export const u64 = {
  read(reader) {
    const at = reader.take(8);
    return reader.view.getUint32(at) * 2 ** 32 + reader.view.getUint32(at + 4);
  },
  write(writer, value) {
    checkInteger(value, Number.MAX_SAFE_INTEGER, "u64 below 2^53");
    const at = writer.reserve(8);
    writer.view.setUint32(at, Math.floor(value / 2 ** 32));
    writer.view.setUint32(at + 4, value % 2 ** 32);
  },
};

/**
 * A u64 that may be large: a stamp, an incarnation, where a list goes on.
 *
 * @type {Field<bigint>}
 */
export const bigU64 = {
  read: (reader) => reader.view.getBigUint64(reader.take(8)),
  write(writer, value) {
    if (value < 0n || value > 0xffff_ffff_ffff_ffffn) {
      throw new LocalProtocolError(`${value} does not fit u64`);
    }
    const at = writer.reserve(8);
    writer.view.setBigUint64(at, value);
  },
};

/** @type {Field<bigint>} */
export const room = {
  read(reader) {
    const value = bigU64.read(reader);
    if (!isRoomId(value)) throw new UnreadableFields(`${value} is not a room id`);
    return value;
  },
  write(writer, value) {
    if (!isRoomId(value)) throw new LocalProtocolError(`${value} is not a room id`);
    bigU64.write(writer, value);
  },
};

/** @type {Field<boolean>} */
export const bool = {
  read(reader) {
    const value = u8.read(reader);
    if (value > 1) throw new UnreadableFields(`${value} is neither 0 nor 1`);
    return value === 1;
  },
  write: (writer, value) => u8.write(writer, value ? 1 : 0),
};

/** @type {Field<string>} */
export const text = {
  read(reader) {
    const size = u16.read(reader);
    if (size > MAX_TEXT_BYTES) {
      throw new UnreadableFields(`a text of ${size} bytes, ${MAX_TEXT_BYTES} allowed`);
    }
    const at = reader.take(size);
    try {
      return decoder.decode(reader.bytes.subarray(at, at + size));
    } catch {
      throw new UnreadableFields("a text is not UTF-8");
    }
  },
  write(writer, value) {
    if (!isWellFormed(value)) throw new LocalProtocolError("a text has half a character");
    const data = encoder.encode(value);
    if (data.length > MAX_TEXT_BYTES) {
      throw new LocalProtocolError(`a text of ${data.length} bytes, ${MAX_TEXT_BYTES} allowed`);
    }
    u16.write(writer, data.length);
    writer.put(data);
  },
};

/**
 * The encoder would write half of a surrogate pair as another character.
 *
 * @param {string} value
 */
function isWellFormed(value) {
  return !/\p{Cs}/u.test(value);
}

/**
 * @param {number} most in bytes
 * @returns {Field<Uint8Array>}
 */
function blobOf(most) {
  return {
    read(reader) {
      const size = u32.read(reader);
      if (size > most) throw new UnreadableFields(`a field of ${size} bytes, ${most} allowed`);
      const at = reader.take(size);
      return reader.bytes.slice(at, at + size);
    },
    write(writer, value) {
      if (value.length > most) {
        throw new LocalProtocolError(`a field of ${value.length} bytes, ${most} allowed`);
      }
      u32.write(writer, value.length);
      writer.put(value);
    },
  };
}

export const blob = blobOf(0xffff_ffff);
export const secret = blobOf(MAX_SECRET_BYTES);

/** @type {Field<Uint8Array>} */
export const token = {
  read(reader) {
    const at = reader.take(TOKEN_BYTES);
    return reader.bytes.slice(at, at + TOKEN_BYTES);
  },
  write(writer, value) {
    if (value.length !== TOKEN_BYTES) {
      throw new LocalProtocolError(`a token has ${TOKEN_BYTES} bytes, not ${value.length}`);
    }
    writer.put(value);
  },
};

/**
 * A number out of a closed set, which begins with 0.
 *
 * @param {number} largest
 * @returns {Field<number>}
 */
export function choice(largest) {
  return {
    read(reader) {
      const value = u8.read(reader);
      if (value > largest) throw new UnreadableFields(`${value} is none of 0 to ${largest}`);
      return value;
    },
    write(writer, value) {
      checkInteger(value, largest, `0 to ${largest}`);
      u8.write(writer, value);
    },
  };
}

/**
 * @template T
 * @param {Field<T>} item
 * @returns {Field<T[]>}
 */
export function listOf(item) {
  return {
    read(reader) {
      const values = [];
      for (let left = u16.read(reader); left > 0; left--) values.push(item.read(reader));
      return values;
    },
    write(writer, values) {
      if (values.length > MAX_LIST) {
        throw new LocalProtocolError(`a list of ${values.length} entries, ${MAX_LIST} allowed`);
      }
      u16.write(writer, values.length);
      for (const value of values) item.write(writer, value);
    },
  };
}

/**
 * Several fields in a row.
 *
 * @template {Record<string, Field<any>>} F
 * @param {F} fields
 * @returns {Field<ValuesOf<F>>}
 */
export function record(fields) {
  const entries = Object.entries(fields);
  return {
    read(reader) {
      /** @type {Record<string, any>} */
      const values = {};
      for (const [name, field] of entries) values[name] = field.read(reader);
      return /** @type {ValuesOf<F>} */ (values);
    },
    write(writer, values) {
      for (const [name, field] of entries) field.write(writer, values[name]);
    },
  };
}
