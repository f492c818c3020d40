// Where a client may find its server: where it has always been, where it was sent, and the
// other nodes of the cluster, as it was told.
//
// Source: protocol.md, section 13 (GO_AWAY, OTHER_NODES).

const PATH = "/ws";
const ADDRESS = /^wss?:\/\/[^/?#@\s]+$/;

export class Whereabouts {
  /**
   * @param {string} home
   * @param {() => number} [random] in [0, 1)
   */
  constructor(home, random = Math.random) {
    this._home = home;
    this._random = random;
    /** How we have come: without TLS we go nowhere else then. */
    this._scheme = home.startsWith("wss:") ? "wss:" : "ws:";
    /** Where the newest connection is. */
    this.here = home;
    /** @type {string[]} */
    this._sentTo = [];
    /** @type {string[]} */
    this._others = [];
  }

  /** @param {string} url */
  arrive(url) {
    this.here = url;
    this._sentTo = [];
  }

  /** @param {string} address of GO_AWAY, which may be empty */
  sendTo(address) {
    const url = `${this._scheme}//${address}`;
    if (ADDRESS.test(url)) this._sentTo = [url + PATH];
  }

  /** @param {string[]} addresses of OTHER_NODES: they replace what was said before */
  learn(addresses) {
    this._others = addresses
      .filter((each) => ADDRESS.test(each) && each.startsWith(this._scheme))
      .map((each) => each + PATH);
  }

  /**
   * Where to try next, in this order.
   *
   * @param {boolean} isIll not where we were, if possible
   */
  afterALoss(isIll) {
    return isIll ? [...this._elsewhere(), this.here] : [this.here, ...this._elsewhere()];
  }

  /** Where to go instead of where we are. */
  onLeaving() {
    const ways = this._elsewhere();
    return ways.length > 0 ? ways : [this.here];
  }

  _elsewhere() {
    const left = [this._home, ...this._others];
    const ways = [];
    while (left.length > 0) ways.push(...left.splice(Math.floor(this._random() * left.length), 1));
    return [...new Set([...this._sentTo, ...ways])].filter((way) => way !== this.here);
  }
}
