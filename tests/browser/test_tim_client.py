"""A client as TIM's own is in a browser, beside our page: each sees what the other sends."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Visit
from tests.browser.visitor import Visitor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def start_client(visitor: Visitor, name: str) -> None:
    visitor.evaluate(_CLIENT)
    visitor.evaluate("name => client.ask(16, { name, pwd: '', resource: 'web' })", name)


def test_a_client_of_tims_and_our_page_see_each_other(site: str, visit: Visit) -> None:
    publisher = visit(site, name="paula", size=(560, 420))
    link = publisher.share()
    theirs = visit(site, name="vera", size=(560, 420))
    start_client(theirs, "victor")

    # It gets the test picture of our page.
    room = link.rpartition("=")[2]
    theirs.evaluate("node => client.ask(22, { rtype: 5, node })", room)
    seen = theirs.evaluate("() => client.take(30)")
    assert {packet["type"] for packet in seen} == {94}
    assert {packet["fromNode"] for packet in seen} == {"paula"}
    assert all(packet["VNode"] == room and packet["id"] > 0 for packet in seen)
    assert any(packet["body"] for packet in seen)
    theirs.evaluate("node => client.ask(22, { rtype: 6, node })", room)

    # Our library in a page gets what it pushes, in either way and in order.
    ours = visit(site, name="wendy", size=(560, 420))
    room = theirs.evaluate("() => client.ask(22, { rtype: 1 })")["n"]
    ours.evaluate(_SUBSCRIBE, room)
    theirs.evaluate(
        """node => {
          for (let i = 0; i < 200; i += 2) {
            client.send(94, { vNode: node, body: btoa(`frame ${i}`), dtype: 0, fromNode: null });
            client.sendBig(97, node, 131, new TextEncoder().encode(`frame ${i + 1}`));
          }
        }""",
        room,
    )
    assert ours.evaluate("() => gathered(200)") == [f"frame {number}" for number in range(200)]

    # A big string is cut off by a byte 0, as its library does it.
    theirs.evaluate(
        "() => client.sendBig(95, 'wendy', 0, new TextEncoder().encode('good evening'))"
    )
    assert ours.evaluate("() => heard") == ["victor", 3, "good evening"]


#: Written from docs/tim.md.
_CLIENT = """async () => {
  const socket = new WebSocket(`ws://${location.host}/tim`);
  const packets = [];
  let wake = () => {};
  const read = async (data) => {
    const bytes = new Uint8Array(await data.arrayBuffer());
    return { type: bytes[0], ...JSON.parse(new TextDecoder().decode(bytes.subarray(1))) };
  };
  socket.onmessage = ({ data }) => {
    packets.push(read(data));
    wake();
  };
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = reject;
  });
  const next = async () => {
    while (!packets.length) {
      await new Promise((resolve) => (wake = resolve));
    }
    return packets.shift();
  };
  globalThis.client = {
    send(type, members) {
      const body = new TextEncoder().encode(JSON.stringify(members));
      socket.send(new Uint8Array([type | 0x80, ...body]));
    },
    sendBig(type, node, separator, content) {
      const name = new TextEncoder().encode(node);
      const packet = new Uint8Array([type | 0x80, 0, 0, 0, 0, ...name, separator, ...content]);
      new DataView(packet.buffer).setUint32(1, packet.length);
      socket.send(packet);
    },
    async ask(type, members) {
      this.send(type, members);
      let answer = await next();
      while (answer.type !== 12) {
        answer = await next(); // frames that were on their way
      }
      if (!answer.ok || answer.timType !== type) {
        throw new Error(JSON.stringify(answer));
      }
      return answer;
    },
    async take(count) {
      const taken = [];
      while (taken.length < count) {
        taken.push(await next());
      }
      return taken;
    },
  };
}"""

_SUBSCRIBE = """async (room) => {
  const { connect } = await import("/tim/index.js");
  globalThis.client = await connect(`ws://${location.host}/ws`, { account: "wendy" });
  globalThis.heard = new Promise((resolve) =>
    client.on("accountStream", ({ account, kind, payload }) =>
      resolve([account, kind, new TextDecoder().decode(payload)])));
  const subscription = await client.subscribe(room);
  globalThis.gathered = async (count) => {
    const payloads = [];
    for await (const item of subscription) {
      if (item.kind === "frame") {
        payloads.push(new TextDecoder().decode(item.payload));
      }
      if (payloads.length === count) {
        return payloads;
      }
    }
  };
}"""
