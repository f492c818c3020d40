"""What clients are told of other nodes, and which pages may come from there."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import tim_trio
from tests.net.certificates import Certificates
from tests.net.rawclient import RawClient
from tests.net.running import Running, running_server
from tim_trio.net.other_nodes import NO_OTHER_NODES, Directions, address_for
from tim_trio.net.site import COMMON_HEADERS, headers_for
from tim_trio.protocol.decoder import ControlFrame, Decoder
from tim_trio.protocol.messages import GoAway, OtherNodes, decode

N1 = ["tim://n1:7600", "tims://n1:7601", "ws://n1:7680", "wss://n1:7681"]
N2 = ["tim://n2:7600"]
N3 = ["tims://n3:7601"]


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def read(frame: bytes) -> list[str]:
    (item,) = Decoder(max_frame_bytes=4096, max_init_bytes=4096).feed(frame)
    assert isinstance(item, ControlFrame)
    message = decode(item.type, item.fields)
    assert isinstance(message, OtherNodes)
    return message.addresses


@pytest.mark.parametrize(
    "scheme, addresses, found",
    [
        ("tim", N1, "tim://n1:7600"),
        ("tims", N1, "tims://n1:7601"),
        ("ws", N1, "ws://n1:7680"),
        ("wss", N1, "wss://n1:7681"),
        ("tims", N2, ""),
        ("ws", N2, ""),
        # Something before us may have ended TLS.
        ("tim", N3, "tims://n3:7601"),
    ],
)
def test_a_client_gets_there_as_it_came(scheme: str, addresses: list[str], found: str) -> None:
    assert address_for(scheme, addresses) == found


def test_nodes_come_and_go() -> None:
    directions = Directions()
    assert directions.frame_for("tim", object()) == NO_OTHER_NODES
    assert not directions.changed.is_set()
    directions.update([N1, N2, N3, []])
    assert directions.changed.is_set()
    assert read(directions.frame_for("tim", object())) == [N1[0], N2[0], N3[0]]
    assert read(directions.frame_for("tims", object())) == [N1[1], N3[0]]
    assert read(directions.frame_for("wss", object())) == [N1[3]]
    assert directions.web_hosts == ("n1:7680", "n1:7681")
    directions.changed = trio.Event()
    directions.update([N3, N1, N2])
    assert not directions.changed.is_set()
    directions.update([N1])
    assert directions.changed.is_set()
    assert read(directions.frame_for("tim", object())) == [N1[0]]
    directions.update([])
    assert directions.frame_for("tim", object()) == NO_OTHER_NODES


def test_pages_of_so_many_nodes_may_come() -> None:
    directions = Directions()
    for i in range(300):
        directions.update([[f"ws://n{i}:7680"]])
    assert directions.page_hosts == tuple(f"n{i}:7680" for i in range(44, 300))
    directions.update([["ws://n50:7680"]])
    assert directions.page_hosts[-1] == "n50:7680" and len(directions.page_hosts) == 256


def test_of_many_nodes_each_client_is_told_a_few_and_keeps_them() -> None:
    directions = Directions()
    directions.update([[f"tim://n{i}:7600"] for i in range(100)])
    clients = [object() for _ in range(200)]
    told = {client: read(directions.frame_for("tim", client)) for client in clients}
    assert {len(addresses) for addresses in told.values()} == {8}
    assert len({address for addresses in told.values() for address in addresses}) > 16
    directions.update([[f"tim://n{i}:7600"] for i in range(50, 100)])
    for client, before in told.items():
        now = read(directions.frame_for("tim", client))
        assert len(now) == 8
        assert {each for each in before if int(each[7:-5]) >= 50} <= set(now)


async def until_told(client: RawClient, addresses: list[str]) -> None:
    with trio.fail_after(30):
        assert (await client.expect(OtherNodes)).addresses == addresses


async def test_clients_are_told_at_once_and_when_it_changes(certificates: Certificates) -> None:
    async with running_server(certificates=certificates) as running:
        early = await running.connect("early")
        stranger = await running.connect(None)
        running.server.directions.update([N1, N2])
        await until_told(early, [N1[0], N2[0]])
        await until_told(await running.connect("late"), [N1[0], N2[0]])
        await until_told(await running.connect_tls("tls"), [N1[1]])
        await until_told(await running.connect_web("web"), [N1[2]])
        await until_told(await running.connect_web("web", tls=True), [N1[3]])
        running.server.directions.update([])
        await until_told(early, [])
        # It has not said who it is, and was told nothing.
        await stranger.greet("stranger")
        assert await stranger.is_served()


async def test_a_client_is_sent_to_a_node_as_it_came(certificates: Certificates) -> None:
    async with running_server(certificates=certificates, drain_timeout_s=0.2) as running:
        running.server.refuge = lambda scheme: f"{scheme}.example:1"
        clients = {
            "tim": await running.connect("a"),
            "tims": await running.connect_tls("a"),
            "ws": await running.connect_web("a"),
            "wss": await running.connect_web("a", tls=True),
        }
        await running.server.drain()
        for scheme, client in clients.items():
            assert (await client.expect(GoAway)).address == f"{scheme}.example:1"


async def test_a_client_whose_node_stops_goes_on_at_another() -> None:
    async with (
        running_server(drain_timeout_s=0.2) as first,
        running_server() as second,
        tim_trio.connect(f"tim://127.0.0.1:{first.port}", account="alice") as alice,
    ):
        first.server.directions.update([[f"tim://127.0.0.1:{second.port}"]])
        await _until_known(alice)
        with trio.fail_after(30):
            await first.server.drain()
            await alice.wait_connected()
            await second.until_connected(1)
            assert len(await alice.list_rooms()) == 0


async def _until_known(client: tim_trio.Client) -> None:
    with trio.fail_after(30):
        while len(client._whereabouts.after_a_loss()) < 2:  # noqa: ASYNC110 - no event for users
            await trio.sleep(0.01)


def test_pages_may_go_on_at_other_nodes_and_nowhere_else() -> None:
    assert headers_for(()) is COMMON_HEADERS
    ours, theirs = dict(COMMON_HEADERS), dict(headers_for(["n1:7680", "n2:7680"]))
    name = "Content-Security-Policy"
    added = theirs.pop(name).replace(" ws://n1:7680 wss://n1:7680 ws://n2:7680 wss://n2:7680;", ";")
    assert added == ours.pop(name)
    assert theirs == ours


async def test_pages_of_other_nodes_may_come() -> None:
    async with running_server() as running:
        running.server.directions.update([N1])
        # They come when their node is gone.
        running.server.directions.update([])
        assert await _opens(running, "http://n1:7680") == 101
        assert await _opens(running, "https://n1:7681") == 101
        assert await _opens(running, "http://n1:7600") == 403
        assert await _opens(running, "http://evil.example") == 403


async def _opens(running: Running, origin: str) -> int:
    """Return the status of the answer to a page's WebSocket."""
    client = await running.dial_web()
    request = (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{running.web_port}\r\nOrigin: {origin}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tim.1\r\n\r\n"
    )
    status, _, _ = await client.ask_upgrade(request.encode())
    return status
