// What this browser can do here, and what to say where it cannot.

import { h } from "./dom.js";
import { t } from "./i18n.js";

export function canPlayMedia() {
  return typeof VideoDecoder !== "undefined" && typeof AudioDecoder !== "undefined";
}

export function canPublishMedia() {
  return typeof VideoEncoder !== "undefined" && typeof AudioEncoder !== "undefined";
}

export function canCapture() {
  return navigator.mediaDevices !== undefined;
}

/** Why pictures do not work here: a page that is no secure context, or an old browser. */
export function insecureNotice() {
  if (isSecureContext) return h("div", { class: "warning" }, h("p", {}, t("old_browser")));
  const here = location.port || "80";
  return h("div", { class: "warning", role: "alert" },
    h("h2", {}, t("insecure.title")),
    h("p", {}, t("insecure.why", { host: location.host })),
    h("ul", {},
      h("li", {}, t("insecure.tls")),
      h("li", {}, t("insecure.tunnel"),
        h("code", {}, ` ssh -L ${here}:127.0.0.1:${here} ${location.hostname} `),
        t("insecure.then", { port: here }))));
}
