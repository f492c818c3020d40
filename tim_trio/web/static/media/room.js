// Watching a room: a player for each source that is media.

import { Flag } from "../tim/frames.js";
import { parseInit } from "./init.js";
import { Player } from "./player.js";

/**
 * @typedef {object} Tile
 * @property {number} source
 * @property {string} account
 * @property {HTMLCanvasElement} canvas
 * @property {Player} player
 * @property {number} frames that have come, sound and all
 */

export class RoomPlayer {
  /**
   * @param {object} options
   * @param {AudioContext | null} options.context
   * @param {(source: number) => boolean} [options.ignore] sources not to play, as one's own
   * @param {(tile: Tile) => void} options.onTile a source began
   * @param {(tile: Tile, reason: number) => void} options.onTileGone it left
   * @param {() => void} [options.onSources] who publishes has changed
   * @param {(state: "away" | "back") => void} [options.onConnection]
   * @param {(error: Error | null) => void} [options.onEnd]
   */
  constructor(options) {
    this._options = options;
    /** @type {Map<number, Tile>} */
    this.tiles = new Map();
    /** Who publishes, media or not. @type {Map<number, string>} */
    this.accounts = new Map();
    /** When the room was subscribed to, by performance.now(). */
    this.subscribedAt = NaN;
    /** @type {import("../tim/subscription.js").Subscription | null} */
    this._stream = null;
    this._stopped = false;
  }

  /**
   * Subscribe; what was stopped meanwhile is given up again.
   *
   * @param {import("../tim/client.js").Client} client
   * @param {string} room
   */
  async start(client, room) {
    this.subscribedAt = performance.now();
    const stream = await client.subscribe(room, {
      // Before the first frames, which come in one step with the answer.
      onStart: (started) => {
        this._stream = started;
        if (!this._stopped) this._noteSources(started.sources);
      },
      onItem: (item) => this._take(item),
      onEnd: (error) => {
        this._clear();
        this._options.onEnd?.(error);
      },
    });
    if (this._stopped) stream.unsubscribe();
    return stream;
  }

  stop() {
    this._stopped = true;
    this._options.onEnd = undefined;
    this._stream?.unsubscribe();
    this._clear();
  }

  /** @param {import("../tim/messages.js").SourceInfo[]} sources */
  _noteSources(sources) {
    for (const { source, account, left } of sources) if (!left) this.accounts.set(source, account);
  }

  /** @param {import("../tim/subscription.js").Item} item */
  _take(item) {
    if (this._stopped) return;
    switch (item.kind) {
      case "frame":
        this._takeFrame(item);
        break;
      case "gap":
        this.tiles.get(item.source)?.player.takeGap(item.track);
        break;
      case "joined":
        this.accounts.set(item.source, item.account);
        this._options.onSources?.();
        break;
      case "left":
        this.accounts.delete(item.source);
        this._remove(item.source, item.reason);
        this._options.onSources?.();
        break;
      case "reconnecting":
        this._options.onConnection?.("away");
        break;
      case "reconnected":
        this._noteSources(item.sources);
        for (const { player } of this.tiles.values()) player.reset();
        this._options.onConnection?.("back");
        break;
    }
  }

  /** @param {import("../tim/frames.js").StreamFrame} frame */
  _takeFrame(frame) {
    let tile = this.tiles.get(frame.source);
    if (tile === undefined) {
      if (!(frame.flags & Flag.init) || this._options.ignore?.(frame.source)) return;
      try {
        parseInit(frame.payload);
      } catch {
        return; // not media
      }
      tile = this._add(frame.source);
    }
    tile.frames += 1;
    tile.player.take(frame);
  }

  /** @param {number} source */
  _add(source) {
    const canvas = document.createElement("canvas");
    const player = new Player(canvas, this._options.context);
    player.stats.subscribedAt = this.subscribedAt;
    const tile = { source, account: this.accounts.get(source) ?? "", canvas, player, frames: 0 };
    this.tiles.set(source, tile);
    this._options.onTile(tile);
    return tile;
  }

  /**
   * @param {number} source
   * @param {number} reason
   */
  _remove(source, reason) {
    const tile = this.tiles.get(source);
    if (tile === undefined) return;
    this.tiles.delete(source);
    tile.player.close();
    this._options.onTileGone(tile, reason);
  }

  _clear() {
    for (const source of [...this.tiles.keys()]) this._remove(source, 0);
  }
}
