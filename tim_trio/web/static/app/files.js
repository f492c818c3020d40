// Files: sending to an account, and taking what others send.

import { isAccountName } from "../tim/index.js";
import { bytesText, button, copy, field, h, notify, say, setPhrase } from "./dom.js";
import { canKeep, forgetFile, keepFile, keptFile, pickFiles } from "./files_kept.js";
import { canPick, pickTarget } from "./files_saving.js";
import { TransferRow } from "./files_row.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { accountIn } from "./links.js";
import { describe } from "./problems.js";
import { recall, recallHere, remember, rememberHere } from "./settings.js";

/** @typedef {import("../files/transfer.js").Transfer} Transfer */
/** @typedef {import("../files/service.js").FileService} FileService */

/**
 * A file that was being sent when the page went away. A page cannot open it by itself.
 *
 * `kept` is what the browser keeps the file under, empty where it does not.
 *
 * @typedef {{ from: string, to: string, name: string, size: number, sha256: string, kept?: string }}
 *   Interrupted
 */

const MOST_RECENT = 8;

/** @param {string} account */
export function filesLink(account) {
  return `${location.origin}/#files=${encodeURIComponent(account)}`;
}

/** @type {import("./main.js").MakeView} */
export function filesView(session) {
  const form = new SendForm(session);
  const questions = h("ul", { class: "transfers questions" });
  const list = h("ul", { class: "transfers" });
  const none = h("p", { class: "empty" }, t("files.none"));
  const unavailable = h("p", { class: "warning", role: "alert", hidden: true }, t("files.unavailable"));
  // What happens is said once, and not each time that a number changes.
  const told = h("p", { class: "unseen", role: "status", "aria-live": "polite" });
  const link = h("input", { class: "link", readOnly: true, "aria-label": t("files.link") });
  const element = h("div", { class: "columns files-columns" },
    h("div", { class: "stack" },
      form.element,
      h("section", { class: "card" }, h("h2", {}, t("files.get")),
        h("p", { class: "hint" }, t("files.get_hint")),
        h("div", { class: "row" }, link, button(t("copy_link"), () => copy(link.value))))),
    h("section", { class: "card" }, h("h2", {}, t("files.transfers")), unavailable, told,
      questions, none, list));

  /** @type {Map<Transfer, TransferRow>} */
  const rows = new Map();
  /** @type {FileService | null} */
  let service = null;
  let stop = () => {};

  const draw = () => {
    const now = service?.transfers ?? [];
    for (const [transfer, row] of rows) {
      if (now.includes(transfer)) continue;
      row.element.remove();
      rows.delete(transfer);
    }
    for (const transfer of [...now].reverse()) {
      let row = rows.get(transfer);
      if (row === undefined) {
        row = new TransferRow(transfer, { own: service?.client.account ?? "", pickTarget, canPick: canPick() });
        rows.set(transfer, row);
      }
      const home = transfer.direction === "in" && transfer.phase === "offered" ? questions : list;
      if (row.element.parentElement !== home) home.prepend(row.element);
    }
    none.hidden = now.length > 0 || list.childElementCount > 0;
  };

  const attach = () => {
    if (service === session.files) return;
    stop();
    service = session.files;
    if (service === null) return;
    unavailable.hidden = service.isAvailable;
    const listener = (/** @type {Transfer | null} */ which) => {
      const row = which === null ? undefined : rows.get(which);
      if (row === undefined || which?.phase !== row.phase) {
        draw();
        const shown = which === null ? undefined : rows.get(which);
        if (shown !== undefined && which !== null) setPhrase(told, "", shown.summary());
      }
      if (which !== null) rows.get(which)?.update();
    };
    service.listeners.add(listener);
    stop = () => service?.listeners.delete(listener);
    draw();
    for (const row of rows.values()) row.update();
  };

  for (const interrupted of recallInterrupted()) {
    if (interrupted.from !== session.client?.account) continue;
    list.append(interruptedRow(interrupted, session, () => draw()));
  }
  return {
    element,
    show(parameter) {
      attach();
      const { client } = session;
      link.value = client === null ? "" : filesLink(client.account);
      form.offer(parameter);
    },
  };
}

/** Who gets what: the form. */
class SendForm {
  /** @param {import("./session.js").SessionState} session */
  constructor(session) {
    this._session = session;
    /** @type {{ file: File, handle?: FileSystemFileHandle | undefined }[]} */
    this._files = [];
    this._known = h("datalist", { id: "known-accounts" });
    this._to = h("input", {
      name: "to", autocomplete: "off", spellcheck: false, autocapitalize: "off",
      list: "known-accounts", required: true,
      onfocus: () => void this._suggest(),
    });
    this._picker = h("input", {
      type: "file", multiple: true, class: "unseen", id: "file-picker",
      onclick: (/** @type {Event} */ event) => {
        // The other dialog gives what can be kept over a reload.
        if (!canKeep()) return;
        event.preventDefault();
        pickFiles().then((chosen) => this._choose(chosen),
          (error) => say(this._problem, describe(error)));
      },
      onchange: () => {
        this._choose([...(this._picker.files ?? [])].map((file) => ({ file })));
        this._picker.value = "";
      },
    });
    this._chosen = h("ul", { class: "chosen" });
    this._problem = h("p", { class: "problem", role: "alert" });
    this._send = h("button", { class: "primary", "data-do": "send", disabled: true }, t("files.send"));
    const zone = h("label", { class: "drop", for: "file-picker" },
      h("span", { class: "big" }, icon("upload", 34)),
      h("b", {}, t("files.choose")), h("span", { class: "hint" }, t("files.drop")));
    this.element = h("section", { class: "card" },
      h("h1", {}, t("files.title")), h("p", { class: "lead" }, t("files.lead")),
      h("form", { onsubmit: (/** @type {Event} */ event) => this._submit(event) },
        field(t("files.to"), this._to, t("files.to_hint")), this._known,
        this._picker, zone, this._chosen, this._problem, this._send));
    this._takeDrops(this.element, zone);
  }

  /** @param {string} account from a link */
  offer(account) {
    if (account !== "") this._to.value = account;
  }

  /**
   * @param {HTMLElement} target
   * @param {HTMLElement} zone
   */
  _takeDrops(target, zone) {
    const over = (/** @type {boolean} */ is) => zone.classList.toggle("over", is);
    target.ondragover = (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      over(true);
    };
    target.ondragleave = () => over(false);
    target.ondrop = (event) => {
      event.preventDefault();
      over(false);
      void this._takeDropped([...(event.dataTransfer?.items ?? [])].filter(({ kind }) => kind === "file"));
    };
  }

  /** @param {DataTransferItem[]} items */
  async _takeDropped(items) {
    // All at once: after the first wait the browser shows nothing of them any more.
    const dropped = items.map((item) => ({
      // A directory cannot be read as a file.
      isFolder: item.webkitGetAsEntry?.()?.isDirectory === true,
      file: item.getAsFile(),
      handle: canKeep() ? item.getAsFileSystemHandle?.() : undefined,
    }));
    const chosen = [];
    for (const { isFolder, file, handle } of dropped) {
      const found = await handle?.catch(() => null);
      if (isFolder) notify(t("files.no_folders"), "error");
      else if (file !== null) {
        chosen.push({ file, handle: found?.kind === "file" ? /** @type {any} */ (found) : undefined });
      }
    }
    this._choose(chosen);
  }

  /** @param {{ file: File, handle?: FileSystemFileHandle | undefined }[]} files */
  _choose(files) {
    this._files.push(...files);
    this._show();
    if (files.length > 0) (this._to.value === "" ? this._to : this._send).focus();
  }

  _show() {
    this._chosen.replaceChildren(...this._files.map(({ file }, at) => h("li", {},
      h("bdi", { class: "name" }, file.name), h("span", { class: "hint" }, bytesText(file.size)),
      button(t("files.remove"), () => {
        this._files.splice(at, 1);
        this._show();
        this._picker.focus();
      }, { class: "plain" }))));
    this._send.disabled = this._files.length === 0;
    say(this._problem, "");
  }

  /** @param {Event} event */
  _submit(event) {
    event.preventDefault();
    const to = accountIn(this._to.value);
    const { files } = this._session;
    if (!isAccountName(to)) {
      say(this._problem, t("name.rules"));
      this._to.focus();
      return;
    }
    this._to.value = to;
    if (files === null) return;
    for (const { file, handle } of this._files) {
      const sending = files.send(file, to);
      // Where nothing can be kept, a reload asks for the file again.
      if (handle !== undefined) keepFile(handle).then((id) => sending.keep(id), () => {});
    }
    this._files = [];
    this._show();
    const others = recentAccounts().filter((each) => each !== to);
    remember("sentTo", [to, ...others].slice(0, MOST_RECENT));
  }

  /** Offer those whom one knows. */
  async _suggest() {
    const accounts = new Set(recentAccounts());
    try {
      for (const { account } of await this._session.client?.listContacts() ?? []) accounts.add(account);
    } catch (error) {
      say(this._problem, describe(error));
    }
    this._known.replaceChildren(...[...accounts].map((each) => h("option", { value: each })));
  }
}

/** @returns {string[]} */
function recentAccounts() {
  const known = recall("sentTo");
  return Array.isArray(known) ? known.filter((each) => typeof each === "string") : [];
}

// -- over a reload ------------------------------------------------------------------

/** @returns {Interrupted[]} */
function recallInterrupted() {
  const known = recallHere("sending");
  return Array.isArray(known) ? known : [];
}

/**
 * Note what is being sent, for after a reload.
 *
 * @param {FileService} service
 */
export function rememberSending(service) {
  for (const each of service.transfers) {
    if (each.direction === "out" && each.outcome?.ending === "done" && each.kept !== "") {
      forgetFile(each.kept).catch(() => {});
      each.kept = "";
    }
  }
  const sending = service.sending.map(({ account, name, size, sha256, kept }) =>
    ({ from: service.client.account, to: account, name, size, sha256, kept }));
  const isSame = (/** @type {Interrupted} */ one, /** @type {Interrupted} */ other) =>
    one.from === other.from && one.to === other.to && one.name === other.name && one.size === other.size;
  const before = stillInterrupted.filter((one) => !sending.some((other) => isSame(one, other)));
  rememberHere("sending", before.length + sending.length === 0 ? null : [...before, ...sending]);
}

/** Those of before a reload that nobody has gone on with yet. @type {Interrupted[]} */
let stillInterrupted = recallInterrupted();

/**
 * @param {Interrupted} interrupted
 * @param {import("./session.js").SessionState} session
 * @param {() => void} changed
 */
function interruptedRow(interrupted, session, changed) {
  const { to, name, size, sha256, kept = "" } = interrupted;
  const problem = h("p", { class: "problem", role: "alert" });
  const forget = () => {
    stillInterrupted = stillInterrupted.filter((each) => each !== interrupted);
    if (session.files !== null) rememberSending(session.files);
    row.remove();
    changed();
  };
  /** @param {File} file */
  const goOn = (file) => {
    if (session.files === null) return;
    if (file.size !== size || file.name !== name) {
      say(problem, t("files.not_the_same", { name, size: bytesText(size) }));
      return;
    }
    session.files.send(file, to, { sha256, kept });
    forget();
  };
  const picker = h("input", {
    type: "file", hidden: true, "data-again": name,
    onchange: () => {
      const [file] = picker.files ?? [];
      picker.value = "";
      if (file !== undefined) goOn(file);
    },
  });
  const state = h("p", { class: "state" }, t("files.interrupted"));
  const choose = button(t("files.choose_again"), () => picker.click(), { class: "primary" });
  const resume = button(t("files.resume"), () => void open(true), {
    class: "primary", hidden: true, "data-do": "resume",
  });
  /** @param {boolean} isAsked a person has just pressed the button: the browser may ask in turn */
  const open = async (isAsked) => {
    try {
      const handle = kept === "" ? null : await keptFile(kept);
      if (handle === null) return;
      const mode = /** @type {const} */ ({ mode: "read" });
      const may = isAsked ? await handle.requestPermission(mode) : await handle.queryPermission(mode);
      if (may === "granted") goOn(await handle.getFile());
      const canAsk = may === "prompt";
      resume.hidden = !canAsk;
      choose.hidden = canAsk;
      if (canAsk) setPhrase(state, "", t("files.interrupted_kept"));
    } catch (error) {
      // Moved or deleted meanwhile: choosing it is left.
      console.warn(error);
      resume.hidden = true;
      choose.hidden = false;
      setPhrase(state, "", t("files.interrupted"));
    }
  };
  void open(false);
  const row = h("li", { class: "transfer", "data-phase": "interrupted" },
    h("span", { class: "way" }, icon("upload", 22)),
    h("div", { class: "what" }, h("bdi", { class: "name" }, name),
      h("span", { class: "hint" }, t("files.row_to", { account: to, size: bytesText(size) }))),
    state, problem, picker,
    h("div", { class: "row actions" }, resume, choose,
      button(t("files.remove"), forget, { class: "plain" })));
  return row;
}
