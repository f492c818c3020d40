"""Every operation of a TIM client, in both encodings, against a real server."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import tim_trio
from tests.net.running import running_server
from tests.net.tim.client import (
    ACK,
    AUTH,
    BIG_BINARY,
    BIG_STREAM,
    BIG_STRING,
    MESSAGE,
    REGISTER,
    ROOM,
    STREAM,
    TOKEN,
    big,
    tim_client,
)
from tim_trio import StreamFrame

FORMS = pytest.mark.parametrize("form", ["json", "thrift"])
UNKNOWN = "LJ6TN2wdrZF"


def refused(kind: int, code: int, **members: Any) -> Any:
    """Return a check of an ACK that says no."""

    def check(ack: Any) -> bool:
        error = ack.pop("error")
        assert error.get("info")
        return bool(ack == {"ok": False, "timType": kind, **members} and error["code"] == code)

    return check


@FORMS
async def test_a_room_from_its_registration_to_its_end(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tim_trio.net.tim.session._REFUSED_FOR_S", 0.1)
    async with (
        running_server() as running,
        tim_client(running.web_port, "alice", form) as alice,
        tim_client(running.web_port, "bob", form) as bob,
    ):
        room = await alice.register()
        assert len(room) == 11
        await bob.subscribe(room)
        await alice.push(room, b"hi", dtype=7)
        frame = await bob.next_frame()
        assert frame.pop("id") > 0
        assert frame == {"VNode": room, "dtype": 7, "body": b"hi", "fromNode": "alice"}
        await alice.push(room, b"", dtype=-1)
        frame = await bob.next_frame()
        assert (frame["dtype"], frame.get("body", b"")) == (-1, b"")

        # Bob may not push, then may, then may no more.
        await bob.push(room, b"no")
        kind, ack = await bob.receive()
        assert kind == ACK and refused(STREAM, 4105, n=room)(ack)
        ack = await alice.ask(ROOM, rtype=3, node=room, node2="bob")
        assert ack == {"ok": True, "timType": ROOM, "t": 3, "n": "bob"}
        await trio.sleep(0.15)  # a refused room is not asked for again so soon
        await bob.push(room, b"yes")
        assert (await bob.next_frame())["fromNode"] == "bob"
        ack = await alice.ask(ROOM, rtype=4, node=room, node2="bob")
        assert ack == {"ok": True, "timType": ROOM, "t": 4, "n": "bob"}
        kind, ack = await bob.receive()
        assert kind == ACK and refused(STREAM, 4105, n=room)(ack)
        await bob.push(room, b"no more")
        kind, ack = await bob.receive()
        assert kind == ACK and refused(STREAM, 4105, n=room)(ack)

        # A stranger cannot remove it, its creator can.
        assert refused(ROOM, 4105, t=2, n=room)(await bob.ask(ROOM, rtype=2, node=room))
        ack = await bob.ask(ROOM, rtype=6, node=room)
        assert ack == {"ok": True, "timType": ROOM, "t": 6, "n": room}
        await bob.subscribe(room)
        ack = await alice.ask(ROOM, rtype=2, node=room)
        # As a publisher she is told that it ended, too.
        if ack["timType"] == STREAM:
            assert refused(STREAM, 4109, n=room)(ack)
            _, ack = await alice.receive()
        assert ack == {"ok": True, "timType": ROOM, "t": 2, "n": room}
        kind, ack = await bob.receive()
        assert kind == ACK and refused(STREAM, 4109, n=room)(ack)


@FORMS
async def test_rooms_that_are_not_there(form: str) -> None:
    async with running_server() as running, tim_client(running.web_port, "bob", form) as bob:
        for room in (UNKNOWN, "no room id", ""):
            for rtype in (2, 5):
                ack = await bob.ask(ROOM, rtype=rtype, node=room)
                expected = {"t": rtype, "n": room} if room else {"t": rtype}
                assert refused(ROOM, 4109, **expected)(ack)
        assert refused(ROOM, 4109, t=3, n="eve")(
            await bob.ask(ROOM, rtype=3, node=UNKNOWN, node2="eve")
        )
        await bob.push(UNKNOWN, b"x")
        await bob.push(UNKNOWN, b"x")  # answered once a second
        await bob.push_big("no room id", b"x")
        answers = [(await bob.receive())[1] for _ in range(2)]
        assert refused(STREAM, 4109, n=UNKNOWN)(answers[0])
        assert refused(STREAM, 4109, n="no room id")(answers[1])
        await bob.ping()
        # To leave what one is not in is no mistake.
        ack = await bob.ask(ROOM, rtype=6, node=UNKNOWN)
        assert ack["ok"]


@FORMS
async def test_either_kind_of_push_reaches_either_kind_of_subscriber(form: str) -> None:
    async with (
        running_server() as running,
        tim_client(running.web_port, "alice", form) as alice,
        tim_client(running.web_port, "bob", form) as normal,
        tim_client(running.web_port, "carol", form) as binary,
    ):
        room = await alice.register()
        await normal.subscribe(room)
        await binary.subscribe(room, in_big_binary=True)
        await alice.push(room, b"normal", dtype=3)
        await alice.push_big(room, b"big\x83")
        assert (await normal.next_frame())["body"] == b"normal"
        assert (await normal.next_frame())["body"] == b"big\x83"
        prefix = room.encode() + b"\x83"
        assert await binary.receive() == (BIG_STREAM, prefix + b"normal")
        assert await binary.receive() == (BIG_STREAM, prefix + b"big\x83")

        # Said again it changes nothing; said otherwise it changes the form.
        await normal.subscribe(room)
        await binary.subscribe(room)
        await alice.push(room, b"again")
        assert (await binary.next_frame())["body"] == b"again"
        assert (await normal.next_frame())["body"] == b"again"
        await binary.subscribe(room, in_big_binary=True)
        await binary.subscribe(room, in_big_binary=True)
        await alice.push(room, b"once more")
        assert await binary.receive() == (BIG_STREAM, prefix + b"once more")


@FORMS
async def test_one_connection_may_have_both_forms(form: str) -> None:
    async with running_server() as running, tim_client(running.web_port, "a", form) as alice:
        first, second = await alice.register(), await alice.register()
        await alice.subscribe(first)
        await alice.subscribe(second, in_big_binary=True)
        await alice.push(first, b"1")
        await alice.push(second, b"2")
        assert (await alice.next_frame())["body"] == b"1", "her own, since she subscribed"
        assert await alice.receive() == (BIG_STREAM, second.encode() + b"\x832")


@FORMS
async def test_two_rooms_in_the_big_binary_form(form: str) -> None:
    async with running_server() as running, tim_client(running.web_port, "a", form) as alice:
        rooms = [await alice.register(), await alice.register()]
        for room in rooms:
            await alice.subscribe(room, in_big_binary=True)
        for body in (b"1", b"2", b"other size"):
            for room in rooms:  # bodies of one size in both, in turn
                await alice.push(room, body)
                assert await alice.receive() == (BIG_STREAM, room.encode() + b"\x83" + body)


@FORMS
async def test_messages_to_accounts(form: str) -> None:
    async with (
        running_server() as running,
        tim_client(running.web_port, "alice", form) as alice,
        tim_client(running.web_port, "bob", form) as bob,
        tim_client(running.web_port, "carol", "json") as carol,
    ):
        await alice.send(
            MESSAGE,
            msType=2,
            odType=5,
            toTid={"node": "bob"},
            dataBinary=b"\0hi",
            dataString="hey",
            udtype=300,
            udshow=-5,
        )
        kind, message = await bob.receive()
        assert kind == MESSAGE
        assert message.pop("id") > 0
        assert message.pop("timestamp") > 10**18
        assert message == {
            "msType": 2,
            "odType": 5,
            "fromTid": {"node": "alice"},
            "toTid": {"node": "bob"},
            "dataBinary": b"\0hi",
            "dataString": "hey",
            "udtype": 300,
            "udshow": -5,
        }
        await alice.send_raw(big(BIG_STRING, "bob", b"|", "héllo".encode()))
        await alice.send_raw(big(BIG_STRING, "bob", b"\0", b"timjs"))
        await alice.send_raw(big(BIG_BINARY, "bob", b"\x83", b"\0\xff"))
        assert await bob.receive() == (BIG_STRING, "alice|héllo".encode())
        assert await bob.receive() == (BIG_STRING, b"alice|timjs")
        assert await bob.receive() == (BIG_BINARY, b"alice\x83\0\xff")

        # To several, one of whom is not there: TIM would say nothing.
        await carol.send(MESSAGE, msType=2, odType=5, ToList=["bob", "nobody"], dataString="x")
        assert (await bob.receive())[1]["fromTid"] == {"node": "carol"}
        kind, ack = await carol.receive()
        assert kind == ACK and refused(MESSAGE, 4109, n="nobody")(ack)
        ack = await alice.ask(MESSAGE, msType=2, odType=5, dataString="to nobody")
        assert refused(MESSAGE, 4104)(ack)
        large = bytes(running.server.limits.max_account_stream_bytes + 1)
        await alice.send_raw(big(BIG_BINARY, "bob", b"\x83", large))
        assert refused(BIG_BINARY, 4114)((await alice.receive())[1])


@FORMS
async def test_what_is_not_streaming(form: str) -> None:
    async with running_server() as running, tim_client(running.web_port, "alice", form) as alice:
        bit = 0x80 if form == "json" else 0
        for kind in (17, 20, 21, 41, 42, 91, 33, 127):
            await alice.send_raw(bytes((kind | bit,)) + b"whatever")
            answer, ack = await alice.receive()
            assert answer == ACK and refused(kind, 4107)(ack)
        ack = await alice.ask(MESSAGE, msType=2, odType=1, toTid={"node": "bob"})
        assert refused(MESSAGE, 4107)(ack)
        ack = await alice.ask(MESSAGE, msType=3, odType=5, roomTid={"node": "group"})
        assert refused(MESSAGE, 4107)(ack)
        assert refused(ROOM, 4107)(await alice.ask(ROOM, rtype=7, node=UNKNOWN))
        assert running.node.tim_unserved == 11
        await alice.send_raw(bytes((ACK | bit,)) + b"\0\0\0\1")  # answers nothing of ours
        await alice.ping()


@FORMS
async def test_what_cannot_be_read(form: str) -> None:
    async with running_server() as running, tim_client(running.web_port, "alice", form) as alice:
        bit = 0x80 if form == "json" else 0
        for kind in (ROOM, MESSAGE, STREAM):
            await alice.send_raw(bytes((kind | bit,)) + b"\xff")
            answer, ack = await alice.receive()
            assert answer == ACK and refused(kind, 4113)(ack)
        await alice.send_raw(b"\x61\0\0\0\x63" + UNKNOWN.encode())
        assert refused(BIG_STREAM, 4113)((await alice.receive())[1])
        await alice.ping()


@FORMS
async def test_before_signing_in(form: str) -> None:
    async with running_server() as running, tim_client(running.web_port, None, form) as nobody:
        await nobody.ping()
        room = await nobody.ask(ROOM, rtype=1)
        assert refused(ROOM, 4102)(room)
        await nobody.push(UNKNOWN, b"x")
        assert refused(STREAM, 4102)((await nobody.receive())[1])
        await nobody.push_big(UNKNOWN, b"x")
        assert (await nobody.receive())[0] == ACK
        assert refused(AUTH, 4104)(await nobody.ask(AUTH, name="not a name"))
        await nobody.sign_in("alice", pwd="ignored in this mode", resource="phone")
        assert refused(AUTH, 4104)(await nobody.ask(AUTH, name="bob"))


@FORMS
async def test_tokens_are_for_one_sign_in(form: str) -> None:
    async with running_server() as running:
        async with tim_client(running.web_port, None, form) as first:
            ack = await first.ask(TOKEN, name="alice", pwd="x")
            assert (ack["ok"], ack["timType"]) == (True, TOKEN)
            await first.sign_in("alice", token=ack["n"])
        async with tim_client(running.web_port, None, form) as second:
            assert refused(AUTH, 4115)(await second.ask(AUTH, name="alice", token=ack["n"]))
            other = await second.ask(TOKEN, name="alice")
            assert refused(AUTH, 4115)(await second.ask(AUTH, name="bob", token=other["n"]))
            assert refused(REGISTER, 4107)(await second.ask(REGISTER, name="bob", pwd="x"))


async def test_json_and_thrift_clients_and_our_own_share_a_room() -> None:
    async with (
        running_server() as running,
        tim_client(running.web_port, "alice", "json") as alice,
        tim_client(running.web_port, "bob", "thrift") as bob,
        tim_trio.connect(f"tim://127.0.0.1:{running.port}", account="carol") as carol,
    ):
        room = await alice.register()
        await alice.ask(ROOM, rtype=3, node=room, node2="carol")
        await bob.subscribe(room)
        async with carol.subscribe(room) as stream, carol.publish(room) as source:
            await alice.push(room, b"from json", dtype=-2)
            await alice.ping()  # it has been relayed
            await source.send(b"init", init=True)
            await source.send(b"from tcp", track=200, key=True)
            await source.send(b"", end=True)
            await source.send(b"last", track=200, end=True)
            frames = []
            async for item in stream:
                if isinstance(item, StreamFrame):
                    frames.append((item.track, item.payload))
                    if item.payload == b"last":
                        break
        assert (254, b"from json") in frames and (200, b"from tcp") in frames
        seen = [await bob.next_frame() for _ in range(4)]
        by_sender: dict[str, list[tuple[int, bytes]]] = {"alice": [], "carol": []}
        for one in seen:
            by_sender[one["fromNode"]].append((one.get("dtype", 0), one["body"]))
        assert by_sender == {
            "alice": [(-2, b"from json")],
            # That a track has ended is nothing that TIM could say.
            "carol": [(0, b"init"), (-56, b"from tcp"), (-56, b"last")],
        }


@pytest.mark.parametrize("form", ["json", "thrift", "big"])
async def test_order_is_kept_in_bursts(form: str) -> None:
    encoding = "json" if form == "big" else form
    async with (
        running_server() as running,
        tim_client(running.web_port, "alice", encoding) as alice,
        tim_client(running.web_port, "bob", encoding) as bob,
        tim_trio.connect(f"tim://127.0.0.1:{running.port}", account="carol") as carol,
    ):
        room = await alice.register()
        await bob.subscribe(room, in_big_binary=form == "big")
        async with carol.subscribe(room) as stream, trio.open_nursery() as nursery:

            async def push() -> None:
                for number in range(1000):
                    if form == "big":
                        await alice.push_big(room, b"%d" % number)
                    else:
                        await alice.push(room, b"%d" % number)

            nursery.start_soon(push)
            ours: list[int] = []
            while len(ours) < 1000:
                item = await anext(stream)
                if isinstance(item, StreamFrame):
                    ours.append(int(item.payload))
            theirs = []
            for _ in range(1000):
                kind, members = await bob.receive()
                body = members[12:] if kind == BIG_STREAM else members["body"]
                theirs.append(int(body))
        assert ours == theirs == list(range(1000))


async def test_what_our_clients_send_to_accounts_and_the_other_way_round() -> None:
    async with (
        running_server() as running,
        tim_client(running.web_port, "alice", "json") as alice,
        tim_trio.connect(f"tim://127.0.0.1:{running.port}", account="carol") as carol,
    ):
        await carol.send_to("alice", b"\1\2", kind=1000)
        kind, message = await alice.receive()
        assert (kind, message["fromTid"], message["udtype"]) == (MESSAGE, {"node": "carol"}, 1000)
        assert message["dataBinary"] == b"\1\2"
        await carol.send_to("alice", b"\xff", kind=65_535)
        assert "udtype" not in (await alice.receive())[1]
        await carol.send_to("alice", b"not what it says", kind=2)
        assert (await alice.receive())[1]["dataBinary"] == b"not what it says"
        await carol.send_to("alice", b"text \xff", kind=3)
        assert await alice.receive() == (BIG_STRING, "carol|text \ufffd".encode())

        stream = carol.account_streams([4])
        await alice.send_raw(big(BIG_BINARY, "carol", b"\x83", b"\0"))
        item = await anext(stream)
        assert (item.account, item.kind, item.payload) == ("alice", 4, b"\0")


async def test_reliable_rooms_are_for_watching() -> None:
    async with (
        running_server() as running,
        tim_client(running.web_port, "alice", "json") as alice,
        tim_trio.connect(f"tim://127.0.0.1:{running.port}", account="alice") as ours,
    ):
        room = await ours.register_room(mode="reliable")
        await alice.subscribe(room)
        await alice.push(room, b"x")
        assert refused(STREAM, 4105, n=room)((await alice.receive())[1])
        async with ours.publish(room) as source, trio.open_nursery() as nursery:

            async def push() -> None:
                for number in range(200):
                    await source.send(b"%d" % number + bytes(20_000))

            nursery.start_soon(push)
            for number in range(200):
                body = (await alice.next_frame())["body"]
                assert body == b"%d" % number + bytes(20_000)


async def test_too_large_a_frame() -> None:
    async with running_server() as running, tim_client(running.web_port, "alice") as alice:
        room = await alice.register()
        await alice.subscribe(room, in_big_binary=True)
        largest = running.server.limits.max_frame_bytes - 36
        await alice.push(room, bytes(largest))
        kind, body = await alice.receive()
        assert (kind, len(body)) == (BIG_STREAM, 12 + largest)
        await alice.push(room, bytes(largest + 1))
        assert refused(STREAM, 4114, n=room)((await alice.receive())[1])
