// Sending a transfer's messages, one after another.

import { ConnectionClosed, DeliveryStatus, RequestTimedOut, RoomError } from "../tim/index.js";
import { KIND, encode } from "./messages.js";

/** @typedef {import("./messages.js").Message} Message */
/** @typedef {import("./sender.js").Heard} Heard */

/** A status of later versions counts as offline: it may change. @type {Map<number, Heard>} */
const HEARD = new Map([
  [DeliveryStatus.delivered, "delivered"], [DeliveryStatus.offline, "offline"],
  [DeliveryStatus.refused, "refused"], [DeliveryStatus.unknown, "unknown"],
]);

/**
 * Send a message; return who heard it, null where that is not known. Waits for
 * the connection.
 *
 * @param {import("../tim/index.js").Client} client
 * @param {string} account
 * @param {Message} message
 * @returns {Promise<{ heard: Heard, devices: number } | null>}
 * @throws {ConnectionClosed} there is no connection, and there will be none
 * @throws {RoomError} the server never lets us
 */
export async function post(client, account, message) {
  try {
    const [delivery] = await client.sendToAccounts([account], KIND, encode(message));
    if (delivery === undefined || delivery.status === DeliveryStatus.busy) return null;
    return { heard: HEARD.get(delivery.status) ?? "offline", devices: delivery.devices };
  } catch (error) {
    const passing = error instanceof RequestTimedOut
      || (error instanceof ConnectionClosed && !client.isOver)
      || (error instanceof RoomError && error.retryable);
    if (!passing) throw error;
    return null;
  }
}
