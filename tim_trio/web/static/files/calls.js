// Calling functions in a worker: one after another, in the order of the calls.

/** What went wrong in a worker: `name` says what, as a DOMException's does. */
export class CallFailed extends Error {
  /**
   * @param {string} name
   * @param {string} message
   */
  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

/**
 * @typedef {object} Call
 * @property {(result: any) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {((amount: number) => void) | undefined} onProgress
 */

/** The page's side. */
export class Helper {
  /** @param {URL} url of the worker */
  constructor(url) {
    this._worker = new Worker(url, { type: "module" });
    /** @type {Map<number, Call>} */
    this._calls = new Map();
    this._last = 0;
    this._worker.onmessage = ({ data }) => this._take(data);
    this._worker.onerror = () => this.end(new CallFailed("NotSupportedError", "no worker"));
  }

  /**
   * @param {string} method
   * @param {unknown[]} args
   * @param {object} [options]
   * @param {Transferable[]} [options.transfer]
   * @param {(amount: number) => void} [options.onProgress]
   * @returns {Promise<any>}
   */
  call(method, args, { transfer = [], onProgress } = {}) {
    return new Promise((resolve, reject) => {
      const number = ++this._last;
      this._calls.set(number, { resolve, reject, onProgress });
      this._worker.postMessage({ number, method, args }, transfer);
    });
  }

  /** @param {{ number: number, progress?: number, result?: unknown, error?: CallFailed }} answer */
  _take({ number, progress, result, error }) {
    const call = this._calls.get(number);
    if (call === undefined) return;
    if (progress !== undefined) {
      call.onProgress?.(progress);
      return;
    }
    this._calls.delete(number);
    if (error === undefined) call.resolve(result);
    else call.reject(new CallFailed(error.name, error.message));
  }

  /**
   * End the worker, whatever it is doing. May be repeated.
   *
   * @param {Error} [why] for those who still wait
   */
  end(why = new CallFailed("AbortError", "ended")) {
    this._worker.terminate();
    for (const { reject } of this._calls.values()) reject(why);
    this._calls.clear();
  }
}

/**
 * The worker's side. A method's first argument shows progress.
 *
 * @param {Record<string, (show: (amount: number) => void, ...args: any[]) => unknown>} methods
 */
export function serve(methods) {
  let previous = Promise.resolve();
  /** @type {(message: unknown) => void} */
  const answer = (message) => postMessage(message);
  onmessage = ({ data: { number, method, args } }) => {
    previous = previous.then(async () => {
      try {
        const run = methods[method];
        if (run === undefined) throw new CallFailed("NotSupportedError", method);
        const show = (/** @type {number} */ progress) => answer({ number, progress });
        answer({ number, result: await run(show, ...args) });
      } catch (error) {
        const { name, message } = error instanceof Error ? error : new Error(String(error));
        answer({ number, error: { name, message } });
      }
    });
  };
}
