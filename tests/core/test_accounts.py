"""Identities, revocations, who is signed in, and open mode."""

import math

import attrs
import pytest
import trio
import trio.testing

from tim_trio.core.accounts import OpenAuthenticator, SignIns
from tim_trio.core.revocation import Identity, Revocation
from tim_trio.errors import Code, RoomError
from tim_trio.protocol.messages import (
    Authenticate,
    AuthMethod,
    AuthMode,
    Capability,
    ChangePassword,
    RegisterAccount,
    Right,
)

ALICE = Identity(account="alice", rights=Right(0), session="7", as_of=3)
GONE = Revocation(number=4, account="alice", code=Code.DISABLED)


def by_name(account: str, method: AuthMethod = AuthMethod.NAME) -> Authenticate:
    return Authenticate(method=method, account=account, secret=b"", device="phone")


# Who is signed in


def test_revoked_are_those_concerned_and_they_may_go_meanwhile() -> None:
    signed_in: SignIns[str] = SignIns()
    signed_in.add("phone", ALICE)
    signed_in.add("desk", attrs.evolve(ALICE, session="8"))
    signed_in.add("newer", attrs.evolve(ALICE, session="9", as_of=4))
    signed_in.add("other", attrs.evolve(ALICE, account="bob"))
    assert len(signed_in) == 4
    gone = []
    for holder in signed_in.revoked(GONE):
        gone.append(holder)
        signed_in.discard(holder, "alice")
    assert gone == ["phone", "desk"]
    assert list(signed_in.revoked(GONE)) == []
    assert len(signed_in) == 2


def test_expired_are_those_whose_time_has_come() -> None:
    signed_in: SignIns[str] = SignIns()
    signed_in.add("never", ALICE)
    signed_in.add("soon", attrs.evolve(ALICE, expires_at=10.0))
    signed_in.add("later", attrs.evolve(ALICE, expires_at=20.0))
    assert signed_in.expired(9.9) == []
    assert signed_in.expired(10.0) == ["soon"]
    assert signed_in.expired(math.inf) == ["soon", "later"]
    for holder in ("never", "soon", "later", "later", "stranger"):
        signed_in.discard(holder, "alice")
    assert signed_in.expired(math.inf) == []
    assert len(signed_in) == 0


# Open mode


@pytest.mark.parametrize(
    "is_loopback, rights",
    [(False, Right.REGISTER_ROOMS), (True, Right.REGISTER_ROOMS | Right.OPERATOR)],
)
async def test_any_name_is_enough_and_loopback_is_an_operator(
    is_loopback: bool, rights: Right
) -> None:
    opened = OpenAuthenticator()
    assert (opened.mode, opened.capabilities) == (AuthMode.OPEN, Capability(0))
    identity = await opened.authenticate(by_name("zoë"), address="::1", is_loopback=is_loopback)
    assert identity == Identity(account="zoë", rights=rights, device="phone")
    assert identity.expires_ms == 0


@pytest.mark.parametrize(
    "request_, code",
    [
        (by_name("a b"), Code.BAD_REQUEST),
        (by_name("alice", AuthMethod.PASSWORD), Code.NOT_SUPPORTED),
        (by_name("alice", AuthMethod.SIGNED_TOKEN), Code.NOT_SUPPORTED),
    ],
)
async def test_open_mode_takes_valid_names_alone(request_: Authenticate, code: Code) -> None:
    with pytest.raises(RoomError) as caught:
        await OpenAuthenticator().authenticate(request_, address="::1", is_loopback=True)
    assert caught.value.code == code


async def test_open_mode_keeps_no_accounts() -> None:
    opened = OpenAuthenticator()
    register = RegisterAccount(account="alice", password=b"", invitation=b"")
    with pytest.raises(RoomError, match="no accounts") as caught:
        await opened.register(register, address="::1")
    assert caught.value.code == Code.NOT_SUPPORTED
    with pytest.raises(RoomError, match="no accounts"):
        await opened.change_password(ALICE, ChangePassword(old=b"", new=b""), address="::1")


async def test_open_mode_bans_as_long_as_it_lives() -> None:
    opened = OpenAuthenticator()
    revoked: list[Revocation] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened.run, revoked.append)
        await trio.testing.wait_all_tasks_blocked()
        assert revoked == []
        await opened.ban("alice")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (one,) = revoked
    assert (one.account, one.code) == ("alice", Code.BANNED)
    with pytest.raises(RoomError, match="banned") as caught:
        await opened.authenticate(by_name("alice"), address="::1", is_loopback=True)
    assert caught.value.code == Code.PERMISSION_DENIED
    await opened.authenticate(by_name("bob"), address="::1", is_loopback=True)
