// The page: its header, its views, and who is signed in.

import { isAccountName } from "../tim/index.js";
import { button, field, h, notify, say, setPhrase, translateAll } from "./dom.js";
import { LANGUAGES, currentLanguage, setLanguage, t, text } from "./i18n.js";
import { icon } from "./icons.js";
import { decoded } from "./links.js";
import { describe } from "./problems.js";
import { Needs, SessionState } from "./session.js";
import { recall, remember } from "./settings.js";
import { signInView } from "./sign_in.js";
import { dashboardView } from "./dashboard.js";
import { filesView, rememberSending } from "./files.js";
import { liveView } from "./live.js";
import { meetingView } from "./meeting.js";
import { watchView } from "./watch.js";

/**
 * One of the page's views. It is made once, and keeps running while hidden
 * unless it says otherwise.
 *
 * @typedef {object} View
 * @property {HTMLElement} element
 * @property {(parameter: string) => void} show
 * @property {() => void} [hide]
 */

/** @typedef {(session: SessionState) => View} MakeView */

/** @type {Record<string, { make: MakeView, tab: string, title: string }>} */
const VIEWS = {
  live: { make: liveView, tab: "live", title: "nav.live" },
  watch: { make: watchView, tab: "live", title: "nav.watch" },
  meeting: { make: meetingView, tab: "meeting", title: "nav.meeting" },
  files: { make: filesView, tab: "files", title: "nav.files" },
  dashboard: { make: dashboardView, tab: "dashboard", title: "nav.dashboard" },
};
/** Names of views by the names that links use for them. */
const ALIASES = /** @type {Record<string, string>} */ ({ meet: "meeting" });
const TABS = ["live", "meeting", "files", "dashboard"];

const session = new SessionState();
/** @type {Map<string, View>} */
const made = new Map();
/** @type {View | null} */
let shown = null;

const main = /** @type {HTMLElement} */ (document.getElementById("main"));

// -- the header -----------------------------------------------------------------

// In a part of its own: a link may have more beside its name.
const links = TABS.map((name) => h("a", { href: `#${name}` }, h("span", {}, t(`nav.${name}`))));
const who = h("button", { type: "button", class: "who plain", onclick: () => changeName() });
const dot = h("span", { class: "dot", role: "img" });
const away = h("span", { class: "away", role: "status" });
const tryNow = button(t("try_now"), () => session.client?.reconnectNow(), {
  hidden: true, "data-do": "reconnect",
});
const language = h("select", {
  "aria-label": t("language"),
  onchange: () => {
    setLanguage(language.value === "zh" ? "zh" : "en");
    translateAll();
    showTitle();
  },
}, ...LANGUAGES.map((each) =>
  h("option", { value: each, lang: each }, each === "en" ? "English" : "中文")));
language.value = currentLanguage();

/** @param {"light" | "dark"} theme */
function applyTheme(theme) {
  document.documentElement.dataset.theme = theme;
  setPhrase(themeButton, "aria-label", t(theme === "dark" ? "theme.light" : "theme.dark"));
  themeButton.replaceChildren(icon(theme === "dark" ? "sun" : "moon"));
}
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const themeButton = h("button", {
  type: "button", class: "plain icon",
  onclick: () => {
    const dark = document.documentElement.dataset.theme !== "dark";
    remember("theme", dark ? "dark" : "light");
    applyTheme(dark ? "dark" : "light");
  },
});
const chosenTheme = () => recall("theme") ?? (prefersDark.matches ? "dark" : "light");
prefersDark.onchange = () => applyTheme(chosenTheme());
applyTheme(chosenTheme());

document.getElementById("header")?.append(
  h("a", { class: "logo", href: "#live", "aria-label": t("home") },
    h("img", { src: new URL("../icon.svg", import.meta.url), alt: "", width: 26, height: 26 }), h("b", {}, "tim_trio")),
  h("nav", { "aria-label": t("nav.label") }, ...links),
  h("div", { class: "side" }, dot, away, tryNow, who, language, themeButton),
);
const skip = /** @type {HTMLElement} */ (document.getElementById("skip"));
setPhrase(skip, "", t("skip"));
skip.onclick = (/** @type {Event} */ event) => {
  event.preventDefault();
  main.focus();
};

function showWho() {
  const { client, connected } = session;
  const wasAway = away.textContent !== "";
  who.hidden = client === null;
  say(who, client?.account ?? "");
  setPhrase(who, "title", t(session.needs === Needs.name ? "who.change" : "who.sign_out"));
  dot.hidden = client === null; // then the view says why
  dot.dataset.state = connected ? "up" : client === null ? "down" : "away";
  const state = t(connected ? "state.up" : client === null ? "state.down" : "state.away");
  setPhrase(dot, "aria-label", state);
  setPhrase(dot, "title", state);
  // A colour alone tells too few.
  say(away, client !== null && !connected ? state : "");
  const hadFocus = document.activeElement === tryNow;
  tryNow.hidden = client === null || connected;
  if (hadFocus && tryNow.hidden) main.focus({ preventScroll: true });
  if (wasAway && connected) notify(t("state.back"));
}

/** @param {...import("./dom.js").Child} content */
function openDialog(...content) {
  const dialog = h("dialog", { class: "dialog" }, ...content);
  dialog.onclose = () => dialog.remove();
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

function askToSignOut() {
  const dialog = openDialog(
    h("h2", {}, t("who.signed_in", { account: session.client?.account ?? "" })),
    h("div", { class: "row end" },
      h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, t("cancel")),
      h("button", {
        type: "button", class: "primary",
        onclick: () => {
          session.signOut();
          location.reload();
        },
      }, t("who.sign_out"))));
}

function changeName() {
  if (session.needs !== Needs.name) {
    askToSignOut();
    return;
  }
  const input = h("input", { name: "account", value: session.client?.account ?? "", required: true });
  // Within the dialog: whatever is behind it cannot be reached, nor be read aloud.
  const problem = h("p", { class: "problem", role: "alert" });
  const dialog = openDialog(h("form", {
    method: "dialog",
    onsubmit: async (/** @type {Event} */ event) => {
      event.preventDefault();
      const account = input.value.trim();
      if (!isAccountName(account)) {
        say(problem, t("name.rules"));
        input.focus();
        return;
      }
      try {
        await session.signIn({ account });
        dialog.close();
        location.reload();
      } catch (error) {
        say(problem, describe(error));
      }
    },
  },
  h("h2", {}, t("who.title")), field(t("who.name"), input), problem,
  h("div", { class: "row end" },
    h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, t("cancel")),
    h("button", { class: "primary" }, t("save")))));
}

// -- the views ------------------------------------------------------------------

/** `#watch=ROOM` is the view "watch" with the parameter ROOM. */
function route() {
  const [name = "", parameter = ""] = decoded(location.hash.slice(1)).split("=", 2);
  const known = Object.hasOwn(ALIASES, name) ? ALIASES[name] ?? "" : name;
  return Object.hasOwn(VIEWS, known) ? { name: known, parameter } : { name: "live", parameter: "" };
}

function showTitle() {
  const view = VIEWS[route().name];
  document.title = view === undefined ? "tim_trio" : `${text(t(view.title))} · tim_trio`;
}

function showView() {
  if (session.client === null) return;
  const { name, parameter } = route();
  const description = VIEWS[name];
  if (description === undefined) return;
  let view = made.get(name);
  if (view === undefined) made.set(name, (view = description.make(session)));
  if (shown !== view) {
    shown?.hide?.();
    main.replaceChildren(view.element);
    shown = view;
    scrollTo(0, 0);
  }
  for (const [at, link] of links.entries()) {
    if (TABS[at] === description.tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showTitle();
  view.show(parameter);
}

/** Nothing of a connection that is over may go on, or be come back to. */
function leaveViews() {
  shown?.hide?.();
  shown = null;
  made.clear();
}

function showSignIn() {
  leaveViews();
  main.replaceChildren(signInView(session, showView));
}

/** @param {unknown} error */
function showProblem(error) {
  leaveViews();
  // Where it takes more than another attempt.
  const mustSignIn = session.needs !== null && session.needs !== Needs.name && !session.isRemembered;
  main.replaceChildren(h("section", { class: "card narrow" },
    h("h1", {}, t("problem.title")),
    h("p", { role: "alert" }, describe(error)),
    h("button", { type: "button", class: "primary", onclick: () => begin() },
      t(mustSignIn ? "sign_in.go" : "retry"))));
}

async function begin() {
  main.replaceChildren(h("p", { class: "waiting", role: "status" }, t("connecting")));
  try {
    if (await session.begin()) showView();
    else showSignIn();
  } catch (error) {
    showProblem(error);
  }
}

session.listeners.add(() => {
  showWho();
  if (session.client === null && made.size > 0) showProblem(session.lastError);
});
addEventListener("hashchange", () => {
  const before = shown;
  showView();
  // Whoever goes by the keyboard, or hears the page, goes on in the new view, or where
  // the link that was followed is gone.
  if (shown !== before || document.activeElement === document.body) main.focus({ preventScroll: true });
});

// -- files, which come whatever is shown ------------------------------------------

/** Offers that wait for an answer. */
const waiting = h("span", { class: "count", hidden: true });
links[TABS.indexOf("files")]?.append(" ", waiting);
/** @type {Set<import("../files/transfer.js").Transfer>} */
const announced = new Set();

/** @param {import("../files/service.js").FileService} files */
function followFiles(files) {
  /** @type {Map<unknown, string>} */
  const phases = new Map();
  files.listeners.add((which) => {
    // Numbers change all the time; that is nothing to be told of here.
    const state = which === null ? "" : `${which.phase} ${which.kept}`;
    if (which !== null && phases.get(which) === state) return;
    if (which !== null) phases.set(which, state);
    rememberSending(files);
    const { questions } = files;
    waiting.hidden = questions.length === 0;
    setPhrase(waiting, "", t("files.waiting", { count: questions.length }));
    for (const { account, name } of questions.filter((each) => !announced.has(each))) {
      if (route().name !== "files") notify(t("files.notice", { account, name }));
    }
    for (const each of questions) announced.add(each);
  });
}

let followed = session.files;
session.listeners.add(() => {
  if (session.files === null || session.files === followed) return;
  followed = session.files;
  followFiles(followed);
});
/** Somebody looks, or the network is there again: no use in waiting. */
const hurry = () => {
  if (!document.hidden) session.client?.reconnectNow();
};
addEventListener("online", hurry);
document.addEventListener("visibilitychange", hurry);
addEventListener("beforeunload", (event) => {
  // What the browser keeps goes on after a reload.
  const isLost = session.files?.sending.some(({ phase, kept }) => phase === "running" && kept === "");
  if (isLost) event.preventDefault();
});
addEventListener("pagehide", () => session.files?.leave());

showWho();
void begin();
