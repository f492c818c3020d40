"""``contact``: ask, accept, decline, remove, block, unblock, list, policy."""

from __future__ import annotations

from typing import Final

import click

from tim_trio.cli.login import Login, server_options
from tim_trio.cli.options import account_name
from tim_trio.cli.runner import run
from tim_trio.net.client.contacts import SendPolicy
from tim_trio.protocol.messages import ContactState

_STATES: Final = {
    ContactState.NONE: "none",
    ContactState.ASKED_BY_ME: "asked by you",
    ContactState.ASKED_BY_THEM: "asks you",
    ContactState.CONTACT: "contact",
    ContactState.BLOCKED_BY_ME: "blocked",
}


def _describe(state: ContactState | int) -> str:
    return _STATES[state] if isinstance(state, ContactState) else f"state {state}"


@click.group()
def contact() -> None:
    """Say who may reach you by messages and offers of files."""


def _change(login: Login, action: str, name: str) -> int:
    async def command() -> int:
        async with login.connect() as client:
            click.echo(_describe(await getattr(client.contacts, action)(name)))
        return 0

    return run(command)


@contact.command()
@click.argument("name", type=account_name)
@server_options
def ask(name: str, login: Login) -> int:
    """Ask NAME to be contacts; who has asked you becomes one at once."""
    return _change(login, "ask", name)


@contact.command()
@click.argument("name", type=account_name)
@server_options
def accept(name: str, login: Login) -> int:
    """Be contacts with NAME, who has asked you."""
    return _change(login, "accept", name)


@contact.command()
@click.argument("name", type=account_name)
@server_options
def decline(name: str, login: Login) -> int:
    """Say no to NAME, who has asked you."""
    return _change(login, "decline", name)


@contact.command()
@click.argument("name", type=account_name)
@server_options
def remove(name: str, login: Login) -> int:
    """Be contacts with NAME no longer, or take back that you asked."""
    return _change(login, "remove", name)


@contact.command()
@click.argument("name", type=account_name)
@server_options
def block(name: str, login: Login) -> int:
    """Let nothing of NAME reach you. To NAME you are offline from now on."""
    return _change(login, "block", name)


@contact.command()
@click.argument("name", type=account_name)
@server_options
def unblock(name: str, login: Login) -> int:
    """Take a block back. Contacts you are not again."""
    return _change(login, "unblock", name)


@contact.command("list")
@server_options
def list_(login: Login) -> int:
    """Print contacts, open questions and blocks."""

    async def command() -> int:
        async with login.connect() as client:
            found = await client.contacts.list()
        click.echo(f"{'STATE':12}  NAME")
        for each in found:
            click.echo(f"{_describe(each.state):12}  {each.account}")
        return 0

    return run(command)


@contact.command()
@click.argument("who", type=click.Choice(["anyone", "contacts"]), required=False)
@server_options
def policy(who: SendPolicy | None, login: Login) -> int:
    """Say whose messages may reach you: anyone's, or those of contacts alone.

    Without WHO, print whose may.
    """

    async def command() -> int:
        async with login.connect() as client:
            if who is None:
                click.echo(await client.contacts.get_policy())
            else:
                await client.contacts.set_policy(who)
        return 0

    return run(command)
