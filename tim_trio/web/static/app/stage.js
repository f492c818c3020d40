// The pictures of a room, as a grid that follows who is there.

import { h, say, setPhrase } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { Silence } from "../media/silence.js";

/** What Silence asks for. */
const LOOK_MS = 1000;

/** Which count of tiles has how many columns is CSS's business; it is told the count. */
export class Stage {
  constructor() {
    this.element = h("div", { class: "stage", "data-count": "0" });
    /** @type {Map<number, HTMLElement>} */
    this._figures = new Map();
    /** Looks whether anything comes of each source. @type {Map<number, () => void>} */
    this._looks = new Map();
    /** The connection is lost, which is said elsewhere. */
    this.isAway = false;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this._timer = undefined;
  }

  /**
   * @param {import("../media/room.js").Tile} tile
   * @param {{ sound?: boolean }} [options]
   */
  add(tile, { sound = true } = {}) {
    const name = tile.account || "?";
    const { player, canvas } = tile;
    canvas.setAttribute("role", "img");
    setPhrase(canvas, "aria-label", t("stage.picture", { account: name }));
    const caption = h("figcaption", {}, h("span", { class: "name" }, name));
    if (sound) caption.append(soundButton(player));
    const note = h("p", { class: "note", hidden: true });
    player.onUnplayable = (codec) => {
      setPhrase(note, "", t("stage.unplayable", { codec }));
      note.hidden = false;
    };
    const still = h("p", { class: "note", role: "status" });
    still.hidden = true;
    const silence = new Silence();
    this._looks.set(tile.source, () => {
      const isSilent = silence.look(tile.frames) && !this.isAway;
      if (isSilent === !still.hidden) return;
      still.hidden = !isSilent;
      say(still, isSilent ? t("stage.silent", { account: name }) : "");
    });
    this._timer ??= setInterval(() => {
      for (const look of this._looks.values()) look();
    }, LOOK_MS);
    const figure = h("figure", { class: "tile" }, canvas, note, still, caption);
    this.place(tile.source, figure);
    return figure;
  }

  /**
   * Put something into the grid under a number of its own.
   *
   * @param {number} number
   * @param {HTMLElement} figure
   */
  place(number, figure) {
    this._figures.set(number, figure);
    this.element.append(figure);
    this._count();
  }

  /** @param {number} number */
  remove(number) {
    this._figures.get(number)?.remove();
    this._figures.delete(number);
    this._looks.delete(number);
    if (this._looks.size === 0) {
      clearInterval(this._timer);
      this._timer = undefined;
    }
    this._count();
  }

  clear() {
    for (const number of [...this._figures.keys()]) this.remove(number);
  }

  _count() {
    this.element.dataset.count = String(Math.min(9, this._figures.size));
  }
}

/** @param {import("../media/player.js").Player} player */
function soundButton(player) {
  let on = true;
  const mute = h("button", {
    type: "button", class: "plain icon",
    onclick: () => {
      on = !on;
      player.setVolume(on ? 1 : 0);
      show();
    },
  });
  const show = () => {
    setPhrase(mute, "aria-label", t(on ? "sound.off" : "sound.on"));
    mute.replaceChildren(icon(on ? "sound" : "silent"));
  };
  show();
  return mute;
}
