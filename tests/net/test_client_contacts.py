"""Contacts and blocks through the client library."""

from __future__ import annotations

import pytest
import trio

import tim_trio
from tests.net.running import running_server
from tests.net.scripted_server import client_and_server
from tests.net.test_client import client
from tim_trio.errors import Code
from tim_trio.net.client import Contact
from tim_trio.net.client.events import AccountEvents
from tim_trio.protocol import messages
from tim_trio.protocol.messages import ContactState, DeliveryStatus


async def news(events: AccountEvents) -> tuple[str, int]:
    with trio.fail_after(30):
        event = await anext(events)
    assert isinstance(event, tim_trio.ContactChanged)
    return event.account, event.state


async def test_from_strangers_to_contacts_and_back() -> None:
    async with (
        running_server() as running,
        client(running) as alice,
        client(running, "bob") as bob,
    ):
        to_alice, to_bob = alice.events(), bob.events()
        assert await bob.contacts.get_policy() == "anyone"
        await bob.contacts.set_policy("contacts")
        assert await bob.contacts.get_policy() == "contacts"
        assert await alice.contacts.get_policy() == "anyone"
        assert (await alice.send_to("bob", b""))["bob"].status is DeliveryStatus.REFUSED
        assert await alice.contacts.ask("bob") is ContactState.ASKED_BY_ME
        assert await news(to_bob) == ("alice", ContactState.ASKED_BY_THEM)
        assert await bob.contacts.list() == [Contact("alice", ContactState.ASKED_BY_THEM)]
        assert await bob.contacts.accept("alice") is ContactState.CONTACT
        assert await news(to_alice) == ("bob", ContactState.CONTACT)
        assert (await alice.send_to("bob", b""))["bob"].is_delivered
        assert await alice.contacts.remove("bob") is ContactState.NONE
        assert await news(to_bob) == ("alice", ContactState.NONE)
        await bob.contacts.ask("alice")
        assert await alice.contacts.decline("bob") is ContactState.NONE
        with pytest.raises(ValueError, match="none of 'anyone', 'contacts'"):
            await alice.contacts.set_policy("nobody")  # type: ignore[arg-type]
        with pytest.raises(tim_trio.RoomError) as caught:
            await alice.contacts.block("alice")
        assert caught.value.code == Code.BAD_REQUEST


async def test_a_block_looks_like_somebody_who_has_left() -> None:
    async with (
        running_server() as running,
        client(running) as alice,
        client(running, "bob") as bob,
    ):
        received, events = alice.account_streams(), bob.events()
        await alice.contacts.ask("bob")
        await bob.contacts.accept("alice")
        assert (await news(events), await news(alice.events())) == (
            ("alice", ContactState.ASKED_BY_THEM),
            ("bob", ContactState.CONTACT),
        )
        assert await alice.contacts.block("bob") is ContactState.BLOCKED_BY_ME
        # The same that `remove` says.
        assert await news(events) == ("alice", ContactState.NONE)
        assert (await bob.send_to("alice", b""))["alice"].status is DeliveryStatus.OFFLINE
        assert await bob.contacts.ask("alice") is ContactState.ASKED_BY_ME
        assert await alice.contacts.list() == [Contact("bob", ContactState.BLOCKED_BY_ME)]
        assert (await alice.send_to("bob", b""))["bob"].status is DeliveryStatus.REFUSED
        assert await alice.contacts.unblock("bob") is ContactState.NONE
        assert (await bob.send_to("alice", b"after"))["alice"].is_delivered
        assert (await anext(received)).payload == b"after"
        assert not alice.events()._queue


async def test_a_list_in_pages_and_states_of_a_later_version() -> None:
    async with client_and_server() as (alice, server), trio.open_nursery() as nursery:

        async def serve() -> None:
            for after, name, more in (("", "a", True), ("a", "b", False)):
                contacts = [messages.ContactEntry(account=name, state=90)]
                answer = messages.ListContactsAnswer(more=more, contacts=contacts)
                asked = await server.answer(messages.ListContacts, answer)
                assert asked.after == after
            await server.answer(messages.Contact, messages.ContactAnswer(state=91))

        nursery.start_soon(serve)
        assert await alice.contacts.list() == [Contact("a", 90), Contact("b", 90)]
        assert await alice.contacts.ask("c") == 91
