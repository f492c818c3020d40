// Numbers of the dashboard as people read them.

import { bitrateText, bytesText as bytes } from "../dom.js";
import { text, t } from "../i18n.js";

/** @param {number} value */
export const countText = (value) => new Intl.NumberFormat(document.documentElement.lang).format(
  value >= 100 || Number.isInteger(value) ? Math.round(value) : Math.round(value * 10) / 10);

/** @param {number} bytesPerS */
export const rateText = (bytesPerS) => (Number.isNaN(bytesPerS) ? "–" : bytesPerS > 0 ? bitrateText(8 * bytesPerS) : "0");

/** @param {number} part of a core */
export const coreText = (part) => (Number.isNaN(part) ? "–" : `${Math.round(100 * part)} %`);

/** @param {number} ms */
export function durationText(ms) {
  const seconds = Math.floor(ms / 1000);
  const [days, hours, minutes] = [86_400, 3600, 60].map((each) => Math.floor(seconds / each));
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const clock = `${two((hours ?? 0) % 24)}:${two((minutes ?? 0) % 60)}:${two(seconds % 60)}`;
  return days ? text(t("dash.days", { days, clock })) : clock;
}

/** A wait: short ones in tenths. @param {number} ms */
export const waitText = (ms) => (ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`);

/** @param {number} count */
export const bytesText = (count) => (count > 0 ? bytes(count) : "0");
