// What the page remembers: in this browser, or in this tab alone.

/**
 * @param {Storage} storage
 * @param {string} name
 * @returns {any}
 */
function read(storage, name) {
  try {
    return JSON.parse(storage.getItem(`tim.${name}`) ?? "null");
  } catch {
    return null; // Private windows may refuse, and others may have written.
  }
}

/**
 * @param {Storage} storage
 * @param {string} name
 * @param {unknown} value null: forget
 */
function write(storage, name, value) {
  try {
    if (value === null) storage.removeItem(`tim.${name}`);
    else storage.setItem(`tim.${name}`, JSON.stringify(value));
  } catch {
    // Then it is asked for again.
  }
}

/** Kept in the browser. @param {string} name */
export const recall = (name) => read(localStorage, name);
/** @param {string} name @param {unknown} value */
export const remember = (name, value) => write(localStorage, name, value);
/** Kept in this tab, over a reload. @param {string} name */
export const recallHere = (name) => read(sessionStorage, name);
/** @param {string} name @param {unknown} value */
export const rememberHere = (name, value) => write(sessionStorage, name, value);
