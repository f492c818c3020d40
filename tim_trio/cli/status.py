"""``status``: what a server holds and does, for its operators."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import click
import trio

from tim_trio.cli.login import Login, server_options
from tim_trio.cli.options import room_id
from tim_trio.cli.progress import format_bytes
from tim_trio.cli.runner import run
from tim_trio.net.client import Client, NodeView, RoomsView
from tim_trio.protocol.messages import (
    NodeState,
    SubscriberFiguresAnswer,
    SubscriberLoad,
    SubscriberState,
)
from tim_trio.protocol.room_ids import format_room_id

#: In the order in which they matter to who looks.
_STATES: Final = (
    (SubscriberState.LAGGING, "lagging"),
    (SubscriberState.HOLDS_UP, "holds up"),
    (SubscriberState.WAITS_FOR_KEY, "starting"),
)


@click.command()
@click.argument("room", type=room_id, required=False)
@click.option("--node", default="", metavar="NAME", help="Of another node of the cluster.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="What goes through is measured over so long.",
)
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Show so many rooms or subscribers.",
)
@server_options
def status(room: str | None, node: str, interval_s: float, top: int, login: Login) -> int:
    """Print what the server does and its busiest rooms; of ROOM, who watches it.

    For operators. Of its subscribers, for a room's creator too: those furthest
    behind come first.
    """

    async def command() -> int:
        async with login.connect() as client:
            if room is None:
                await _show_node(client, node, interval_s, top)
            else:
                await _show_room(client, room, node, interval_s, top)
        return 0

    only = "only operators and the room's creator" if room else "only operators"
    return run(command, room=room, denied=f"{only} may look at that")


async def _show_node(client: Client, node: str, interval_s: float, top: int) -> None:
    before, rooms_before = await client.figures.node(node), await client.figures.rooms(node)
    await trio.sleep(interval_s)
    after, rooms = await client.figures.node(node), await client.figures.rooms(node)
    click.echo(describe_node(before, after))
    click.echo()
    click.echo(describe_rooms(rooms_before, rooms, top))


async def _show_room(client: Client, room: str, node: str, interval_s: float, top: int) -> None:
    before = await client.figures.subscribers(room, node)
    await trio.sleep(interval_s)
    after = await client.figures.subscribers(room, node)
    click.echo(describe_subscribers(before, after, top))


def describe_node(before: NodeView, after: NodeView) -> str:
    """Return a node's state, and what it did between two looks."""
    seconds = max(after.uptime_ms - before.uptime_ms, 1) / 1000

    def now(name: str) -> int:
        return after.figures.get(name, 0)

    def rate(name: str) -> float:
        return (now(name) - before.figures.get(name, 0)) / seconds

    sent = max(0.0, rate("bytes_out") - rate("lost_bytes"))
    lines = [
        f"node     {after.node}, up {timedelta(seconds=after.uptime_ms // 1000)}, "
        f"{rate('cpu_ms') / 10:.0f} % of a core",
        f"serving  {now('rooms')} rooms, {now('subscriptions')} subscriptions, "
        f"{now('connections')} connections",
        f"in       {format_bytes(rate('bytes_in'))}/s, {rate('frames_in'):.0f} frames/s",
        f"out      {format_bytes(sent)}/s, {format_bytes(now('backlog_bytes'))} waiting",
        f"lagging  {now('lagging')} now; {rate('lost'):.0f} frames/s lost, "
        f"{now('lost')} since the start in {now('gaps')} gaps",
    ]
    for entry in after.nodes:
        state = [
            "draining" if entry.state & NodeState.DRAINING else "",
            "linked" if entry.state & NodeState.LINKED else "",
        ]
        lines.append(f"member   {entry.node}  {entry.address}  {' '.join(filter(None, state))}")
    return "\n".join(line.rstrip() for line in lines)


def describe_rooms(before: RoomsView, after: RoomsView, top: int) -> str:
    """Return a table of the rooms to which most came between two looks."""
    seconds = max(after.uptime_ms - before.uptime_ms, 1) / 1000
    known = {load.room: load.bytes for load in before.rooms}
    rates = {
        load.room: max(0, load.bytes - known.get(load.room, load.bytes)) / seconds
        for load in after.rooms
    }
    rooms = sorted(after.rooms, key=lambda load: (-rates[load.room], -load.viewers, load.room))
    lines = [
        f"{'ROOM':11}  {'MODE':8}  {'VIEWERS':>7}  {'SOURCES':>7}  {'IN':>11}  "
        f"{'LAGGING':>7}  {'LOST':>8}  CREATOR"
    ]
    lines += [
        f"{format_room_id(load.room)}  {load.mode.name.lower():8}  {load.viewers:7}  "
        f"{load.sources:7}  {format_bytes(rates[load.room]):>9}/s  {load.lagging:7}  "
        f"{load.lost:8}  {load.creator}"
        for load in rooms[:top]
    ]
    if len(rooms) > top:
        lines.append(f"and {len(rooms) - top} more")
    return "\n".join(lines)


def describe_subscribers(
    before: SubscriberFiguresAnswer, after: SubscriberFiguresAnswer, top: int
) -> str:
    """Return a table of a room's subscribers, those furthest behind first."""
    seconds = max(after.uptime_ms - before.uptime_ms, 1) / 1000
    known = {load.number: load.bytes for load in before.subscribers}
    lines = [
        f"{'SUBSCRIBER':20}  {'STATE':9}  {'OUT':>11}  {'WAITING':>9}  {'SINCE':>7}  "
        f"{'LOST':>8}  {'GAPS':>5}  FOR"
    ]
    for load in after.subscribers[:top]:
        rate = max(0, load.bytes - known.get(load.number, load.bytes)) / seconds
        lines.append(
            f"{load.account:20}  {_state(load):9}  {format_bytes(rate):>9}/s  "
            f"{format_bytes(load.pending_bytes):>9}  {load.pending_ms / 1000:5.1f} s  "
            f"{load.lost:8}  {load.gaps:5}  {timedelta(seconds=load.age_ms // 1000)}"
        )
    if after.total > min(top, len(after.subscribers)):
        lines.append(f"and {after.total - min(top, len(after.subscribers))} more")
    return "\n".join(lines)


def _state(load: SubscriberLoad) -> str:
    for bit, name in _STATES:
        if load.state & bit:
            return name
    return "node" if load.state & SubscriberState.NODE else "keeps up"
