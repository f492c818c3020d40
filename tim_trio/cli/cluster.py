"""``cluster``: what a cluster's etcd knows of its nodes and rooms."""

from __future__ import annotations

import functools
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tim_trio.cli.options import room_id
from tim_trio.cli.runner import run
from tim_trio.protocol.room_ids import format_room_id, parse_room_id


@click.group()
@click.option(
    "--cluster",
    "url",
    required=True,
    envvar="TIM_TRIO_CLUSTER",
    show_envvar=True,
    metavar="etcd://HOST:PORT,...",
    help="The cluster's etcd.",
)
@click.option("--etcd-user", default="", help="Whom to sign in as at etcd.")
@click.option(
    "--etcd-password-file", type=click.Path(path_type=Path), help="The file with the password."
)
@click.option("--etcd-ca-file", default="", help="Whom to trust for etcds://.")
@click.pass_context
def cluster(
    ctx: click.Context,
    url: str,
    etcd_user: str,
    etcd_password_file: Path | None,
    etcd_ca_file: str,
) -> None:
    """Look at a cluster: its nodes, its rooms, and where a room is."""
    # These take a while to load, which the other commands need not wait for.
    from tim_trio.cluster.etcd import parse_endpoints

    try:
        endpoints = parse_endpoints(url)
        password = etcd_password_file.read_text().strip() if etcd_password_file else ""
        tls = ssl.create_default_context(cafile=etcd_ca_file) if etcd_ca_file else None
    except (ValueError, OSError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise click.ClickException(why) from None
    ctx.obj = {"endpoints": endpoints, "user": etcd_user, "password": password, "tls": tls}


@cluster.command()
@click.pass_obj
def nodes(etcd: dict[str, Any]) -> int:
    """List the live nodes."""
    return run(functools.partial(_nodes, etcd))


@cluster.command()
@click.pass_obj
def rooms(etcd: dict[str, Any]) -> int:
    """List all rooms, each with its relay, its second and its creator."""
    return run(functools.partial(_rooms, etcd))


@cluster.command()
@click.argument("room", type=room_id)
@click.pass_obj
def where(etcd: dict[str, Any], room: str) -> int:
    """Say which nodes a room belongs to, and where its publishers are."""
    return run(functools.partial(_where, etcd, room))


@cluster.command()
@click.pass_obj
def bans(etcd: dict[str, Any]) -> int:
    """List the accounts that operators have banned (with auth = "accounts": `account list`)."""
    return run(functools.partial(_bans, etcd))


@cluster.command()
@click.argument("account")
@click.pass_obj
def unban(etcd: dict[str, Any], account: str) -> int:
    """Let a banned account in again."""
    return run(functools.partial(_unban, etcd, account))


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def _prefix() -> str:
    from tim_trio.cluster.service import PREFIX

    return PREFIX


async def _nodes(etcd: dict[str, Any]) -> int:
    from tim_trio.cluster.etcd import open_etcd
    from tim_trio.cluster.membership import NodeInfo

    async with open_etcd(**etcd) as client:
        page = await client.snapshot(f"{_prefix()}nodes/")
    for kv in page.kvs:
        info = NodeInfo.load(kv.value)
        state = "draining" if info.draining else "live"
        click.echo(f"{info.name}\t{info.address}\tweight {info.weight}\t{state}")
    if not page.kvs:
        click.echo("no nodes: this etcd holds no running cluster", err=True)
    return 0


async def _rooms(etcd: dict[str, Any]) -> int:
    from tim_trio.cluster.directory import EtcdDirectory
    from tim_trio.cluster.etcd import open_etcd

    async with open_etcd(**etcd) as client:
        placement = await _placement(client)
        directory = EtcdDirectory(client, _prefix())
        after, more = 0, True
        while more:
            more, records = await directory.all_rooms(after, 500)
            for record in records:
                after = record.room
                ranked = [*placement.rank(record.room, 2), "-", "-"]
                click.echo(
                    f"{format_room_id(record.room)}\t{record.mode.name.lower()}\t"
                    f"relay {ranked[0]}\tsecond {ranked[1]}\tby {record.creator}"
                )
    if not after:
        click.echo("no rooms", err=True)
    return 0


async def _where(etcd: dict[str, Any], room: str) -> int:
    from tim_trio.cluster.directory import EtcdDirectory
    from tim_trio.cluster.etcd import open_etcd

    number = parse_room_id(room)
    async with open_etcd(**etcd) as client:
        directory = EtcdDirectory(client, _prefix())
        record = await directory.find_room(number)
        if record is None:
            raise click.ClickException(f"room {room} does not exist, or has ended")
        placement = await _placement(client)
        sources = await directory.sources_of(number)
    roles = ("relay", "second", "third", "fourth")
    for role, name in zip(roles, placement.rank(number), strict=False):
        click.echo(f"{role}\t{name}")
    for source in sorted(sources, key=lambda source: source.number):
        click.echo(f"source {source.number}\t{source.node}\t{source.account}")
    return 0


async def _bans(etcd: dict[str, Any]) -> int:
    from tim_trio.cluster.bans import list_bans
    from tim_trio.cluster.etcd import open_etcd

    async with open_etcd(**etcd) as client:
        for record in await list_bans(client, _prefix()):
            when = datetime.fromtimestamp(record.at_ms / 1000, UTC).isoformat(timespec="seconds")
            click.echo(f"{record.account}\t{when}\tby {record.by}\t{_printable(record.reason)}")
    return 0


async def _unban(etcd: dict[str, Any], account: str) -> int:
    from tim_trio.cluster.bans import lift_ban
    from tim_trio.cluster.etcd import open_etcd

    async with open_etcd(**etcd) as client:
        if not await lift_ban(client, _prefix(), account):
            raise click.ClickException(f"{_printable(account)} is not banned")
    return 0


async def _placement(client: Any) -> Any:
    from tim_trio.cluster.membership import NodeInfo
    from tim_trio.cluster.placement import Placement

    page = await client.snapshot(f"{_prefix()}nodes/")
    found = [NodeInfo.load(kv.value) for kv in page.kvs]
    return Placement({info.name: info.weight for info in found if not info.draining})
