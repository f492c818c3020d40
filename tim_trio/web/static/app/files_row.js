// One transfer as a row: what it is, how far it is, and what can be done.

import { CallFailed } from "../files/calls.js";
import { Incoming } from "../files/incoming.js";
import { bytesText, button, h, notify, setPhrase } from "./dom.js";
import { download, writeTo } from "./files_saving.js";
import { Phrase, hasPhrase, t } from "./i18n.js";
import { icon } from "./icons.js";
import { describe } from "./problems.js";

/** @typedef {import("../files/transfer.js").Transfer} Transfer */

/** Speed is taken over so long. */
const SPEED_OVER_MS = 4000;
/** Of these there is nothing to begin again with: the file is not what it was. */
const FINAL = ["changed", "unreadable", "other"];

export class TransferRow {
  /**
   * @param {Transfer} transfer
   * @param {object} options
   * @param {string} options.own our own account
   * @param {boolean} options.canPick
   * @param {(name: string) => Promise<FileSystemFileHandle | null>} options.pickTarget
   */
  constructor(transfer, { own, canPick, pickTarget }) {
    this.transfer = transfer;
    this.phase = "";
    this._couldBeTakenUp = false;
    this._own = own;
    this._canPick = canPick;
    this._pickTarget = pickTarget;
    /** Times and bytes moved until then. @type {[number, number][]} */
    this._samples = [];
    /** What arrived before a reload is not saved again by itself. */
    this._savedItself = transfer.outcome?.ending === "done";
    const { account, name, size, direction } = transfer;
    const values = { account, size: bytesText(size) };
    this._bar = h("progress", { max: 1, "aria-label": t("files.progress_of", { name }) });
    this._state = h("p", { class: "state" });
    this._numbers = h("p", { class: "numbers hint" });
    /** @param {string} label @param {() => unknown} run @param {string} [kind] */
    const act = (label, run, kind = "") =>
      button(t(`files.${label}`), () => this._try(run), { "data-do": label, class: kind });
    this._buttons = {
      accept: act("accept", () => transfer.accept(), "primary"),
      acceptTo: act("accept_to", () => this._acceptTo()),
      decline: act("decline", () => transfer.decline(), "plain"),
      save: act("save", () => this._save()),
      saveTo: act("save_to", () => this._saveTo()),
      pause: act("pause", () => transfer.pause()),
      resume: act("resume", () => transfer.resume(), "primary"),
      again: act("again", () => transfer.resume()),
      cancel: act("cancel", () => transfer.cancel(), "danger"),
      remove: act("remove", () => transfer.remove(), "plain"),
    };
    this.element = h("li", { class: "transfer", "data-direction": direction, "data-name": name },
      h("span", { class: "way" }, icon(direction === "in" ? "download" : "upload", 22)),
      h("div", { class: "what" }, h("bdi", { class: "name" }, name),
        h("span", { class: "hint" }, t(direction === "in" ? "files.row_from" : "files.row_to", values))),
      this._bar, this._state, this._numbers,
      h("div", { class: "row actions" }, ...Object.values(this._buttons)));
    this.update();
  }

  /** @param {() => unknown} run */
  async _try(run) {
    try {
      await run();
    } catch (error) {
      notify(describe(error), "error");
    }
    this.update();
  }

  // -- what it says -----------------------------------------------------------------

  /** For whoever does not see the row. */
  summary() {
    return t("files.summary", { name: this.transfer.name, state: this._stateOf() });
  }

  update() {
    const { transfer } = this;
    const { phase, position, size, outcome } = transfer;
    const moves = ["running", "reading"].includes(phase);
    const isDone = outcome?.ending === "done";
    const canBeTakenUp = transfer instanceof Incoming && transfer.canBeTakenUp;
    if (phase === this.phase && canBeTakenUp !== this._couldBeTakenUp) this._showButtons();
    this._couldBeTakenUp = canBeTakenUp;
    if (phase !== this.phase) {
      this.phase = phase;
      this.element.dataset.phase = isDone ? "done" : phase;
      this._samples = [];
      this._showButtons();
      if (isDone && !this._savedItself) {
        this._savedItself = true;
        void this._try(() => this._saveByItself());
      }
    }
    setPhrase(this._state, "", this._stateOf());
    this._bar.hidden = phase === "over" || phase === "offered" || (phase === "queued" && position === 0);
    if (phase === "checking") this._bar.removeAttribute("value");
    else this._bar.value = size > 0 ? position / size : 0;
    const isKept = transfer instanceof Incoming && transfer.keepsPart;
    this._numbers.hidden = !moves && !isKept && !(position > 0 && ["away", "paused"].includes(phase));
    if (!this._numbers.hidden) setPhrase(this._numbers, "", this._numbersOf(moves));
  }

  /** @param {boolean} moves */
  _numbersOf(moves) {
    const { position, size } = this.transfer;
    const values = {
      percent: Math.floor((size > 0 ? position / size : 1) * 100),
      done: bytesText(position), size: bytesText(size),
    };
    const speed = moves ? this._speed() : 0;
    if (speed <= 0) return t("files.amount", values);
    const left = durationOf((size - position) / speed);
    return t("files.amount_speed", { ...values, speed: bytesText(speed), left });
  }

  /** Bytes a second of late, 0 while not known. */
  _speed() {
    const now = performance.now();
    const samples = this._samples;
    samples.push([now, this.transfer.position]);
    while ((samples[1]?.[0] ?? now) < now - SPEED_OVER_MS) samples.shift();
    const [since, from] = samples[0] ?? [now, 0];
    return now - since < 400 ? 0 : ((this.transfer.position - from) / (now - since)) * 1000;
  }

  /** @returns {Phrase} */
  _stateOf() {
    const { transfer } = this;
    const { direction, phase, account, problem, outcome, peerIsStopping } = transfer;
    const values = { account };
    const where = direction === "in" ? "files.in" : "files.out";
    const part = transfer instanceof Incoming && transfer.keepsPart ? "_part" : "";
    if (phase !== "over" || outcome === null) {
      const isAbsent = phase === "offered" && "isAbsent" in transfer && transfer.isAbsent;
      const more = isAbsent ? (account === this._own ? "_absent_own" : "_absent") : phase === "away" && peerIsStopping ? "_stopping" : part;
      return t(`${where}.${phase}${more}`, values);
    }
    const { ending, reason, by } = outcome;
    if (ending === "done") {
      const saved = transfer instanceof Incoming && transfer.isSaved ? "_saved" : "";
      return t(`${where}.done${saved}`, values);
    }
    const isOurs = (direction === "in") === (by === "receiver");
    if (isOurs && problem !== null) return problemOf(problem, direction);
    for (const key of [
      `${where}.${ending}.${reason}`, `files.${ending}.${reason}`, `${where}.${ending}.${isOurs ? "us" : "them"}${part}`,
      `files.${ending}`,
    ]) if (hasPhrase(key)) return t(key, values);
    return t("files.failed", values);
  }

  // -- what can be done -------------------------------------------------------------

  _showButtons() {
    const { transfer } = this;
    const { direction, phase, outcome, file } = transfer;
    const asks = direction === "in" && phase === "offered";
    const isOver = phase === "over";
    const goesOn = !isOver && !asks;
    const isDone = outcome?.ending === "done";
    const canBeAgain = direction === "out" && isOver && !isDone && !FINAL.includes(outcome?.reason ?? "");
    /** @type {[keyof TransferRow["_buttons"], boolean][]} */
    const shown = [
      ["accept", asks], ["acceptTo", asks && this._canPick], ["decline", asks],
      ["save", file !== null], ["saveTo", file !== null && this._canPick],
      ["pause", goesOn && phase !== "paused" && phase !== "checking"],
      ["resume", phase === "paused" || (transfer instanceof Incoming && transfer.canBeTakenUp)],
      ["again", canBeAgain],
      ["cancel", goesOn], ["remove", isOver],
    ];
    const hadFocus = this.element.contains(document.activeElement);
    for (const [name, is] of shown) this._buttons[name].hidden = !is;
    // The button that was pressed may be gone: the keyboard stays in the row.
    if (hadFocus && !this.element.querySelector(":focus")) {
      Object.values(this._buttons).find((each) => !each.hidden)?.focus();
    }
  }

  async _acceptTo() {
    const { transfer } = this;
    const target = await this._pickTarget(transfer.name);
    if (target === null || !(transfer instanceof Incoming)) return;
    transfer.target = target;
    transfer.accept();
  }

  async _saveByItself() {
    const { transfer } = this;
    if (!(transfer instanceof Incoming) || transfer.file === null) return;
    if (transfer.target === null) download(transfer.file, transfer.name);
    else await this._write(transfer, transfer.target);
  }

  _save() {
    const { file, name } = this.transfer;
    if (file !== null) download(file, name);
  }

  async _saveTo() {
    const { transfer } = this;
    const target = await this._pickTarget(transfer.name);
    if (target !== null && transfer instanceof Incoming) await this._write(transfer, target);
  }

  /**
   * @param {Incoming} transfer
   * @param {FileSystemFileHandle} target
   */
  async _write(transfer, target) {
    if (transfer.file === null) return;
    await writeTo(transfer.file, target);
    transfer.isSaved = true;
    await transfer.release();
    this._showButtons();
  }
}

/**
 * @param {unknown} problem
 * @param {"in" | "out"} direction
 */
function problemOf(problem, direction) {
  const { name } = problem instanceof Error ? problem : new Error();
  if (name === "QuotaExceededError") return t("files.no_space_here");
  if (direction === "out" && ["NotReadableError", "NotFoundError"].includes(name)) {
    return t("files.unreadable_here");
  }
  if (direction === "in" && problem instanceof CallFailed) return t("files.unwritable_here");
  return describe(problem);
}

/** @param {number} seconds */
function durationOf(seconds) {
  if (seconds < 99) return t("files.seconds", { count: Math.ceil(seconds) });
  if (seconds < 99 * 60) return t("files.minutes", { count: Math.round(seconds / 60) });
  return t("files.hours", { count: Math.round(seconds / 3600) });
}
