// What one connection carries of a client: its feeds and its sources.
//
// Source: protocol.md, sections 8, 9, 13 and 15.

import { RoomClosed, SourceReplaced, SourceRevoked } from "./errors.js";
import {
  AccountStream, ContactChanged, Credit, Gap, GoAway, OtherNodes, PushAsked, PushGranted, PushRevoked,
  Replaced, RoomClosedEvent, SourceJoined, SourceLeft, Viewers,
} from "./messages.js";
import { formatRoomId } from "./room_ids.js";

/** @typedef {import("./subscription.js").Feed} Feed */
/** @typedef {import("./source.js").Source} Source */

/** Hands what a connection reads to whom it concerns: a Receiver of connection.js. */
export class Session {
  /** @param {import("./client.js").Client} client */
  constructor(client) {
    this._client = client;
    /** Set once it is open. @type {import("./connection.js").Connection} */
    this.connection = /** @type {any} */ (null);
    /** By room. @type {Map<bigint, Feed>} */
    this.feeds = new Map();
    /** @type {Set<Source>} */
    this.sources = new Set();
    /** The wish of the server that we leave. @type {{ address: string, spreadMs: number } | null} */
    this.goAway = null;
  }

  /** @param {import("./frames.js").StreamFrame} frame */
  onFrame(frame) {
    // Frames of a room just left are late, not wrong.
    const feed = this.feeds.get(frame.room);
    feed?.taker.deliverFrame(feed, frame);
  }

  /**
   * @param {import("./messages.js").Message<any>} kind
   * @param {any} fields
   */
  onEvent(kind, fields) {
    const feed = this.feeds.get(fields.room);
    switch (kind) {
      case SourceJoined:
        feed?.taker.deliverNotice(
          feed, { kind: "joined", source: fields.source, account: fields.account });
        break;
      case SourceLeft:
        feed?.taker.deliverNotice(
          feed, { kind: "left", source: fields.source, reason: fields.reason });
        break;
      case Gap: {
        const { source, track, firstSeq, lastSeq, reason } = fields;
        feed?.taker.deliverNotice(feed, { kind: "gap", source, track, firstSeq, lastSeq, reason });
        break;
      }
      case RoomClosedEvent:
        this._endRoom(fields, feed);
        break;
      case Viewers:
        for (const source of this.sources) {
          if (source._room === fields.room) source._setViewers(fields.viewers);
        }
        break;
      case Credit:
        this._source(fields)?._raiseCredit(fields.limit);
        break;
      case PushRevoked: {
        const source = this._source(fields);
        source?._finish(new SourceRevoked(source.room, fields.reason));
        break;
      }
      case Replaced: {
        const source = this._source(fields);
        source?._finish(new SourceReplaced(source.room));
        break;
      }
      case PushAsked:
        this._client._emit("pushAsked", { ...fields, room: formatRoomId(fields.room) });
        break;
      case PushGranted:
        this._client._emit("pushGranted", { room: formatRoomId(fields.room) });
        break;
      case AccountStream:
        this._client._emit("accountStream", fields);
        break;
      case ContactChanged:
        this._client._emit("contactChanged", fields);
        break;
      case OtherNodes:
        this._client._whereabouts.learn(fields.addresses);
        break;
      case GoAway:
        if (this.goAway === null) {
          this.goAway = fields;
          this._client._emit("goAway", fields);
          this._client._reconnector.leave(this);
        }
        break;
      default:
        break; // of later versions
    }
  }

  /** @param {import("./errors.js").ConnectionClosed} error */
  onClosed(error) {
    this._client._sessionOver(this, error);
  }

  /**
   * @param {{ room: bigint, source: number }} event
   * @returns {Source | undefined}
   */
  _source({ room, source: number }) {
    for (const source of this.sources) {
      if (source._room === room && source.number === number) return source;
    }
    return undefined;
  }

  /**
   * @param {{ room: bigint, reason: number, text: string }} event
   * @param {Feed | undefined} feed
   */
  _endRoom({ room, reason, text }, feed) {
    this.feeds.delete(room);
    feed?.taker.deliverClosed(feed, reason, text);
    for (const source of [...this.sources]) {
      if (source._room === room) source._finish(new RoomClosed(source.room, reason, text));
    }
  }
}
