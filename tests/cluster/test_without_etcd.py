"""Streams go on while etcd is away, and nodes find back to it; nodes are processes of their own."""

from __future__ import annotations

import base64
from functools import partial

import pytest
import trio

from tests.cluster.etcd_process import EtcdMember, running_etcd
from tests.cluster.processes import Processes, running_nodes
from tests.cluster.streaming import streaming
from tim_trio.errors import Code, RoomError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def _register_at_each(nodes: Processes, names: str) -> None:
    """Register a room at each of some nodes, as soon as that is possible."""
    for name in names:
        async with nodes[name].client("alice") as alice:
            with trio.fail_after(30):
                while True:
                    try:
                        await alice.register_room()
                        break
                    except RoomError as error:
                        if not error.retryable:
                            raise
                        await trio.sleep(0.1)


def _forget_and_compact(member: EtcdMember, key: str) -> None:
    """Start a member where nobody watches it, change something, and make it forget how."""
    hidden = member.hidden()
    hidden.start()
    try:
        hidden.wait_ready()
        hidden.ask("kv/deleterange", key=base64.b64encode(key.encode()).decode())
        revision = hidden.ask("kv/range", key=base64.b64encode(key.encode()).decode())["header"]
        hidden.ask("kv/compaction", revision=revision["revision"])
    finally:
        hidden.kill()


async def _kill_etcd(seconds: float) -> None:
    with running_etcd() as (member,), running_nodes(member.url, *"abcd") as nodes:
        async with streaming(nodes, "b", "bc", relay="a") as stream:
            await stream.flow(15)
            member.kill()
            nodes["d"].kill()
            await trio.sleep(seconds)
            async with nodes["c"].client("carl") as carl:
                with pytest.raises(RoomError) as refused:
                    await carl.register_room()
            assert refused.value.code == Code.DIRECTORY_UNAVAILABLE and refused.value.retryable
            # What has changed in the meantime cannot be followed step by step.
            await trio.to_thread.run_sync(_forget_and_compact, member, "tim_trio/nodes/d")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(nodes.until_said, "abc", "node left", node="d"))
                member.start()
            await _register_at_each(nodes, "abc")
            await stream.flow(15)
        assert set(stream.check().values()) == {0}


async def test_etcd_is_away_and_what_it_knew_is_compacted_away() -> None:
    await _kill_etcd(12)


@pytest.mark.soak
async def test_etcd_is_away_for_half_a_minute() -> None:
    await _kill_etcd(30)


async def test_the_leader_of_three_etcds_is_killed() -> None:
    with running_etcd(3) as members:
        # Everyone talks to the first that answers, so that is to be the leader.
        members.sort(key=EtcdMember.is_leader, reverse=True)
        urls = ",".join(member.url.removeprefix("http://") for member in members)
        with running_nodes(f"http://{urls}", *"abc") as nodes:
            async with streaming(nodes, "b", "abc", relay="a") as stream:
                await stream.flow(15)
                members[0].kill()
                await stream.flow(15)
                await _register_at_each(nodes, "abc")
                # Longer than a lease: the nodes are members as before.
                await trio.sleep(6)
                await stream.flow(15)
            assert set(stream.check().values()) == {0}
            for name in "abc":
                events = {said["event"] for said in nodes[name].events()}
                assert not events & {"expelled from the cluster", "node left"}
