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
  const message = h("p", { class: "stage-message", role: "status" });
  const title = h("h1", { class: "room-id" });
  const soundOn = button(t("watch.sound_on"), async () => {
    const context = await wakeAudio();
    await context.resume();
    soundOn.hidden = true;
  }, { class: "primary", hidden: true });
  const facts = h("p", { class: "facts" });
  const frame = h("div", { class: "theatre" }, stage.element, message, soundOn);
  const element = h("section", { class: "watch" },
    h("div", { class: "row between" }, title,
      h("div", { class: "row" },
        button(t("copy_link"), () => copy(watchLink(room))),
        button(t("watch.full"), () => void frame.requestFullscreen?.()))),
    frame, facts);
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
    stage.clear();
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
    setPhrase(message, "", t("connecting"));
    const { client } = session;
    if (client === null) return;
    if (parseRoomId(room) === null) {
      setPhrase(message, "", t("watch.no_room_id"));
      return;
    }
    if (!canPlayMedia()) {
      message.replaceChildren(insecureNotice());
      return;
    }
    const context = await wakeAudio();
    // Give it a moment: where it needs no click it runs by now.
    setTimeout(() => {
      if (mine === generation) soundOn.hidden = context.state === "running";
    }, 300);
    if (mine !== generation) return;
    const mayWait = () => {
      const waiting = player !== null && player.tiles.size === 0;
      message.hidden = !waiting;
      if (waiting) setPhrase(message, "", t("watch.waiting"));
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
        message.hidden = state === "back";
        if (state === "away") setPhrase(message, "", t("watch.away"));
        else mayWait();
      },
      onEnd: (error) => {
        message.hidden = false;
        say(message, error === null ? t("ended.removed") : describe(error));
      },
    });
    try {
      await player.start(client, room);
      mayWait();
    } catch (error) {
      message.hidden = false;
      say(message, describe(error));
    }
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
