// The dashboard: for operators all rooms, and one room's subscribers for its creator too.

import { parseRoomId } from "../tim/index.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";
import { Feed, Ticker } from "./dashboard/feed.js";
import { gate, isOperator } from "./dashboard/gate.js";
import { Overview } from "./dashboard/overview.js";
import { RoomDetails } from "./dashboard/room.js";

/** @type {import("./main.js").MakeView} */
export function dashboardView(session) {
  const element = h("div");
  const stale = h("p", { class: "warning", role: "status", hidden: true }, t("dash.away"));
  /** @type {Feed | null} */
  let feed = null;
  /** @type {Overview | null} */
  let overview = null;
  /** @type {RoomDetails | null} */
  let details = null;

  // At once: what was asked last is answered only when the connection is back.
  const showStale = () => {
    stale.hidden = session.connected;
  };

  const ticker = new Ticker(async () => {
    if (details !== null) {
      if (!details.isOver) await details.tick();
      return;
    }
    const [askedFeed, shown] = [feed, overview];
    if (askedFeed === null || shown === null) return;
    try {
      await askedFeed.look();
      stale.hidden = true;
      if (shown === overview) shown.show(askedFeed);
    } catch {
      // The connection's dot says why; what is shown may as well stay.
      stale.hidden = false;
    }
  });

  return {
    element,
    show(parameter) {
      const { client } = session;
      details = null;
      if (client === null) return;
      session.listeners.add(showStale);
      showStale();
      const operator = isOperator(client);
      if (operator) feed ??= new Feed(client);
      if (parameter !== "") {
        if (parseRoomId(parameter) === null) {
          element.replaceChildren(h("section", { class: "card narrow" }, h("h1", {}, t("dash.title")),
            h("p", { class: "problem", role: "alert" }, t("watch.no_room_id"))));
          return;
        }
        details = new RoomDetails(client, parameter, feed);
        element.replaceChildren(stale, details.element);
        scrollTo(0, 0); // Its row may have been far down.
      } else if (operator) {
        overview ??= new Overview();
        element.replaceChildren(stale, overview.element);
      } else {
        element.replaceChildren(gate(session, client));
        return;
      }
      ticker.start();
    },
    hide() {
      ticker.stop();
      session.listeners.delete(showStale);
      details = null;
    },
  };
}
