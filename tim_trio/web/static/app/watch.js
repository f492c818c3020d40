// Watching one room: its link leads here.

import { RoomPlayer } from "../media/room.js";
import { wakeAudio } from "../media/audio.js";
import { parseRoomId } from "../tim/index.js";
import { button, copy, h, say, setPhrase } from "./dom.js";
import { t } from "./i18n.js";
import { canPlayMedia, insecureNotice } from "./platform.js";
import { describe } from "./problems.js";
import { Stage } from "./stage.js";

/**
 * @param {string} room
 */
export function watchLink(room) {
  return `${location.origin}/#watch=${room}`;
}

/** @type {import("./main.js").MakeView} */
export function watchView(session) {
  const stage = new Stage();
  const message = h("p", { role: "status" });
  // Where there is nothing to wait for.
  const other = h("a", { class: "button", href: "#live", hidden: true }, t("watch.other"));
  const cover = h("div", { class: "stage-message" }, message, other);
  const title = h("h1", { class: "room-id" });
  const soundOn = button(t("watch.sound_on"), async () => {
    const context = await wakeAudio();
    await context.resume();
    soundOn.hidden = true;
  }, { class: "primary", hidden: true });
  const facts = h("p", { class: "facts" });
  const frame = h("div", { class: "theatre" }, stage.element, cover, soundOn);
  const blocked = h("div");
  const copyLink = button(t("copy_link"), () => copy(watchLink(room)));
  const element = h("section", { class: "watch" },
    h("div", { class: "row between" }, title,
      h("div", { class: "row" },
        copyLink,
        button(t("watch.full"), () => void frame.requestFullscreen?.()))),
    blocked, frame, facts);
  let room = "";
  let generation = 0;
  /** @type {RoomPlayer | null} */
  let player = null;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let timer;

  const stop = () => {
    generation += 1;
    clearInterval(timer);
    player?.stop();
    player = null;
    stage.isAway = false;
    stage.clear();
    say(facts, "");
  };

  /** @param {import("./i18n.js").Phrase | null} content null: the picture speaks for itself */
  const tell = (content, isOver = false) => {
    cover.hidden = content === null;
    other.hidden = !isOver;
    copyLink.hidden = isOver;
    // The picture that stood last would look like a live one.
    if (isOver) stop();
    if (content !== null) setPhrase(message, "", content);
  };

  const showFacts = () => {
    const tiles = [...(player?.tiles.values() ?? [])];
    const picture = tiles.find((tile) => tile.player.stats.framesDrawn > 0);
    if (picture === undefined) {
      say(facts, "");
      return;
    }
    const { width, height, delayMs } = picture.player.stats;
    setPhrase(facts, "", t("watch.facts", { width, height, delay: Math.round(delayMs) }));
  };

  const start = async () => {
    stop();
    const mine = ++generation;
    soundOn.hidden = true;
    tell(t("connecting"));
    const { client } = session;
    if (client === null) return;
    if (parseRoomId(room) === null) {
      tell(t("watch.no_room_id"), true);
      return;
    }
    if (!canPlayMedia()) {
      frame.hidden = true;
      blocked.replaceChildren(insecureNotice());
      return;
    }
    const context = await wakeAudio();
    // Give it a moment: where it needs no click it runs by now.
    setTimeout(() => {
      if (mine === generation) soundOn.hidden = context.state === "running";
    }, 300);
    if (mine !== generation) return;
    const mayWait = () => {
      tell(player !== null && player.tiles.size === 0 ? t("watch.waiting") : null);
    };
    player = new RoomPlayer({
      context,
      onTile: (tile) => {
        stage.add(tile);
        mayWait();
      },
      onTileGone: (tile) => {
        stage.remove(tile.source);
        mayWait();
      },
      onConnection: (state) => {
        stage.isAway = state === "away";
        if (state === "away") tell(t("watch.away"));
        else mayWait();
      },
      onEnd: (error) => tell(error === null ? t("ended.removed") : describe(error), true),
    });
    try {
      await player.start(client, room);
      mayWait();
    } catch (error) {
      if (mine === generation) tell(describe(error), true);
      return;
    }
    if (mine !== generation) return;
    timer = setInterval(showFacts, 1000);
  };

  return {
    element,
    show(parameter) {
      if (parameter === room && player !== null) return;
      room = parameter;
      say(title, room);
      void start();
    },
    hide() {
      stop();
      room = "";
    },
  };
}
