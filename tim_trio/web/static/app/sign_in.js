// Signing in, where a name does not suffice.

import { isAccountName } from "../tim/index.js";
import { button, field, h, notify, say, setPhrase } from "./dom.js";
import { t } from "./i18n.js";
import { describeSignIn, describeToken } from "./problems.js";
import { Needs } from "./session.js";

/**
 * @param {import("./session.js").SessionState} session
 * @param {() => void} done
 */
export function signInView(session, done) {
  return session.needs === Needs.token ? tokenForm(session, done) : passwordForm(session, done);
}

/**
 * @param {import("./session.js").SessionState} session
 * @param {() => void} done
 */
function passwordForm(session, done) {
  let registering = false;
  const account = h("input", {
    name: "account", autocomplete: "username", required: true, autocapitalize: "off",
  });
  const password = h("input", {
    name: "password", type: "password", autocomplete: "current-password", required: true,
  });
  const invitation = h("input", { name: "invitation", autocomplete: "off" });
  const invited = field(t("sign_in.invitation"), invitation, t("sign_in.invitation_hint"));
  const title = h("h1", {}, t("sign_in.title"));
  const problem = h("p", { class: "problem", role: "alert" });
  const submit = h("button", { class: "primary" }, t("sign_in.go"));
  const turn = button(t("sign_in.to_register"), () => {
    registering = !registering;
    show();
  }, { class: "plain" });
  const show = () => {
    setPhrase(title, "", t(registering ? "register.title" : "sign_in.title"));
    setPhrase(submit, "", t(registering ? "register.go" : "sign_in.go"));
    setPhrase(turn, "", t(registering ? "register.to_sign_in" : "sign_in.to_register"));
    password.autocomplete = registering ? "new-password" : "current-password";
    password.minLength = registering ? 8 : 0;
    invited.hidden = !registering;
    say(problem, "");
  };
  const form = h("form", {
    class: "card narrow",
    onsubmit: async (/** @type {Event} */ event) => {
      event.preventDefault();
      const who = { account: account.value.trim(), password: password.value };
      if (!isAccountName(who.account)) {
        say(problem, t("name.rules"));
        account.focus();
        return;
      }
      submit.disabled = true;
      say(problem, "");
      try {
        if (registering) {
          await session.register({ ...who, invitation: invitation.value.trim() });
          notify(t("register.done", { account: who.account }));
        }
        await session.signIn(who);
        password.value = "";
        done();
      } catch (error) {
        say(problem, describeSignIn(error));
        password.focus();
      }
      submit.disabled = false;
    },
  }, title, field(t("sign_in.account"), account), field(t("sign_in.password"), password), invited,
  problem, h("div", { class: "row between" }, turn, submit));
  show();
  queueMicrotask(() => account.focus());
  return form;
}

/**
 * @param {import("./session.js").SessionState} session
 * @param {() => void} done
 */
function tokenForm(session, done) {
  const token = h("textarea", { rows: 5, required: true, spellcheck: false, autocomplete: "off" });
  const problem = h("p", { class: "problem", role: "alert" });
  return h("form", {
    class: "card narrow",
    onsubmit: async (/** @type {Event} */ event) => {
      event.preventDefault();
      say(problem, "");
      try {
        await session.signIn({ token: token.value.trim() });
        done();
      } catch (error) {
        say(problem, describeToken(error));
        token.focus();
      }
    },
  }, h("h1", {}, t("sign_in.title")), field(t("sign_in.token"), token, t("sign_in.token_hint")),
  problem, h("div", { class: "row end" }, h("button", { class: "primary" }, t("sign_in.go"))));
}
