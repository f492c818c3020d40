// What somebody sees who is no operator: what to do, and their own rooms.

import { Right } from "../../tim/index.js";
import { h } from "../dom.js";
import { t } from "../i18n.js";
import { Needs } from "../session.js";

/** @param {import("../../tim/index.js").Client} client */
export function isOperator(client) {
  return (client.rights & Right.operator) !== 0;
}

/**
 * @param {import("../session.js").SessionState} session
 * @param {import("../../tim/index.js").Client} client
 */
export function gate(session, client) {
  const port = location.port || "80";
  const advice = session.needs === Needs.name
    ? [h("p", {}, t("dash.gate_open", { port })),
      h("p", {}, h("code", {}, `ssh -L ${port}:127.0.0.1:${port} ${location.hostname}`))]
    : session.needs === Needs.password
      ? [h("p", {}, t("dash.gate_accounts", { account: client.account })),
        h("p", {}, h("code", {}, "python -m tim_trio account add NAME --operator"))]
      : [h("p", {}, t("dash.gate_token")), h("p", {}, h("code", {}, "\"tim\": {\"operator\": true}"))];
  const own = h("ul", { class: "rooms" });
  const ownPart = h("div", { hidden: true }, h("p", { class: "lead" }, t("dash.gate_own")), own);
  void client.listRooms().then((rooms) => {
    const created = rooms.filter(({ creator }) => creator === client.account);
    ownPart.hidden = created.length === 0;
    own.replaceChildren(...created.map(({ room }) => h("li", {},
      h("a", { href: `#dashboard=${room}`, class: "room-id" }, room))));
  }, () => {
    // Without them the advice stands, which is what this is for.
  });
  return h("section", { class: "card gate" }, h("h1", {}, t("dash.gate")), ...advice, ownPart);
}
