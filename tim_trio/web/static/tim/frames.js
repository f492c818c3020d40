// WebSocket messages in, frames out; and stream frames to bytes.
//
// A WebSocket message holds whole frames, so there is no buffer and no state.
// Payloads are views of the message they came in: they keep it in memory.
//
// Source: protocol.md, sections 2 to 5.

import { Code } from "./codes.js";
import { LocalProtocolError, RemoteProtocolError } from "./errors.js";
import { CONTROL_HEADER_BYTES } from "./messages.js";
import { isRoomId } from "./room_ids.js";

export const STREAM = 0x40;
export const STREAM_HEADER_BYTES = 36;
const PRELUDE_BYTES = 8;
const LENGTH_BYTES = 4;

export const Flag = Object.freeze({ init: 0x01, key: 0x02, end: 0x04 });

/**
 * @typedef {object} StreamFrame
 * @property {"frame"} kind
 * @property {bigint} room
 * @property {number} source
 * @property {number} track
 * @property {number} flags
 * @property {number} seq
 * @property {number} timestampUs
 * @property {Uint8Array<ArrayBuffer>} payload
 * @property {number} size of the whole frame, in bytes
 */

/**
 * A control frame whose fields have not been read yet.
 *
 * @typedef {object} ControlFrame
 * @property {"control"} kind
 * @property {number} type
 * @property {number} requestId
 * @property {Uint8Array<ArrayBuffer>} fields
 */

/**
 * @typedef {object} FrameLimits
 * @property {number} maxFrameBytes
 * @property {number} maxInitBytes
 */

/**
 * Walk over the frames of one message.
 *
 * @param {ArrayBuffer} message
 * @param {FrameLimits} limits
 * @returns {Generator<StreamFrame | ControlFrame, void, void>}
 * @throws {RemoteProtocolError} with the CLOSE code, at the frame that is none
 */
export function* readFrames(message, limits) {
  const view = new DataView(message);
  const total = message.byteLength;
  for (let at = 0; at < total; ) {
    if (total - at < PRELUDE_BYTES) throw new RemoteProtocolError("a message ends within a frame");
    const length = view.getUint32(at);
    const type = view.getUint8(at + 4);
    const extBytes = 4 * view.getUint8(at + 7);
    const size = LENGTH_BYTES + length;
    checkSize(type, view.getUint8(at + 5), size, extBytes, limits);
    if (at + size > total) throw new RemoteProtocolError("a message ends within a frame");
    yield type === STREAM
      ? readStreamFrame(view, at, size, extBytes)
      : {
          kind: "control",
          type,
          requestId: view.getUint32(at + 8),
          fields: new Uint8Array(
            message, at + CONTROL_HEADER_BYTES + extBytes, size - CONTROL_HEADER_BYTES - extBytes,
          ),
        };
    at += size;
  }
}

/**
 * @param {number} type
 * @param {number} flags
 * @param {number} size
 * @param {number} extBytes
 * @param {FrameLimits} limits
 */
function checkSize(type, flags, size, extBytes, limits) {
  const { maxFrameBytes, maxInitBytes } = limits;
  if (size > maxFrameBytes) {
    throw new RemoteProtocolError(
      `a frame of ${size} bytes, ${maxFrameBytes} allowed`, Code.frame_too_large,
    );
  }
  const header = type === STREAM ? STREAM_HEADER_BYTES : CONTROL_HEADER_BYTES;
  if (size < header + extBytes) throw new RemoteProtocolError(`a frame of ${size} bytes`);
  if (type === STREAM && flags & (Flag.init | Flag.end) && size > maxInitBytes) {
    throw new RemoteProtocolError(
      `an INIT or END frame of ${size} bytes, ${maxInitBytes} allowed`, Code.frame_too_large,
    );
  }
}

/**
 * @param {DataView<ArrayBuffer>} view
 * @param {number} at
 * @param {number} size
 * @param {number} extBytes
 * @returns {StreamFrame}
 */
function readStreamFrame(view, at, size, extBytes) {
  const header = STREAM_HEADER_BYTES + extBytes;
  return {
    kind: "frame",
    flags: view.getUint8(at + 5),
    track: view.getUint8(at + 6),
    room: view.getBigUint64(at + 8),
    source: view.getUint32(at + 16),
    seq: view.getUint32(at + 20) * 2 ** 32 + view.getUint32(at + 24),
    // Two's complement: the high half is signed, the low half is not.
    timestampUs: view.getInt32(at + 28) * 2 ** 32 + view.getUint32(at + 32),
    payload: new Uint8Array(view.buffer, at + header, size - header),
    size,
  };
}

/**
 * Return the bytes of a stream frame.
 *
 * @param {Pick<StreamFrame, "room" | "source" | "track" | "flags" | "seq" | "timestampUs">
 *   & { payload: Uint8Array }} frame
 * @returns {Uint8Array<ArrayBuffer>}
 * @throws {LocalProtocolError} a field does not fit
 */
export function encodeStreamFrame(frame) {
  const { room, source, track, flags, seq, timestampUs, payload } = frame;
  if (!isRoomId(room)) throw new LocalProtocolError(`${room} is not a room id`);
  if (!(source >= 0 && source <= 0xffff_ffff && track >= 0 && track <= 0xff)) {
    throw new LocalProtocolError(`source ${source}, track ${track}`);
  }
  if (!Number.isSafeInteger(seq) || seq < 0) throw new LocalProtocolError(`seq ${seq}`);
  if (!Number.isSafeInteger(timestampUs)) {
    throw new LocalProtocolError(`timestamp_us ${timestampUs}`);
  }
  const bytes = new Uint8Array(STREAM_HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length - LENGTH_BYTES);
  view.setUint8(4, STREAM);
  view.setUint8(5, flags);
  view.setUint8(6, track);
  view.setBigUint64(8, room);
  view.setUint32(16, source);
  view.setUint32(20, Math.floor(seq / 2 ** 32));
  view.setUint32(24, seq % 2 ** 32);
  view.setInt32(28, Math.floor(timestampUs / 2 ** 32));
  view.setUint32(32, timestampUs - Math.floor(timestampUs / 2 ** 32) * 2 ** 32);
  bytes.set(payload, STREAM_HEADER_BYTES);
  return bytes;
}
