// Sharing a camera, the screen, a file or the test picture with whoever has the link.

import { openCamera, openFile, openScreen, openTest } from "../media/capture.js";
import { Publisher } from "../media/publisher.js";
import { wakeAudio } from "../media/audio.js";
import { Code, RoomError, randomToken } from "../tim/index.js";
import { bitrateText, button, copy, field, h, notify, previewOn, say, setPhrase } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { roomIn } from "./links.js";
import { canCapture, canPublishMedia, insecureNotice } from "./platform.js";
import { describe } from "./problems.js";
import { recall, recallHere, remember, rememberHere } from "./settings.js";
import { watchLink } from "./watch.js";

/** What goes on after a reload without anybody's help. */
const RESUMABLE = ["camera", "test"];

/** @typedef {import("../media/capture.js").CaptureKind} CaptureKind */

/**
 * Remembered over a reload: the room, and the token by which the same source goes on.
 *
 * @typedef {{ room: string, kind: CaptureKind, token: number[], account: string }} Remembered
 */

/** @type {import("./main.js").MakeView} */
export function liveView(session) {
  const choose = chooser(session, (kind, file) => void start(kind, file));
  const onAir = h("section", { class: "card on-air", hidden: true });
  const element = h("div", { class: "live" }, choose, onAir);
  let busy = false;

  /**
   * @param {CaptureKind} kind
   * @param {File} [file]
   * @param {Remembered} [remembered]
   */
  const start = async (kind, file, remembered) => {
    const { client } = session;
    if (busy || client === null) return;
    if (!session.connected) {
      notify(t("error.no_server"), "error");
      return;
    }
    busy = true;
    let capture;
    try {
      const context = await wakeAudio();
      const height = Number(recall("height")) || 360;
      capture = kind === "camera" ? await openCamera({ height }, context)
        : kind === "screen" ? await openScreen(context)
          : kind === "file" && file !== undefined ? await openFile(file, context)
            : openTest(context);
      const room = remembered?.room ?? await client.registerRoom();
      const token = remembered === undefined ? randomToken() : new Uint8Array(remembered.token);
      const source = await client.publish(room, { token });
      const publisher = new Publisher(source, capture, context, { height });
      rememberHere("live", { room, kind, token: [...token], account: client.account });
      show(publisher);
    } catch (error) {
      capture?.stop();
      rememberHere("live", null);
      // Whose choice of a screen was cancelled knows it.
      const cancelled = kind === "screen" && error instanceof DOMException
        && error.name === "NotAllowedError";
      if (!cancelled) notify(remembered === undefined ? describe(error) : whyOver(error), "error");
    }
    busy = false;
  };

  /** @param {Publisher} publisher */
  const show = (publisher) => {
    const over = () => {
      rememberHere("live", null);
      delete document.documentElement.dataset.onAir;
      onAir.hidden = true;
      choose.hidden = false;
      choose.querySelector("button")?.focus();
    };
    publisher.onError = (error) => {
      notify(whyOver(error), "error");
      over();
    };
    const stop = async () => {
      over();
      await publisher.stop();
      // Whoever shares again has another link: nobody is to wait at this one.
      await session.client?.removeRoom(publisher.source.room).catch(() => {});
    };
    publisher.capture.onEnd = () => {
      // Whoever ended the sharing of a screen knows it.
      if (publisher.capture.kind === "camera") notify(t("camera.gone"), "error");
      void stop();
    };
    onAir.replaceChildren(...onAirParts(publisher, stop));
    // Seen in the header from wherever one looks.
    document.documentElement.dataset.onAir = "";
    choose.hidden = true;
    onAir.hidden = false;
    onAir.querySelector("button")?.focus();
  };

  /** @type {Remembered | null} */
  const remembered = recallHere("live");
  if (remembered !== null && RESUMABLE.includes(remembered.kind)
    && remembered.account === session.client?.account) {
    void start(remembered.kind, undefined, remembered);
  }
  return { element, show() {} };
}

/** @param {unknown} error that ended a stream, or kept one from going on */
function whyOver(error) {
  const gone = error instanceof RoomError && error.code === Code.no_such_room;
  return gone ? t("live.gone") : describe(error);
}

/**
 * @param {import("./session.js").SessionState} session
 * @param {(kind: CaptureKind, file?: File) => void} start
 */
function chooser(session, start) {
  const picker = h("input", {
    type: "file", accept: "video/*,audio/*", hidden: true,
    onchange: () => {
      const [file] = picker.files ?? [];
      if (file !== undefined) start("file", file);
      picker.value = "";
    },
  });
  /**
   * @param {CaptureKind} kind
   * @param {boolean} possible
   */
  const choice = (kind, possible) => h("button", {
    type: "button", class: "choice", "data-kind": kind, disabled: !possible,
    onclick: () => (kind === "file" ? picker.click() : start(kind)),
  }, h("span", { class: "big" }, icon(kind, 30)),
  h("span", { class: "what" }, t(`live.${kind}`)), h("span", { class: "hint" }, t(`live.${kind}_hint`)));
  const able = canPublishMedia();
  const quality = h("select", {
    onchange: () => remember("height", Number(quality.value)),
  }, ...[360, 720, 1080].map((height) => h("option", { value: height }, `${height}p`)));
  quality.value = String(recall("height") ?? 360);
  return h("div", { class: "columns" },
    h("section", { class: "card" },
      h("h1", {}, t("live.title")),
      h("p", { class: "lead" }, t("live.lead")),
      able && canCapture() ? null : insecureNotice(),
      h("div", { class: "choices" },
        choice("test", able), choice("camera", able && canCapture()),
        choice("screen", able && canCapture()), choice("file", able)),
      picker, field(t("live.quality"), quality)),
    watchForm(session));
}

/** @param {import("./session.js").SessionState} session */
function watchForm(session) {
  const input = h("input", { autocomplete: "off", spellcheck: false, required: true });
  const problem = h("p", { class: "problem", role: "alert" });
  const form = h("form", {
    onsubmit: (/** @type {Event} */ event) => {
      event.preventDefault();
      const room = roomIn(input.value);
      if (room === null) {
        say(problem, t("watch.no_room_id"));
        input.focus();
        return;
      }
      say(problem, "");
      location.hash = `watch=${room}`;
    },
  }, field(t("watch.room"), input), problem, h("button", { class: "primary" }, t("watch.go")));
  const list = h("ul", { class: "rooms" });
  const refresh = async () => {
    try {
      const rooms = (await session.client?.listRooms() ?? []).filter(({ sources }) => sources !== 0);
      list.replaceChildren(...rooms.map(({ room, viewers }) => h("li", {},
        h("a", { href: `#watch=${room}`, class: "room-id" }, room),
        viewers === null ? "" : h("span", { class: "hint" }, t("live.viewers", { count: viewers })))));
      mine.hidden = rooms.length === 0;
    } catch {
      mine.hidden = true;
    }
  };
  const mine = h("div", { hidden: true }, h("h2", {}, t("watch.mine")), list);
  setInterval(() => {
    if (list.isConnected && !document.hidden) void refresh();
  }, 5000);
  void refresh();
  return h("section", { class: "card" }, h("h1", {}, t("watch.title")),
    h("p", { class: "lead" }, t("watch.lead")), form, mine);
}

/**
 * @param {Publisher} publisher
 * @param {() => unknown} stop
 */
function onAirParts(publisher, stop) {
  const { capture, source } = publisher;
  const link = watchLink(source.room);
  const canvas = h("canvas", { width: 640, height: 360, class: "preview", role: "img" });
  setPhrase(canvas, "aria-label", t("live.preview"));
  publisher.onPreview = previewOn(canvas);
  const values = {
    viewers: h("dd", { "data-stat": "viewers" }, "–"), bitrate: h("dd", { "data-stat": "bitrate" }, "–"),
    frames: h("dd", { "data-stat": "frames" }, "–"), dropped: h("dd", { "data-stat": "dropped" }, "0"),
    picture: h("dd", { "data-stat": "picture" }, "–"),
  };
  const slow = h("p", { class: "problem", role: "status", hidden: true }, t("live.slow"));
  publisher.onStats = (stats) => {
    say(values.viewers, stats.viewers === null ? "–" : String(stats.viewers));
    say(values.bitrate, bitrateText(stats.bitsPerS));
    say(values.frames, String(Math.round(stats.framesPerS)));
    say(values.dropped, String(stats.droppedFrames));
    if (stats.width) say(values.picture, `${stats.width} × ${stats.height}, ${stats.codec}`);
    slow.hidden = !stats.congested;
  };
  const mute = button(t("mic.off"), () => {
    publisher.soundOn = !publisher.soundOn;
    setPhrase(mute, "", t(publisher.soundOn ? "mic.off" : "mic.on"));
    mute.classList.toggle("off", !publisher.soundOn);
  }, { hidden: capture.sound === null });
  // Perhaps all of it ends in a moment: who ended the sharing of a screen knows it.
  capture.onSoundEnd = () => {
    mute.hidden = true;
    if (capture.kind === "camera") notify(t("mic.gone"), "error");
  };
  const address = h("input", {
    readOnly: true, value: link, class: "link", onfocus: () => address.select(),
  });
  setPhrase(address, "aria-label", t("live.link"));
  return [
    h("div", { class: "row between" },
      h("h1", {}, h("span", { class: "live-dot", "aria-hidden": "true" }), t("live.on_air")),
      h("div", { class: "row" }, mute, button(t("live.stop"), stop, { class: "danger" }))),
    h("div", { class: "columns wide-left" },
      h("div", { class: "theatre" }, canvas),
      h("div", { class: "stack" },
        h("p", { class: "lead" }, t("live.give_link")),
        h("div", { class: "row" }, address, button(t("copy"), () => copy(link), { class: "primary" })),
        h("a", { href: link, target: "_blank", rel: "noopener", class: "button" }, t("live.open")),
        h("dl", { class: "stats" },
          h("dt", {}, t("stat.viewers")), values.viewers, h("dt", {}, t("stat.bitrate")), values.bitrate,
          h("dt", {}, t("stat.frames")), values.frames, h("dt", {}, t("stat.dropped")), values.dropped,
          h("dt", {}, t("stat.picture")), values.picture),
        slow)),
  ];
}
