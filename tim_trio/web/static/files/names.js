// What a received file may be called: the sender's name is a suggestion.
//
// Source: protocol.md, Annex B, "What either side must expect".

/** Leaves room for " (1234)" under the 255 bytes that file systems take. */
const MAX_BYTES = 240;
const NAMELESS = "file";
/** Control, format (invisible, turns the direction of writing), surrogates, separators. */
const DROPPED = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const REPLACED = /[<>:"|?*]/g;
/** Dots hide a file, and Windows drops what stands at the end. */
const FRINGE = /^[.\s]+|[.\s]+$/gu;
/** Windows takes these for devices, with any extension and in any case. */
const RESERVED = /^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\.|$)/i;
/** Longer than any known one; what is longer is no extension. */
const MAX_EXTENSION_BYTES = 32;

/**
 * Return a name for a file, made from what a stranger suggests: no path, nothing
 * invisible, not hidden, not reserved, and not longer than 240 bytes of UTF-8.
 * Applied again it changes nothing.
 *
 * @param {string} offered
 */
export function safeName(offered) {
  let name = offered.split(/[/\\]/).at(-1) ?? "";
  name = name.replace(DROPPED, "").normalize("NFC").replace(REPLACED, "_");
  name = shortened(name.replace(FRINGE, ""));
  // Last: shortening may bring out what is reserved, and `_` still fits.
  if (RESERVED.test(name)) name = `_${name}`;
  return name || NAMELESS;
}

/** @param {string} text */
const bytesOf = (text) => new TextEncoder().encode(text).length;

/** @param {string} name */
function shortened(name) {
  if (bytesOf(name) <= MAX_BYTES) return name;
  const extension = extensionOf(name);
  let left = MAX_BYTES - bytesOf(extension);
  let stem = "";
  // Never in the middle of a character.
  for (const character of name.slice(0, name.length - extension.length)) {
    left -= bytesOf(character);
    if (left < 0) break;
    stem += character;
  }
  return stem.replace(FRINGE, "") + extension;
}

/**
 * Return the extension with its dot, empty where there is none; `.tar.gz` is one.
 *
 * @param {string} name
 */
function extensionOf(name) {
  const dot = name.lastIndexOf(".");
  if (dot <= 0 || bytesOf(name.slice(dot)) > MAX_EXTENSION_BYTES) return "";
  const isTar = name.slice(0, dot).toLowerCase().endsWith(".tar");
  return name.slice(isTar ? dot - 4 : dot);
}
