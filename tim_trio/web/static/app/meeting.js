// A meeting: everybody in one room, and who may speak is its creator's to say.

import { openCamera, openTest } from "../media/capture.js";
import { Publisher } from "../media/publisher.js";
import { RoomPlayer } from "../media/room.js";
import { wakeAudio } from "../media/audio.js";
import { Code, RoomError } from "../tim/index.js";
import { arrange, button, copy, field, h, notify, previewOn, say, setPhrase } from "./dom.js";
import { t } from "./i18n.js";
import { roomIn } from "./links.js";
import { canCapture, canPublishMedia, insecureNotice } from "./platform.js";
import { describe } from "./problems.js";
import { recall, remember } from "./settings.js";
import { Stage } from "./stage.js";

/** Louder than this, somebody speaks. */
const SPEAKS = 0.02;
const OWN_TILE = -1;
/** A host who has not answered so long may not have seen it: one may ask again. */
const ASK_AGAIN_MS = 20_000;

/** @param {string} room */
export function meetingLink(room) {
  return `${location.origin}/#meet=${room}`;
}

/** @typedef {"camera" | "test"} Picture */

/** @type {import("./main.js").MakeView} */
export function meetingView(session) {
  const element = h("div", { class: "meeting" });
  /** @type {Meeting | null} */
  let meeting = null;

  /** @param {string} [room] */
  const enter = async (room) => {
    const { client } = session;
    if (client === null || meeting !== null) return;
    if (!session.connected) {
      notify(t("error.no_server"), "error");
      return;
    }
    try {
      const known = room ?? await client.registerRoom({ idleTimeoutS: 600 });
      const info = await client.roomInfo(known);
      meeting = new Meeting(client, known, info, leave);
      element.replaceChildren(meeting.element);
      history.replaceState(null, "", `#meet=${known}`);
      await meeting.begin();
    } catch (error) {
      notify(describe(error), "error");
      leave();
    }
  };
  const leave = () => {
    meeting?.end();
    meeting = null;
    if (location.hash.startsWith("#meet")) history.replaceState(null, "", "#meeting");
    element.replaceChildren(lobby("", enter));
  };

  return {
    element,
    show(parameter) {
      if (meeting !== null && (parameter === "" || parameter === meeting.room)) {
        history.replaceState(null, "", `#meet=${meeting.room}`);
        return;
      }
      if (meeting !== null) meeting.end();
      meeting = null;
      element.replaceChildren(lobby(parameter, enter));
    },
  };
}

/**
 * @param {string} room that a link leads to, empty for none
 * @param {(room?: string) => void} enter
 */
function lobby(room, enter) {
  const able = canPublishMedia();
  const picture = h("select", { onchange: () => remember("meetingPicture", picture.value) },
    h("option", { value: "camera", disabled: !canCapture() }, t("meeting.camera")),
    h("option", { value: "test" }, t("meeting.test")));
  picture.value = canCapture() ? String(recall("meetingPicture") ?? "camera") : "test";
  const height = h("select", { onchange: () => remember("meetingHeight", Number(height.value)) },
    ...[180, 360, 720].map((each) => h("option", { value: each }, `${each}p`)));
  height.value = String(recall("meetingHeight") ?? 360);
  const warning = able && canCapture() ? null : insecureNotice();
  const withPicture = h("div", { class: "row top" },
    field(t("meeting.with"), picture, t("meeting.with_hint")), field(t("live.quality"), height));
  if (room !== "") {
    return h("section", { class: "card narrow" }, h("h1", {}, t("meeting.invited")),
      h("p", { class: "lead room-id" }, room), warning, withPicture,
      button(t("meeting.join"), () => enter(room), { class: "primary", disabled: !able }));
  }
  const input = h("input", { autocomplete: "off", spellcheck: false, required: true });
  const problem = h("p", { class: "problem", role: "alert" });
  return h("div", { class: "columns" },
    h("section", { class: "card" }, h("h1", {}, t("meeting.title")),
      h("p", { class: "lead" }, t("meeting.lead")), warning, withPicture,
      button(t("meeting.new"), () => enter(), { class: "primary", disabled: !able })),
    h("section", { class: "card" }, h("h1", {}, t("meeting.join_title")),
      h("form", {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          const asked = roomIn(input.value);
          if (asked === null) {
            say(problem, t("watch.no_room_id"));
            input.focus();
          } else location.hash = `meet=${asked}`;
        },
      }, field(t("watch.room"), input), problem, h("button", {}, t("meeting.join")))));
}

class Meeting {
  /**
   * @param {import("../tim/index.js").Client} client
   * @param {string} room
   * @param {{ creator: string, granted: string[] }} info
   * @param {() => void} leave
   */
  constructor(client, room, info, leave) {
    this.room = room;
    this._client = client;
    this._isCreator = info.creator === client.account;
    this._creator = info.creator;
    /** Who may speak, as far as the creator knows. */
    this._granted = new Set(info.granted);
    /** Who asked. @type {Map<string, string>} */
    this._asking = new Map();
    this._over = false;
    this._waitsForYes = false;
    this._hasAsked = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._patience = undefined;
    this._starting = false;
    /** The camera is not to be had. */
    this._needsTest = false;
    /** @type {Publisher | null} */
    this._publisher = null;
    /** Our own sources, not to be heard twice. @type {Set<number>} */
    this._own = new Set();
    this._stage = new Stage();
    this._message = h("p", { class: "stage-message", role: "status" });
    this._people = h("ul", { class: "people" });
    this._viewers = h("p", { class: "hint viewers" });
    this._asked = h("ul", { class: "people" });
    this._askedPart = h("section", { class: "requests", hidden: true },
      h("h2", {}, t("meeting.asking")), this._asked);
    this._mute = button(t("mic.off"), () => this._turnSound());
    this._camera = button(t("camera.off"), () => this._turnPicture());
    this._speak = button(t("meeting.ask"), () => void this._ask(), { class: "primary", "data-do": "ask" });
    this._useTest = button(t("meeting.use_test"), () => {
      remember("meetingPicture", "test");
      void this._trySpeaking();
    }, { hidden: true, "data-do": "test" });
    const closing = this._isCreator
      ? [button(t("meeting.end_all"), () => void this._endForAll(), { class: "danger", "data-do": "end" })]
      : [];
    this.element = h("div", { class: "meeting-room" },
      h("div", { class: "row between" },
        h("h1", { class: "room-id" }, room),
        button(t("copy_link"), () => copy(meetingLink(room)), { "data-do": "copy" })),
      h("div", { class: "columns meeting-columns" },
        h("div", { class: "stack" },
          h("div", { class: "theatre" }, this._stage.element, this._message),
          h("div", { class: "row toolbar", role: "toolbar" }, this._mute, this._camera, this._speak, this._useTest,
            button(t("meeting.leave"), leave, { class: "danger", "data-do": "leave" }), ...closing)),
        h("aside", { class: "card side-card", "aria-label": t("meeting.people") }, this._askedPart,
          h("h2", {}, t("meeting.people")), this._people, this._viewers)));
    setPhrase(/** @type {HTMLElement} */ (this.element.querySelector("[role=toolbar]")), "aria-label",
      t("meeting.controls"));
    /** @type {RoomPlayer | null} */
    this._player = null;
    this._leave = leave;
    this._unlisten = [
      client.on("pushAsked", (event) => this._takeAsk(event)),
      client.on("pushGranted", (event) => this._takeGrant(event)),
    ];
    this._timer = setInterval(() => this._showSpeakers(), 250);
    this._showControls();
  }

  async begin() {
    const context = await wakeAudio();
    this._player = new RoomPlayer({
      context,
      ignore: (source) => this._own.has(source),
      onTile: (tile) => {
        this._stage.add(tile);
        this._showPeople();
      },
      onTileGone: (tile) => {
        this._stage.remove(tile.source);
        this._showPeople();
      },
      onSources: () => this._showPeople(),
      onConnection: (state) => {
        this._stage.isAway = state === "away";
        if (state === "away") this._tell("watch.away");
        else this._showPeople();
      },
      onEnd: (error) => {
        if (this._over) return;
        const gone = error instanceof RoomError && error.code === Code.no_such_room;
        notify(error === null ? t("meeting.ended") : gone ? t("meeting.gone") : describe(error),
          error === null ? "info" : "error");
        this._leave();
      },
    });
    // First, so that our own source is known before its frames come back to us.
    await this._trySpeaking();
    await this._player.start(this._client, this.room);
    this._showPeople();
  }

  end() {
    if (this._over) return;
    this._over = true;
    clearInterval(this._timer);
    clearTimeout(this._patience);
    for (const unlisten of this._unlisten) unlisten();
    this._player?.stop();
    void this._publisher?.stop();
  }

  // -- speaking ------------------------------------------------------------------

  /** Publish, if we may. */
  async _trySpeaking() {
    if (this._publisher !== null || this._starting) return;
    this._starting = true;
    let source;
    try {
      source = await this._client.publish(this.room);
      this._own.add(source.number);
      const context = await wakeAudio();
      const height = Number(recall("meetingHeight")) || 360;
      // The smallest is for machines that have trouble with many pictures at once.
      const options = { height, framerate: height < 360 ? 15 : 30 };
      const capture = recall("meetingPicture") === "test" || !canCapture()
        ? openTest(context) : await openCamera(options, context);
      if (this._over || source.error !== null) {
        capture.stop();
        source.close();
        return;
      }
      this._show(new Publisher(source, capture, context, options));
    } catch (error) {
      source?.close();
      this._needsTest = error instanceof DOMException;
      const denied = error instanceof RoomError && error.code === Code.permission_denied;
      if (!denied) notify(describe(error), "error");
    } finally {
      this._starting = false;
      this._showControls();
    }
  }

  /** @param {Publisher} publisher */
  _show(publisher) {
    this._publisher = publisher;
    this._needsTest = false;
    this._waitsForYes = this._hasAsked = false;
    clearTimeout(this._patience);
    const canvas = h("canvas", { width: 640, height: 360, role: "img", class: "own" });
    setPhrase(canvas, "aria-label", t("live.preview"));
    canvas.classList.toggle("mirror", publisher.capture.kind === "camera");
    publisher.onPreview = previewOn(canvas);
    this._stage.place(OWN_TILE, h("figure", { class: "tile own-tile" }, canvas,
      h("figcaption", {}, h("span", { class: "name" }, t("meeting.you", { account: this._client.account })))));
    const stopped = (/** @type {import("./i18n.js").Phrase} */ why) => {
      this._publisher = null;
      this._stage.remove(OWN_TILE);
      if (!this._over) {
        notify(why, "error");
        this._showControls();
        this._showPeople();
      }
    };
    publisher.onError = (error) => stopped(describe(error));
    publisher.source.onViewers = () => this._showPeople();
    publisher.capture.onEnd = () => {
      void publisher.stop();
      this._needsTest = true;
      stopped(t("camera.gone"));
    };
    publisher.capture.onSoundEnd = () => {
      notify(t("mic.gone"), "error");
      this._showControls();
    };
    this._showPeople();
  }

  async _ask() {
    if (this._isCreator) {
      await this._trySpeaking();
      return;
    }
    try {
      await this._client.askToPush(this.room, "");
      notify(t("meeting.asked", { creator: this._creator }));
      this._hasAsked = this._waitsForYes = true;
      clearTimeout(this._patience);
      this._patience = setTimeout(() => {
        this._waitsForYes = false;
        this._showControls();
      }, ASK_AGAIN_MS);
    } catch (error) {
      if (error instanceof RoomError && error.code === Code.already_granted) await this._trySpeaking();
      else notify(describe(error), "error");
    }
    this._showControls();
  }

  /** @param {{ room: string }} event */
  _takeGrant({ room }) {
    if (room !== this.room) return;
    notify(t("meeting.granted"));
    void this._trySpeaking();
  }

  _turnSound() {
    const publisher = this._publisher;
    if (publisher !== null) publisher.soundOn = !publisher.soundOn;
    this._showControls();
  }

  _turnPicture() {
    const publisher = this._publisher;
    if (publisher !== null) publisher.videoOn = !publisher.videoOn;
    this._showControls();
  }

  // -- for the creator --------------------------------------------------------------

  /** @param {{ room: string, account: string, message: string }} event */
  _takeAsk({ room, account, message }) {
    if (room !== this.room || this._granted.has(account)) return;
    if (!this._asking.has(account)) notify(t("meeting.asks", { account }));
    this._asking.set(account, message);
    this._showAsking();
  }

  /** @param {string} account */
  async _grant(account) {
    try {
      await this._client.grant(this.room, account);
      this._granted.add(account);
      this._asking.delete(account);
    } catch (error) {
      notify(describe(error), "error");
    }
    this._showAsking();
    this._showPeople();
  }

  /** @param {string} account */
  async _revoke(account) {
    try {
      await this._client.revoke(this.room, account);
      this._granted.delete(account);
    } catch (error) {
      notify(describe(error), "error");
    }
    this._showPeople();
  }

  async _endForAll() {
    try {
      await this._client.removeRoom(this.room);
    } catch (error) {
      notify(describe(error), "error");
    }
  }

  // -- showing ------------------------------------------------------------------------

  /** @param {string} key */
  _tell(key) {
    this._message.hidden = false;
    setPhrase(this._message, "", t(key));
  }

  _showControls() {
    const publisher = this._publisher;
    this._mute.hidden = publisher === null || publisher.capture.sound === null;
    this._camera.hidden = publisher === null;
    this._speak.hidden = publisher !== null;
    this._useTest.hidden = publisher !== null || !this._needsTest;
    this._speak.disabled = this._waitsForYes;
    const speak = this._isCreator ? "meeting.speak" : this._waitsForYes ? "meeting.waits"
      : this._hasAsked ? "meeting.ask_again" : "meeting.ask";
    setPhrase(this._speak, "", t(speak));
    if (publisher === null) return;
    setPhrase(this._mute, "", t(publisher.soundOn ? "mic.off" : "mic.on"));
    this._mute.classList.toggle("off", !publisher.soundOn);
    setPhrase(this._camera, "", t(publisher.videoOn ? "camera.off" : "camera.on"));
    this._camera.classList.toggle("off", !publisher.videoOn);
  }

  _showAsking() {
    this._askedPart.hidden = this._asking.size === 0;
    arrange(this._asked, this._asking.keys(), (account) => h("li", {},
      h("span", { class: "name" }, account),
      button(t("meeting.grant"), () => void this._grant(account), { class: "primary", "data-grant": account }),
      button(t("meeting.decline"), () => {
        this._asking.delete(account);
        this._showAsking();
      }, { "data-decline": account })));
  }

  _showPeople() {
    const speaking = new Set(this._player?.accounts.values() ?? []);
    if (this._publisher !== null) speaking.add(this._client.account);
    const all = new Set([...speaking, ...(this._isCreator ? this._granted : [])]);
    if (this._isCreator) all.add(this._client.account);
    arrange(this._people, [...all].sort(), (account) => h("li", { "data-account": account },
      h("span", { class: "name" }, account), h("span", { class: "hint" }),
      this._isCreator && account !== this._client.account
        && button(t("meeting.revoke"), () => void this._revoke(account), { "data-revoke": account })));
    for (const item of /** @type {Iterable<HTMLElement>} */ (this._people.children)) {
      const account = item.dataset.account ?? "";
      const role = account === this._creator ? t("meeting.creator")
        : speaking.has(account) ? t("meeting.speaks") : t("meeting.may_speak");
      say(/** @type {HTMLElement} */ (item.querySelector(".hint")), role);
      const revoke = item.querySelector("button");
      if (revoke !== null) revoke.hidden = !this._granted.has(account);
    }
    const viewers = this._publisher?.source.viewers ?? null;
    say(this._viewers, viewers === null ? "" : t("meeting.here", { count: viewers }));
    const empty = this._publisher === null && (this._player?.tiles.size ?? 0) === 0;
    this._message.hidden = !empty;
    if (empty) this._tell("meeting.nobody");
  }

  _showSpeakers() {
    for (const { canvas, player } of this._player?.tiles.values() ?? []) {
      canvas.parentElement?.classList.toggle("speaks", player.level > SPEAKS);
    }
  }
}

